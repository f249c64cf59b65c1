//! A YAML document that remembers where everything stands, for topologies and rules.
//!
//! [`Document::parse`] turns text into a tree; [`Node`] and [`Map`] read it by type. A reader that finds something else
//! than it asked for pushes a [`Mistake`] with file, line and column and returns `None`, so that one pass reports
//! everything that is wrong. It is not a deserialiser: nothing is guessed from shape, nothing is flattened, a scalar has
//! the type its reader asks for.
//!
//! What always holds: text of any content gives a tree or a mistake, never a panic; size, depth and the number of nodes
//! (aliases expanded) are bounded; a key stands once in a map.

mod mistake;
mod tree;
mod units;

pub use mistake::{MISTAKES_MAX, Mistake, Mistakes, did_you_mean, shown};
pub use tree::{DEPTH_MAX, DOCUMENT_BYTES_MAX, Document, NODES_MAX};
pub use units::{parse_bytes, parse_duration, show_duration};

use std::time::Duration;

use tree::Kind;

/// One node of a document: a value with its place.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    document: &'a Document,
    index: usize,
}

impl<'a> Node<'a> {
    /// A mistake at this node, without suggestion.
    pub fn mistake(&self, what: impl Into<String>) -> Mistake {
        self.document.mistake_at(self.index, what.into())
    }

    /// Nothing was written: `key:` or `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(self.kind(), Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// A map (so that a reader may choose between two documented forms).
    pub fn is_map(&self) -> bool {
        matches!(self.kind(), Kind::Map(_))
    }

    /// A list (so that a reader may take one value for a list of one).
    pub fn is_list(&self) -> bool {
        matches!(self.kind(), Kind::List(_))
    }

    /// Text exactly as written. Numbers and truth values count as text here (`id: 22` is "22"); nothing and empty text
    /// do not.
    pub fn str(&self, mistakes: &mut Mistakes) -> Option<&'a str> {
        match self.kind() {
            Kind::Scalar { text, .. } if !text.is_empty() && !self.is_null() => Some(text),
            _ => self.wrong("text", mistakes),
        }
    }

    /// A whole number 0..=4294967295, in decimal.
    pub fn u32(&self, mistakes: &mut Mistakes) -> Option<u32> {
        self.plain().filter(|t| digits_only(t)).and_then(|t| t.parse().ok()).or_else(|| self.wrong("a whole number", mistakes))
    }

    /// A whole number between two bounds, both included.
    pub fn u32_in(&self, min: u32, max: u32, mistakes: &mut Mistakes) -> Option<u32> {
        match self.plain().filter(|t| digits_only(t)).and_then(|t| t.parse().ok()) {
            Some(n) if (min..=max).contains(&n) => Some(n),
            _ => self.wrong(&format!("a whole number from {min} to {max}"), mistakes),
        }
    }

    /// A finite number, in decimal, with or without exponent.
    pub fn f64(&self, mistakes: &mut Mistakes) -> Option<f64> {
        let number = |t: &str| {
            let decimal = t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
            t.parse::<f64>().ok().filter(|n| decimal && n.is_finite())
        };
        self.plain().and_then(number).or_else(|| self.wrong("a number", mistakes))
    }

    /// `true` or `false`.
    pub fn bool(&self, mistakes: &mut Mistakes) -> Option<bool> {
        match self.plain() {
            Some("true" | "True" | "TRUE") => Some(true),
            Some("false" | "False" | "FALSE") => Some(false),
            _ => self.wrong("true or false", mistakes),
        }
    }

    /// A duration such as `10s`, `1h30m` or `1.5h`, see [`parse_duration`].
    pub fn duration(&self, mistakes: &mut Mistakes) -> Option<Duration> {
        let text = self.scalar().unwrap_or("");
        match parse_duration(text) {
            Ok(duration) => Some(duration),
            Err(why) => {
                let mut mistake = self.mistake(format!("expected a duration like 10s, 5m or 1h30m, got {}{why}", self.got()));
                if digits_only(text) && text.len() < 10 {
                    mistake.suggestion = Some(format!("{text}s"));
                }
                mistakes.push(mistake);
                None
            }
        }
    }

    /// A size such as `64MiB`, see [`parse_bytes`].
    pub fn bytes(&self, mistakes: &mut Mistakes) -> Option<u64> {
        match parse_bytes(self.scalar().unwrap_or("")) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                mistakes.push(self.mistake(format!("expected a size like 512KiB or 64MiB, got {}{why}", self.got())));
                None
            }
        }
    }

    /// One word of a fixed set; the index of the word.
    pub fn one_of(&self, words: &[&str], mistakes: &mut Mistakes) -> Option<usize> {
        let text = self.scalar().unwrap_or("");
        if let Some(i) = words.iter().position(|w| *w == text) {
            return Some(i);
        }
        let expected = if let [word] = words { (*word).to_owned() } else { format!("one of {}", words.join(", ")) };
        let mut mistake = self.mistake(format!("expected {expected}, got {}", self.got()));
        mistake.suggestion = did_you_mean(text, words.iter().copied());
        mistakes.push(mistake);
        None
    }

    /// The elements of a list.
    pub fn list(&self, mistakes: &mut Mistakes) -> Option<Vec<Node<'a>>> {
        match self.kind() {
            Kind::List(items) => Some(items.iter().map(|&index| self.at(index)).collect()),
            _ => self.wrong("a list", mistakes),
        }
    }

    /// The entries of a map.
    pub fn map(&self, mistakes: &mut Mistakes) -> Option<Map<'a>> {
        match self.kind() {
            Kind::Map(entries) => Some(Map { node: *self, entries }),
            _ => self.wrong("a map", mistakes),
        }
    }

    /// The text of any scalar.
    fn scalar(&self) -> Option<&'a str> {
        match self.kind() {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The text of a scalar without quotes.
    fn plain(&self) -> Option<&'a str> {
        match self.kind() {
            Kind::Scalar { text, plain: true } => Some(text),
            _ => None,
        }
    }

    fn got(&self) -> String {
        match self.kind() {
            Kind::Map(_) => "a map".into(),
            Kind::List(_) => "a list".into(),
            Kind::Scalar { .. } if self.is_null() => "nothing".into(),
            Kind::Scalar { text, plain: true } => shown(text),
            Kind::Scalar { text, plain: false } => format!("\"{}\"", shown(text)),
        }
    }

    fn wrong<T>(&self, expected: &str, mistakes: &mut Mistakes) -> Option<T> {
        mistakes.push(self.mistake(format!("expected {expected}, got {}", self.got())));
        None
    }

    fn at(&self, index: usize) -> Node<'a> {
        Node { document: self.document, index }
    }

    fn kind(&self) -> &'a Kind {
        self.document.kind(self.index)
    }
}

/// A map: names and values in written order.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    node: Node<'a>,
    entries: &'a [(usize, usize)],
}

impl<'a> Map<'a> {
    /// The map as a node, for its place.
    pub fn node(&self) -> Node<'a> {
        self.node
    }

    /// Every name not among `known` is a mistake, with the nearest known name as suggestion.
    pub fn expect_keys(&self, known: &[&str], mistakes: &mut Mistakes) {
        for (name, key, _) in self.entries() {
            if !known.contains(&name) {
                let mut mistake = key.mistake(format!("unknown name {}", shown(name)));
                mistake.suggestion = did_you_mean(name, known.iter().copied());
                mistakes.push(mistake);
            }
        }
    }

    /// The value of a name, if it is there and not null.
    pub fn get(&self, name: &str) -> Option<Node<'a>> {
        self.entries().find(|(n, ..)| *n == name).map(|(_, _, value)| value).filter(|v| !v.is_null())
    }

    /// The value of a name that must be there.
    pub fn require(&self, name: &str, mistakes: &mut Mistakes) -> Option<Node<'a>> {
        let value = self.get(name);
        if value.is_none() {
            mistakes.push(self.node.mistake(format!("{name} is missing")));
        }
        value
    }

    /// Name, its node and its value's node, in written order.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Node<'a>, Node<'a>)> + use<'a> {
        let node = self.node;
        // Keys that are not scalars became a mistake when the tree was built and are not among the entries.
        self.entries.iter().map(move |&(key, value)| (node.at(key).scalar().unwrap_or(""), node.at(key), node.at(value)))
    }
}

fn digits_only(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests;
