//! Which kernel file runs on which chip, how many cores the chip has, and how much memory each core has.

use std::ffi::{CStr, OsString};
use std::path::{Path, PathBuf};

use super::blob::Soc;
use super::result::LoadError;

/// The environment variable that names a kernel file, or a folder with one `balanceroute-<chip>.o` each.
pub const KERNEL_VARIABLE: &str = "BALANCEROUTE_ASCEND_KERNEL";
/// The environment variable that names the runtime's library.
pub const LIBRARY_VARIABLE: &str = "BALANCEROUTE_ACL_LIBRARY";

/// The entries of a kernel file, as `tiling.h` names them.
pub(super) const ENTRIES: [&CStr; 2] = [c"balanceroute_columns", c"balanceroute_greedy"];

/// Bytes at the end of the unified buffer that the vector unit keeps for itself.
const RESERVED_UB_BYTES: i64 = 8 * 1024;

/// Chips that the kernel is written for: how their names begin, vector cores, bytes of the unified buffer of
/// each core. The first match counts.
const CHIPS: [(&str, u32, i64); 5] = [
    ("Ascend910B1", 48, 192 * 1024),
    ("Ascend910B2", 48, 192 * 1024),
    ("Ascend910B", 40, 192 * 1024),
    ("Ascend910_9362", 40, 192 * 1024),
    ("Ascend910_93", 48, 192 * 1024),
];

/// What batches are packed for on a chip of this name. Figures that the runtime reports replace those of
/// [`CHIPS`].
pub(super) fn soc(name: &str, reported: Option<(i64, i64)>) -> Result<Soc, LoadError> {
    let known = CHIPS.iter().find(|(prefix, ..)| name.starts_with(prefix));
    let Some(&(_, cores, bytes)) = known else {
        let detail = "it is written for Ascend 910B and A3".to_owned();
        return Err(LoadError::NoKernel { soc: name.to_owned(), detail });
    };
    let (cores, bytes) = reported
        .filter(|&(cores, bytes)| {
            (1..=1024).contains(&cores) && bytes > RESERVED_UB_BYTES && bytes <= 1 << 24
        })
        .map_or((cores, bytes), |(cores, bytes)| (cores as u32, bytes));
    Ok(Soc { vector_cores: cores, ub_bytes: (bytes - RESERVED_UB_BYTES) as u32, tile_limit: None })
}

/// The path in a variable of the environment; none where it is unset or empty.
pub(super) fn environment(name: &str) -> Option<PathBuf> {
    stated(std::env::var_os(name))
}

fn stated(value: Option<OsString>) -> Option<PathBuf> {
    value.filter(|value| !value.to_string_lossy().trim().is_empty()).map(PathBuf::from)
}

/// The kernel file for a chip: as asked for, as the environment says, or as built with this crate.
pub(super) fn file(asked: Option<&Path>, soc: &str) -> Result<PathBuf, LoadError> {
    let none = |detail: String| LoadError::NoKernel { soc: soc.to_owned(), detail };
    let built = option_env!("BALANCEROUTE_ASCEND_BUILT").map(PathBuf::from);
    let path =
        asked.map(Path::to_owned).or_else(|| environment(KERNEL_VARIABLE)).or(built).ok_or_else(|| {
            none(format!("none was built with this crate, and {KERNEL_VARIABLE} is not set"))
        })?;
    let path = if path.is_dir() { path.join(format!("balanceroute-{soc}.o")) } else { path };
    // The runtime takes absolute paths only.
    path.canonicalize().map_err(|error| none(format!("{}: {error}", path.display())))
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
        assert_eq!(plan("Ascend910B3", None), Ok((40, 184 * 1024)));
        assert_eq!(plan("Ascend910B2C", None), Ok((48, 184 * 1024)));
        assert_eq!(plan("Ascend910_9391", None), Ok((48, 184 * 1024)));
        assert_eq!(plan("Ascend910_9362", None), Ok((40, 184 * 1024)));
        assert_eq!(plan("Ascend910B3", Some((32, 128 * 1024))), Ok((32, 120 * 1024)));
        assert_eq!(plan("Ascend910B3", Some((0, -1))), Ok((40, 184 * 1024)));
        for unknown in ["Ascend310P3", "Ascend950PR"] {
            assert!(matches!(plan(unknown, Some((8, 256 * 1024))), Err(LoadError::NoKernel { .. })));
        }
    }

    #[test]
    fn a_kernel_that_is_not_there_names_the_chip_and_the_place() {
        let error = file(Some(Path::new("/no/such/kernel.o")), "Ascend910B3").expect_err("no such file");
        let text = error.to_string();
        assert!(text.contains("Ascend910B3") && text.contains("/no/such/kernel.o"), "{text}");
    }
}
