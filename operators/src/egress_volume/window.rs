//! One window of octets and the history of such windows, in fixed space. Knows no rule.
//!
//! The destinations of a window are kept by Space-Saving (Metwally, Agrawal, El Abbadi 2005): a destination that has no
//! place takes that of the least one, together with what was counted there, which from then on bounds how much more than
//! what was seen it may have got. Who got more than an eighth of a window's octets always has a place, in whatever pieces
//! they came, and what is shown of a destination is what it certainly got.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::state::{Octets, Sent};
use crate::operator::{RawRows, vec_bytes};

/// Busiest destinations kept per window; at the limit the least one makes room for any other, its octets stay in the sum.
/// Counted by nobody: a window with more destinations than that is the rule, and what is not certain is told.
pub(super) const TOPS_MAX: usize = 8;

const _: () = assert!(TOPS_MAX <= u8::BITS as usize);

/// What a window of a quiet host takes besides its destinations.
const _: () = assert!(size_of::<Bucket>() <= 168);

/// A destination that sends back this share of what it gets is a conversation.
pub(super) const CONVERSATION: f64 = 0.5;

/// Earlier days whose highs are kept.
pub(super) const DAYS: usize = 7;

/// A day raises the bar to so many times the former one at most.
const RAISE_MAX: f64 = 3.0;

const DAY_NS: i64 = 86_400 * SECOND_NS;

/// A destination, as it is named.
#[derive(Clone, Debug, PartialEq)]
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

/// Where the octets of a window went: written when a destination gets its place, read when something is told. Owns no
/// memory, so that who loses its place need not be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Top {
    /// `None`: known by name alone, see [`Bucket::names`].
    address: Option<Address>,
    port: Option<u16>,
    asn: Option<u32>,
}

const _: () = assert!(size_of::<Top>() <= 32);

/// What one destination got in a window: what every flow looks at, apart from what few need.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Got {
    /// Hash of the destination.
    peer: u64,
    /// Octets to it and back since it has its place.
    out: f64,
    back: f64,
    /// What was counted there before.
    more: f64,
    /// First packet of the flows that came while it was kept, the earliest.
    start: EventTime,
}

impl Got {
    fn is_conversation(&self) -> bool {
        self.back >= CONVERSATION * self.out
    }
}

/// A destination with what it got.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub place: Place,
    pub port: Option<u16>,
    pub asn: Option<u32>,
    /// Octets for certain, and at most so much more before it had a place.
    pub bytes: f64,
    pub more: f64,
    /// First packet of its flows.
    pub start: EventTime,
}

/// Names of a window's destinations that are known by nothing else.
type Names = Vec<(u64, Box<str>)>;

/// A running window. What every flow changes lies in few lines of memory: with hosts by the ten thousand, each line is one
/// look past the caches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Bucket {
    /// Which: event time over length.
    pub index: i64,
    pub out: f64,
    pub new_out: f64,
    /// Octets to conversations that have no place any more.
    talked: f64,
    pub first: EventTime,
    pub last: EventTime,
    got: Vec<Got>,
    /// Of each of `got`.
    tops: Vec<Top>,
    /// Names of those without an address, by their hash; `None` = all have one, as nearly always.
    names: Option<Box<Names>>,
    /// One bit for each of them: not seen before this window.
    fresh: u8,
    /// Rows came; octets may still be 0 (only answers so far).
    pub used: bool,
    /// Holds something that was over the bar.
    pub tainted: bool,
    /// One bit of 256 per destination, for their number.
    bits: [u64; 4],
    pub raw: RawRows,
}

impl Bucket {
    /// Asks for what it points at and every flow changes.
    pub fn ahead(&self) {
        crate::ahead::ask_all(&self.got);
        self.raw.ahead();
    }

    /// Empties it for another time.
    pub fn start(&mut self, index: i64) {
        // What they took stays: a host that sends begins a window a minute.
        let (mut got, mut tops) = (std::mem::take(&mut self.got), std::mem::take(&mut self.tops));
        let mut raw = std::mem::take(&mut self.raw);
        got.clear();
        tops.clear();
        raw.clear();
        *self = Self { index, got, tops, raw, ..Self::default() };
    }

    /// Adds a flow, of whose octets so many lie in this window.
    pub fn add(&mut self, sent: &Sent<'_>, Octets { out, back }: Octets, new: bool) {
        if !self.used {
            (self.used, self.first, self.last) = (true, sent.at, sent.at);
        }
        self.last = self.last.max(sent.at);
        let kept = self.kept();
        let at = match self.got[..kept].iter().position(|got| got.peer == sent.peer) {
            Some(at) => Some(at),
            // An answer alone takes nobody's place.
            None => (kept < TOPS_MAX || out > 0.0).then(|| self.enter(sent, new)),
        };
        let mut new = new;
        if let Some(at) = at {
            let got = &mut self.got[at];
            (got.out, got.back) = (got.out + out, got.back + back);
            got.start = got.start.min(sent.start());
            new = self.fresh >> at & 1 == 1;
        }
        self.out += out;
        if out > 0.0 {
            self.new_out += if new { out } else { 0.0 };
            self.bits[(sent.peer >> 6 & 3) as usize] |= 1 << (sent.peer & 63);
            self.raw.add(sent.position);
        }
    }

    /// A destination that had no place; the place that it gets.
    fn enter(&mut self, sent: &Sent<'_>, new: bool) -> usize {
        let top = Top { address: sent.address, port: sent.port, asn: sent.asn };
        let mut got = Got { peer: sent.peer, out: 0.0, back: 0.0, more: 0.0, start: sent.at };
        let kept = self.kept();
        let at = if kept < TOPS_MAX {
            self.got.truncate(kept);
            self.tops.truncate(kept);
            // As their bytes are counted: 1, 2, 4 or 8 of each.
            if kept == self.got.capacity() {
                self.got.reserve_exact(kept.max(1));
                self.tops.reserve_exact(kept.max(1));
            }
            self.got.push(got);
            self.tops.push(top);
            kept
        } else {
            let at = self.least();
            let least = &self.got[at];
            if least.is_conversation() {
                self.talked += least.out;
            }
            got.more = least.more + least.out;
            self.got[at] = got;
            self.tops[at] = top;
            at
        };
        self.fresh = self.fresh & !(1 << at) | u8::from(new) << at;
        if sent.address.is_none() || self.names.is_some() {
            self.name(sent);
        }
        at
    }

    /// Keeps the name of a destination that has nothing else, and of no other that has lost its place.
    fn name(&mut self, sent: &Sent<'_>) {
        let mut names = self.names.take().map_or_else(Vec::new, |names| *names);
        names.retain(|(peer, _)| *peer != sent.peer && self.got.iter().any(|got| got.peer == *peer));
        if sent.address.is_none() {
            names.push((sent.peer, sent.name.unwrap_or("").into()));
        }
        self.names = (!names.is_empty()).then(|| Box::new(names));
    }

    /// Place of the destination that got least, what was counted there before it included.
    fn least(&self) -> usize {
        let (mut least, mut count, mut peer) = (0, f64::INFINITY, u64::MAX);
        for (at, got) in self.got[..self.kept()].iter().enumerate() {
            let of = got.out + got.more;
            if of < count || of == count && got.peer < peer {
                (least, count, peer) = (at, of, got.peer);
            }
        }
        least
    }

    /// Octets sent, conversations left out.
    pub fn counted(&self) -> f64 {
        let talked: f64 = self.got[..self.kept()].iter().filter(|got| got.is_conversation()).map(|got| got.out).sum();
        (self.out - self.talked - talked).max(0.0)
    }

    /// The destination that is no conversation and got most for certain. `None`: those that are kept are all conversations.
    pub fn top(&self) -> Option<Share> {
        let named = self.got.iter().zip(&self.tops).take(TOPS_MAX);
        named
            .filter(|(got, _)| !got.is_conversation() && got.out > 0.0)
            .max_by(|(a, _), (b, _)| a.out.total_cmp(&b.out).then(b.peer.cmp(&a.peer)))
            .map(|(got, top)| Share {
                place: top.address.map_or_else(|| Place::Name(self.name_of(got.peer).into()), Place::Address),
                port: top.port,
                asn: top.asn,
                bytes: got.out,
                more: got.more,
                start: got.start,
            })
    }

    fn name_of(&self, peer: u64) -> &str {
        let names = self.names.iter().flat_map(|names| names.iter());
        names.filter(|(of, _)| *of == peer).map(|(_, name)| &**name).next().unwrap_or("")
    }

    /// Destinations kept; a snapshot may say any number.
    fn kept(&self) -> usize {
        self.tops.len().min(self.got.len()).min(TOPS_MAX)
    }

    /// Number of destinations: exact for a few, an estimate within a tenth up to 500, at most 1,419.
    pub fn destinations(&self) -> u64 {
        let set: u32 = self.bits.iter().map(|b| b.count_ones()).sum();
        let zero = f64::from(256 - set).max(1.0);
        libm::round(256.0 * libm::log(256.0 / zero)) as u64
    }

    pub fn heap_bytes(&self) -> usize {
        let destinations = vec_bytes::<Got>(self.got.len()) + vec_bytes::<Top>(self.tops.len());
        let names = self.names.as_ref().map_or(0, |names| {
            size_of::<Names>() + names.iter().map(|(_, name)| size_of::<(u64, Box<str>)>() + name.len()).sum::<usize>()
        });
        destinations + names + self.raw.heap_bytes()
    }
}

/// Highs of past windows of one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    day: i32,
    /// Windows with traffic, ever.
    pub samples: u32,
    /// Highest three of today, highest first.
    today: [f64; 3],
    /// Windows of today.
    today_samples: u32,
    /// Which day each of `days` was, plus one; 0 = none.
    on: [i32; DAYS],
    /// Highs of earlier days with traffic, newest first, 0 = none.
    days: [f64; DAYS],
}

impl History {
    /// A window that has ended.
    pub fn learn(&mut self, value: f64, at: EventTime, floor: f64) {
        // Times of 64 bits of nanoseconds are some 107 thousand days.
        let day = at.0.div_euclid(DAY_NS) as i32;
        if day > self.day {
            if self.today_samples > 0 {
                let high = self.todays(floor);
                self.days.rotate_right(1);
                self.on.rotate_right(1);
                (self.days[0], self.on[0]) = (high, self.day.saturating_add(1));
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
        let oldest = self.day.saturating_sub(DAYS as i32);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::operator::Position;

    /// Octets to where nobody answers.
    fn one_way(out: f64) -> Octets {
        Octets { out, back: 0.0 }
    }

    /// A flow to one of many destinations.
    fn sent(peer: u64) -> Sent<'static> {
        Sent {
            // As good as a hash, and never equal.
            peer: crate::table::mixed(peer, 7),
            address: Some(Address::v4([198, 51, (peer >> 8) as u8, peer as u8])),
            name: None,
            port: Some(443),
            asn: None,
            lasting_s: 0.0,
            at: EventTime::from_secs(1_000),
            position: Position { input: 0, offset: 0, row: 0 },
        }
    }

    #[test]
    fn who_got_more_than_an_eighth_has_a_place_and_what_is_shown_is_certain() {
        let mut bucket = Bucket::default();
        let mut sums = std::collections::BTreeMap::new();
        // One in three goes to one of two, the rest to any of 300, none of which is small beside a single flow to the two.
        for n in 0..6_000_u64 {
            let peer = match n % 6 {
                0 => 1,
                3 => 2,
                _ => 10 + crate::table::mixed(n, 3) % 300,
            };
            let out = if peer < 10 { 700.0 } else { 400.0 + (n % 7) as f64 * 50.0 };
            *sums.entry(crate::table::mixed(peer, 7)).or_insert(0.0) += out;
            bucket.add(&sent(peer), one_way(out), false);
            for at in 0..bucket.kept() {
                let Got { peer, out: certain, more, .. } = bucket.got[at];
                let sum = sums[&peer];
                assert!(certain <= sum && sum <= certain + more, "{n}: {certain} {sum} {more}");
            }
        }
        let total: f64 = sums.values().sum();
        assert_eq!((bucket.kept(), bucket.out, bucket.counted()), (TOPS_MAX, total, total));
        let counts: f64 = bucket.got.iter().map(|got| got.out + got.more).sum();
        assert_eq!(counts, total, "what is counted adds up");
        for (peer, sum) in sums.iter().filter(|(_, sum)| **sum > total / 8.0) {
            assert!(bucket.got.iter().any(|got| got.peer == *peer), "{sum} of {total}");
        }
        let Share { place, bytes: certain, more, .. } = bucket.top().unwrap();
        assert!([1, 2].map(|n| Some(Address::v4([198, 51, 0, n]))).contains(&place.address()), "{place:?}");
        assert!(certain >= 600_000.0 && certain + more >= 700_000.0, "{certain} {more}");
    }

    #[test]
    fn a_conversation_stays_left_out_when_it_loses_its_place() {
        let mut bucket = Bucket::default();
        bucket.add(&sent(1), Octets { out: 1000.0, back: 900.0 }, false);
        for n in 10..30 {
            bucket.add(&sent(n), one_way(2000.0), false);
        }
        assert!(bucket.got.iter().all(|got| got.peer != crate::table::mixed(1, 7)));
        assert_eq!(bucket.counted(), 40_000.0);
    }

    #[test]
    fn a_snapshot_may_say_any_number_of_destinations() {
        let full = || {
            let mut bucket = Bucket::default();
            (0..8).for_each(|n| bucket.add(&sent(n), one_way(500.0), false));
            bucket
        };
        let mut more = full();
        // The least of all, at a place that has no name.
        more.got.push(Got { out: 0.0, ..more.got[0] });
        let mut fewer = full();
        fewer.got.truncate(3);
        for bucket in [&mut more, &mut fewer] {
            (20..40).for_each(|n| bucket.add(&sent(n), one_way(900.0), true));
            assert_eq!(bucket.kept(), TOPS_MAX);
            assert!(bucket.top().is_some_and(|share| share.bytes == 900.0));
        }
    }

    #[test]
    fn a_destination_without_an_address_keeps_its_name_as_long_as_its_place() {
        let mut bucket = Bucket::default();
        let empty = bucket.heap_bytes();
        for n in 0..40 {
            let name = format!("workload-{n}");
            let of = sent(n);
            let address = of.address.filter(|_| n % 2 == 1);
            bucket.add(&Sent { address, name: Some(&name), ..of }, one_way(100.0 + n as f64), false);
            assert!(bucket.names.as_ref().is_some_and(|names| names.len() <= TOPS_MAX));
        }
        bucket.add(&Sent { address: None, name: Some("store"), ..sent(99) }, one_way(9e9), false);
        assert!(bucket.top().is_some_and(|share| share.place == Place::Name("store".into())));
        (200..240).for_each(|n| bucket.add(&sent(n), one_way(9e9), false));
        assert!(bucket.names.is_none() && bucket.top().is_some_and(|share| share.place.address().is_some()));
        bucket.start(1);
        assert_eq!(bucket.heap_bytes(), empty);
    }

    #[test]
    fn an_answer_takes_nobodys_place() {
        let mut bucket = Bucket::default();
        (0..8).for_each(|n| bucket.add(&sent(n), one_way(1.0), false));
        let before = bucket.got.clone();
        bucket.add(&sent(99), Octets { out: 0.0, back: 1e9 }, false);
        assert_eq!(bucket.got, before);
    }
}
