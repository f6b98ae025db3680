//! The folder of a recording: its segments by number, and the lock of who writes them.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::RecordError;

/// The variable that names a folder for the recordings of a process.
const VARIABLE: &str = "BALANCEROUTE_RECORD";
/// Folders of routers that ended which are kept below it.
const KEPT: usize = 16;
const EXTENSION: &str = "brlog";
const LOCK: &str = "lock";
const PREFIX: &str = "router-";

/// The numbers of a folder's segments, ascending.
pub(super) fn segments(folder: &Path) -> Result<Vec<u64>, RecordError> {
    let entries = std::fs::read_dir(folder).map_err(RecordError::io("read", folder))?;
    let number_of = |path: PathBuf| {
        let digits = path.extension().filter(|&extension| extension == EXTENSION).and(path.file_stem())?;
        digits.to_str()?.parse().ok()
    };
    let mut numbers: Vec<u64> = entries.filter_map(|entry| number_of(entry.ok()?.path())).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.{EXTENSION}"))
}

/// Makes the folder where it is missing, and keeps others from recording into it for as long as the file
/// lives.
pub(super) fn lock(folder: &Path) -> Result<File, RecordError> {
    std::fs::create_dir_all(folder).map_err(RecordError::io("create", folder))?;
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(RecordError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RecordError::InUse { path: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(RecordError::io("lock", &path)(error)),
    }
}

/// The folder that the log at a path is in: the path, or the only recording below it.
pub(super) fn find(path: &Path) -> Result<PathBuf, RecordError> {
    if !segments(path)?.is_empty() {
        return Ok(path.to_owned());
    }
    let mut folders = routers(path)?;
    match folders.pop() {
        None => Err(RecordError::Nothing { path: path.to_owned() }),
        Some(only) if folders.is_empty() => Ok(only),
        Some(last) => {
            folders.push(last);
            let name =
                |folder: &PathBuf| folder.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into();
            Err(RecordError::Several { path: path.to_owned(), folders: folders.iter().map(name).collect() })
        }
    }
}

/// Recordings below a folder, by their names.
fn routers(folder: &Path) -> Result<Vec<PathBuf>, RecordError> {
    let entries = std::fs::read_dir(folder).map_err(RecordError::io("read", folder))?;
    let is_recording = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with(PREFIX)) && path.join(LOCK).exists()
    };
    let mut folders: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_recording).collect();
    folders.sort_unstable();
    Ok(folders)
}

/// A new folder for a router of this process, if the environment asks for recordings. Of those whose routers
/// are gone the oldest go.
pub(super) fn asked_for() -> Result<Option<PathBuf>, RecordError> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let Some(folder) =
        std::env::var_os(VARIABLE).filter(|folder| !folder.to_string_lossy().trim().is_empty())
    else {
        return Ok(None);
    };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).map_err(RecordError::io("create", &folder))?;
    let mut ended: Vec<(SystemTime, PathBuf)> = routers(&folder)?
        .into_iter()
        .filter_map(|path| {
            let lock = File::open(path.join(LOCK)).ok()?;
            lock.try_lock().ok()?;
            Some((lock.metadata().and_then(|found| found.modified()).ok()?, path))
        })
        .collect();
    ended.sort_unstable();
    for (_, path) in ended.iter().rev().skip(KEPT) {
        // One that cannot go, or has gone by another's hand, is no reason not to record.
        let _ = std::fs::remove_dir_all(path);
    }
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = folder.join(format!("{PREFIX}{}-{number}", std::process::id()));
        // One of a process that had this number before stays.
        if !own.exists() {
            return Ok(Some(own));
        }
    }
}
