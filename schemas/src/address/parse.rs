//! Text to address, without allocation and without the standard library's error values: the hot path reads two of them
//! per flow. Accepts exactly what the standard library accepts, plus a zone (shown by a property test).

use super::Address;

/// See [`Address::parse`].
#[inline]
pub(super) fn address(text: &[u8]) -> Option<Address> {
    match v4(text) {
        Some(octets) => Some(Address::v4(octets)),
        None => v6(text),
    }
}

/// See [`Address::parse_endpoint`].
pub(super) fn endpoint(text: &[u8]) -> Option<(Address, Option<u16>)> {
    if let Some(address) = address(text) {
        return Some((address, None));
    }
    if let Some(inside) = text.strip_prefix(b"[") {
        let end = memchr::memchr(b']', inside)?;
        let address = v6(&inside[..end])?;
        return match &inside[end + 1..] {
            [] => Some((address, None)),
            [b':', digits @ ..] => Some((address, Some(port(digits)?))),
            _ => None,
        };
    }
    let colon = memchr::memchr(b':', text)?;
    Some((Address::v4(v4(&text[..colon])?), Some(port(&text[colon + 1..])?)))
}

fn port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 {
        return None;
    }
    let mut value = 0u32;
    for &c in digits {
        value = value * 10 + u32::from(digit(c)?);
    }
    u16::try_from(value).ok()
}

#[inline]
fn digit(c: u8) -> Option<u8> {
    let d = c.wrapping_sub(b'0');
    (d < 10).then_some(d)
}

/// Four decimal parts of one to three digits; a leading zero is refused, some readers take it for octal.
#[inline]
fn v4(text: &[u8]) -> Option<[u8; 4]> {
    // "0.0.0.0" .. "255.255.255.255", then a dot behind the last part too, so that all parts read alike.
    if !(7..=15).contains(&text.len()) {
        return None;
    }
    let mut padded = [b'.'; 16];
    padded[..text.len()].copy_from_slice(text);
    let digit = |at: usize| u32::from(padded[at & 15].wrapping_sub(b'0'));
    let mut octets = [0u8; 4];
    let mut at = 0;
    for octet in &mut octets {
        // A part begins at 12 at the latest, so the mask never takes effect.
        let (a, b, c) = (digit(at), digit(at + 1), digit(at + 2));
        let (value, digits) = match (a < 10, b < 10, c < 10) {
            (true, false, _) => (a, 1),
            (true, true, false) if a > 0 => (a * 10 + b, 2),
            (true, true, true) if a > 0 => (a * 100 + b * 10 + c, 3),
            _ => return None,
        };
        at += digits;
        if value > 255 || padded[at & 15] != b'.' {
            return None;
        }
        *octet = value as u8;
        at += 1;
    }
    (at == text.len() + 1).then_some(octets)
}

/// RFC 4291 §2.2: up to eight groups of one to four hex digits, one `::`, an IPv4 tail in place of the last two.
fn v6(text: &[u8]) -> Option<Address> {
    let text = match memchr::memchr(b'%', text) {
        Some(zone) if zone + 1 < text.len() => &text[..zone],
        Some(_) => return None,
        None => text,
    };
    // "::" .. "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255"
    if !(2..=45).contains(&text.len()) {
        return None;
    }
    let mut bytes = [0u8; 16];
    let mut at = 0usize; // bytes written
    let mut gap: Option<usize> = None; // where "::" stood
    let mut i = 0usize;
    if text[0] == b':' {
        if text[1] != b':' {
            return None;
        }
        gap = Some(0);
        i = 2;
    }
    while i < text.len() {
        if at == 16 {
            return None;
        }
        let start = i;
        let mut group = 0u32;
        while i < text.len() && i - start < 5 {
            match hex(text[i]) {
                Some(d) => group = group << 4 | u32::from(d),
                None => break,
            }
            i += 1;
        }
        let digits = i - start;
        if i < text.len() && text[i] == b'.' {
            let octets = v4(&text[start..])?;
            bytes.get_mut(at..at + 4)?.copy_from_slice(&octets);
            at += 4;
            i = text.len();
            break;
        }
        if digits == 0 || digits > 4 {
            return None;
        }
        bytes[at..at + 2].copy_from_slice(&(group as u16).to_be_bytes());
        at += 2;
        if i == text.len() {
            break;
        }
        if text[i] != b':' {
            return None;
        }
        i += 1;
        if i == text.len() {
            return None; // a single colon at the end
        }
        if text[i] == b':' {
            if gap.is_some() {
                return None;
            }
            gap = Some(at);
            i += 1;
        }
    }
    debug_assert_eq!(i, text.len());
    match gap {
        None => (at == 16).then_some(Address(bytes)),
        // "::" stands for at least one group.
        Some(gap) if at <= 14 => {
            let tail = at - gap;
            bytes.copy_within(gap..at, 16 - tail);
            bytes[gap..16 - tail].fill(0);
            Some(Address(bytes))
        }
        Some(_) => None,
    }
}

#[inline]
fn hex(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn std_parse(text: &str) -> Option<Address> {
        text.parse::<IpAddr>().ok().map(Address::from)
    }

    #[test]
    fn forms() {
        for text in [
            "0.0.0.0",
            "255.255.255.255",
            "10.0.0.5",
            "::",
            "::1",
            "1::",
            "1::8",
            "2606:4700:0:0:0:0:0:1111",
            "2606:4700::1111",
            "::ffff:10.0.0.1",
            "::FFFF:A00:1",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7::",
            "::2:3:4:5:6:7:8",
            "64:ff9b::8.8.8.8",
            "1:2:3:4:5:6:1.2.3.4",
            "FE80::ABCD",
        ] {
            assert_eq!(address(text.as_bytes()), std_parse(text), "{text}");
            assert!(address(text.as_bytes()).is_some(), "{text}");
        }
        for text in [
            "",
            ".",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.256",
            "01.2.3.4",
            "1.2.3.04",
            "1..2.3",
            "1.2.3.4 ",
            ":",
            ":::",
            "1:2",
            "1::2::3",
            "1:2:3:4:5:6:7:8:9",
            "12345::",
            "::g",
            "1:",
            ":1",
            "1:2:3:4:5:6:7:1.2.3.4",
            "::1.2.3",
            "[::1]",
            "::1%",
            "10.0.0.1:53",
            "1:2:3:4:5:6:7::8",
            "not-an-ip.svc.cluster.local",
        ] {
            assert_eq!(address(text.as_bytes()), None, "{text}");
            assert_eq!(std_parse(text), None, "{text}");
        }
        assert_eq!(address(b"::ffff:10.0.0.1"), address(b"10.0.0.1"));
        assert_eq!(address(b"fe80::1%eth0"), address(b"fe80::1"));
    }

    #[test]
    fn endpoints() {
        let v4 = Address::v4([100, 64, 1, 2]);
        assert_eq!(endpoint(b"100.64.1.2:443"), Some((v4, Some(443))));
        assert_eq!(endpoint(b"100.64.1.2"), Some((v4, None)));
        let v6 = address(b"2606:4700::1111").unwrap();
        assert_eq!(endpoint(b"[2606:4700::1111]:443"), Some((v6, Some(443))));
        assert_eq!(endpoint(b"[2606:4700::1111]"), Some((v6, None)));
        for text in ["100.64.1.2:", "100.64.1.2:65536", "[::1", "[::1]443", "[1.2.3.4]:1", "host:1", "[::1]:-1"] {
            assert_eq!(endpoint(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_std(text in "[0-9a-fA-F:.]{0,46}") {
            prop_assert_eq!(address(text.as_bytes()), std_parse(&text));
        }

        #[test]
        fn agrees_with_std_on_ipv4(text in "[0-9]{1,4}(\\.[0-9]{0,4}){2,4}\\.?") {
            prop_assert_eq!(address(text.as_bytes()), std_parse(&text));
        }

        #[test]
        fn prints_and_parses(bytes: [u8; 16], v4: [u8; 4]) {
            for a in [Address(bytes), Address::v4(v4)] {
                prop_assert_eq!(address(a.to_string().as_bytes()), Some(a));
                prop_assert_eq!(format!("{a} {a:>44}"), format!("{0} {0:>44}", a.to_ip()));
            }
        }

        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = endpoint(&bytes);
        }
    }
}
