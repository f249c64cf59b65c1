//! What `--input` says: `FORMAT:PATH` with a file, a folder or a glob, or `kafka:TOPIC@FROM..TO` with offsets or times.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tidewatch_generator::recordfile;
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::{self, FORMATS, Format};

use super::files::{FileInput, FileSet};

/// Zeek's logs that are read, by the first part of the file's name (`open_` in front of it counts as the same log).
const ZEEK_LOGS: &[&str] = &["conn", "dns", "ssl", "http"];

/// One `--input`.
#[derive(Clone, Debug, PartialEq)]
pub enum InputSpec {
    /// Files in a format.
    Files {
        /// Format name; `zeek` tells its logs apart by file name.
        format: String,
        /// File, folder or glob.
        path: String,
    },
    /// A range of a topic of the topology's log.
    Topic(Range),
}

/// A range of a topic: every partition from and to an offset or a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    /// Topic.
    pub topic: String,
    /// First; `None` = the oldest record kept.
    pub from: Option<RangeEnd>,
    /// End, exclusive; `None` = what is there now.
    pub to: Option<RangeEnd>,
}

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeEnd {
    /// Offset, the same in every partition.
    Offset(i64),
    /// Record timestamp.
    Time(EventTime),
}

/// What is wrong with an `--input`.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// No colon.
    #[error("input {got:?} is neither FORMAT:PATH nor kafka:TOPIC@FROM..TO; formats are {}", formats())]
    Shape {
        /// As given.
        got: String,
    },
    /// No such format.
    #[error("unknown format {got:?}; formats are {}", formats())]
    Format {
        /// As given.
        got: String,
    },
    /// A range that cannot be read.
    #[error(
        "range {got:?}: expected FROM..TO with offsets (0..1000) or times (2026-03-01T00:00:00Z..), either side may be left out"
    )]
    Range {
        /// As given.
        got: String,
    },
    /// Nothing there.
    #[error("no file matches {path}; give a file, a folder or a glob that names at least one{hint}")]
    NoFile {
        /// As given.
        path: String,
        /// What was looked for.
        hint: String,
    },
    /// Not readable.
    #[error("cannot read {path}: {reason}")]
    Read {
        /// Path.
        path: String,
        /// System's words.
        reason: String,
    },
}

fn formats() -> String {
    FORMATS.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
}

impl FromStr for InputSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (format, path) = text.split_once(':').ok_or_else(|| SpecError::Shape { got: text.to_owned() })?;
        if format == "kafka" {
            return Ok(Self::Topic(range(path)?));
        }
        wire::format(format).ok_or_else(|| SpecError::Format { got: format.to_owned() })?;
        Ok(Self::Files { format: format.to_owned(), path: path.to_owned() })
    }
}

fn range(text: &str) -> Result<Range, SpecError> {
    let bad = || SpecError::Range { got: text.to_owned() };
    let (topic, ends) = text.split_once('@').unwrap_or((text, ".."));
    let (from, to) = ends.split_once("..").ok_or_else(bad)?;
    let end = |text: &str| match text {
        "" => Ok(None),
        t => match t.parse() {
            Ok(offset) => Ok(Some(RangeEnd::Offset(offset))),
            Err(_) => EventTime::parse_rfc3339(t).map(|t| Some(RangeEnd::Time(t))).ok_or_else(bad),
        },
    };
    if topic.is_empty() {
        return Err(bad());
    }
    Ok(Range { topic: topic.to_owned(), from: end(from)?, to: end(to)? })
}

impl InputSpec {
    /// The files of a `FORMAT:PATH`, each log kind by itself: (topic, format, files).
    pub fn files(&self) -> Result<Vec<(String, &'static Format, FileSet)>, SpecError> {
        let Self::Files { format, path } = self else { return Ok(Vec::new()) };
        let found = expand(path)?;
        let format = wire::format(format).ok_or_else(|| SpecError::Format { got: format.clone() })?;
        let mut kinds: BTreeMap<String, (&'static Format, Vec<PathBuf>)> = BTreeMap::new();
        for file in found {
            let (label, format) = match zeek_log(&file) {
                Some(log) if format.name == "zeek" => {
                    let Some(kind) = wire::format(&format!("zeek-{log}")) else { continue };
                    (format!("{path}/{log}"), kind)
                }
                // In a folder, files of other logs are passed over; a file named outright is read as what it is.
                None if format.name == "zeek" && Path::new(path) != file => continue,
                _ => (path.clone(), format),
            };
            kinds.entry(label).or_insert((format, Vec::new())).1.push(file);
        }
        if kinds.is_empty() {
            let hint = if format.name == "zeek" { " (conn, dns, ssl and http logs are read)" } else { "" };
            return Err(SpecError::NoFile { path: path.clone(), hint: hint.to_owned() });
        }
        let mut out = Vec::new();
        for (label, (format, paths)) in kinds {
            let records = paths.iter().all(|p| p.extension().is_some_and(|e| e == recordfile::EXTENSION));
            let kind = if records { FileInput::Records } else { FileInput::Lines };
            let set = FileSet::new(paths, kind).map_err(|e| SpecError::Read { path: label.clone(), reason: e.to_string() })?;
            out.push((topic_of(&label), format, set));
        }
        Ok(out)
    }
}

/// A topic name for files: the path in the letters a topic may have, its end where it is long.
fn topic_of(label: &str) -> String {
    /// Bytes of a topic name made from a path, below Kafka's 249; the end is kept, where paths differ.
    const BYTES_MAX: usize = 200;
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = label.trim_matches('/').chars().map(legal).collect();
    name[name.len().saturating_sub(BYTES_MAX)..].to_owned()
}

fn zeek_log(file: &Path) -> Option<&'static str> {
    let name = file.file_name()?.to_str()?;
    let stem = name.split('.').next()?;
    let stem = stem.strip_prefix("open_").unwrap_or(stem);
    ZEEK_LOGS.iter().copied().find(|l| *l == stem)
}

fn expand(pattern: &str) -> Result<Vec<PathBuf>, SpecError> {
    let read = |path: &Path, e: &std::io::Error| SpecError::Read { path: path.display().to_string(), reason: e.to_string() };
    let path = Path::new(pattern);
    let mut found = Vec::new();
    if path.is_dir() {
        walk(path, 0, &mut found).map_err(|e| read(path, &e))?;
    } else if path.exists() {
        found.push(path.to_owned());
    } else {
        let matches = glob::glob(pattern).map_err(|e| SpecError::Read { path: pattern.to_owned(), reason: e.to_string() })?;
        for entry in matches {
            let entry = entry.map_err(|e| read(e.path(), e.error()))?;
            if entry.is_dir() {
                walk(&entry, 0, &mut found).map_err(|e| read(&entry, &e))?;
            } else {
                found.push(entry);
            }
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(SpecError::NoFile { path: pattern.to_owned(), hint: String::new() });
    }
    Ok(found)
}

/// Folders inside folders that are looked into: Zeek keeps one a day.
const DEPTH_MAX: u32 = 4;

fn walk(dir: &Path, depth: u32, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if depth < DEPTH_MAX {
                walk(&path, depth + 1, found)?;
            }
        } else {
            found.push(path);
        }
    }
    Ok(())
}
