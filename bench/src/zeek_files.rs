//! Zeek lines into files: one for each log and tenant, or an hourly `.gz` in a directory for each day, named as Zeek's
//! archiver names them (with `_` for `:`). Knows nothing of what the lines say.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use flate2::Compression;
use flate2::write::GzEncoder;
use tidewatch_generator::zeek::Log;
use tidewatch_generator::{Plan, Style};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

const HOUR_NS: i64 = 3_600 * SECOND_NS;

/// When a new file begins.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rotate {
    /// One file for each log.
    Never,
    /// At every full hour, compressed.
    Hourly,
}

/// The files of a plan: at most four open for each tenant.
pub struct ZeekFiles<'p> {
    plan: &'p Plan,
    dir: PathBuf,
    style: Style,
    rotate: Rotate,
    /// By tenant and log.
    open: Vec<[Option<OpenFile>; 4]>,
    counts: [u64; 4],
}

struct OpenFile {
    path: PathBuf,
    out: Output,
    /// The file takes lines before this moment.
    until: EventTime,
}

enum Output {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
}

impl Output {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Plain(out) => out,
            Self::Gzip(out) => out,
        }
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Self::Plain(mut out) => out.flush(),
            Self::Gzip(out) => out.finish()?.flush(),
        }
    }
}

impl<'p> ZeekFiles<'p> {
    /// No file yet.
    pub fn new(plan: &'p Plan, dir: &Path, style: Style, rotate: Rotate) -> Self {
        let open = plan.tenants.iter().map(|_| [None, None, None, None]).collect();
        Self { plan, dir: dir.to_owned(), style, rotate, open, counts: [0; 4] }
    }

    /// Appends a line; lines of one log come in time order.
    ///
    /// # Errors
    /// Says which file cannot be made or written.
    pub fn write(&mut self, tenant: u16, log: Log, at: EventTime, line: &str) -> anyhow::Result<()> {
        let place = |open: &'_ mut Vec<[Option<OpenFile>; 4]>| -> Option<OpenFile> {
            open.get_mut(usize::from(tenant)).and_then(|logs| logs[log as usize].take())
        };
        let mut file = match place(&mut self.open) {
            Some(file) if at < file.until => file,
            full => {
                if let Some(full) = full {
                    self.close(full)?;
                }
                self.begin(tenant, log, at)?
            }
        };
        let out = file.out.writer();
        let written = out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n"));
        written.with_context(|| format!("cannot write {}", file.path.display()))?;
        self.counts[log as usize] += 1;
        if let Some(logs) = self.open.get_mut(usize::from(tenant)) {
            logs[log as usize] = Some(file);
        }
        Ok(())
    }

    /// Ends all files; lines by log.
    ///
    /// # Errors
    /// Says which file cannot be written.
    pub fn finish(mut self) -> anyhow::Result<Vec<(String, u64)>> {
        for file in std::mem::take(&mut self.open).into_iter().flatten().flatten() {
            self.close(file)?;
        }
        Ok(Log::ALL.iter().map(|log| (format!("lines of {}", log.name()), self.counts[*log as usize])).collect())
    }

    fn begin(&self, tenant: u16, log: Log, at: EventTime) -> anyhow::Result<OpenFile> {
        let mut dir = self.dir.clone();
        if self.plan.tenants.len() > 1 {
            dir.push(self.plan.tenant(tenant));
        }
        let hour = at.minus(at.0.rem_euclid(HOUR_NS));
        let (path, until, opened) = match self.rotate {
            Rotate::Never => (dir.join(format!("{}.log", log.name())), EventTime::MAX, self.plan.start),
            Rotate::Hourly => {
                let (day, from) = day_and_time(hour);
                let (_, to) = day_and_time(hour.plus(HOUR_NS));
                (dir.join(day).join(format!("{}.{from}-{to}.log.gz", log.name())), hour.plus(HOUR_NS), hour)
            }
        };
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let file = File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let buffer = BufWriter::with_capacity(64 << 10, file);
        let mut out = match self.rotate {
            Rotate::Never => Output::Plain(buffer),
            Rotate::Hourly => Output::Gzip(GzEncoder::new(buffer, Compression::fast())),
        };
        if self.style == Style::Tsv {
            let header = log.header(opened);
            out.writer().write_all(header.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(OpenFile { path, out, until })
    }

    fn close(&self, mut file: OpenFile) -> anyhow::Result<()> {
        let closed = file.until.min(self.plan.end());
        let footer = if self.style == Style::Tsv { Log::footer(closed) } else { String::new() };
        let written = file.out.writer().write_all(footer.as_bytes()).and_then(|()| file.out.finish());
        written.with_context(|| format!("cannot write {}", file.path.display()))
    }
}

/// `2026-03-11` and `08_00_00` of a full second.
fn day_and_time(at: EventTime) -> (String, String) {
    let text = at.to_rfc3339();
    let (day, time) = text.split_once('T').unwrap_or((&text, ""));
    (day.to_owned(), time.trim_end_matches('Z').replace(':', "_"))
}
