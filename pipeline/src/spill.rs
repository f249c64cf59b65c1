//! Local files for what waits in a task beyond a byte limit: pieces are written one after the other, read back whole, and let
//! go. No store: nothing outlives the process, because what waits lies in the log as well.
//!
//! What always holds: the space of a file comes back once all of its pieces were let go, or with the process, crash or not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file takes no further piece from this size on; then the next one begins, so that space comes back though something always
/// waits. Bytes.
const SPILL_FILE_BYTES_MAX: u64 = 64 << 20;

static FILES: AtomicU64 = AtomicU64::new(0);

/// Where a piece lies.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    file: u64,
    at: u64,
    len: usize,
}

struct Spilled {
    file: File,
    end: u64,
    /// Pieces not let go yet.
    pieces: usize,
}

/// The files of one task.
pub struct Spill {
    dir: PathBuf,
    files: BTreeMap<u64, Spilled>,
    next: u64,
}

impl std::fmt::Debug for Spill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spill").field("dir", &self.dir).field("files", &self.files.len()).finish_non_exhaustive()
    }
}

impl Spill {
    /// Nothing is written, and no directory made, before the first piece.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, files: BTreeMap::new(), next: 0 }
    }

    /// Writes a piece. After an error what was written before can still be read.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<Piece> {
        if self.files.last_key_value().is_none_or(|(_, last)| last.end >= SPILL_FILE_BYTES_MAX) {
            let file = self.open()?;
            self.files.insert(self.next, Spilled { file, end: 0, pieces: 0 });
            self.next += 1;
        }
        let mut last = self.files.last_entry().ok_or_else(|| io::Error::other("no spill file"))?;
        let (file, to) = (*last.key(), last.get_mut());
        to.file.write_all_at(bytes, to.end)?;
        let piece = Piece { file, at: to.end, len: bytes.len() };
        to.end += bytes.len() as u64;
        to.pieces += 1;
        Ok(piece)
    }

    fn open(&self) -> io::Result<File> {
        std::fs::create_dir_all(&self.dir)?;
        let path = self.dir.join(format!("spill-{}-{}", std::process::id(), FILES.fetch_add(1, Ordering::Relaxed)));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        // The name goes at once; the space goes with the last handle.
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    /// Reads a piece that was not let go.
    pub fn read(&self, piece: Piece) -> io::Result<Vec<u8>> {
        let from = self.files.get(&piece.file).ok_or_else(|| io::Error::other("spill file is gone"))?;
        let mut bytes = vec![0; piece.len];
        from.file.read_exact_at(&mut bytes, piece.at)?;
        Ok(bytes)
    }

    /// Lets a piece go, once.
    pub fn free(&mut self, piece: Piece) {
        let Some(of) = self.files.get_mut(&piece.file) else { return };
        of.pieces -= 1;
        if of.pieces == 0 {
            self.files.remove(&piece.file);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pieces_come_back_and_files_go_with_their_last_piece() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(dir.path().join("made/when/needed"));
        let text = |i: u8| vec![i; SPILL_FILE_BYTES_MAX as usize / 2];
        let pieces: Vec<Piece> = (0..5).map(|i| spill.write(&text(i)).unwrap()).collect();
        assert_eq!(spill.files.len(), 3);
        for (i, piece) in pieces.iter().enumerate() {
            assert_eq!(spill.read(*piece).unwrap(), text(i as u8));
        }
        // The last one lives on: the first two files are not needed for it.
        pieces[..4].iter().for_each(|piece| spill.free(*piece));
        assert_eq!(spill.files.len(), 1);
        assert!(spill.read(pieces[0]).is_err());
        assert_eq!(spill.read(pieces[4]).unwrap(), text(4));
        spill.free(pieces[4]);
        assert!(spill.files.is_empty());
        assert_eq!(std::fs::read_dir(dir.path().join("made/when/needed")).unwrap().count(), 0, "no names are left");
    }
}
