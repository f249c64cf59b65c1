//! First labels that nobody chose, though they look generated: a browser that starts asks for three names made by chance,
//! to see whether the network answers for what does not exist, and the resolver puts its search list behind them
//! (`yfwhynkzlaxu.corp.example`). They are known by what goes with them: the same label asked for alone within seconds, by
//! any name service, or that they come as three within a second and no more, of seven to fifteen letters each
//! (Chromium's `IntranetRedirectDetector`).
//!
//! Always holds: at most [`RECENT_LABELS_MAX`] labels of the last [`RECENT_NS`]; what is said is a function of the look-ups
//! in order.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::limit::Limit;
use crate::operator::vec_bytes;

/// Labels held per host: four starts within [`RECENT_NS`], with and without suffix; at the limit the oldest goes, and what
/// it belongs to counts.
pub(super) const RECENT_LABELS_MAX: usize = 32;
pub(super) static RECENT_LABELS: Limit = Limit::new("RECENT_LABELS_MAX");

/// A label alone and the same with a suffix belong together within so long: a resolver tries five seconds.
const RECENT_NS: i64 = 10 * SECOND_NS;

/// Names of one start come within so long.
const START_NS: i64 = SECOND_NS;

/// And none besides them for so long: who asks on and on is no browser.
const QUIET_NS: i64 = 5 * SECOND_NS;

/// How many they are, and their letters.
const START_LABELS: usize = 3;
const START_BYTES: std::ops::RangeInclusive<usize> = 7..=15;

/// A label that was asked for lately.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Label {
    at: EventTime,
    /// Hash of the label.
    label: u64,
    /// Hash of the name that it stands in; 0 where it is a name by itself.
    name: u64,
    /// Whether it was seen what it belongs to.
    settled: bool,
}

/// Labels asked for lately, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Recent(VecDeque<Label>);

/// Whether a first label may be one of a browser's start.
pub(super) fn is_plain(label: &str) -> bool {
    START_BYTES.contains(&label.len()) && label.bytes().all(|b| b.is_ascii_lowercase())
}

impl Recent {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Moment of the newest.
    pub fn newest(&self) -> Option<EventTime> {
        self.0.back().map(|label| label.at)
    }

    /// Notes a label in front of a domain; whether it was asked for alone just before.
    pub fn behind(&mut self, label: u64, name: u64, at: EventTime) -> bool {
        if self.0.iter().any(|l| l.name == 0 && l.label == label) {
            return true;
        }
        self.put(Label { at, label, name, settled: false });
        false
    }

    /// Notes a label asked for alone; `withdraw` is told names in which it stood in front of a domain just before.
    pub fn alone(&mut self, label: u64, at: EventTime, mut withdraw: impl FnMut(u64)) {
        self.0.retain(|l| {
            let same = l.label == label;
            if same && l.name != 0 {
                withdraw(l.name);
            }
            !same
        });
        self.put(Label { at, label, name: 0, settled: true });
    }

    /// Lets go of what is old; `withdraw` is told the names of a start that is over.
    pub fn advance(&mut self, at: EventTime, mut withdraw: impl FnMut(u64)) {
        let newest = self.0.iter().rev().find(|l| !l.settled).map(|l| l.at);
        if let Some(last) = newest.filter(|last| at.since(*last) > QUIET_NS) {
            let is_start = self.is_start(last);
            for label in self.0.iter_mut().filter(|l| !l.settled) {
                label.settled = true;
                if is_start {
                    withdraw(label.name);
                }
            }
        }
        while self.0.front().is_some_and(|l| l.settled && at.since(l.at) > RECENT_NS) {
            self.0.pop_front();
        }
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }

    /// Whether what is not settled, `last` the newest of it, is what one start asks.
    fn is_start(&self, last: EventTime) -> bool {
        let mut labels = [0_u64; START_LABELS];
        let mut distinct = 0;
        for l in self.0.iter().filter(|l| !l.settled) {
            if labels[..distinct].contains(&l.label) {
                continue;
            }
            if distinct == START_LABELS || last.since(l.at) > START_NS {
                return false;
            }
            labels[distinct] = l.label;
            distinct += 1;
        }
        distinct == START_LABELS
    }

    fn put(&mut self, label: Label) {
        if self.0.len() >= RECENT_LABELS_MAX {
            RECENT_LABELS.bites();
            self.0.pop_front();
        }
        self.0.push_back(label);
    }

    pub fn heap_bytes(&self) -> usize {
        vec_bytes::<Label>(self.0.len())
    }
}
