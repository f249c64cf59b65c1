//! `zeek`, `zeek-conn`, `zeek-dns`, `zeek-ssl`, `zeek-http`: Zeek's logs as text or JSON, one line or many in a record.
//!
//! A text log's header is learned as it comes by and survives a restart ([`super::Decoder::learned`]); text and JSON may
//! alternate. `zeek` takes any log and finds out which by `#path`, `_path`, the wrapping name or the columns; the others
//! take one log and skip, counted, what is another. `open_conn` and the like (connections not yet ended) count as the log.
//!
//! conn and dns tell their end. ssl and http lines tell only a start: their event time is the write time where the line
//! has it, else the highest start so far in that log, which is what "written later" means in a log in order. A line far
//! ahead of its record's timestamp does not move that mark.

mod clock;
mod conn;
mod dns;
mod fields;
mod http;
mod json;
mod ssl;
mod tsv;

use bumpalo::Bump;

use self::fields::{Field, Fields};
use self::tsv::Header;
use super::value::{Scratch, shown};
use super::{Decoded, DecodedRow, Decoder, Fault, RecordMeta, push_row};
use crate::observation::Row;
use crate::time::{EventTime, SECOND_NS};

/// Bytes of bad rows of one record, headers included, at most; more rejects the record whole.
const BAD_BYTES_MAX: usize = 8 << 20;

/// How far a line may lie ahead of its record's timestamp and still move the mark of its log.
const AHEAD_NS_MAX: i64 = 30 * SECOND_NS;

/// Learned text that is ours, not Zeek's: highest start in ssl and http.
const HIGHEST: &str = "#tidewatch_highest";

/// A log that becomes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    Conn,
    Dns,
    Ssl,
    Http,
}

impl Log {
    /// By the log's name; filters and rotations decorate it: `open_conn`, `conn-2`.
    fn by_path(path: &str) -> Option<Self> {
        let path = path.strip_prefix("open_").unwrap_or(path);
        let path = match path.rsplit_once('-') {
            Some((head, digits)) if digits.bytes().all(|c| c.is_ascii_digit()) => head,
            _ => path,
        };
        match path {
            "conn" => Some(Self::Conn),
            "dns" => Some(Self::Dns),
            "ssl" => Some(Self::Ssl),
            "http" => Some(Self::Http),
            _ => None,
        }
    }

    /// By the columns that only this log has.
    fn by_fields(fields: &Fields<'_>) -> Option<Self> {
        let has = |field| fields.has(field);
        if has(Field::ConnState) {
            Some(Self::Conn)
        } else if has(Field::Query) && (has(Field::TransId) || has(Field::Qtype) || has(Field::QtypeName)) {
            Some(Self::Dns)
        } else if has(Field::SslHistory) || has(Field::Cipher) || (has(Field::ServerName) && has(Field::Established)) {
            Some(Self::Ssl)
        } else if has(Field::Method) && (has(Field::Host) || has(Field::Tags)) {
            Some(Self::Http)
        } else {
            None
        }
    }
}

/// Decoder of Zeek's logs.
#[derive(Debug)]
pub(super) struct Zeek {
    /// The one log to take; `None` for any.
    wanted: Option<Log>,
    header: Header,
    /// The header before the last record, where that record brought another.
    before: Option<Header>,
    /// Highest start so far in ssl and in http, ns.
    highest_ns: [i64; 2],
}

impl Zeek {
    /// For one log, or for any.
    pub(super) fn new(wanted: Option<Log>) -> Self {
        Self { wanted, header: Header::default(), before: None, highest_ns: [i64::MIN; 2] }
    }

    /// Reads a row or says why it is skipped.
    fn row<'a>(
        &mut self,
        line: &'a str,
        meta: RecordMeta,
        scratch: &Scratch<'a>,
    ) -> Result<Result<Row<'a>, &'static str>, Fault> {
        let (fields, path, by_fields) = if line.starts_with('{') {
            let json::Line { fields, path } = json::line(line, scratch)?;
            (fields, path, Log::by_fields(&fields))
        } else {
            if let Some(skip) = self.skip(self.header.path(), None) {
                return Ok(Err(skip));
            }
            (self.header.row(line, scratch)?, None, self.header.log_by_columns())
        };
        let path = path.or(self.header.path().filter(|_| !line.starts_with('{')));
        if let Some(skip) = self.skip(path, by_fields) {
            return Ok(Err(skip));
        }
        match path.and_then(Log::by_path).or(by_fields).or(self.wanted) {
            Some(Log::Conn) => conn::row(&fields).map(Ok),
            Some(Log::Dns) if fields.text(Field::Query).is_none() => Ok(Err("zeek dns line without a query")),
            Some(Log::Dns) => dns::row(&fields, scratch).map(Ok),
            Some(Log::Ssl) => ssl::row(&fields, scratch, &mut |t| self.written(0, t, &fields, meta)).map(Ok),
            Some(Log::Http) => http::row(&fields, scratch, &mut |t| self.written(1, t, &fields, meta)).map(Ok),
            None => Ok(Err("zeek line of an unknown log")),
        }
    }

    /// Why a line is not for this decoder, as far as its log is known.
    fn skip(&self, path: Option<&str>, by_fields: Option<Log>) -> Option<&'static str> {
        let log = match path {
            Some(path) => Log::by_path(path).ok_or("zeek log without an observation table"),
            None => match by_fields.or(self.wanted) {
                Some(log) => Ok(log),
                None => return None,
            },
        };
        match (log, self.wanted) {
            (Err(_), Some(_)) => Some("another zeek log"),
            (Err(reason), None) => Some(reason),
            (Ok(log), Some(wanted)) if log != wanted => Some("another zeek log"),
            _ => None,
        }
    }

    /// Event time of a line that tells only its start.
    fn written(&mut self, log: usize, start: EventTime, fields: &Fields<'_>, meta: RecordMeta) -> Result<EventTime, Fault> {
        if let Some(written) = fields.time(Field::WriteTs)? {
            return Ok(written.max(start));
        }
        let highest = &mut self.highest_ns[log];
        // A record without a timestamp (a file's line) has nothing to compare with.
        if meta.timestamp.0 <= 0 || start.0 <= meta.timestamp.plus(AHEAD_NS_MAX).0 {
            *highest = (*highest).max(start.0);
        }
        Ok(start.max(EventTime(*highest)))
    }
}

impl Decoder for Zeek {
    fn decode<'a>(&mut self, value: &'a [u8], meta: RecordMeta, arena: &'a Bump, out: &mut Decoded<'a>) -> Result<(), Fault> {
        if value.is_empty() {
            return Err(Fault::Empty);
        }
        let scratch = Scratch::new(arena);
        self.before = None;
        let mut index = 0;
        let mut bad_bytes = 0usize;
        for bytes in Lines(value) {
            if bytes.is_empty() {
                continue;
            }
            let text = std::str::from_utf8(bytes).map_err(|_| Fault::Format { expected: "utf-8", got: shown(bytes) });
            if let Ok(text) = text
                && self.header.is_header(text)
            {
                self.before.get_or_insert_with(|| self.header.clone());
                self.header.take(text)?;
                out.skip("zeek header line");
                continue;
            }
            let row = match text.and_then(|text| self.row(text, meta, &scratch)) {
                Ok(Ok(row)) => Ok(DecodedRow { tenant: "", agent: None, index, row }),
                Ok(Err(reason)) => {
                    out.skip(reason);
                    index += 1;
                    continue;
                }
                Err(fault) => Err(fault),
            };
            push_row(out, index, row, || {
                let alone = self.header.alone(bytes);
                bad_bytes += alone.len();
                alone
            })?;
            if bad_bytes > BAD_BYTES_MAX {
                return Err(Fault::TooLarge { what: "bad lines of one record", limit: BAD_BYTES_MAX });
            }
            index += 1;
        }
        Ok(())
    }

    /// A line of ssl or http without write time has its own start as its time, not the highest so far.
    fn extract(&self, value: &[u8], rows: &[u32], each: &mut dyn FnMut(u32, Vec<u8>)) {
        let mut wanted = rows.iter().copied().peekable();
        let mut header = self.before.as_ref().unwrap_or(&self.header).clone();
        let mut index = 0;
        for bytes in Lines(value).filter(|bytes| !bytes.is_empty()) {
            if wanted.peek().is_none() {
                return;
            }
            if let Ok(text) = std::str::from_utf8(bytes)
                && header.is_header(text)
            {
                // The record has been decoded, so its header lines are good.
                drop(header.take(text));
                continue;
            }
            if wanted.next_if_eq(&index).is_some() {
                each(index, header.alone(bytes));
            }
            index += 1;
        }
    }

    fn learned(&self) -> Option<String> {
        let mut text = self.header.text();
        if self.highest_ns != [i64::MIN; 2] {
            text.push_str(&format!("{HIGHEST} {} {}\n", self.highest_ns[0], self.highest_ns[1]));
        }
        (!text.is_empty()).then_some(text)
    }

    fn resume(&mut self, learned: &str) {
        for line in learned.lines() {
            match line.strip_prefix(HIGHEST) {
                Some(rest) => {
                    for (highest, text) in self.highest_ns.iter_mut().zip(rest.split_whitespace()) {
                        *highest = text.parse().unwrap_or(i64::MIN);
                    }
                }
                // It was written by us, so it is a header; if it is not, the next header line says so.
                None => drop(self.header.line(line)),
            }
        }
    }
}

/// Lines without their ends.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let (line, rest) = match memchr::memchr(b'\n', self.0) {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (self.0, &[][..]),
        };
        self.0 = rest;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // Blanks mean something only in a text row.
        Some(match line.trim_ascii_start() {
            trimmed @ ([b'#' | b'{', ..] | []) => trimmed,
            _ => line,
        })
    }
}
