//! Tests of a rule, as its document has them: rows in, signals out. Rows are written as patterns that repeat, drawn from a
//! seed, so that a beacon is one line rather than forty. Here they are read and turned into rows; whoever has the whole way
//! from rows to signals runs them.

mod draw;
mod pattern;

use tidewatch_schemas::document::{Map, Mistakes, Node};
use tidewatch_schemas::signal::{Severity, Signal};
use tidewatch_schemas::time::EventTime;

pub use self::draw::Made;
use self::pattern::Pattern;
pub use self::pattern::{PATTERN_FIELDS, ROW_FIELDS};
use super::parse::KINDS_OF_SEVERITY;
use super::set::Place;

/// Tests of one rule, at most.
pub const EXAMPLES_MAX: usize = 100;

/// Rows of one test, at most.
pub const EXAMPLE_ROWS_MAX: usize = 200_000;

/// Patterns of one test, at most.
const PATTERNS_MAX: usize = 1_000;

/// When a test's time begins unless it says otherwise: a Monday, midnight UTC.
const START: EventTime = EventTime::from_secs(1_780_272_000);

/// Names a test may have, whether it must have them, and what they mean.
pub const EXAMPLE_FIELDS: &[(&str, bool, &str)] = &[
    ("name", true, "what it shows, as a sentence"),
    ("rows", true, "patterns of rows, see below"),
    ("expect", true, "`none`, or what must come: see below"),
    ("start", false, "moment from which `at` counts; 2026-06-01T00:00:00Z, a Monday, when left out"),
    ("seed", false, "another draw of everything that is drawn; 1 when left out"),
];

/// Names an expectation may have and what they mean.
pub const EXPECT_FIELDS: &[(&str, &str)] = &[
    ("signals", "how many: `3`, `1-3`, `1+`; `1+` when left out"),
    ("host", "one of them is about this host"),
    ("destination", "and has this address or name as its destination"),
    ("severity", "and this severity"),
    ("confidence", "and at least this confidence"),
];

/// One test.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// What it shows.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    start: EventTime,
    seed: u64,
    patterns: Vec<Pattern>,
    expect: Expect,
}

/// What must come.
#[derive(Clone, Debug, Default, PartialEq)]
struct Expect {
    least: u32,
    most: u32,
    host: Option<String>,
    destination: Option<String>,
    severity: Option<Severity>,
    confidence: u8,
}

impl Example {
    /// Its rows, in the order of their times.
    pub fn rows(&self) -> Vec<Made> {
        let mut all: Vec<Made> = Vec::new();
        for (number, pattern) in (0..).zip(&self.patterns) {
            pattern.draw(self.start, self.seed.wrapping_mul(1_000_003).wrapping_add(number), &mut all);
        }
        all.sort_by_key(|made| made.at);
        all
    }

    /// Whether something must come: a positive test.
    pub fn is_positive(&self) -> bool {
        self.expect.least > 0
    }

    /// What must come, in words.
    pub fn expected(&self) -> String {
        let Expect { least, most, host, destination, severity, confidence } = &self.expect;
        let number = match (*least, *most) {
            (0, 0) => return "none".to_owned(),
            (least, u32::MAX) => format!("{least}+"),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least}-{most}"),
        };
        let parts = [
            host.as_ref().map(|h| format!("of {h}")),
            destination.as_ref().map(|d| format!("to {d}")),
            severity.map(|s| s.name().to_owned()),
            (*confidence > 0).then(|| format!("confidence {confidence}+")),
        ];
        parts.into_iter().flatten().fold(number, |all, part| format!("{all} {part}"))
    }

    /// What is wrong with the signals that came; `None` = they are what was expected.
    pub fn judge(&self, signals: &[Signal]) -> Option<String> {
        let expect = &self.expect;
        let number = u32::try_from(signals.len()).unwrap_or(u32::MAX);
        let first = || signals.first().map(|s| format!(": {}", s.why)).unwrap_or_default();
        if number < expect.least || number > expect.most {
            return Some(format!("{number} signals, expected {}{}", self.expected(), first()));
        }
        let is = |wanted: &Option<String>, any: &[Option<&str>]| {
            wanted.as_deref().is_none_or(|wanted| any.iter().flatten().any(|got| *got == wanted))
        };
        let fits = |s: &Signal| {
            let to = s.destination.as_ref();
            let to = [to.and_then(|d| d.ip.as_deref()), to.and_then(|d| d.domain.as_deref()), to.and_then(|d| d.name.as_deref())];
            is(&expect.host, &[Some(&s.entity.id)])
                && is(&expect.destination, &to)
                && expect.severity.is_none_or(|wanted| wanted == s.severity)
                && s.confidence >= expect.confidence
        };
        if number == 0 || signals.iter().any(fits) {
            return None;
        }
        let got = signals.iter().take(3).map(|s| format!("{} {} ({})", s.severity.name(), s.confidence, s.why));
        Some(format!("no signal is as expected ({}): {}", self.expected(), got.collect::<Vec<_>>().join("; ")))
    }
}

/// Reads a rule's tests. `None` = a mistake.
pub(super) fn parse(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Vec<Example>> {
    let nodes = node.list(mistakes)?;
    if nodes.len() > EXAMPLES_MAX {
        mistakes.push(node.mistake(format!("{} tests; at most {EXAMPLES_MAX}", nodes.len())));
        return None;
    }
    let expected = nodes.len();
    let read: Vec<Example> = nodes.into_iter().filter_map(|n| example(n, mistakes)).collect();
    (read.len() == expected).then_some(read)
}

fn example(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Example> {
    let map = node.map(mistakes)?;
    let names: Vec<&str> = EXAMPLE_FIELDS.iter().map(|(name, ..)| *name).collect();
    map.expect_keys(&names, mistakes);
    let name = map.require("name", mistakes).and_then(|n| n.str(mistakes));
    let rows = map.require("rows", mistakes).and_then(|n| patterns(n, mistakes));
    let expect = map.require("expect", mistakes).and_then(|n| expect(n, mistakes));
    let start = map.get("start").map_or(Some(START), |n| moment(n, mistakes));
    let seed = map.get("seed").map_or(Some(1), |n| n.u32(mistakes));
    let patterns = rows?;
    let number = patterns.iter().map(|p| p.count as usize).sum::<usize>();
    if number > EXAMPLE_ROWS_MAX {
        mistakes.push(node.mistake(format!("{number} rows; at most {EXAMPLE_ROWS_MAX}")));
        return None;
    }
    Some(Example {
        name: name?.to_owned(),
        place: Place::of(node),
        start: start?,
        seed: u64::from(seed?),
        patterns,
        expect: expect?,
    })
}

fn patterns(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Vec<Pattern>> {
    let nodes = node.list(mistakes)?;
    if nodes.len() > PATTERNS_MAX {
        mistakes.push(node.mistake(format!("{} patterns; at most {PATTERNS_MAX}", nodes.len())));
        return None;
    }
    let expected = nodes.len();
    let read: Vec<Pattern> = nodes.into_iter().filter_map(|n| Pattern::read(n, mistakes)).collect();
    (read.len() == expected).then_some(read)
}

fn moment(node: Node<'_>, mistakes: &mut Mistakes) -> Option<EventTime> {
    let at = EventTime::parse_rfc3339(node.str(mistakes)?);
    if at.is_none() {
        mistakes.push(node.mistake("expected a moment as 2026-06-01T00:00:00Z"));
    }
    at
}

fn expect(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Expect> {
    if !node.is_map() {
        return node.one_of(&["none"], mistakes).map(|_| Expect::default());
    }
    let map = node.map(mistakes)?;
    let names: Vec<&str> = EXPECT_FIELDS.iter().map(|(name, _)| *name).collect();
    map.expect_keys(&names, mistakes);
    let (least, most) = match map.get("signals") {
        Some(node) => range(node, mistakes)?,
        None => (1, u32::MAX),
    };
    let text = |name: &str, mistakes: &mut Mistakes| optional(&map, name, mistakes);
    let host = text("host", mistakes);
    let destination = text("destination", mistakes);
    let words: Vec<&str> = KINDS_OF_SEVERITY.iter().map(|(word, _)| *word).collect();
    let severity = map.get("severity").map_or(Some(None), |n| n.one_of(&words, mistakes).map(|i| Some(KINDS_OF_SEVERITY[i].1)));
    let confidence = map.get("confidence").map_or(Some(0), |n| n.u32_in(0, 100, mistakes));
    Some(Expect { least, most, host: host?, destination: destination?, severity: severity?, confidence: confidence? as u8 })
}

/// `None` = a mistake; `Some(None)` = not given.
fn optional(map: &Map<'_>, name: &str, mistakes: &mut Mistakes) -> Option<Option<String>> {
    map.get(name).map_or(Some(None), |n| n.str(mistakes).map(|t| Some(t.to_owned())))
}

/// `3`, `1-3`, `1+`.
fn range(node: Node<'_>, mistakes: &mut Mistakes) -> Option<(u32, u32)> {
    let text = node.str(mistakes)?;
    let read = match text.strip_suffix('+') {
        Some(least) => least.parse().ok().map(|n| (n, u32::MAX)),
        None => match text.split_once('-') {
            Some((least, most)) => least.parse().ok().zip(most.parse().ok()),
            None => text.parse().ok().map(|n| (n, n)),
        },
    };
    if read.is_none_or(|(least, most)| least > most) {
        mistakes.push(node.mistake(format!("expected a number of signals as 3, 1-3 or 1+, got {text}")));
        return None;
    }
    read
}
