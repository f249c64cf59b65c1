//! NDJSON file: one signal a line, appended, on disk before it counts as delivered. Lines are never torn: half a line
//! that a crash left is cut off when the file is opened, and the signal comes again. A file that was moved away (log
//! rotation) is made anew at the next batch.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::destination::{Destination, DestinationError, Opener, Outcome};
use super::event::Event;

/// Settings of an NDJSON file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NdjsonConfig {
    /// The file; its folder must exist.
    pub path: PathBuf,
}

impl NdjsonConfig {
    /// For [`super::DestinationConfig`].
    pub fn opener(self) -> Opener {
        Arc::new(move || Ok(Box::new(Ndjson::open(self.path.clone())?)))
    }
}

struct Ndjson {
    path: PathBuf,
    file: File,
    /// Bytes that are whole lines on disk.
    good_bytes: u64,
}

impl Ndjson {
    #[allow(clippy::disallowed_methods, reason = "a destination is the edge")]
    fn open(path: PathBuf) -> Result<Self, DestinationError> {
        let wrong = |reason: String| DestinationError::File { path: path.display().to_string(), reason };
        let existed = path.exists();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| wrong(e.to_string()))?;
        file.try_lock().map_err(|e| wrong(format!("another process writes here: {e}")))?;
        let good_bytes = cut_torn_line(&mut file).map_err(|e| wrong(e.to_string()))?;
        if !existed {
            sync_folder(&path).map_err(|e| wrong(e.to_string()))?;
        }
        Ok(Self { path, file, good_bytes })
    }

    fn append(&mut self, batch: &[Event]) -> Result<(), String> {
        if !is_same_file(&self.file, &self.path) {
            *self = Self::open(self.path.clone()).map_err(|e| e.to_string())?;
        }
        let mut lines = Vec::with_capacity(batch.iter().map(|e| e.json.len() + 1).sum());
        for event in batch {
            lines.extend_from_slice(event.json.as_bytes());
            lines.push(b'\n');
        }
        let written = self
            .file
            .seek(SeekFrom::Start(self.good_bytes))
            .and_then(|_| self.file.write_all(&lines))
            .and_then(|()| self.file.sync_data());
        if let Err(e) = written {
            // What came of the attempt is cut off again; should that fail too, the next open does it.
            let _ = self.file.set_len(self.good_bytes);
            return Err(format!("{}: {e}", self.path.display()));
        }
        self.good_bytes += lines.len() as u64;
        Ok(())
    }
}

impl Destination for Ndjson {
    fn send(&mut self, batch: &[Event]) -> Vec<Outcome> {
        match self.append(batch) {
            Ok(()) => vec![Outcome::Delivered; batch.len()],
            Err(reason) => vec![Outcome::Retry { after: None, reason }; batch.len()],
        }
    }
}

/// Cuts what follows the last line end. Returns the file's new length.
fn cut_torn_line(file: &mut File) -> std::io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut chunk = [0; 8192];
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let part = &mut chunk[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = memchr::memrchr(b'\n', part) {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < file.metadata()?.len() {
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(end)
}

#[allow(clippy::disallowed_methods, reason = "a destination is the edge")]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |m: std::fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => id(ours) == id(theirs),
        _ => false,
    }
}

/// Makes a new file's name survive a crash.
#[allow(clippy::disallowed_methods, reason = "a destination is the edge")]
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::event::tests::event;
    use super::*;

    fn ids(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|l| tidewatch_schemas::signal::from_json(l).unwrap().id).collect()
    }

    #[test]
    fn torn_lines_are_cut_and_whole_ones_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signals.ndjson");
        let line = event("a").json;
        for torn in ["", "{\"id\":", &line, &"x".repeat(20_000)] {
            std::fs::write(&path, format!("{line}\n{torn}")).unwrap();
            let mut file = Ndjson::open(path.clone()).unwrap();
            assert_eq!(file.send(&[event("b"), event("c")]), vec![Outcome::Delivered; 2]);
            assert_eq!(ids(&path), ["a", "b", "c"]);
        }
        std::fs::write(&path, "{\"no line end").unwrap();
        Ndjson::open(path.clone()).unwrap().send(&[event("b")]);
        assert_eq!(ids(&path), ["b"]);
    }

    #[test]
    fn a_rotated_file_is_made_anew_and_a_second_writer_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signals.ndjson");
        let mut file = Ndjson::open(path.clone()).unwrap();
        assert!(Ndjson::open(path.clone()).is_err());
        file.send(&[event("a")]);
        let moved = dir.path().join("signals.1");
        std::fs::rename(&path, &moved).unwrap();
        file.send(&[event("b")]);
        assert_eq!((ids(&moved), ids(&path)), (vec!["a".to_owned()], vec!["b".to_owned()]));
        std::fs::remove_file(&path).unwrap();
        drop(dir);
        assert!(matches!(file.send(&[event("c")])[0], Outcome::Retry { .. }));
    }
}
