//! What a host does every day on purpose: a large transfer at one time of day to one network. The first two times are
//! told; from the third on it is a habit.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::state::SCALES;
use super::window::{Place, Top};
use crate::limit::Limit;

/// Habits kept per host; at the limit the one that is longest ago goes.
const HABITS_MAX: usize = 8;
pub(super) static HABITS: Limit = Limit::new("HABITS_MAX");

/// Two occurrences begin at least so far apart: a day, early by two hours. All between belongs to the first.
const APART_NS: i64 = 22 * 3600 * SECOND_NS;

/// Occurrences begin at the same time of day, give or take so much.
const SLACK_NS: i64 = 2 * 3600 * SECOND_NS;

/// A habit forgotten for so long is none: a week and a day, for weekly ones.
const LIFETIME_NS: i64 = 8 * 86_400 * SECOND_NS;

/// From this occurrence on it is silent ...
const SILENT_FROM: u32 = 3;

/// ... unless it sends more than so many times what it sent before.
const LARGER: f64 = 2.0;

const DAY_NS: i64 = 86_400 * SECOND_NS;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Habit {
    network: u64,
    began: EventTime,
    /// With this one.
    occurrences: u32,
    /// Most octets of earlier occurrences, per scale.
    most: [f64; SCALES],
    /// Most of this one.
    now: [f64; SCALES],
}

/// The habits of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Habits(Vec<Habit>);

impl Habits {
    /// Files something over the bar; true when it is a habit.
    pub fn is_usual(&mut self, top: &Top, scale: usize, bytes: f64, at: EventTime) -> bool {
        self.0.retain(|h| at.since(h.began) <= LIFETIME_NS);
        let network = network(top);
        let Some(habit) = self.0.iter_mut().find(|h| h.network == network) else {
            if self.0.len() >= HABITS_MAX
                && let Some(oldest) = (0..self.0.len()).min_by_key(|i| (self.0[*i].began, self.0[*i].network))
            {
                HABITS.bites();
                self.0.remove(oldest);
            }
            let mut now = [0.0; SCALES];
            now[scale] = bytes;
            self.0.reserve_exact(1);
            self.0.push(Habit { network, began: at, occurrences: 1, most: [0.0; SCALES], now });
            return false;
        };
        if at.since(habit.began) >= APART_NS {
            let off = at.since(habit.began).rem_euclid(DAY_NS);
            let regular = off.min(DAY_NS - off) <= SLACK_NS;
            habit.occurrences = if regular { habit.occurrences.saturating_add(1) } else { 1 };
            habit.began = at;
            for (most, now) in habit.most.iter_mut().zip(&mut habit.now) {
                *most = most.max(std::mem::take(now));
            }
        }
        habit.now[scale] = habit.now[scale].max(bytes);
        habit.occurrences >= SILENT_FROM && bytes <= LARGER * habit.most[scale]
    }

    pub fn heap_bytes(&self) -> usize {
        crate::operator::vec_bytes::<Habit>(self.0.len())
    }
}

/// Where a service lies however often its address changes: its autonomous system, else a /16 or /32, else its name.
fn network(top: &Top) -> u64 {
    use xxhash_rust::xxh3::xxh3_64;
    match (top.asn, &top.place) {
        (Some(asn), _) => xxh3_64(&asn.to_be_bytes()),
        (None, Place::Address(address)) => match address.to_ip() {
            IpAddr::V4(ip) => xxh3_64(&ip.octets()[..2]),
            IpAddr::V6(ip) => xxh3_64(&[&[6], &ip.octets()[..4]].concat()),
        },
        (None, Place::Name(name)) => xxh3_64(name.as_bytes()),
    }
}
