//! Files as a partition: text logs line by line (plain or gzip), record files record by record, several files one after
//! the other in the order of their first moment.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use tidewatch_generator::recordfile::RecordFile;
use tidewatch_schemas::time::EventTime;

use crate::log::{LogError, PollLimit, Reader, Record};

/// Longest line; what lies beyond is cut off, and the decoder refuses the rest of it.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// How the files are taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileInput {
    /// One line, one record.
    Lines,
    /// Length-prefixed records with key and timestamp, as `tidewatch-bench generate` writes them.
    Records,
}

/// Files of one log kind, in time order.
#[derive(Clone, Debug)]
pub struct FileSet {
    paths: Vec<PathBuf>,
    kind: FileInput,
    /// Compressed bytes of all files, for progress.
    pub bytes: u64,
    /// Compressed bytes read so far.
    pub read: Arc<AtomicU64>,
}

impl FileSet {
    /// Opens nothing yet but checks that every file can be read; sorts text logs by the time in their first row.
    pub fn new(mut paths: Vec<PathBuf>, kind: FileInput) -> Result<Self, LogError> {
        let mut bytes = 0;
        for path in &paths {
            bytes += std::fs::metadata(path).and_then(|m| File::open(path).map(|_| m.len())).map_err(|e| storage(path, &e))?;
        }
        if kind == FileInput::Lines {
            let mut keyed: Vec<(f64, PathBuf)> = Vec::new();
            for path in paths {
                keyed.push((first_time(&path)?, path));
            }
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            paths = keyed.into_iter().map(|(_, p)| p).collect();
        }
        Ok(Self { paths, kind, bytes, read: Arc::default() })
    }

    pub(super) fn reader(&self, from: i64) -> Result<FileReader, LogError> {
        let mut reader = FileReader { set: self.clone(), next: 0, open: None, offset: 0, ended: false };
        while reader.offset < from && reader.one()?.is_some() {}
        Ok(reader)
    }
}

fn storage(path: &Path, e: &std::io::Error) -> LogError {
    LogError::Storage { path: path.display().to_string(), reason: e.to_string() }
}

/// Counts what passes, so that progress can be shown of compressed files.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

fn open(path: &Path, read: &Arc<AtomicU64>) -> Result<Box<dyn BufRead + Send>, LogError> {
    let file = File::open(path).map_err(|e| storage(path, &e))?;
    let mut reader = BufReader::with_capacity(256 << 10, Counted { file, read: read.clone() });
    let gz = reader.fill_buf().map_err(|e| storage(path, &e))?.starts_with(&[0x1f, 0x8b]);
    Ok(if gz { Box::new(BufReader::with_capacity(256 << 10, MultiGzDecoder::new(reader))) } else { Box::new(reader) })
}

/// Seconds in the first row of a text log; files without a row come last.
fn first_time(path: &Path) -> Result<f64, LogError> {
    let mut reader = open(path, &Arc::default())?.take(256 << 10);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|e| storage(path, &e))? == 0 {
            return Ok(f64::INFINITY);
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let first = match text.find("\"ts\":") {
            Some(at) => text[at + 5..].split([',', '}']).next(),
            None => text.split('\t').next(),
        };
        let Some(first) = first else { continue };
        let first = first.trim().trim_matches('"');
        let time = first.parse().ok().or_else(|| EventTime::parse_rfc3339(first).map(EventTime::as_secs_f64));
        if let Some(time) = time {
            return Ok(time);
        }
    }
}

enum Open {
    Lines(Box<dyn BufRead + Send>),
    Records(RecordFile<Box<dyn BufRead + Send>>),
}

pub(super) struct FileReader {
    set: FileSet,
    next: usize,
    open: Option<Open>,
    offset: i64,
    ended: bool,
}

impl FileReader {
    fn one(&mut self) -> Result<Option<Record>, LogError> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(path) = self.set.paths.get(self.next) else {
                    self.ended = true;
                    return Ok(None);
                };
                let reader = open(path, &self.set.read)?;
                self.next += 1;
                self.open = Some(match self.set.kind {
                    FileInput::Lines => Open::Lines(reader),
                    FileInput::Records => Open::Records(RecordFile::new(reader)),
                });
                continue;
            };
            let path = &self.set.paths[self.next - 1];
            let record = match open {
                Open::Lines(reader) => line(reader).map_err(|e| storage(path, &e))?.map(|value| Record {
                    offset: self.offset,
                    timestamp: EventTime::MAX,
                    key: None,
                    value: Some(value.into()),
                    headers: Vec::new(),
                }),
                Open::Records(reader) => {
                    let entry = reader.next().transpose();
                    let damaged = |reason| LogError::Damaged { path: path.display().to_string(), reason };
                    entry.map_err(|e| damaged(e.to_string()))?.map(|entry| Record {
                        offset: self.offset,
                        timestamp: entry.header.timestamp,
                        key: entry.header.key.map(Bytes::from),
                        value: Some(entry.value.into()),
                        headers: Vec::new(),
                    })
                }
            };
            match record {
                Some(record) => {
                    self.offset += 1;
                    return Ok(Some(record));
                }
                None => self.open = None,
            }
        }
    }
}

/// The next line without its end. A line beyond [`LINE_BYTES_MAX`] is cut and the rest skipped.
fn line(reader: &mut (dyn BufRead + Send)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let n = reader.take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
    if n == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() > LINE_BYTES_MAX {
        let mut skipped = Vec::new();
        while reader.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut skipped)? > 0 && skipped.last() != Some(&b'\n') {
            skipped.clear();
        }
    }
    Ok(Some(line))
}

impl Reader for FileReader {
    fn poll(&mut self, limit: PollLimit, _: Duration) -> Result<Vec<Record>, LogError> {
        let mut out = Vec::new();
        let mut bytes = 0;
        while out.len() < limit.records && bytes < limit.bytes {
            let Some(record) = self.one()? else { break };
            bytes += record.size();
            out.push(record);
        }
        Ok(out)
    }

    fn position(&self) -> i64 {
        self.offset
    }

    fn at_end(&self) -> bool {
        self.ended
    }
}
