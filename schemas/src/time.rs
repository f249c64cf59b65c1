//! Event time: a point on the UTC time line in nanoseconds. Its own type, so that offsets, wall clock and durations
//! cannot be taken for it. Knows no clock.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Nanoseconds in one second.
pub const SECOND_NS: i64 = 1_000_000_000;

/// A moment in event time: nanoseconds since 1970-01-01T00:00:00Z. Arithmetic saturates: hostile input cannot overflow it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Before every row.
    pub const MIN: Self = Self(i64::MIN);
    /// After every row: the watermark of an input that has ended.
    pub const MAX: Self = Self(i64::MAX);

    /// From seconds since the epoch.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(SECOND_NS))
    }

    /// From fractional seconds since the epoch, as Zeek writes them. `None` when not finite or outside 1677..2262.
    pub fn from_secs_f64(secs: f64) -> Option<Self> {
        let ns = secs * 1e9;
        (ns.is_finite() && ns.abs() < 9.2e18).then_some(Self(ns as i64))
    }

    /// Fractional seconds since the epoch.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// This moment plus nanoseconds.
    #[must_use]
    pub const fn plus(self, ns: i64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// This moment minus nanoseconds.
    #[must_use]
    pub const fn minus(self, ns: i64) -> Self {
        Self(self.0.saturating_sub(ns))
    }

    /// Nanoseconds from `earlier` to this moment; negative when `earlier` is later.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in UTC with as many decimals as needed: `2026-06-04T12:00:00Z`.
    pub fn to_rfc3339(self) -> String {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(t) => t.to_string(),
            // i64 nanoseconds span 1677..2262, all inside jiff's range.
            Err(_) => format!("{}ns", self.0),
        }
    }

    /// Parses RFC 3339 with any offset.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let t: jiff::Timestamp = text.parse().ok()?;
        i64::try_from(t.as_nanosecond()).ok().map(Self)
    }
}

impl fmt::Debug for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => f.write_str("MIN"),
            Self::MAX => f.write_str("MAX"),
            t => f.write_str(&t.to_rfc3339()),
        }
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
