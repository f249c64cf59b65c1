//! What a host does every day on purpose: a large transfer at one time of day to one network. The first two times are
//! told; from the third on it is a habit. The same network at another time of day is another habit, or none yet.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::state::SCALES;
use super::window::{Place, Share};
use crate::limit::Limit;

/// Habits kept per host, enough for one network at every hour; at the limit the one that came least often goes, of equals
/// the one that is longest ago.
const HABITS_MAX: usize = 12;
pub(super) static HABITS: Limit = Limit::new("HABITS_MAX");

/// Two occurrences begin at least so far apart: a day, early by two hours.
const APART_NS: i64 = 22 * HOUR_NS;

/// Occurrences begin at the same time of day, give or take so much; whatever comes so soon after a beginning belongs to it.
const SLACK_NS: i64 = 2 * HOUR_NS;

/// Later than that it belongs to an occurrence after a pause of at most so long.
const PAUSE_NS: i64 = HOUR_NS;

/// An occurrence is silent for so long, or for `LONGER` times what one has lasted before.
const LASTS_NS: i64 = 4 * HOUR_NS;
const LONGER: i64 = 2;

/// A habit forgotten for so long is none: a week and a day, for weekly ones.
const LIFETIME_NS: i64 = 8 * DAY_NS;

/// From this occurrence on it is silent ...
const SILENT_FROM: u32 = 3;

/// ... unless it sends more than so many times what it sent before.
const LARGER: f64 = 2.0;

const HOUR_NS: i64 = 3600 * SECOND_NS;
const DAY_NS: i64 = 24 * HOUR_NS;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Habit {
    network: u64,
    began: EventTime,
    last: EventTime,
    /// How long an earlier occurrence lasted at most, nanoseconds.
    longest: i64,
    /// With this one.
    occurrences: u32,
    /// Most octets of earlier occurrences, per scale.
    most: [f64; SCALES],
    /// Most of this one.
    now: [f64; SCALES],
}

impl Habit {
    fn new(network: u64, from: EventTime) -> Self {
        Self { network, began: from, last: from, longest: 0, occurrences: 1, most: [0.0; SCALES], now: [0.0; SCALES] }
    }

    /// What begins at `from` is the next occurrence.
    fn recurs(&self, from: EventTime) -> bool {
        let since = from.since(self.began);
        let off = since.rem_euclid(DAY_NS);
        since >= APART_NS && off.min(DAY_NS - off) <= SLACK_NS
    }

    /// What begins at `from` is part of the occurrence that was last.
    fn goes_on(&self, from: EventTime) -> bool {
        from.since(self.began) <= SLACK_NS || from.since(self.last) <= PAUSE_NS
    }

    fn recur(&mut self, from: EventTime) {
        self.longest = self.longest.max(self.last.since(self.began));
        (self.began, self.last) = (from, from);
        self.occurrences = self.occurrences.saturating_add(1);
        for (most, now) in self.most.iter_mut().zip(&mut self.now) {
            *most = most.max(std::mem::take(now));
        }
    }

    /// Files a sum over windows of one scale; true when it is as usual.
    fn file(&mut self, scale: usize, bytes: f64, at: EventTime) -> bool {
        self.last = self.last.max(at);
        // What a window holds, a longer one holds as well.
        for now in &mut self.now[scale..] {
            *now = now.max(bytes);
        }
        self.occurrences >= SILENT_FROM
            && bytes <= LARGER * self.most[scale]
            && at.since(self.began) <= LASTS_NS.max(self.longest.saturating_mul(LONGER))
    }
}

/// The habits of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Habits(Vec<Habit>);

impl Habits {
    /// Files something over the bar; true when it is a habit.
    pub fn is_usual(&mut self, share: &Share, scale: usize, bytes: f64, at: EventTime) -> bool {
        self.0.retain(|h| at.since(h.last) <= LIFETIME_NS);
        // A source that tells of a transfer at its end must not make a long night another time of day.
        let from = if at.since(share.start) <= LASTS_NS { share.start.min(at) } else { at };
        let network = network(share);
        let fits = |h: &&mut Habit| h.network == network && (h.recurs(from) || h.goes_on(from));
        let habit = match self.0.iter_mut().filter(fits).max_by_key(|h| (h.occurrences, h.began)) {
            Some(habit) => habit,
            None => self.begin(Habit::new(network, from)),
        };
        if habit.recurs(from) {
            habit.recur(from);
        }
        habit.file(scale, bytes, at)
    }

    fn begin(&mut self, habit: Habit) -> &mut Habit {
        if self.0.len() >= HABITS_MAX
            && let Some(least) = (0..self.0.len()).min_by_key(|i| {
                let h = &self.0[*i];
                (h.occurrences, h.began, h.network)
            })
        {
            HABITS.bites();
            self.0.remove(least);
        }
        self.0.reserve_exact(1);
        let at = self.0.len();
        self.0.push(habit);
        &mut self.0[at]
    }

    pub fn heap_bytes(&self) -> usize {
        crate::operator::vec_bytes::<Habit>(self.0.len())
    }
}

/// Where a service lies however often its address changes: its autonomous system, else a /16 or /32, else its name.
fn network(share: &Share) -> u64 {
    use xxhash_rust::xxh3::xxh3_64;
    match (share.asn, &share.place) {
        (Some(asn), _) => xxh3_64(&asn.to_be_bytes()),
        (None, Place::Address(address)) => match address.to_ip() {
            IpAddr::V4(ip) => xxh3_64(&ip.octets()[..2]),
            IpAddr::V6(ip) => xxh3_64(&[&[6], &ip.octets()[..4]].concat()),
        },
        (None, Place::Name(name)) => xxh3_64(name.as_bytes()),
    }
}
