//! Zeek's text log: header lines that name the columns, then one row a line. Columns are read by name, never by position;
//! the header is learned from the records of a partition and survives a restart as its own text.

use super::super::Fault;
use super::super::value::{Scratch, shown};
use super::Log;
use super::fields::{Field, Fields};

/// Columns of a log, at most; Zeek's widest has about 60.
pub(super) const COLUMNS_MAX: usize = 256;

/// Bytes of a log's name and of the words for unset and empty, at most.
const WORD_BYTES_MAX: usize = 32;

/// Characters that may separate columns: those that stand in no column name and in no word for unset or empty.
const SEPARATORS: &[u8] = b"\t,;| ";

/// Some labelling tools put their columns behind the last one with three spaces instead of a separator.
const LABEL_GAP: &str = "   ";

/// What the header lines say.
#[derive(Clone, Debug)]
pub(super) struct Header {
    separator: u8,
    set_separator: u8,
    unset: String,
    empty: String,
    path: Option<String>,
    columns: Vec<Option<Field>>,
    /// The log by its columns alone.
    log: Option<Log>,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            separator: b'\t',
            set_separator: b',',
            unset: "-".to_owned(),
            empty: "(empty)".to_owned(),
            path: None,
            columns: Vec::new(),
            log: None,
        }
    }
}

impl Header {
    /// A line that tells columns, not a row: one that begins with `#`, or bare names.
    pub(super) fn is_header(&self, line: &str) -> bool {
        line.starts_with('#') || self.is_names(line)
    }

    /// Learns from a header line.
    pub(super) fn take(&mut self, line: &str) -> Result<(), Fault> {
        if line.starts_with('#') { self.line(line) } else { self.names(line) }
    }

    /// A row's line as a record of its own; a text row brings the header along.
    pub(super) fn alone(&self, line: &[u8]) -> Vec<u8> {
        let mut alone = if line.starts_with(b"{") { Vec::new() } else { self.text().into_bytes() };
        alone.extend_from_slice(line);
        alone.push(b'\n');
        alone
    }

    /// Learns from a line that begins with `#`.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Fault> {
        let line = line.trim_end_matches('\r');
        if let Some(rest) = line.strip_prefix("#separator") {
            // A new file begins.
            *self = Self::default();
            self.separator = separator(rest.trim_start_matches([' ', '\t']))?;
            return Ok(());
        }
        let separator = char::from(self.separator);
        let (key, rest) = line.split_once(separator).unwrap_or((line, ""));
        match key {
            "#set_separator" => {
                if let [byte] = rest.as_bytes() {
                    self.set_separator = *byte;
                }
            }
            "#unset_field" => self.unset = word(rest)?,
            "#empty_field" => self.empty = word(rest)?,
            "#path" => {
                self.path = Some(word(rest)?);
                self.columns.clear();
            }
            "#fields" => self.names(rest)?,
            // #types, #open, #close, and what later versions add.
            _ => {}
        }
        Ok(())
    }

    /// Takes a line as the names of the columns.
    fn names(&mut self, names: &str) -> Result<(), Fault> {
        self.columns.clear();
        for name in names.split(char::from(self.separator)).flat_map(|n| n.split(LABEL_GAP)) {
            if self.columns.len() == COLUMNS_MAX {
                self.columns.clear();
                return Err(Fault::TooLarge { what: "columns of a zeek log", limit: COLUMNS_MAX });
            }
            // A name that comes twice counts once, so the header's text stays short.
            let field = Field::by_name(name.trim()).filter(|f| !self.columns.contains(&Some(*f)));
            self.columns.push(field);
        }
        let mut fields = Fields::new(self.set_separator);
        self.columns.iter().flatten().for_each(|&field| fields.set(field, None));
        self.log = Log::by_fields(&fields);
        Ok(())
    }

    /// A line of names without a header (`tsv=T`): it begins with the first column of every log.
    fn is_names(&self, line: &str) -> bool {
        line.strip_prefix("ts").is_some_and(|rest| rest.starts_with(char::from(self.separator)))
    }

    /// The log by `#path`, `None` when the header does not tell.
    pub(super) fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Reads a row.
    pub(super) fn row<'a>(&self, line: &'a str, scratch: &Scratch<'a>) -> Result<Fields<'a>, Fault> {
        if self.columns.is_empty() {
            return Err(Fault::Missing { field: "#fields" });
        }
        let escaped = memchr::memchr(b'\\', line.as_bytes()).is_some();
        let mut fields = Fields::new(self.set_separator);
        let mut rest = line;
        let mut more = true;
        for (i, &column) in self.columns.iter().enumerate() {
            if !more {
                return Err(Fault::Field {
                    field: "#fields",
                    expected: "a value for every column",
                    got: format!("{i} of {}: {}", self.columns.len(), shown(&line.as_bytes()[..line.len().min(40)])),
                });
            }
            let value;
            (value, rest, more) = match memchr::memchr(self.separator, rest.as_bytes()) {
                // The separator is ASCII, so both sides are text.
                Some(at) => (&rest[..at], &rest[at + 1..], true),
                None => match rest.split_once(LABEL_GAP).filter(|_| i + 1 < self.columns.len()) {
                    Some((value, rest)) => (value, rest, true),
                    None => (rest, "", false),
                },
            };
            let Some(field) = column else { continue };
            let value = if value == self.unset || value == self.empty {
                None
            } else if escaped && value.contains('\\') {
                Some(unescape(value, field.is_set().then_some(self.set_separator), scratch)?)
            } else {
                Some(value)
            };
            fields.set(field, value);
        }
        Ok(fields)
    }

    /// The log by its columns alone.
    pub(super) const fn log_by_columns(&self) -> Option<Log> {
        self.log
    }

    /// The header as text: what it needs to read a row, unknown columns as `-`. Empty when nothing is known. At most
    /// about 1.5 KiB: every known name at most once, [`COLUMNS_MAX`] unknown ones, four words.
    pub(super) fn text(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        let separator = char::from(self.separator);
        let mut out = format!("#separator \\x{:02x}\n", self.separator);
        let mut line = |key: &str, value: &str| {
            out.push_str(key);
            out.push(separator);
            out.push_str(value);
            out.push('\n');
        };
        line("#set_separator", &char::from(self.set_separator).to_string());
        line("#empty_field", &self.empty);
        line("#unset_field", &self.unset);
        if let Some(path) = &self.path {
            line("#path", path);
        }
        let names: Vec<&str> = self.columns.iter().map(|c| c.map_or("-", Field::name)).collect();
        line("#fields", &names.join(&separator.to_string()));
        out
    }
}

/// `\x09` or the character itself.
fn separator(text: &str) -> Result<u8, Fault> {
    let byte = match text.strip_prefix("\\x") {
        Some(digits) => u8::from_str_radix(digits, 16).ok(),
        None => match text.as_bytes() {
            [byte] => Some(*byte),
            _ => None,
        },
    };
    byte.filter(|b| SEPARATORS.contains(b)).ok_or_else(|| Fault::Field {
        field: "#separator",
        expected: "a tab, comma, semicolon, bar or space",
        got: shown(text.as_bytes()),
    })
}

fn word(text: &str) -> Result<String, Fault> {
    if text.len() > WORD_BYTES_MAX {
        return Err(Fault::TooLarge { what: "a word of a zeek header", limit: WORD_BYTES_MAX });
    }
    Ok(text.to_owned())
}

/// Undoes `\xHH` and `\\`, but for `keep`, the separator inside a member of a set. What would not be UTF-8 stays as it was written, as Zeek's JSON writer leaves it.
fn unescape<'a>(text: &'a str, keep: Option<u8>, scratch: &Scratch<'a>) -> Result<&'a str, Fault> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i..] {
            [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |c: u8| char::from(c).to_digit(16).unwrap_or(0) as u8;
                let byte = digit(high) << 4 | digit(low);
                if keep == Some(byte) {
                    out.extend_from_slice(&bytes[i..i + 4]);
                } else {
                    out.push(byte);
                }
                i += 4;
            }
            [b'\\', b'\\', ..] => {
                out.push(b'\\');
                i += 2;
            }
            _ => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    match String::from_utf8(out) {
        Ok(out) => scratch.keep(&out),
        Err(_) => Ok(text),
    }
}
