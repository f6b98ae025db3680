//! JSON for programs: a file that is whole or as it was before, or standard output.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::error::SimError;

/// Where a document goes; looked at before the first run, so that a wrong path costs no time.
///
/// A file is written beside, under another name, and takes its own when it is whole: a run that fails or is
/// killed leaves what was there.
#[derive(Debug)]
pub struct JsonFile {
    name: String,
    to: Destination,
}

#[derive(Debug)]
enum Destination {
    Stdout,
    /// Written beside and renamed.
    Renamed(PathBuf),
    /// A device or a fifo, which a rename would do away with.
    Direct(File),
}

/// A document that has been written and, if it is a file, waits for its name. Dropped, it leaves the old
/// file.
#[derive(Debug)]
#[must_use = "a file has its name only once it is published"]
pub struct Written {
    name: String,
    waits: Option<(NamedTempFile, PathBuf)>,
}

impl JsonFile {
    /// Finds out whether the path can be written to; `-`, and whatever else standard output goes to, is
    /// standard output. Waits for the reader of a fifo.
    ///
    /// # Errors
    /// It cannot be written to, or no file can be made beside it.
    pub fn create(path: &Path) -> Result<Self, SimError> {
        let name = path.display().to_string();
        match destination(path) {
            Ok(to) => Ok(Self { name, to }),
            Err(source) => Err(SimError::Write { file: name, source }),
        }
    }

    /// Whether the document goes to standard output, where nothing else may then be.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        matches!(self.to, Destination::Stdout)
    }

    /// Writes the document, indented, with a newline at the end.
    ///
    /// # Errors
    /// It cannot be written; nothing is left beside the file.
    pub fn write(self, document: &impl Serialize) -> Result<Written, SimError> {
        self.write_with(|out| {
            serde_json::to_writer_pretty(&mut *out, document)?;
            out.write_all(b"\n")
        })
    }

    /// Writes whatever is written to the stream.
    ///
    /// # Errors
    /// As [`JsonFile::write`].
    pub fn write_with(
        self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Written, SimError> {
        let Self { name, to } = self;
        let waits = match to {
            Destination::Stdout => {
                write_to(io::stdout().lock(), write).map_err(|source| SimError::Stdout { source })?;
                None
            }
            Destination::Direct(file) => {
                write_to(file, write).map_err(|source| SimError::Write { file: name.clone(), source })?;
                None
            }
            Destination::Renamed(target) => {
                let written = beside(&target).and_then(|file| {
                    write_to(file.as_file(), write)?;
                    // A name must not outlive a power cut that its content does not.
                    file.as_file().sync_all()?;
                    Ok(file)
                });
                let file = written.map_err(|source| SimError::Write { file: name.clone(), source })?;
                Some((file, target))
            }
        };
        Ok(Written { name, waits })
    }
}

impl Written {
    /// Gives a file its name.
    ///
    /// # Errors
    /// It cannot be renamed; nothing is left beside it.
    pub fn publish(self) -> Result<(), SimError> {
        let Some((file, target)) = self.waits else { return Ok(()) };
        match file.persist(target) {
            Ok(_) => Ok(()),
            Err(error) => Err(SimError::Write { file: self.name, source: error.error }),
        }
    }
}

fn write_to(out: impl Write, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    write(&mut out)?;
    out.flush()
}

fn destination(path: &Path) -> io::Result<Destination> {
    if path == Path::new("-") {
        return Ok(Destination::Stdout);
    }
    let open = || File::options().write(true).open(path);
    match fs::metadata(path) {
        Ok(found) if is_stdout(&found) => return Ok(Destination::Stdout),
        // Who may not write to a file is not to replace it either.
        Ok(found) if found.is_file() => drop(open()?),
        // A folder fails here.
        Ok(_) => return open().map(Destination::Direct),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.file_name().is_some() => {}
        Err(error) => return Err(error),
    }
    let target = followed(path)?;
    // Only tried: made again when there is something to write, so that nothing is left of runs that are
    // killed.
    beside(&target)?.close()?;
    Ok(Destination::Renamed(target))
}

/// Where links lead, be it to what is not there yet: what they point to is replaced and not they.
fn followed(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        whole => return whole,
    }
    match fs::read_link(path) {
        Ok(link) => followed(&folder(path).join(link)),
        Err(_) => Ok(path.to_owned()),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file in the same folder, as open to others as the target is or as a new file would be. Dropped, it is
/// removed.
fn beside(target: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".balanceroute-").suffix(".json");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder(target))?;
    if let Ok(old) = fs::metadata(target) {
        file.as_file().set_permissions(old.permissions())?;
    }
    Ok(file)
}

/// Whether this is what standard output goes to, under whatever name: a rename would take the file from under
/// it.
#[cfg(unix)]
fn is_stdout(found: &fs::Metadata) -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(|stdout| File::from(stdout).metadata());
    stdout.is_ok_and(|stdout| (stdout.dev(), stdout.ino()) == (found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn is_stdout(_: &fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_published() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        let json = JsonFile::create(&path).expect("writable");
        assert!(names(folder.path()).is_empty(), "nothing is left of a run that is killed");
        let written = json.write(&1).expect("writable");
        assert!(!path.exists());
        written.publish().expect("writable");
        assert_eq!(fs::read_to_string(&path).expect("there"), "1\n");

        // Not published: the old one stays.
        drop(JsonFile::create(&path).expect("writable").write(&2).expect("writable"));
        assert_eq!(fs::read_to_string(&path).expect("there"), "1\n");
        assert_eq!(names(folder.path()), ["x.json"]);
    }

    /// What a serialiser that gives up has written so far is not left behind.
    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        struct Fails;
        impl Serialize for Fails {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("no"))
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        let error = JsonFile::create(&path).expect("writable").write(&[Fails]).expect_err("it fails");
        assert!(
            matches!(&error, SimError::Write { file, .. } if *file == path.display().to_string()),
            "{error}"
        );

        // A folder of that name has come while the runs went on.
        let written = JsonFile::create(&path).expect("writable").write(&1).expect("writable");
        fs::create_dir(&path).expect("a folder");
        assert!(matches!(written.publish(), Err(SimError::Write { .. })));
        assert_eq!(names(folder.path()), ["x.json"]);

        // Or the folder has gone.
        let gone = folder.path().join("gone");
        fs::create_dir(&gone).expect("a folder");
        let json = JsonFile::create(&gone.join("x.json")).expect("writable");
        fs::remove_dir(&gone).expect("nothing is in it");
        assert!(matches!(json.write(&1), Err(SimError::Write { .. })));
    }
}
