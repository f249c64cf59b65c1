//! One window of octets and the history of such windows, in fixed space. Knows no rule.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::state::Sent;
use crate::operator::RawRows;

/// Busiest destinations kept per window; at the limit the least busy one makes room, its octets stay in the sum.
pub(super) const TOPS_MAX: usize = 8;

const _: () = assert!(TOPS_MAX <= u8::BITS as usize);

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

    fn name_bytes(&self) -> u32 {
        self.name().map_or(0, |name| name.len() as u32)
    }
}

/// What one destination got in a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Top {
    pub place: Place,
    pub port: Option<u16>,
    pub asn: Option<u32>,
}

/// A running window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Bucket {
    /// Which: event time over length.
    pub index: i64,
    pub out: f64,
    pub new_out: f64,
    pub tops: Vec<Top>,
    /// Of each of `tops`, and 0 beyond: hash of the destination, octets to it and back. Apart from the rest, because every
    /// flow looks at all of them.
    peers: [u64; TOPS_MAX],
    outs: [f64; TOPS_MAX],
    backs: [f64; TOPS_MAX],
    /// One bit for each of them: not seen before this window.
    fresh: u8,
    /// Bytes of their names, so that counting bytes does not look at each.
    names_bytes: u32,
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
    /// Looks at each of its lines.
    pub fn glance(&self) -> u64 {
        self.index as u64 ^ self.peers[0] ^ self.outs[0].to_bits() ^ self.backs[0].to_bits() ^ self.bits[0]
    }

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
        let kept = self.kept();
        let at = match self.peers[..kept].iter().position(|peer| *peer == sent.peer) {
            Some(at) => Some(at),
            None => self.room(out).then(|| self.enter(sent, new)),
        };
        let mut new = new;
        if let Some(at) = at {
            (self.outs[at], self.backs[at]) = (self.outs[at] + out, self.backs[at] + back);
            new = self.fresh >> at & 1 == 1;
        }
        self.out += out;
        if out > 0.0 {
            self.new_out += if new { out } else { 0.0 };
            self.bits[(sent.peer >> 6 & 3) as usize] |= 1 << (sent.peer & 63);
            self.raw.add(sent.position);
        }
    }

    /// A destination that has room; its place.
    fn enter(&mut self, sent: &Sent<'_>, new: bool) -> usize {
        let place = match (sent.address, sent.name) {
            (Some(address), _) => Place::Address(address),
            (None, name) => Place::Name(name.unwrap_or("").into()),
        };
        let at = self.kept();
        self.tops.reserve_exact(usize::from(at == self.tops.capacity()));
        self.names_bytes = self.names_bytes.saturating_add(place.name_bytes());
        self.fresh |= u8::from(new) << at;
        self.tops.push(Top { place, port: sent.port, asn: sent.asn });
        (self.peers[at], self.outs[at], self.backs[at]) = (sent.peer, 0.0, 0.0);
        at
    }

    /// Makes room for a destination that got `out`; false when it is the least busy of all.
    fn room(&mut self, out: f64) -> bool {
        let kept = self.kept();
        if kept < TOPS_MAX {
            return true;
        }
        let least = (0..kept).min_by(|&a, &b| self.outs[a].total_cmp(&self.outs[b]).then(self.peers[a].cmp(&self.peers[b])));
        match least {
            Some(at) if self.outs[at] < out => {
                let gone = self.tops.swap_remove(at);
                self.names_bytes = self.names_bytes.saturating_sub(gone.place.name_bytes());
                let last = kept - 1;
                let moved = self.fresh >> last & 1;
                self.fresh = self.fresh & !(1 << at) | moved << at;
                self.fresh &= !(1 << last);
                (self.peers[at], self.outs[at], self.backs[at]) = (self.peers[last], self.outs[last], self.backs[last]);
                (self.peers[last], self.outs[last], self.backs[last]) = (0, 0.0, 0.0);
                true
            }
            _ => false,
        }
    }

    fn is_conversation(&self, at: usize) -> bool {
        self.backs[at] >= CONVERSATION * self.outs[at]
    }

    /// Octets sent, conversations left out.
    pub fn counted(&self) -> f64 {
        let talked: f64 = (0..self.kept()).filter(|at| self.is_conversation(*at)).map(|at| self.outs[at]).sum();
        (self.out - talked).max(0.0)
    }

    /// The busiest destination that is no conversation, with the octets sent to it.
    pub fn top(&self) -> Option<(&Top, f64)> {
        (0..self.kept())
            .filter(|at| !self.is_conversation(*at) && self.outs[*at] > 0.0)
            .max_by(|&a, &b| self.outs[a].total_cmp(&self.outs[b]).then(self.peers[b].cmp(&self.peers[a])))
            .map(|at| (&self.tops[at], self.outs[at]))
    }

    /// Destinations kept; a snapshot may say any number.
    fn kept(&self) -> usize {
        self.tops.len().min(TOPS_MAX)
    }

    /// Number of destinations: exact for a few, an estimate within a tenth up to 500, at most 1,419.
    pub fn destinations(&self) -> u64 {
        let set: u32 = self.bits.iter().map(|b| b.count_ones()).sum();
        let zero = f64::from(256 - set).max(1.0);
        libm::round(256.0 * libm::log(256.0 / zero)) as u64
    }

    pub fn heap_bytes(&self) -> usize {
        crate::operator::vec_bytes::<Top>(self.tops.len()) + self.names_bytes as usize + self.raw.heap_bytes()
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
