//! One window of octets and the history of such windows, in fixed space. Knows no rule.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::state::Sent;
use crate::operator::RawRows;

/// Busiest destinations kept per window; at the limit the least busy one makes room, its octets stay in the sum.
pub(super) const TOPS_MAX: usize = 8;

/// A destination that sends back this share of what it gets is a conversation.
pub(super) const CONVERSATION: f64 = 0.5;

/// Earlier days whose highs are kept.
pub(super) const DAYS: usize = 7;

/// A day raises the bar to so many times the former one at most.
const RAISE_MAX: f64 = 3.0;

const DAY_NS: i64 = 86_400 * SECOND_NS;

/// A destination of a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Place {
    /// By address.
    Address(Address),
    /// By name.
    Name(Box<str>),
}

impl Place {
    pub fn to_text(&self) -> String {
        match self {
            Self::Address(a) => a.to_string(),
            Self::Name(n) => n.to_string(),
        }
    }

    pub fn address(&self) -> Option<Address> {
        match self {
            Self::Address(a) => Some(*a),
            Self::Name(_) => None,
        }
    }

    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Address(_) => None,
            Self::Name(n) => Some(n),
        }
    }
}

/// What one destination got in a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Top {
    pub peer: u64,
    pub place: Place,
    pub port: Option<u16>,
    pub asn: Option<u32>,
    pub out: f64,
    back: f64,
    /// Not seen before this window.
    pub new: bool,
}

impl Top {
    fn is_conversation(&self) -> bool {
        self.back >= CONVERSATION * self.out
    }
}

/// A running window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Bucket {
    /// Which: event time over length.
    pub index: i64,
    pub out: f64,
    pub new_out: f64,
    pub tops: Vec<Top>,
    /// One bit of 256 per destination, for their number.
    bits: [u64; 4],
    pub first: EventTime,
    pub last: EventTime,
    pub raw: RawRows,
    /// Rows came; octets may still be 0 (only answers so far).
    pub used: bool,
    /// Holds something that was over the bar.
    pub tainted: bool,
}

impl Bucket {
    /// Empties it for another time.
    pub fn start(&mut self, index: i64) {
        let mut tops = std::mem::take(&mut self.tops);
        tops.clear();
        *self = Self { index, tops, ..Self::default() };
    }

    /// Adds a flow; `share` of it lies in this window.
    pub fn add(&mut self, sent: &Sent<'_>, share: f64, new: bool) {
        if !self.used {
            (self.used, self.first, self.last) = (true, sent.at, sent.at);
        }
        self.last = self.last.max(sent.at);
        let (out, back) = (sent.out * share, sent.back * share);
        let at = match self.tops.iter().position(|t| t.peer == sent.peer) {
            Some(at) => Some(at),
            None => self.room(out).then(|| {
                let place = match (sent.address, sent.name) {
                    (Some(address), _) => Place::Address(address),
                    (None, name) => Place::Name(name.unwrap_or("").into()),
                };
                self.tops.reserve_exact(usize::from(self.tops.len() == self.tops.capacity()));
                let (peer, port, asn) = (sent.peer, sent.port, sent.asn);
                self.tops.push(Top { peer, place, port, asn, out: 0.0, back: 0.0, new });
                self.tops.len() - 1
            }),
        };
        let mut new = new;
        if let Some(at) = at {
            let top = &mut self.tops[at];
            (top.out, top.back) = (top.out + out, top.back + back);
            new = top.new;
        }
        self.out += out;
        if out > 0.0 {
            self.new_out += if new { out } else { 0.0 };
            self.bits[(sent.peer >> 6 & 3) as usize] |= 1 << (sent.peer & 63);
            self.raw.add(sent.position);
        }
    }

    /// Makes room for a destination that got `out`; false when it is the least busy of all.
    fn room(&mut self, out: f64) -> bool {
        if self.tops.len() < TOPS_MAX {
            return true;
        }
        let least = (0..self.tops.len()).min_by(|a, b| {
            let (a, b) = (&self.tops[*a], &self.tops[*b]);
            a.out.total_cmp(&b.out).then(a.peer.cmp(&b.peer))
        });
        match least {
            Some(at) if self.tops[at].out < out => {
                self.tops.swap_remove(at);
                true
            }
            _ => false,
        }
    }

    /// Octets sent, conversations left out.
    pub fn counted(&self) -> f64 {
        let talked: f64 = self.tops.iter().filter(|t| t.is_conversation()).map(|t| t.out).sum();
        (self.out - talked).max(0.0)
    }

    /// The busiest destination that is no conversation.
    pub fn top(&self) -> Option<&Top> {
        self.tops
            .iter()
            .filter(|t| !t.is_conversation() && t.out > 0.0)
            .max_by(|a, b| a.out.total_cmp(&b.out).then(b.peer.cmp(&a.peer)))
    }

    /// Number of destinations: exact for a few, an estimate within a tenth up to 500, at most 1,419.
    pub fn destinations(&self) -> u64 {
        let set: u32 = self.bits.iter().map(|b| b.count_ones()).sum();
        let zero = f64::from(256 - set).max(1.0);
        libm::round(256.0 * libm::log(256.0 / zero)) as u64
    }

    pub fn heap_bytes(&self) -> usize {
        let names: usize = self.tops.iter().filter_map(|t| t.place.name()).map(str::len).sum();
        crate::operator::vec_bytes::<Top>(self.tops.len()) + names + self.raw.heap_bytes()
    }
}

/// Highs of past windows of one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    day: i64,
    /// Highest three of today, highest first.
    today: [f64; 3],
    /// Windows of today.
    today_samples: u32,
    /// Highs of earlier days with traffic, newest first, 0 = none.
    days: [f64; DAYS],
    /// Which day each was, plus one; 0 = none.
    on: [i64; DAYS],
    /// Windows with traffic, ever.
    pub samples: u32,
}

impl History {
    /// A window that has ended.
    pub fn learn(&mut self, value: f64, at: EventTime, floor: f64) {
        let day = at.0.div_euclid(DAY_NS);
        if day > self.day {
            if self.today_samples > 0 {
                let high = self.todays(floor);
                self.days.rotate_right(1);
                self.on.rotate_right(1);
                (self.days[0], self.on[0]) = (high, self.day + 1);
            }
            (self.day, self.today, self.today_samples) = (day, [0.0; 3], 0);
        }
        // A rising sequence would push values out of order: insert by size.
        let mut value = value;
        for high in &mut self.today {
            if value > *high {
                std::mem::swap(high, &mut value);
            }
        }
        self.today_samples = self.today_samples.saturating_add(1);
        self.samples = self.samples.saturating_add(1);
    }

    /// Days before today that are known.
    pub fn days(&self) -> u32 {
        self.kept().count() as u32
    }

    /// Highs of days that are not too long ago.
    fn kept(&self) -> impl Iterator<Item = f64> + '_ {
        let oldest = self.day - DAYS as i64;
        self.on.iter().zip(&self.days).filter(move |(on, _)| **on != 0 && **on > oldest).map(|(_, high)| *high)
    }

    /// Octets of a busy window, by what is known at `floor` (the least a busy window is taken for).
    pub fn busy(&self, floor: f64) -> f64 {
        self.earlier().max(self.todays(floor))
    }

    fn earlier(&self) -> f64 {
        self.kept().fold(0.0, f64::max)
    }

    fn todays(&self, floor: f64) -> f64 {
        let high = self.today[(self.today_samples.min(3) as usize).saturating_sub(1)];
        if self.days() > 0 { high.min(RAISE_MAX * self.earlier().max(floor)) } else { high }
    }
}
