//! What is kept of one port over many targets, or of one target over many ports: the attempts that failed, exactly, and how
//! many new ones were answered, by time. Decides nothing.
//!
//! Always holds: at most [`FAILS_MAX`] attempts that failed, whatever is tried; an attempt repeated is one; one that is
//! answered later has not failed.

use serde::{Deserialize, Serialize};

use crate::limit::Limit;
use crate::table::{Record, mixed};

/// Failed attempts kept per group; at the limit the oldest goes and counts say "at least".
pub(super) const FAILS_MAX: usize = 64;
pub(super) static FAILS: Limit = Limit::new("FAILS_MAX");

/// Names kept per group for the evidence; further ones are counted alone.
pub(super) const EXAMPLES_MAX: usize = 4;

/// The longest horizon, seconds: what was tried longer ago is forgotten.
pub(super) const DAY_S: u32 = 86_400;

const HOUR_S: u32 = 3600;
/// Two such steps, the running one and the one before, are the shortest horizon.
pub(super) const STEP_S: u32 = 300;
const HOURS: usize = 24;

/// What a group is about. Outside and inside never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    /// One port of many targets.
    Port { transport: u8, port: u16, outside: bool },
    /// Many ports of one target, by its hash.
    Target { peer: u64, outside: bool },
}

impl What {
    pub fn hash(self) -> u64 {
        match self {
            Self::Port { transport, port, outside } => {
                mixed(u64::from(port) << 16 | u64::from(transport) << 8 | u64::from(outside), 0x5ca1)
            }
            Self::Target { peer, outside } => mixed(peer, 0x7a26 | u64::from(outside) << 32),
        }
    }

    pub fn outside(self) -> bool {
        match self {
            Self::Port { outside, .. } | Self::Target { outside, .. } => outside,
        }
    }
}

/// An attempt that failed: of which target, or at which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fail {
    id: u32,
    first_s: u32,
    last_s: u32,
}

/// How a group's success-only sweep stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Sweep {
    /// Nothing to say.
    None,
    /// Many new targets answered; whether they are called again is waited for until then, seconds.
    Until(u32),
    /// Judged, once.
    Judged,
}

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Group {
    pub what: What,
    fails: Vec<Fail>,
    /// Failed attempts, with those that went at the limit, since the last one was forgotten.
    pub tried: u32,
    /// Start of the running step and hour, and new answers in them and in those before, newest first.
    step_s: u32,
    steps: [u16; 2],
    hour_s: u32,
    hours: [u16; HOURS],
    /// Last attempt of any kind, and last new one.
    pub last_s: u32,
    new_s: u32,
    /// Answers of targets that had answered, while a sweep is waited for and nothing new came for a minute.
    pub again: u16,
    pub sweep: Sweep,
    /// Names of what failed, or was swept, first.
    pub examples: Vec<String>,
    /// `tried` when it was last told.
    pub told: u32,
    pub told_s: u32,
}

impl Record for Group {
    fn hash(&self) -> u64 {
        self.what.hash()
    }
}

impl Group {
    pub fn new(what: What, at_s: u32) -> Self {
        Self {
            what,
            fails: Vec::new(),
            tried: 0,
            step_s: at_s - at_s % STEP_S,
            steps: [0; 2],
            hour_s: at_s - at_s % HOUR_S,
            hours: [0; HOURS],
            last_s: at_s,
            new_s: at_s,
            again: 0,
            sweep: Sweep::None,
            examples: Vec::new(),
            told: 0,
            told_s: 0,
        }
    }

    /// Files an attempt that failed; true when it is a new one.
    pub fn fail(&mut self, id: u32, at_s: u32) -> bool {
        self.last_s = self.last_s.max(at_s);
        if let Some(known) = self.fails.iter().position(|f| f.id == id) {
            if self.fails[known].last_s + DAY_S >= at_s {
                self.fails[known].last_s = self.fails[known].last_s.max(at_s);
                return false;
            }
            self.fails.remove(known);
        }
        // Those not tried for a day go; the oldest is the first.
        if self.fails.first().is_some_and(|f| f.last_s + DAY_S < at_s) {
            self.fails.retain(|f| f.last_s + DAY_S >= at_s);
            if self.fails.is_empty() {
                (self.tried, self.told) = (0, 0);
                self.examples.clear();
            }
        }
        if self.fails.len() >= FAILS_MAX {
            FAILS.bites();
            self.fails.remove(0);
        }
        self.fails.push(Fail { id, first_s: at_s, last_s: at_s });
        self.tried = self.tried.saturating_add(1);
        self.new_s = self.new_s.max(at_s);
        true
    }

    /// It answers after all.
    pub fn recovers(&mut self, id: u32) {
        let before = self.fails.len();
        self.fails.retain(|f| f.id != id);
        self.tried = self.tried.saturating_sub((before - self.fails.len()) as u32);
    }

    /// Files a new answer.
    pub fn answered(&mut self, at_s: u32) {
        self.turn(at_s);
        self.steps[0] = self.steps[0].saturating_add(1);
        self.hours[0] = self.hours[0].saturating_add(1);
        self.last_s = self.last_s.max(at_s);
        self.new_s = self.new_s.max(at_s);
    }

    /// Enough is new in the running step that names are worth keeping.
    pub fn is_wide(&self) -> bool {
        self.steps[0] >= 8
    }

    /// Files an answer of a target that had answered.
    pub fn answered_again(&mut self, at_s: u32) {
        self.last_s = self.last_s.max(at_s);
        if matches!(self.sweep, Sweep::Until(_)) && at_s > self.new_s + 60 {
            self.again = self.again.saturating_add(1);
        }
    }

    /// Moves the steps and hours on.
    fn turn(&mut self, at_s: u32) {
        if at_s >= self.step_s + STEP_S {
            let passed = (at_s - self.step_s) / STEP_S;
            self.steps = if passed == 1 { [0, self.steps[0]] } else { [0; 2] };
            self.step_s += passed * STEP_S;
        }
        if at_s >= self.hour_s + HOUR_S {
            let passed = ((at_s - self.hour_s) / HOUR_S) as usize;
            self.hours.rotate_right(passed.min(HOURS));
            self.hours[..passed.min(HOURS)].fill(0);
            self.hour_s += passed as u32 * HOUR_S;
        }
    }

    /// New answers within two steps, two hours, a day. Moves time on.
    pub fn answers(&mut self, at_s: u32) -> [u32; 3] {
        self.turn(at_s);
        let of = |hours: &[u16]| hours.iter().map(|n| u32::from(*n)).sum();
        [self.steps.iter().map(|n| u32::from(*n)).sum(), of(&self.hours[..2]), of(&self.hours)]
    }

    /// Attempts that failed within so long, and when the first of them was made.
    pub fn failed(&self, at_s: u32, within_s: u32) -> (u32, u32) {
        let from = at_s.saturating_sub(within_s);
        let within = self.fails.iter().filter(|f| f.first_s > from || within_s >= at_s);
        within.fold((0, at_s), |(n, first), f| (n + 1, first.min(f.first_s)))
    }

    /// Ports, of a group about a target, in order.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.fails.iter().map(|f| f.id as u16).collect();
        ports.sort_unstable();
        ports
    }

    /// Failed attempts were dropped at the limit.
    pub fn overflowed(&self) -> bool {
        self.tried as usize > self.fails.len()
    }

    /// Attempts that failed and are kept.
    pub fn fails(&self) -> usize {
        self.fails.len()
    }

    /// Keeps a name for the evidence.
    pub fn example(&mut self, name: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(name());
        }
    }

    pub fn heap_bytes(&self) -> usize {
        crate::operator::vec_bytes::<Fail>(self.fails.len()) + self.examples.len() * 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group::new(What::Port { transport: 6, port: 22, outside: false }, 1_000_000)
    }

    #[test]
    fn what_is_repeated_is_one_and_what_answers_later_has_not_failed() {
        let mut g = group();
        assert!(g.fail(1, 1_000_000) && !g.fail(1, 1_000_005) && g.fail(2, 1_000_400));
        assert_eq!((g.failed(1_000_400, 600).0, g.failed(1_000_700, 400).0), (2, 1));
        g.recovers(1);
        assert_eq!((g.failed(1_000_400, DAY_S), g.tried), ((1, 1_000_400), 1));
    }

    #[test]
    fn answers_are_counted_by_time() {
        let mut g = group();
        for i in 0..46 {
            g.answered(1_000_000 + i * 1800);
        }
        assert_eq!(g.answers(1_000_000 + 45 * 1800)[2], 46);
        assert_eq!(g.answers(1_000_000 + 45 * 1800 + 2 * DAY_S), [0, 0, 0]);
    }

    #[test]
    fn a_wide_scan_is_bounded() {
        let mut g = group();
        (0..10_000).for_each(|i| assert!(g.fail(i, 1_000_000 + i / 100)));
        assert_eq!((g.fails(), g.tried, g.overflowed()), (FAILS_MAX, 10_000, true));
    }
}
