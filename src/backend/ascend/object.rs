//! The content of a kernel file, read once: what is described is what is loaded.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::result::LoadError;

/// No kernel file is larger: some hundred times what the toolkit writes.
const MAX_BYTES: u64 = 64 << 20;

/// A kernel file that has been read.
#[derive(Debug)]
pub(super) struct KernelFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl KernelFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`LoadError::NoKernel`]: it cannot be read, is empty or is too large.
    pub(super) fn read(path: PathBuf, soc: &str) -> Result<Self, LoadError> {
        match content(&path) {
            Ok(bytes) => Ok(Self { path, bytes }),
            Err(error) => Err(LoadError::NoKernel {
                soc: soc.to_owned(),
                detail: format!("{}: {error}", path.display()),
            }),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Path and hash of the content, in words.
    pub(super) fn describe(&self) -> String {
        format!("{} ({:016x})", self.path.display(), fnv1a(&self.bytes))
    }

    /// A copy on disk that nobody else can write.
    pub(super) fn copy(&self) -> io::Result<PrivateCopy> {
        PrivateCopy::new(&self.bytes)
    }
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        0 => Err(io::Error::other("it is empty")),
        1..=MAX_BYTES => Ok(bytes),
        _ => Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes"))),
    }
}

/// FNV-1a: tells builds apart, and proves nothing to who wants to deceive.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How folders of copies are named; the number of their process and a random one follow.
const COPIES: &str = "balanceroute-kernel-";
/// After how long the copy of a process that is gone is removed. Processes of other containers may look gone;
/// they need their copies while they open a device, which takes no hour.
const STALE: Duration = Duration::from_secs(3600);

/// A file in a folder of its own, which is this user's alone. Both go when it is dropped.
#[derive(Debug)]
pub(super) struct PrivateCopy {
    folder: PathBuf,
    path: PathBuf,
}

impl PrivateCopy {
    fn new(bytes: &[u8]) -> io::Result<Self> {
        Self::new_in(&std::path::absolute(std::env::temp_dir())?, bytes)
    }

    /// In this folder, from which copies of processes that ended too early are removed.
    fn new_in(all: &Path, bytes: &[u8]) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        // Creating the folder fails where something of this name is there, so a guess gains nobody anything.
        builder.recursive(false);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
            builder.mode(0o700);
            options.mode(0o600);
        }
        let process = std::process::id();
        let folder = all.join(format!("{COPIES}{process}-{:016x}", RandomState::new().hash_one(process)));
        builder.create(&folder)?;
        let copy = Self { path: folder.join("balanceroute.o"), folder };
        options.open(&copy.path)?.write_all(bytes)?;
        copy.remove_stale(all);
        Ok(copy)
    }

    /// Removes the copies of this user's processes that are gone. What fails is left there.
    #[cfg(unix)]
    fn remove_stale(&self, all: &Path) {
        use std::os::unix::fs::MetadataExt;
        let (Ok(own), Ok(entries)) = (fs::symlink_metadata(&self.folder), fs::read_dir(all)) else { return };
        // Without a list of processes none is known to be gone.
        if !Path::new("/proc/self").exists() {
            return;
        }
        for entry in entries.flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(COPIES)?.split('-').next());
            let Some(process) = process.and_then(|process| process.parse::<u32>().ok()) else { continue };
            // Not through a link, which could lead into a folder of another's choice.
            let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
            let is_old = found.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > STALE));
            let is_ours = found.is_dir() && found.uid() == own.uid();
            if is_ours && is_old && !Path::new(&format!("/proc/{process}")).exists() {
                drop(Self { path: entry.path().join("balanceroute.o"), folder: entry.path() });
            }
        }
    }

    #[cfg(not(unix))]
    fn remove_stale(&self, _all: &Path) {}

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        // What cannot be removed stays in the folder for temporary files.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv1a() {
        // Published values.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_copy_is_private_and_goes() {
        let copy = PrivateCopy::new(b"kernel").expect("a copy");
        let (folder, path) = (copy.folder.clone(), copy.path().to_owned());
        assert!(path.is_absolute());
        assert_eq!(fs::read(&path).expect("a file"), b"kernel");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
            assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
        }
        drop(copy);
        assert!(!folder.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn copies_of_processes_that_are_gone_go() {
        let all = std::env::temp_dir().join(format!("balanceroute-copies-{}", std::process::id()));
        // No process has so great a number.
        let (gone, alive) = (u32::MAX, std::process::id());
        let hours_ago = std::time::SystemTime::now() - 2 * STALE;
        let leave = |name: String, old: bool| {
            let folder = all.join(name);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("balanceroute.o"), "left behind").expect("a file");
            if old {
                File::open(&folder).and_then(|file| file.set_modified(hours_ago)).expect("ours");
            }
            folder
        };
        let stale = leave(format!("{COPIES}{gone}-1"), true);
        let kept = [
            leave(format!("{COPIES}{gone}-2"), false),
            leave(format!("{COPIES}{alive}-3"), true),
            leave(format!("{COPIES}x-4"), true),
            leave(format!("another-{gone}-5"), true),
        ];
        let copy = PrivateCopy::new_in(&all, b"kernel").expect("a copy");
        assert!(!stale.exists());
        for folder in &kept {
            assert!(folder.join("balanceroute.o").exists(), "{}", folder.display());
        }
        assert!(copy.folder.starts_with(&all) && copy.path().exists());
        drop(copy);
        fs::remove_dir_all(all).expect("it was there");
    }

    #[test]
    fn what_is_no_kernel_names_chip_and_place() {
        let copy = PrivateCopy::new(b"").expect("a copy");
        for (path, why) in [
            (PathBuf::from("/no/such/kernel.o"), "No such file"),
            (copy.folder.clone(), "it is no file"),
            (copy.path().to_owned(), "it is empty"),
        ] {
            let text = KernelFile::read(path.clone(), "Ascend910B3").expect_err("no kernel").to_string();
            let place = path.display().to_string();
            assert!(text.contains("Ascend910B3") && text.contains(&place) && text.contains(why), "{text}");
        }
        fs::write(copy.path(), b"kernel").expect("writable");
        let file = KernelFile::read(copy.path().to_owned(), "Ascend910B3").expect("a file");
        // Another file takes its place: what was read stays.
        fs::write(copy.path(), b"another").expect("writable");
        assert_eq!(file.bytes(), b"kernel");
        assert!(file.describe().ends_with(&format!("({:016x})", fnv1a(b"kernel"))), "{}", file.describe());
    }
}
