//! Reading one section of a topology: a map whose names are all optional, each with a default and bounds.

use std::path::PathBuf;
use std::time::Duration;

use tidewatch_schemas::document::{Map, Mistakes, Node, show_duration};

/// One section. A missing section reads as an empty one, so that defaults stand in one place.
pub(super) struct Section<'a, 'm> {
    map: Option<Map<'a>>,
    pub mistakes: &'m mut Mistakes,
}

impl<'a, 'm> Section<'a, 'm> {
    /// The section `name` of `outer`, whose names must be among `known`.
    pub fn of(outer: &Map<'a>, name: &str, known: &[&str], mistakes: &'m mut Mistakes) -> Self {
        let map = outer.get(name).and_then(|node| node.map(mistakes));
        if let Some(map) = &map {
            map.expect_keys(known, mistakes);
        }
        Self { map, mistakes }
    }

    /// A map as section.
    pub fn new(map: Map<'a>, known: &[&str], mistakes: &'m mut Mistakes) -> Self {
        map.expect_keys(known, mistakes);
        Self { map: Some(map), mistakes }
    }

    pub fn get(&self, name: &str) -> Option<Node<'a>> {
        self.map.as_ref()?.get(name)
    }

    /// A duration within bounds, both included; the default when missing or wrong.
    pub fn duration(&mut self, name: &str, default: Duration, min: Duration, max: Duration) -> Duration {
        self.duration_if_given(name, min, max).unwrap_or(default)
    }

    /// A duration within bounds, if given and right.
    pub fn duration_if_given(&mut self, name: &str, min: Duration, max: Duration) -> Option<Duration> {
        let node = self.get(name)?;
        let value = node.duration(self.mistakes)?;
        if value < min || value > max {
            let (min, max, value) = (show_duration(min), show_duration(max), show_duration(value));
            self.mistakes.push(node.mistake(format!("{name} is from {min} to {max}, got {value}")));
            return None;
        }
        Some(value)
    }

    /// A size of at least `min` bytes; the default when missing or wrong.
    pub fn bytes(&mut self, name: &str, default: u64, min: u64) -> u64 {
        let Some(node) = self.get(name) else { return default };
        let Some(value) = node.bytes(self.mistakes) else { return default };
        if value < min {
            self.mistakes.push(node.mistake(format!("{name} is at least {min} bytes, got {value}")));
            return default;
        }
        value
    }

    /// A whole number within bounds; the default when missing or wrong.
    pub fn count(&mut self, name: &str, default: u32, max: u32) -> u32 {
        self.get(name).and_then(|n| n.u32_in(1, max, self.mistakes)).unwrap_or(default)
    }

    /// A truth value; the default when missing or wrong.
    pub fn flag(&mut self, name: &str, default: bool) -> bool {
        self.get(name).and_then(|n| n.bool(self.mistakes)).unwrap_or(default)
    }

    /// Text, if given.
    pub fn text(&mut self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(|n| n.str(self.mistakes))
    }

    /// A path, if given.
    pub fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// Text that must be given.
    pub fn require(&mut self, name: &str) -> Option<&'a str> {
        let node = self.map.as_ref()?.require(name, self.mistakes)?;
        node.str(self.mistakes)
    }

    /// Pushes a mistake at the value of `name`, or at the section where it is missing.
    pub fn mistake(&mut self, name: &str, what: String) {
        if let Some(node) = self.get(name).or_else(|| self.map.map(|m| m.node())) {
            self.mistakes.push(node.mistake(what));
        }
    }
}
