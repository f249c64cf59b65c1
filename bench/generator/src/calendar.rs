//! Working hours. Days are UTC days; Saturday and Sunday are free. Each host has its own begin, end and lunch.

use tidewatch_schemas::time::SECOND_NS;

use crate::random::{Random, share};

/// Seconds of a day.
pub const DAY_S: i64 = 86_400;
const HOUR_S: f64 = 3_600.0;

/// One person's working day, seconds from midnight UTC.
#[derive(Clone, Copy, Debug)]
pub struct WorkingDay {
    begin_s: i64,
    end_s: i64,
    lunch_s: i64,
}

impl WorkingDay {
    /// The day of this host: begin between 07:30 and 09:00, end between 16:30 and 18:30, lunch from 11:45 to 13:00 on.
    pub fn of(seed: u64, tenant: u16, host: u32) -> Self {
        let part = |salt: u64| share(&[seed, salt, u64::from(tenant), u64::from(host)]);
        Self {
            begin_s: ((7.5 + 1.5 * part(11)) * HOUR_S) as i64,
            end_s: ((16.5 + 2.0 * part(12)) * HOUR_S) as i64,
            lunch_s: ((11.75 + 1.25 * part(13)) * HOUR_S) as i64,
        }
    }

    /// Someone sits at the desk at `at_ns`.
    pub fn at_work(&self, at_ns: i64) -> bool {
        let (day, second) = day_and_second(at_ns);
        let lunch = (self.lunch_s..self.lunch_s + 2_400).contains(&second);
        is_weekday(day) && (self.begin_s..self.end_s).contains(&second) && !lunch
    }

    /// `at_ns` when it is in working time, else a moment in the first ten minutes of the next working time.
    pub fn when_at_work(&self, at_ns: i64, random: &mut Random) -> i64 {
        if self.at_work(at_ns) {
            return at_ns;
        }
        let (day, second) = day_and_second(at_ns);
        let arrival_ns = (random.unit() * 600.0 * SECOND_NS as f64) as i64;
        if is_weekday(day) && (self.begin_s..self.end_s).contains(&second) {
            return (day * DAY_S + self.lunch_s + 2_400) * SECOND_NS + arrival_ns;
        }
        let mut next = if second < self.begin_s { day } else { day + 1 };
        while !is_weekday(next) {
            next += 1;
        }
        (next * DAY_S + self.begin_s) * SECOND_NS + arrival_ns
    }
}

/// Day since 1970-01-01 and second of that day.
pub fn day_and_second(at_ns: i64) -> (i64, i64) {
    let seconds = at_ns.div_euclid(SECOND_NS);
    (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S))
}

/// Monday to Friday. 1970-01-01 was a Thursday.
fn is_weekday(day: i64) -> bool {
    (day + 3).rem_euclid(7) < 5
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tidewatch_schemas::time::EventTime;

    use super::*;

    #[test]
    fn nights_and_weekends_are_free() {
        let day = WorkingDay::of(1, 0, 7);
        let at = |text| EventTime::parse_rfc3339(text).unwrap().0;
        assert!(day.at_work(at("2026-03-11T10:00:00Z")), "a Wednesday");
        assert!(!day.at_work(at("2026-03-11T03:00:00Z")));
        assert!(!day.at_work(at("2026-03-14T10:00:00Z")), "a Saturday");
        let mut random = Random::of([0; 4]);
        let monday = day.when_at_work(at("2026-03-13T20:00:00Z"), &mut random);
        assert!(monday > at("2026-03-16T07:30:00Z") && monday < at("2026-03-16T09:10:00Z"));
        for minute in 0..7 * 24 * 60 {
            let moment = at("2026-03-11T00:00:00Z") + minute * 60 * SECOND_NS;
            let next = day.when_at_work(moment, &mut random);
            assert!(next >= moment && day.at_work(next));
        }
    }
}
