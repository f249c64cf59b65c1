//! Mistakes in documents: where, what, and what was probably meant. Collected, never thrown: the reader goes on.

use std::fmt;

/// Mistakes kept of one reading; further ones are counted.
pub const MISTAKES_MAX: usize = 100;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// File as the user named it.
    pub file: String,
    /// Line from 1; 0 = the file as a whole.
    pub line: u32,
    /// Column from 1, in characters; 0 = the file as a whole.
    pub column: u32,
    /// What is wrong, a lowercase fragment.
    pub what: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl Mistake {
    /// A mistake about a file as a whole.
    pub fn of_file(file: impl Into<String>, what: impl Into<String>) -> Self {
        Self { file: file.into(), line: 0, column: 0, what: what.into(), suggestion: None }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.what)?;
        match &self.suggestion {
            Some(meant) => write!(f, "; did you mean \"{meant}\"?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Mistake {}

/// Everything that is wrong, in the order of file, line and column when printed: one mistake a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    list: Vec<Mistake>,
    more: usize,
}

impl Mistakes {
    /// Adds one. Beyond [`MISTAKES_MAX`] it is only counted.
    pub fn push(&mut self, mistake: Mistake) {
        if self.list.len() < MISTAKES_MAX {
            self.list.push(mistake);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// Adds all of another reading.
    pub fn extend(&mut self, other: Self) {
        other.list.into_iter().for_each(|m| self.push(m));
        self.more = self.more.saturating_add(other.more);
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are, those that were only counted included.
    pub fn len(&self) -> usize {
        self.list.len().saturating_add(self.more)
    }

    /// Those kept, by file, line and column.
    pub fn sorted(&self) -> Vec<&Mistake> {
        let mut sorted: Vec<&Mistake> = self.list.iter().collect();
        sorted.sort();
        sorted
    }

    /// `value`, or all mistakes if there are any.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self { list: vec![mistake], more: 0 }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.sorted().into_iter().enumerate() {
            let line_break = if i == 0 { "" } else { "\n" };
            write!(f, "{line_break}{mistake}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Mistakes {}

/// The known name nearest to a written one, if one is near enough to be meant.
pub fn did_you_mean<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    /// Names longer than this are no slip of the pen, and comparing them costs.
    const WRITTEN_BYTES_MAX: usize = 64;
    /// Jaro-Winkler similarity from which a name is suggested: one or two slips in a short name.
    const NEAR: f64 = 0.8;
    if written.is_empty() || written.len() > WRITTEN_BYTES_MAX {
        return None;
    }
    let folded = written.to_lowercase().replace('-', "_");
    let mut best: Option<(f64, &str)> = None;
    for name in known {
        let near = strsim::jaro_winkler(&folded, &name.to_lowercase().replace('-', "_"));
        if near >= NEAR && best.is_none_or(|(b, _)| near > b) {
            best = Some((near, name));
        }
    }
    best.map(|(_, name)| name.to_owned())
}

/// Text fit for a message: control characters escaped, at most 80 characters of it.
pub fn shown(text: &str) -> String {
    /// Characters of a foreign text that a message shows; the rest is cut off.
    const CHARS_MAX: usize = 80;
    let mut out = String::new();
    for c in text.chars().take(CHARS_MAX) {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    if text.chars().nth(CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}
