//! The content of a kernel file, read once: what is described is what is loaded.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

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

/// A file in a folder of its own, which is this user's alone. Both go when it is dropped.
#[derive(Debug)]
pub(super) struct PrivateCopy {
    folder: PathBuf,
    path: PathBuf,
}

impl PrivateCopy {
    fn new(bytes: &[u8]) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
            builder.mode(0o700);
            options.mode(0o600);
        }
        // Creating the folder fails where something of this name is there, so a guess gains nobody anything.
        let name = format!("balanceroute-{:016x}", RandomState::new().hash_one(std::process::id()));
        let folder = std::path::absolute(std::env::temp_dir())?.join(name);
        builder.create(&folder)?;
        let copy = Self { path: folder.join("balanceroute.o"), folder };
        options.open(&copy.path)?.write_all(bytes)?;
        Ok(copy)
    }

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
