//! Which kernel file runs on which chip, how many cores the chip has, and how much memory each core has.

use std::ffi::{CStr, OsString};
use std::path::{Path, PathBuf};

use super::blob::Soc;
use super::result::LoadError;

/// The environment variable that names a kernel file, or a folder with `balanceroute-c220.o`.
pub const KERNEL_VARIABLE: &str = "BALANCEROUTE_ASCEND_KERNEL";
/// The environment variable that names the runtime's library.
pub const LIBRARY_VARIABLE: &str = "BALANCEROUTE_ACL_LIBRARY";

/// The entries of a kernel file, as `tiling.h` names them.
pub(super) const ENTRIES: [&CStr; 2] = [c"balanceroute_columns", c"balanceroute_greedy"];

/// Bytes at the end of the unified buffer that the vector unit keeps for itself.
const RESERVED_UB_BYTES: i64 = 8 * 1024;

/// Chips of one architecture, which run the same kernel file.
struct Family {
    /// The architecture, as the toolkit calls it.
    name: &'static str,
    /// How names of chips begin, and their vector cores.
    chips: &'static [(&'static str, u32)],
    /// Of the unified buffer of each core.
    ub_bytes: i64,
}

/// Families that the kernel has been compiled for. 910B without a digit is another chip, of the first 910.
const FAMILIES: [Family; 1] = [Family {
    name: "c220",
    chips: &[
        ("Ascend910B1", 48),
        ("Ascend910B2", 48),
        ("Ascend910B3", 40),
        ("Ascend910B4", 40),
        ("Ascend910_936", 40),
        ("Ascend910_937", 40),
        ("Ascend910_938", 48),
        ("Ascend910_939", 48),
    ],
    ub_bytes: 192 * 1024,
}];

/// Names of Ascend 950, among them those of before it was called so.
const OTHER_ARCHITECTURE: [&str; 2] = ["Ascend950", "Ascend910_95"];

/// The family of a chip, and the chip's vector cores.
fn family(soc: &str) -> Result<(&'static Family, u32), LoadError> {
    let begins = |prefix: &str| soc.get(..prefix.len()).is_some_and(|name| name.eq_ignore_ascii_case(prefix));
    let found = FAMILIES.iter().find_map(|family| {
        family.chips.iter().find(|(prefix, _)| begins(prefix)).map(|&(_, cores)| (family, cores))
    });
    found.ok_or_else(|| {
        let detail = if OTHER_ARCHITECTURE.into_iter().any(begins) {
            "it was never compiled for the architecture of Ascend 950"
        } else {
            "it is written for Ascend910B1 to B4 and Ascend910_936x to 939x (910B and A3)"
        };
        LoadError::UnknownChip { soc: soc.to_owned(), detail }
    })
}

/// What batches are packed for on a chip of this name. Figures that the runtime reports replace those of
/// [`FAMILIES`].
pub(super) fn soc(name: &str, reported: Option<(i64, i64)>) -> Result<Soc, LoadError> {
    let (family, cores) = family(name)?;
    let (cores, bytes) = reported
        .filter(|&(cores, bytes)| {
            (1..=1024).contains(&cores) && bytes > RESERVED_UB_BYTES && bytes <= 1 << 24
        })
        .map_or((cores, family.ub_bytes), |(cores, bytes)| (cores as u32, bytes));
    Ok(Soc { vector_cores: cores, ub_bytes: (bytes - RESERVED_UB_BYTES) as u32, tile_limit: None })
}

/// The path in a variable of the environment; none where it is unset or empty.
pub(super) fn environment(name: &str) -> Option<PathBuf> {
    stated(std::env::var_os(name))
}

fn stated(value: Option<OsString>) -> Option<PathBuf> {
    value.filter(|value| !value.to_string_lossy().trim().is_empty()).map(PathBuf::from)
}

/// Whether a file has a name from when each chip had a file of its own.
fn is_of_one_chip(file: &Path) -> bool {
    let name = file.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase());
    name.is_some_and(|name| name.starts_with("balanceroute-ascend") && name.ends_with(".o"))
}

/// The kernel file for a chip: as asked for, as the environment says, or as built with this crate.
pub(super) fn file(asked: Option<&Path>, soc: &str) -> Result<PathBuf, LoadError> {
    let built = option_env!("BALANCEROUTE_ASCEND_BUILT").map(Path::new);
    let why_not = option_env!("BALANCEROUTE_ASCEND_NOT_BUILT").unwrap_or("it saw no toolkit");
    let named = asked.map(Path::to_owned).or_else(|| environment(KERNEL_VARIABLE));
    find(named.as_deref(), built.ok_or(why_not), soc)
}

/// The file that is named, or in the folder that is named; else the one that was built, if it was.
fn find(named: Option<&Path>, built: Result<&Path, &str>, soc: &str) -> Result<PathBuf, LoadError> {
    let none = |detail: String| LoadError::NoKernel { soc: soc.to_owned(), detail };
    let (family, _) = family(soc)?;
    let name = format!("balanceroute-{}.o", family.name);
    let path = match (named, built) {
        (Some(path), _) | (None, Ok(path)) => path,
        (None, Err(why)) => {
            return Err(none(format!(
                "{KERNEL_VARIABLE} is not set, and this crate was built without one: {why}"
            )));
        }
    };
    let old = |file: &Path| {
        none(format!(
            "{} is of an earlier version, for one chip; {name} serves every chip of the family",
            file.display()
        ))
    };
    if is_of_one_chip(path) {
        return Err(old(path));
    }
    let file = if path.is_dir() { path.join(&name) } else { path.to_owned() };
    // The runtime takes absolute paths only.
    file.canonicalize().map_err(|error| {
        let beside = path.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        match beside.filter(|file| is_of_one_chip(file)).min() {
            Some(file) => old(&file),
            None => none(format!("{}: {error}", file.display())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let of = |value: Option<&str>| stated(value.map(OsString::from));
        assert_eq!((of(None), of(Some("")), of(Some("  "))), (None, None, None));
        assert_eq!(of(Some("/opt/a b")), Some(PathBuf::from("/opt/a b")));
    }

    #[test]
    fn the_family_is_known_by_name_and_reported_values_go_first() {
        let plan = |name, reported| soc(name, reported).map(|soc| (soc.vector_cores, soc.ub_bytes));
        for (name, cores) in [
            ("Ascend910B1", 48),
            ("Ascend910B2", 48),
            ("Ascend910B2C", 48),
            ("Ascend910B3", 40),
            ("Ascend910B4", 40),
            ("Ascend910B4-1", 40),
            ("Ascend910_9391", 48),
            ("Ascend910_9392", 48),
            ("Ascend910_9381", 48),
            ("Ascend910_9382", 48),
            ("Ascend910_9372", 40),
            ("Ascend910_9362", 40),
            ("ascend910b3", 40),
        ] {
            assert_eq!(plan(name, None), Ok((cores, 184 * 1024)), "{name}");
        }
        assert_eq!(plan("Ascend910B3", Some((32, 128 * 1024))), Ok((32, 120 * 1024)));
        assert_eq!(plan("Ascend910B3", Some((0, -1))), Ok((40, 184 * 1024)));
    }

    #[test]
    fn an_unknown_chip_is_refused_whatever_the_runtime_reports() {
        for (name, says) in [
            ("", "910B and A3"),
            ("Ascend310P3", "910B and A3"),
            ("Ascend910", "910B and A3"),
            // The first 910 has a B without a digit.
            ("Ascend910B", "910B and A3"),
            ("Ascend910ProB", "910B and A3"),
            ("Ascend910_93", "910B and A3"),
            ("Ascend910_9\u{e9}", "910B and A3"),
            ("Ascend950PR_9579", "architecture of Ascend 950"),
            ("Ascend950DT_9582", "architecture of Ascend 950"),
            ("Ascend910_9579", "architecture of Ascend 950"),
        ] {
            let error = soc(name, Some((8, 256 * 1024))).expect_err(name);
            assert!(matches!(&error, LoadError::UnknownChip { soc, .. } if soc == name), "{error:?}");
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(find(Some(Path::new("/")), Err(""), name), Err(error));
        }
    }

    /// A folder with these files, empty.
    fn folder(name: &str, files: &[&str]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("balanceroute-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        for file in files {
            std::fs::write(folder.join(file), "").expect("a file");
        }
        folder.canonicalize().expect("it is there")
    }

    fn refused(found: Result<PathBuf, LoadError>) -> String {
        match found {
            Err(LoadError::NoKernel { soc, detail }) => format!("{soc}: {detail}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_file_serves_every_chip_of_the_family() {
        let folder = folder("family", &["balanceroute-c220.o", "balanceroute-Ascend910B3.o", "mine.o"]);
        let file = folder.join("balanceroute-c220.o");
        for chip in ["Ascend910B2C", "Ascend910B4-1", "Ascend910_9372"] {
            assert_eq!(find(Some(&folder), Err(""), chip), Ok(file.clone()));
            assert_eq!(find(Some(&file), Err(""), chip), Ok(file.clone()));
            assert_eq!(find(None, Ok(&file), chip), Ok(file.clone()));
        }
        // What is named goes before what was built.
        let mine = folder.join("mine.o");
        assert_eq!(find(Some(&mine), Ok(&file), "Ascend910B3"), Ok(mine));
        std::fs::remove_dir_all(folder).expect("it was there");
    }

    #[test]
    fn a_file_for_one_chip_is_refused_by_name() {
        let folder = folder("old", &["balanceroute-Ascend910B3.o", "balanceroute-Ascend910B1.o"]);
        let old = folder.join("balanceroute-Ascend910B1.o");
        for place in [&folder, &old] {
            let why = refused(find(Some(place), Err(""), "Ascend910B1"));
            assert!(why.contains(&old.display().to_string()), "{why}");
            assert!(why.contains("balanceroute-c220.o serves every chip"), "{why}");
        }
        std::fs::remove_dir_all(folder).expect("it was there");
    }

    #[test]
    fn a_kernel_that_is_not_there_names_the_chip_and_the_place() {
        let empty = folder("empty", &[]);
        for (place, says) in [
            (Path::new("/no/such/kernel.o"), "/no/such/kernel.o".to_owned()),
            (&empty, empty.join("balanceroute-c220.o").display().to_string()),
        ] {
            let why = refused(find(Some(place), Err(""), "Ascend910B3"));
            assert!(why.contains("Ascend910B3") && why.contains(&says), "{why}");
        }
        std::fs::remove_dir_all(empty).expect("it was there");
        let why = refused(find(None, Err("the toolkit's compiler fails: no such call"), "Ascend910B3"));
        assert!(why.contains(KERNEL_VARIABLE) && why.contains("fails: no such call"), "{why}");
    }
}
