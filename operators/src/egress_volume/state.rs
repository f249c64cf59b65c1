//! What is kept per host: the running minute, hour and eight hours, their histories, known destinations, habits.
//!
//! Always holds: fixed space; what is over the bar never raises the bar; time only moves forward (an older row counts to
//! the running window).

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::Limits;
use super::habit::Habits;
use super::known::Known;
use super::window::{Bucket, CONVERSATION, History, Place, Share};
use crate::ahead::{Round, ask};
use crate::operator::{Footprint, Position, RawRows};
use crate::why::{Case, Condition};

/// Lengths of windows that are judged.
pub(super) const SCALES: usize = 3;

const MINUTE_NS: i64 = 60 * SECOND_NS;
const HOUR_NS: i64 = 3600 * SECOND_NS;
const SHIFT_HOURS: usize = 8;

/// A length of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From minute to minute.
    Minute,
    /// From hour to hour.
    Hour,
    /// The running hour and the seven before: a working day, the slow way out.
    Shift,
}

impl Scale {
    const ALL: [Self; SCALES] = [Self::Minute, Self::Hour, Self::Shift];

    pub fn length_s(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Shift => 3600 * SHIFT_HOURS as i64,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Shift => "8 hours",
        }
    }

    /// Share of the rule's factor: sums over longer windows vary less.
    fn factor(self, limits: &Limits) -> f64 {
        let share = match self {
            Self::Minute => return limits.factor,
            Self::Hour => 0.6,
            Self::Shift => 0.4,
        };
        (share * limits.factor).max(2.0)
    }
}

/// Octets of a flow, to the outside and back. Handed on by value, so in registers: two numbers that were just written one by
/// one and are read as a pair wait until all that was written before them has reached the caches.
#[derive(Clone, Copy)]
pub(super) struct Octets {
    pub out: f64,
    pub back: f64,
}

impl Octets {
    fn share(self, share: f64) -> Self {
        Self { out: self.out * share, back: self.back * share }
    }
}

/// A flow to the outside.
pub(super) struct Sent<'a> {
    pub peer: u64,
    pub address: Option<Address>,
    pub name: Option<&'a str>,
    pub port: Option<u16>,
    pub asn: Option<u32>,
    pub lasting_s: f64,
    pub at: EventTime,
    pub position: Position,
}

impl Sent<'_> {
    /// Its first packet.
    pub fn start(&self) -> EventTime {
        self.at.minus((self.lasting_s * 1e9) as i64)
    }
}

/// The destination of a spike that is named.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub place: Place,
    pub port: Option<u16>,
    /// Octets that it certainly got, and at most so many more.
    pub bytes: f64,
    pub more: f64,
}

/// Something over the bar.
#[derive(Clone, Debug)]
pub(super) struct Spike {
    pub scale: Scale,
    pub bytes: f64,
    pub baseline: f64,
    pub ratio: f64,
    /// Ratio over what the scale asks for: compares scales.
    excess: f64,
    /// `None` where every destination that is kept is a conversation: the octets went to others.
    pub top: Option<Named>,
    pub destinations: u64,
    pub new_share: f64,
    /// Days of history.
    pub days: u32,
    pub first: EventTime,
    pub last: EventTime,
    pub raw: RawRows,
}

impl Spike {
    /// The greater of two.
    pub fn greater(a: Option<Box<Self>>, b: Option<Box<Self>>) -> Option<Box<Self>> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.excess > a.excess { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

/// State per host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState(Option<Box<Volumes>>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Volumes {
    running: Running,
    history: [History; SCALES],
    known: Known,
    /// When each scale was last told, and what it came to.
    told: [Option<(EventTime, f64)>; SCALES],
    habits: Habits,
}

/// What every flow changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Running {
    minute: Bucket,
    hour: Bucket,
    /// Octets of the hours before, newest first.
    hours: [f64; SHIFT_HOURS - 1],
    /// One bit per hour of `hours`, newest lowest: holds something over the bar.
    tainted: u8,
}

impl HostState {
    /// Nothing kept.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Asks for what every flow changes; `peer` tells a destination of the flows that come, by its hash.
    pub(super) fn ahead(&self, peer: impl FnOnce() -> Option<u64>, round: Round) {
        match (&self.0, round) {
            (Some(volumes), Round::Index) => {
                ask(&volumes.running);
                // Most flows are the first of their minute, and close the one before.
                ask(&volumes.history[Scale::Minute as usize]);
                if let Some(peer) = peer() {
                    volumes.known.ahead(peer);
                }
            }
            (Some(volumes), Round::Records) => {
                volumes.running.minute.ahead();
                volumes.running.hour.ahead();
                volumes.known.ahead_of_turn();
            }
            _ => {}
        }
    }

    /// Whether a row of this time begins another minute.
    pub(super) fn turns(&self, at: EventTime) -> bool {
        self.0.as_ref().is_some_and(|v| v.running.minute.used && at.0.div_euclid(MINUTE_NS) > v.running.minute.index)
    }

    /// Adds a flow.
    pub(super) fn add(&mut self, sent: &Sent<'_>, octets: Octets, limits: &Limits) {
        let volumes = self.0.get_or_insert_with(Box::default);
        volumes.advance(sent.at, limits);
        let new = !volumes.known.holds(sent.peer);
        let share = |length_s: f64| if sent.lasting_s > length_s { length_s / sent.lasting_s } else { 1.0 };
        volumes.running.minute.add(sent, octets.share(share(60.0)), new);
        volumes.running.hour.add(sent, octets.share(share(3600.0)), new);
        volumes.spread(octets, sent.lasting_s);
        if octets.out > 0.0 {
            volumes.known.note(sent.peer);
        }
    }

    /// What the running windows say of each condition.
    pub(super) fn cases(&self, limits: &Limits) -> Vec<Case> {
        let Some(volumes) = &self.0 else { return Vec::new() };
        let case = |scale: Scale| {
            let (bytes, history) = (volumes.sum(scale), &volumes.history[scale as usize]);
            let samples = if scale == Scale::Minute { limits.samples_min } else { limits.samples_min.min(24) };
            let busy = history.busy(floor(limits)).max(floor(limits));
            let mut conditions = vec![
                Condition::at_least("octets out (min_bytes)", bytes, limits.bytes_min),
                Condition::at_least("windows known (min_samples)", f64::from(history.samples), f64::from(samples)),
                Condition::at_least("times the busy window (spike_factor)", bytes / busy, scale.factor(limits)),
            ];
            if scale != Scale::Minute {
                conditions.push(Condition::at_least("days known", f64::from(history.days()), 1.0));
            }
            let bucket = if scale == Scale::Minute { &volumes.running.minute } else { &volumes.running.hour };
            let told = volumes.is_told(scale, bytes, bucket.last);
            conditions.push(Condition::is("told already", told, false));
            Case { subject: scale.words().to_owned(), way: "volume", conditions }
        };
        Scale::ALL.map(case).to_vec()
    }

    /// What is over the bar now and was not told: hardly ever anything, so it is a box, and nothing costs nothing.
    pub(super) fn judge(&mut self, limits: &Limits) -> Option<Box<Spike>> {
        self.0.as_mut()?.judge(limits)
    }
}

impl Volumes {
    /// Closes the windows that have ended at `at`.
    fn advance(&mut self, at: EventTime, limits: &Limits) {
        let minute = at.0.div_euclid(MINUTE_NS);
        if minute > self.running.minute.index || !self.running.minute.used {
            if self.running.minute.used {
                self.close_minute(limits);
            }
            self.running.minute.start(minute);
        }
        let hour = at.0.div_euclid(HOUR_NS);
        if hour > self.running.hour.index || !self.running.hour.used {
            let before = self.running.hour.index;
            if self.running.hour.used {
                self.close_hour(limits);
                let empty = hour.saturating_sub(before).saturating_sub(1).clamp(0, SHIFT_HOURS as i64);
                for _ in 0..empty {
                    self.shift(0.0, false);
                }
            }
            self.running.hour.start(hour);
        }
    }

    fn close_minute(&mut self, limits: &Limits) {
        let value = self.running.minute.counted();
        if self.over(Scale::Minute, value, limits).is_some() {
            self.running.minute.tainted = true;
            self.running.hour.tainted = true;
        } else {
            self.history[0].learn(value, self.running.minute.last, floor(limits));
        }
        self.known.turn();
    }

    fn close_hour(&mut self, limits: &Limits) {
        let value = self.running.hour.counted();
        let (last, shift) = (self.running.hour.last, self.sum(Scale::Shift));
        let over = self.over(Scale::Hour, value, limits).is_some();
        let tainted = over || self.running.hour.tainted;
        if !tainted {
            self.history[1].learn(value, last, floor(limits));
            if self.over(Scale::Shift, shift, limits).is_none() {
                self.history[2].learn(shift, last, floor(limits));
            }
        }
        self.shift(value, tainted);
    }

    /// Adds to the hours before the part of a long flow that lies there.
    fn spread(&mut self, octets: Octets, lasting_s: f64) {
        if octets.back >= CONVERSATION * octets.out {
            return;
        }
        for (i, hour) in self.running.hours.iter_mut().enumerate() {
            let part_s = (lasting_s - 3600.0 * (i + 1) as f64).min(3600.0);
            if part_s <= 0.0 {
                break;
            }
            *hour += octets.out * part_s / lasting_s;
        }
    }

    fn shift(&mut self, value: f64, tainted: bool) {
        self.running.hours.rotate_right(1);
        self.running.hours[0] = value;
        // Seven hours are kept.
        self.running.tainted = (self.running.tainted << 1 | u8::from(tainted)) & 0x7f;
    }

    fn sum(&self, scale: Scale) -> f64 {
        match scale {
            Scale::Minute => self.running.minute.counted(),
            Scale::Hour => self.running.hour.counted(),
            // What a shorter window has told of, or knows as a habit, is not told of again.
            Scale::Shift => {
                let clean = self.running.hours.iter().enumerate().filter(|(i, _)| self.running.tainted >> i & 1 == 0);
                self.running.hour.counted() + clean.map(|(_, bytes)| bytes).sum::<f64>()
            }
        }
    }

    /// Baseline and ratio, when `bytes` is over the bar of a scale.
    fn over(&self, scale: Scale, bytes: f64, limits: &Limits) -> Option<(f64, f64)> {
        if bytes < limits.bytes_min {
            return None;
        }
        let history = &self.history[scale as usize];
        // A day's history for the longer ones: their first hours say nothing about a day.
        let known = match scale {
            Scale::Minute => history.samples >= limits.samples_min,
            Scale::Hour | Scale::Shift => history.samples >= limits.samples_min.min(24) && history.days() > 0,
        };
        let baseline = history.busy(floor(limits));
        let ratio = bytes / baseline.max(floor(limits));
        (known && ratio >= scale.factor(limits)).then_some((baseline, ratio))
    }

    /// More than the sum of any window: below the rule's least, nothing needs to be worked out.
    fn most(&self) -> f64 {
        // Sums of what is left out of the windows' own sums are not below 0; rounding is far below a part in a million.
        (self.running.minute.out.max(self.running.hour.out) + self.running.hours.iter().sum::<f64>()) * (1.0 + 1e-6)
    }

    fn judge(&mut self, limits: &Limits) -> Option<Box<Spike>> {
        if self.most() < limits.bytes_min {
            return None;
        }
        let mut best: Option<Box<Spike>> = None;
        let mut shorter = self.running.hour.tainted;
        for scale in Scale::ALL {
            let bytes = self.sum(scale);
            let Some((baseline, ratio)) = self.over(scale, bytes, limits) else { continue };
            if scale == Scale::Shift && shorter {
                continue;
            }
            shorter = true;
            let bucket = if scale == Scale::Minute { &self.running.minute } else { &self.running.hour };
            let (top, at) = (bucket.top(), bucket.last);
            // What goes to nobody in particular is no habit.
            let usual = top.as_ref().is_some_and(|top| self.habits.is_usual(top, scale as usize, bytes, at));
            if usual || self.is_told(scale, bytes, at) {
                continue;
            }
            let named = |Share { place, port, bytes, more, .. }: Share| Named { place, port, bytes, more };
            let spike = Spike {
                scale,
                bytes,
                baseline,
                ratio,
                excess: ratio / scale.factor(limits),
                top: top.map(named),
                destinations: bucket.destinations(),
                new_share: if bucket.out > 0.0 { (bucket.new_out / bucket.out).min(1.0) } else { 0.0 },
                days: self.history[0].days(),
                first: bucket.first,
                last: at,
                raw: bucket.raw.clone(),
            };
            best = Spike::greater(best, Some(Box::new(spike)));
        }
        if let Some(spike) = &best {
            // A spike of a minute is also one of its hour: said once.
            self.told = Scale::ALL.map(|scale| Some((spike.last, self.sum(scale))));
        }
        best
    }

    /// Whether it was told already: the same minute; an hour or eight hours within eight hours, unless it has doubled.
    fn is_told(&self, scale: Scale, bytes: f64, at: EventTime) -> bool {
        let Some((told, what)) = self.told[scale as usize] else { return false };
        match scale {
            Scale::Minute => told.0.div_euclid(MINUTE_NS) == at.0.div_euclid(MINUTE_NS),
            Scale::Hour if told.0.div_euclid(HOUR_NS) == at.0.div_euclid(HOUR_NS) => true,
            Scale::Hour | Scale::Shift => at.since(told) < HOUR_NS * SHIFT_HOURS as i64 && bytes < 2.0 * what,
        }
    }
}

/// The least that a busy window is taken for: below it `bytes_min` decides alone.
fn floor(limits: &Limits) -> f64 {
    limits.bytes_min / limits.factor
}

impl Footprint for HostState {
    fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |v| {
            size_of::<Volumes>() + v.running.minute.heap_bytes() + v.running.hour.heap_bytes() + v.habits.heap_bytes()
        })
    }
}
