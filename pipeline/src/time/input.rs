//! The clock of one input partition: highest event time, watermark, lateness, the bound on the future, silence.
//!
//! What always holds: the watermark never goes back; a row is judged against the watermark as it stood before that row;
//! no clock can run ahead of the record timestamps by more than `max_future`, so none can close windows for others.

use tidewatch_schemas::time::EventTime;

use super::floor;

/// Limits of an input's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputTime {
    /// How far behind the highest event time a row may be, nanoseconds.
    pub lateness_ns: i64,
    /// How far ahead of its record's timestamp a row may be, nanoseconds.
    pub max_future_ns: i64,
    /// At its end for so long, a partition is silent, nanoseconds of the wall clock.
    pub idle_after_ns: i64,
    /// Silence moves time in whole slices: then the marks tell all that it ever decided, and a backtest that replays them
    /// judges every row as it was judged.
    pub slice_ns: i64,
}

/// Where the other partitions are that a slice waits for together with this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Lowest watermark among those that have rows.
    pub active: Option<EventTime>,
    /// Highest watermark among those that are silent.
    pub silent: Option<EventTime>,
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Goes on.
    OnTime,
    /// Older than the watermark, by so many nanoseconds.
    Late(i64),
    /// Ahead of its record's timestamp, by so many nanoseconds.
    Future(i64),
}

/// The clock.
#[derive(Clone, Debug)]
pub struct InputClock {
    limits: InputTime,
    highest_event: EventTime,
    highest_record: EventTime,
    /// Watermark reached through silence.
    silence: EventTime,
    /// Wall clock since when nothing has come, and the watermark at that moment.
    quiet_since: Option<(EventTime, EventTime)>,
}

impl InputClock {
    /// A clock that has seen nothing.
    pub fn new(limits: InputTime) -> Self {
        Self { limits, highest_event: EventTime::MIN, highest_record: EventTime::MIN, silence: EventTime::MIN, quiet_since: None }
    }

    /// Takes up from before a restart: highest event time, highest record timestamp, watermark.
    pub fn resume(&mut self, highest_event: EventTime, highest_record: EventTime, watermark: EventTime) {
        self.highest_event = highest_event;
        self.highest_record = highest_record;
        self.silence = watermark;
    }

    /// A record has come.
    pub fn record(&mut self, timestamp: EventTime) {
        self.highest_record = self.highest_record.max(timestamp);
        self.quiet_since = None;
    }

    /// A row of a record with that timestamp: judges it and moves the clock.
    pub fn admit(&mut self, event_time: EventTime, timestamp: EventTime) -> Admission {
        if let Some(ahead) = Self::too_far_ahead(&self.limits, event_time, timestamp) {
            return Admission::Future(ahead);
        }
        let behind = self.watermark().since(event_time);
        if behind > 0 {
            return Admission::Late(behind);
        }
        self.highest_event = self.highest_event.max(event_time);
        Admission::OnTime
    }

    /// The watermark: every row still to come that is older is late.
    pub fn watermark(&self) -> EventTime {
        self.by_rows().max(self.silence)
    }

    fn by_rows(&self) -> EventTime {
        let seen = self.highest_event.min(self.highest_record);
        if seen == EventTime::MIN { seen } else { seen.minus(self.limits.lateness_ns) }
    }

    /// Whether silence has taken the watermark further than rows have.
    pub fn is_past_rows(&self) -> bool {
        self.silence > self.by_rows()
    }

    /// Whether `at` is ahead of its record's timestamp by more than is allowed; by how much.
    pub fn too_far_ahead(limits: &InputTime, at: EventTime, timestamp: EventTime) -> Option<i64> {
        let ahead = at.since(timestamp);
        (ahead > limits.max_future_ns).then_some(ahead)
    }

    /// Highest record timestamp so far.
    pub fn highest_record(&self) -> EventTime {
        self.highest_record
    }

    /// Highest event time so far.
    pub fn highest_event(&self) -> EventTime {
        self.highest_event
    }

    /// The partition has nothing more at wall-clock time `now`. When that has been so for `idle_after`, time goes on at
    /// the rate of the clock, and not behind the lowest peer that has rows: whoever has nothing holds nobody who has. A
    /// partition that never had a row knows no time of its own and only follows. Returns true while silent.
    pub fn quiet(&mut self, now: EventTime, peers: Peers) -> bool {
        let watermark = self.watermark();
        let (since, at) = *self.quiet_since.get_or_insert((now, watermark));
        let quiet_ns = now.since(since);
        if quiet_ns < self.limits.idle_after_ns {
            return false;
        }
        let reached = if self.highest_event == EventTime::MIN {
            match peers.active.or(peers.silent) {
                Some(peer) => peer,
                None => return false,
            }
        } else {
            at.plus(quiet_ns).max(peers.active.unwrap_or(EventTime::MIN))
        };
        self.silence = self.silence.max(floor(reached, self.limits.slice_ns));
        true
    }

    /// Time reached by a silence that was recorded earlier: a backtest replays it.
    pub fn recorded_silence(&mut self, watermark: EventTime) {
        self.silence = self.silence.max(watermark);
    }

    /// Unreachable or not at its end: not silent, whatever the clock says.
    pub fn busy(&mut self) {
        self.quiet_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn clock() -> InputClock {
        InputClock::new(InputTime { lateness_ns: 60 * S, max_future_ns: 30 * S, idle_after_ns: 30 * S, slice_ns: 10 * S })
    }

    fn t(s: i64) -> EventTime {
        EventTime(s * S)
    }

    #[test]
    fn a_fast_clock_moves_nothing_beyond_the_record() {
        let mut c = clock();
        c.record(t(1000));
        assert_eq!(c.admit(t(1031), t(1000)), Admission::Future(31 * S));
        assert_eq!(c.admit(t(1030), t(1000)), Admission::OnTime);
        assert_eq!(c.watermark(), t(940));
    }

    #[test]
    fn late_is_judged_against_the_watermark_before_the_row() {
        let mut c = clock();
        c.record(t(1000));
        assert_eq!(c.admit(t(1000), t(1000)), Admission::OnTime);
        assert_eq!(c.admit(t(940), t(1000)), Admission::OnTime);
        assert_eq!(c.admit(t(939), t(1000)), Admission::Late(S));
    }

    #[test]
    fn silence_goes_on_at_the_rate_of_the_clock_and_ends_with_a_record() {
        let mut c = clock();
        c.record(t(1000));
        c.admit(t(1000), t(1000));
        assert!(!c.quiet(t(5000), Peers::default()));
        assert!(!c.quiet(t(5029), Peers::default()));
        assert!(c.quiet(t(5040), Peers::default()));
        assert_eq!(c.watermark(), t(940 + 40));
        c.record(t(5041));
        assert_eq!(c.admit(t(5041), t(5041)), Admission::OnTime);
        assert!(!c.quiet(t(5042), Peers::default()));
    }

    #[test]
    fn an_unreachable_partition_is_never_silent() {
        let mut c = clock();
        c.record(t(1000));
        c.admit(t(1000), t(1000));
        c.quiet(t(5000), Peers::default());
        c.busy();
        assert!(!c.quiet(t(9000), Peers::default()));
        assert_eq!(c.watermark(), t(940));
    }

    #[test]
    fn who_never_had_a_row_follows_and_who_is_silent_holds_nobody_back() {
        let active = |s| Peers { active: Some(t(s)), silent: None };
        let mut never = clock();
        never.quiet(t(5000), Peers::default());
        assert!(!never.quiet(t(9000), Peers::default()), "nobody to follow");
        assert!(never.quiet(t(9000), active(715)));
        assert_eq!(never.watermark(), t(710), "whole slices");
        assert!(never.quiet(t(9001), Peers { active: None, silent: Some(t(800)) }));
        assert_eq!(never.watermark(), t(800));

        let mut stopped = clock();
        stopped.record(t(1000));
        stopped.admit(t(1000), t(1000));
        stopped.quiet(t(5000), active(90_000));
        assert!(stopped.quiet(t(5030), active(90_000)));
        assert_eq!(stopped.watermark(), t(90_000));
    }
}
