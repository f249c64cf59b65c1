//! One owner per directory: an exclusive lock on a file that names the owner. The system frees it when the owner dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::log::LogError;

/// The file in the log's directory whose lock means ownership and whose text is the owner's process id.
pub const LOCK_FILE: &str = "LOCK";

/// More than any process id has digits.
const PID_BYTES_MAX: u64 = 32;

/// Holds the directory as long as it lives.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(crate) fn take(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join(LOCK_FILE);
        let storage = |e: std::io::Error| LogError::Storage { path: path.display().to_string(), reason: e.to_string() };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(storage)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(dir, owner(&mut file))),
            Err(TryLockError::Error(e)) => return Err(storage(e)),
        }
        file.set_len(0).map_err(storage)?;
        file.rewind().map_err(storage)?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(storage)?;
        file.flush().map_err(storage)?;
        Ok(Self { _file: file })
    }
}

pub(crate) fn locked(dir: &Path, pid: String) -> LogError {
    LogError::Locked { path: dir.display().to_string(), pid }
}

/// What the owner wrote; it may be about to.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(PID_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
