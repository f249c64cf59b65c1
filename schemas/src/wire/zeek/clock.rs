//! Times as Zeek's writers print them, exactly: decimal text to nanoseconds without a detour over floating point.

use crate::time::{EventTime, SECOND_NS};

/// Whole numbers from here on are milliseconds: as seconds they would lie after the year 5000.
const MILLIS_MIN: u64 = 100_000_000_000;

/// A moment from 0 (captures may count from their start): seconds with decimals, whole milliseconds (`TS_MILLIS`), or
/// ISO 8601 (`TS_ISO8601`).
#[inline]
pub(super) fn moment(text: &str) -> Option<EventTime> {
    if let Some(ms) = whole(text.as_bytes()).filter(|&n| n >= MILLIS_MIN) {
        return i64::try_from(ms).ok()?.checked_mul(1_000_000).map(EventTime);
    }
    match seconds(text) {
        Some(ns) => Some(EventTime(ns)),
        None => EventTime::parse_rfc3339(text).filter(|t| t.0 >= 0),
    }
}

/// Seconds from 0 with decimals, to ns; digits beyond the ninth are dropped. `None` when negative or past 292 years.
#[inline]
pub(super) fn seconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (integer, decimals) = match memchr::memchr(b'.', bytes) {
        Some(dot) => (&bytes[..dot], &bytes[dot + 1..]),
        None => (bytes, &[][..]),
    };
    let (Some(secs), Some(ns)) = (whole(integer), nanoseconds(decimals)) else { return scientific(text) };
    i64::try_from(secs).ok()?.checked_mul(SECOND_NS)?.checked_add(ns)
}

fn whole(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut value = 0u64;
    for &c in digits {
        let d = c.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        // Nineteen digits fit.
        value = value * 10 + u64::from(d);
    }
    Some(value)
}

fn nanoseconds(decimals: &[u8]) -> Option<i64> {
    let mut value = 0i64;
    let mut scale = SECOND_NS;
    for &c in decimals {
        let d = c.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        scale /= 10;
        value += i64::from(d) * scale;
    }
    Some(value)
}

/// `1e-05`: JSON writers print small intervals so.
#[cold]
fn scientific(text: &str) -> Option<i64> {
    if !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    let secs: f64 = text.parse().ok()?;
    (secs >= 0.0).then(|| EventTime::from_secs_f64(secs)).flatten().map(|t| t.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for (text, ns) in [
            ("1655071198.444458", 1_655_071_198_444_458_000),
            ("1588205199.82437", 1_588_205_199_824_370_000),
            ("1767225600.0", 1_767_225_600_000_000_000),
            ("1767225600", 1_767_225_600_000_000_000),
            ("1767225600123", 1_767_225_600_123_000_000),
            ("2026-01-01T00:00:00.5Z", 1_767_225_600_500_000_000),
            ("22.335172", 22_335_172_000),
            ("0.0", 0),
            ("1.7672256e9", 1_767_225_600_000_000_000),
            ("1.0123456789999", 1_012_345_678),
        ] {
            assert_eq!(moment(text), Some(EventTime(ns)), "{text}");
        }
        for text in
            ["", "-", "-1.0", "nan", "inf", "1e300", "99999999999999999999", "1.2.3", "9223372036.9", "1960-01-01T00:00:00Z"]
        {
            assert_eq!(moment(text), None, "{text}");
        }
        assert_eq!(seconds("1e-05"), Some(10_000));
        assert_eq!(seconds("0.000002"), Some(2_000));
    }
}
