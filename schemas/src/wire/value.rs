//! What several formats share: text of a field to the value of a column. Pure functions of their arguments.

use std::cell::Cell;

use bumpalo::Bump;

use super::{ARENA_BYTES_MAX, Fault};
use crate::address::Address;
use crate::time::EventTime;

/// Bytes of a DNS name as text, at most: 255 octets on the wire, each at most four characters when escaped.
pub const NAME_BYTES_MAX: usize = 1024;

/// 1990-01-01T00:00:00Z: no exporter is older, so an earlier time is a broken clock or another unit.
pub const UNIX_NS_MIN: i64 = 631_152_000_000_000_000;

/// Protocol number of ICMP for IPv4.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMP for IPv6.
pub const ICMP_V6: u8 = 58;

/// Bytes as they may stand in a fault: at most 80 characters, control characters escaped.
#[cold]
pub fn shown(bytes: &[u8]) -> String {
    // 80 characters are at most 320 bytes.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(320)]);
    let mut out = String::with_capacity(80);
    let mut left = 80usize;
    for c in text.chars() {
        let width = if c.is_control() { c.escape_default().count() } else { 1 };
        if width > left {
            break;
        }
        left -= width;
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cold]
pub(super) fn wrong(field: &'static str, expected: &'static str, got: impl ToString) -> Fault {
    Fault::Field { field, expected, got: shown(got.to_string().as_bytes()) }
}

/// A mandatory address, with or without a port.
#[inline]
pub(super) fn address(field: &'static str, text: &[u8]) -> Result<Address, Fault> {
    if let Some(address) = Address::parse(text) {
        return Ok(address);
    }
    if text.is_empty() {
        return Err(Fault::Missing { field });
    }
    match Address::parse_endpoint(text) {
        Some((address, _)) => Ok(address),
        None => Err(Fault::Field { field, expected: "an address", got: shown(text) }),
    }
}

/// A port; 0 is none.
#[inline]
pub(super) fn port(field: &'static str, value: u64) -> Result<Option<u16>, Fault> {
    match u16::try_from(value) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(wrong(field, "a port up to 65535", value)),
    }
}

/// Unix nanoseconds; 0 is absent, anything else before 1990 is refused.
#[inline]
pub(super) fn unix_ns(field: &'static str, value: i64) -> Result<Option<EventTime>, Fault> {
    match value {
        0 => Ok(None),
        UNIX_NS_MIN.. => Ok(Some(EventTime(value))),
        _ => Err(wrong(field, "unix nanoseconds after 1990", value)),
    }
}

/// A protocol name or decimal number; empty is 0 (not told). `icmp` is 58 where `v6`.
#[inline]
pub(super) fn transport(field: &'static str, text: &[u8], v6: bool) -> Result<u8, Fault> {
    match text {
        b"tcp" => Ok(TCP),
        b"udp" => Ok(UDP),
        b"icmp" => Ok(if v6 { ICMP_V6 } else { ICMP }),
        _ => transport_rare(field, text, v6),
    }
}

#[cold]
fn transport_rare(field: &'static str, text: &[u8], v6: bool) -> Result<u8, Fault> {
    if text.is_empty() {
        return Ok(0);
    }
    let name = std::str::from_utf8(text).unwrap_or("");
    if let Some(number) = decimal::<u8>(name) {
        return Ok(number);
    }
    // IANA protocol numbers, the names that exporters use.
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Ok(TCP),
        "udp" => Ok(UDP),
        "icmp" => Ok(if v6 { ICMP_V6 } else { ICMP }),
        "icmp6" | "icmpv6" | "ipv6-icmp" => Ok(ICMP_V6),
        "igmp" => Ok(2),
        "gre" => Ok(47),
        "esp" => Ok(50),
        "ah" => Ok(51),
        "ospf" => Ok(89),
        "pim" => Ok(103),
        "sctp" => Ok(132),
        _ => Err(Fault::Field { field, expected: "tcp, udp, icmp or a protocol number", got: shown(text) }),
    }
}

/// Digits only, in range.
#[inline]
pub(super) fn decimal<T: TryFrom<u64>>(text: &str) -> Option<T> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    let mut value = 0u64;
    for c in text.bytes() {
        let d = c.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(d))?;
    }
    T::try_from(value).ok()
}

/// Where a record's text is built anew, within the record's own budget (not the arena's: that one lives longer).
pub(super) struct Scratch<'a> {
    arena: &'a Bump,
    left: Cell<usize>,
}

impl<'a> Scratch<'a> {
    /// For one record.
    pub(super) fn new(arena: &'a Bump) -> Self {
        Self { arena, left: Cell::new(ARENA_BYTES_MAX) }
    }

    /// A copy that lives as long as the record.
    pub(super) fn keep(&self, text: &str) -> Result<&'a str, Fault> {
        match self.left.get().checked_sub(text.len()) {
            Some(left) => {
                self.left.set(left);
                Ok(self.arena.alloc_str(text))
            }
            None => Err(Fault::TooLarge { what: "text built for one record", limit: ARENA_BYTES_MAX }),
        }
    }

    /// Text in lower case (ASCII); borrowed where it is so already.
    pub(super) fn lower(&self, text: &'a str) -> Result<&'a str, Fault> {
        if text.bytes().any(|c| c.is_ascii_uppercase()) { self.keep(&text.to_ascii_lowercase()) } else { Ok(text) }
    }

    /// A DNS name as columns hold it: lower case, no trailing dot; the root stays `.`.
    pub(super) fn dns_name(&self, field: &'static str, text: &'a str) -> Result<&'a str, Fault> {
        if text.is_empty() {
            return Err(Fault::Missing { field });
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(Fault::TooLarge { what: field, limit: NAME_BYTES_MAX });
        }
        self.lower(match text.strip_suffix('.') {
            Some("") | None => text,
            Some(name) => name,
        })
    }
}

/// `None` for empty text: absent, never empty.
pub(super) fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports() {
        for (text, v6, expected) in [
            ("tcp", false, 6),
            ("UDP", false, 17),
            ("icmp", false, 1),
            ("icmp", true, 58),
            ("132", false, 132),
            ("", false, 0),
            ("gre", false, 47),
        ] {
            assert_eq!(transport("t", text.as_bytes(), v6), Ok(expected), "{text}");
        }
        for text in ["256", "-1", "tcpx", "6 ", "\u{fffd}"] {
            assert!(transport("t", text.as_bytes(), false).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        let arena = Bump::new();
        let scratch = Scratch::new(&arena);
        assert_eq!(scratch.dns_name("q", "Evil.Example."), Ok("evil.example"));
        assert_eq!(scratch.dns_name("q", "evil.example"), Ok("evil.example"));
        assert_eq!(scratch.dns_name("q", "."), Ok("."));
        assert_eq!(scratch.dns_name("q", ""), Err(Fault::Missing { field: "q" }));
        assert!(matches!(scratch.dns_name("q", &"a".repeat(NAME_BYTES_MAX + 1)), Err(Fault::TooLarge { .. })));
    }

    #[test]
    fn shown_is_short_and_printable() {
        assert_eq!(shown(b"a\tb\x00"), "a\\tb\\u{0}");
        assert!(shown(&[7; 500]).chars().count() <= 80);
        assert_eq!(shown(&[0xff; 500]).chars().count(), 80);
    }

    #[test]
    fn times() {
        assert_eq!(unix_ns("t", 0), Ok(None));
        assert_eq!(unix_ns("t", UNIX_NS_MIN), Ok(Some(EventTime(UNIX_NS_MIN))));
        assert!(unix_ns("t", UNIX_NS_MIN - 1).is_err());
        assert!(unix_ns("t", -1).is_err());
    }

    #[test]
    fn arena_has_a_limit() {
        let arena = Bump::new();
        let text = "a".repeat(1 << 20);
        for _ in 0..2 {
            let scratch = Scratch::new(&arena);
            let kept = std::iter::repeat_with(|| scratch.keep(&text)).take(16).filter(Result::is_ok).count();
            assert_eq!(kept, ARENA_BYTES_MAX >> 20);
        }
    }
}
