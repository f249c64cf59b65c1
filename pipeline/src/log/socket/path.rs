//! Socket files: their paths may be too long for the system's address (108 bytes), and a new one must never be open to
//! others, not even for a moment.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A path through an open folder is short however deep the folder lies.
fn short(path: &Path) -> io::Result<(File, PathBuf)> {
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = File::open(parent)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((folder, through))
}

/// Longest path that is used as it is; below the system's 108 bytes.
const PLAIN_BYTES_MAX: usize = 100;

pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= PLAIN_BYTES_MAX {
        return UnixStream::connect(path);
    }
    let (_folder, through) = short(path)?;
    UnixStream::connect(through)
}

/// Binds in a private folder, closes the socket to others, then moves it into place over what a dead owner left.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    let private = path.with_extension("new");
    let _ = std::fs::remove_dir_all(&private);
    DirBuilder::new().mode(0o700).create(&private)?;
    let inside = private.join("s");
    let bound = if inside.as_os_str().len() <= PLAIN_BYTES_MAX {
        UnixListener::bind(&inside)
    } else {
        short(&inside).and_then(|(_folder, through)| UnixListener::bind(through))
    };
    let listener = bound.and_then(|listener| {
        std::fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
        std::fs::rename(&inside, path)?;
        Ok(listener)
    });
    let _ = std::fs::remove_dir_all(&private);
    listener
}
