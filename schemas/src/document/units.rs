//! Quantities with their unit: durations as Go writes them, sizes in bytes. Exact integer arithmetic, no floating point.

use std::time::Duration;

/// Longest duration accepted: what fits event time, about 292 years.
const DURATION_NS_MAX: u128 = i64::MAX as u128;

/// Digits of one number, at most; more cannot be meant.
const DIGITS_MAX: usize = 20;

/// Parses a duration: one or more decimal numbers, each with a unit of `ns us ms s m h`, as in `10s`, `1h30m`, `1.5h`.
/// There are no days, and a bare number has no meaning (but `0`). The error says why, as an appendix to a message.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err("; it cannot be negative");
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err("");
    }
    let mut total_ns: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit_ns: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err("; it has no unit"),
            "d" | "w" => return Err("; days have no fixed length in durations, write hours (24h)"),
            _ => return Err("; the units are ns, us, ms, s, m and h"),
        };
        total_ns = total_ns.saturating_add(number.times(unit_ns));
        rest = next;
    }
    if total_ns > DURATION_NS_MAX {
        return Err("; that is too long");
    }
    // Bounded by DURATION_NS_MAX, so both parts fit.
    Ok(Duration::new((total_ns / 1_000_000_000) as u64, (total_ns % 1_000_000_000) as u32))
}

/// A duration as [`parse_duration`] reads it, in the largest units that are exact: `24h`, `1h30m`, `500ms`.
pub fn show_duration(duration: Duration) -> String {
    let mut rest_ns = duration.as_nanos();
    let mut out = String::new();
    for (unit, ns) in
        [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)]
    {
        if rest_ns >= ns {
            out.push_str(&format!("{}{unit}", rest_ns / ns));
            rest_ns %= ns;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

/// Parses a size: a decimal number with `B`, a binary unit (`KiB MiB GiB TiB`) or a decimal one (`KB MB GB TB`).
pub fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    if text.starts_with('-') {
        return Err("; it cannot be negative");
    }
    let (number, unit) = split_number(text)?;
    let factor: u128 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "" => return Err("; it has no unit"),
        _ => return Err("; the units are B, KiB, MiB, GiB, TiB, kB, MB, GB and TB"),
    };
    u64::try_from(number.times(factor)).map_err(|_| "; that is too large")
}

/// A decimal number, kept exact.
struct Number {
    digits: u128,
    /// Ten to the number of decimals.
    scale: u128,
}

impl Number {
    fn times(&self, factor: u128) -> u128 {
        self.digits.saturating_mul(factor) / self.scale
    }
}

fn split_number(text: &str) -> Result<(Number, &str), &'static str> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + decimals.len() == 0 || decimals.contains('.') {
        return Err("");
    }
    if whole.len() + decimals.len() > DIGITS_MAX {
        return Err("; it has too many digits");
    }
    let digits = whole.bytes().chain(decimals.bytes()).fold(0u128, |n, d| n * 10 + u128::from(d - b'0'));
    let scale = decimals.bytes().fold(1u128, |s, _| s * 10);
    Ok((Number { digits, scale }, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        let ns = |t: &str| parse_duration(t).map(|d| d.as_nanos());
        assert_eq!(ns("10s"), Ok(10_000_000_000));
        assert_eq!(ns("1h30m"), Ok(5_400_000_000_000));
        assert_eq!(ns("1.5h"), ns("90m"));
        assert_eq!(ns(".5s"), ns("500ms"));
        assert_eq!(ns("0"), Ok(0));
        assert_eq!(ns("2us3ns"), Ok(2_003));
        for bad in ["", "30", "1d", "-1s", "s", "1..s", "1.s.", "1h30", "5 m", "+", "9999999h", "123456789012345678901s"] {
            assert!(ns(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_read() {
        for (text, shown) in [("24h", "24h"), ("90m", "1h30m"), ("0", "0s"), ("1500ms", "1s500ms"), ("1us2ns", "1us2ns")] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(show_duration(duration), shown);
            assert_eq!(parse_duration(shown), Ok(duration));
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_bytes("2 kB"), Ok(2_000));
        assert_eq!(parse_bytes("0B"), Ok(0));
        for bad in ["", "64", "MiB", "64mib", "-1B", "99999999999999999999TiB", "1.2.3B"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
