//! What an address is good for: inside, outside, or neither. Decided by special-purpose ranges (IANA registries, RFC 6890)
//! and by the ranges an operator lists; never by a look-up.

use ipnet::IpNet;

use super::Address;

/// Class of an address. The numbers are stored in columns: they are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AddressClass {
    /// Not decided, or no address and no name.
    #[default]
    Unknown = 0,
    /// Private (RFC 1918, fc00::/7, fec0::/10), listed by the operator, or a workload name.
    Internal = 1,
    /// Reachable on the public internet.
    External = 2,
    /// 127.0.0.0/8, ::1.
    Loopback = 3,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal = 4,
    /// 100.64.0.0/10, shared by carriers and clusters (RFC 6598).
    Shared = 5,
    /// 224.0.0.0/4, ff00::/8.
    Multicast = 6,
    /// 255.255.255.255. A subnet's own broadcast address cannot be told without its prefix.
    Broadcast = 7,
    /// 0.0.0.0/8, `::`.
    ThisNetwork = 8,
    /// 198.18.0.0/15, 2001:2::/48 (RFC 2544, 5180).
    Benchmark = 9,
    /// 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32, 3fff::/20. Counts as outside: examples and tests
    /// use it for "somebody else".
    Documentation = 10,
    /// 240.0.0.0/4 but broadcast, 192.0.0.0/24, 100::/64: cannot be a peer.
    Reserved = 11,
}

impl AddressClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Unknown,
        Self::Internal,
        Self::External,
        Self::Loopback,
        Self::LinkLocal,
        Self::Shared,
        Self::Multicast,
        Self::Broadcast,
        Self::ThisNetwork,
        Self::Benchmark,
        Self::Documentation,
        Self::Reserved,
    ];

    /// From a column; numbers of a later version read as `Unknown`.
    pub fn from_u8(value: u8) -> Self {
        Self::ALL.get(usize::from(value)).copied().unwrap_or(Self::Unknown)
    }

    /// For a column.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Name in documents and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Internal => "internal",
            Self::External => "external",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Shared => "shared",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::ThisNetwork => "this_network",
            Self::Benchmark => "benchmark",
            Self::Documentation => "documentation",
            Self::Reserved => "reserved",
        }
    }

    /// A host of ours: private, shared, link-local, loopback, listed, or a workload name.
    pub const fn is_internal(self) -> bool {
        matches!(self, Self::Internal | Self::Loopback | Self::LinkLocal | Self::Shared)
    }

    /// A host of somebody else. Neither this nor internal: multicast, broadcast, this-network, benchmark, reserved,
    /// unknown.
    pub const fn is_external(self) -> bool {
        matches!(self, Self::External | Self::Documentation)
    }
}

/// Classes with an operator's own public ranges. Cheap to clone when small; look-up is a binary search over merged ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classifier {
    /// Merged, sorted, inclusive ranges over the 16 bytes read as a number.
    internal: Vec<(u128, u128)>,
}

impl Classifier {
    /// `internal`: public ranges that count as internal. Overlaps and any order are fine.
    pub fn new(internal: Vec<IpNet>) -> Self {
        let mut ranges: Vec<(u128, u128)> = internal
            .into_iter()
            .map(|net| {
                let first = u128::from_be_bytes(Address::from(net.network()).0);
                let last = u128::from_be_bytes(Address::from(net.broadcast()).0);
                (first, last)
            })
            .collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { internal: merged }
    }

    /// Class of an address. A listed range makes an address internal unless it can name no single host at all
    /// (multicast, broadcast, this-network) or is internal by itself.
    #[inline]
    pub fn classify(&self, address: Address) -> AddressClass {
        let class = special(address);
        let listed = !self.internal.is_empty()
            && matches!(
                class,
                AddressClass::External | AddressClass::Documentation | AddressClass::Benchmark | AddressClass::Reserved
            )
            && self.lists(u128::from_be_bytes(address.0));
        if listed { AddressClass::Internal } else { class }
    }

    /// Class of an end given as text: an address, an address with a port, or else a name, which is a workload of ours.
    pub fn classify_text(&self, text: &str) -> AddressClass {
        match Address::parse_endpoint(text.as_bytes()) {
            Some((address, _)) => self.classify(address),
            None if text.is_empty() => AddressClass::Unknown,
            None => AddressClass::Internal,
        }
    }

    fn lists(&self, value: u128) -> bool {
        let after = self.internal.partition_point(|&(first, _)| first <= value);
        after > 0 && value <= self.internal[after - 1].1
    }
}

#[inline]
fn special(address: Address) -> AddressClass {
    match address.to_v4() {
        Some(octets) => special_v4(octets),
        None => special_v6(&address.0),
    }
}

#[inline]
fn special_v4(octets: [u8; 4]) -> AddressClass {
    match octets {
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => AddressClass::Internal,
        [0, ..] => AddressClass::ThisNetwork,
        [127, ..] => AddressClass::Loopback,
        [169, 254, ..] => AddressClass::LinkLocal,
        [100, 64..=127, ..] => AddressClass::Shared,
        [198, 18..=19, ..] => AddressClass::Benchmark,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => AddressClass::Documentation,
        [192, 0, 0, _] => AddressClass::Reserved,
        [224..=239, ..] => AddressClass::Multicast,
        [255, 255, 255, 255] => AddressClass::Broadcast,
        [240..=255, ..] => AddressClass::Reserved,
        _ => AddressClass::External,
    }
}

fn special_v6(bytes: &[u8; 16]) -> AddressClass {
    match *bytes {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => AddressClass::ThisNetwork,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] => AddressClass::Loopback,
        // NAT64 (RFC 6052): the peer is the embedded address.
        [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => special_v4([a, b, c, d]),
        [0xff, ..] => AddressClass::Multicast,
        [0xfe, second, ..] if second & 0xc0 == 0x80 => AddressClass::LinkLocal,
        // fec0::/10, site-local, deprecated by RFC 3879 but never public.
        [0xfe, second, ..] if second & 0xc0 == 0xc0 => AddressClass::Internal,
        [0xfc..=0xfd, ..] => AddressClass::Internal,
        [0x20, 0x01, 0x0d, 0xb8, ..] | [0x3f, 0xff, 0..=0x0f, ..] => AddressClass::Documentation,
        [0x20, 0x01, 0, 2, 0, 0, ..] => AddressClass::Benchmark,
        [1, 0, 0, 0, 0, 0, 0, 0, ..] => AddressClass::Reserved,
        _ => AddressClass::External,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn class(text: &str) -> AddressClass {
        Classifier::default().classify_text(text)
    }

    #[test]
    fn golden_internal_and_external() {
        for text in [
            "10.0.0.1",
            "172.16.5.5",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.1.1",
            "fc00::1",
            "100.64.0.1",
            "100.127.255.254",
            "100.64.1.2:443",
            "not-an-ip.svc.cluster.local",
            "::ffff:10.0.0.1",
            "::1",
            "fe80::1",
            "64:ff9b::10.0.0.1",
        ] {
            assert!(class(text).is_internal(), "{text}: {:?}", class(text));
            assert!(!class(text).is_external(), "{text}");
        }
        for text in [
            "8.8.8.8",
            "1.1.1.1",
            "203.0.113.7",
            "100.63.255.255",
            "100.128.0.1",
            "2606:4700::1111",
            "2606:4700:0:0:0:0:0:1111",
            "[2606:4700::1111]:443",
            "172.15.0.1",
            "172.32.0.1",
            "2001:db8::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(class(text).is_external(), "{text}: {:?}", class(text));
            assert!(!class(text).is_internal(), "{text}");
        }
    }

    #[test]
    fn classes_of_their_own() {
        for (text, expected) in [
            ("224.0.0.251", AddressClass::Multicast),
            ("ff02::fb", AddressClass::Multicast),
            ("255.255.255.255", AddressClass::Broadcast),
            ("0.1.2.3", AddressClass::ThisNetwork),
            ("::", AddressClass::ThisNetwork),
            ("198.19.255.255", AddressClass::Benchmark),
            ("192.0.2.1", AddressClass::Documentation),
            ("240.0.0.1", AddressClass::Reserved),
            ("", AddressClass::Unknown),
        ] {
            assert_eq!(class(text), expected, "{text}");
            assert!(!class(text).is_internal(), "{text}");
            assert_eq!(class(text).is_external(), expected == AddressClass::Documentation, "{text}");
        }
    }

    #[test]
    fn listed_ranges_are_internal() {
        let nets = ["147.32.0.0/16", "147.33.0.0/16", "203.0.113.0/25", "2001:718::/32", "224.0.0.0/4"];
        let classifier = Classifier::new(nets.iter().map(|n| n.parse().unwrap()).collect());
        assert_eq!(classifier.internal.len(), 4, "neighbours are merged");
        for text in ["147.32.81.167", "147.33.255.255", "203.0.113.1", "2001:718:2::1"] {
            assert_eq!(classifier.classify_text(text), AddressClass::Internal, "{text}");
        }
        for text in ["147.31.255.255", "147.34.0.0", "203.0.113.129", "2001:719::"] {
            assert!(classifier.classify_text(text).is_external(), "{text}");
        }
        assert_eq!(classifier.classify_text("224.0.0.1"), AddressClass::Multicast);
        assert!(Classifier::new(vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]).lists(u128::MAX));
    }

    #[test]
    fn numbers_are_stable() {
        for (i, class) in AddressClass::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(class.as_u8()), i);
            assert_eq!(AddressClass::from_u8(class.as_u8()), class);
        }
        assert_eq!(AddressClass::from_u8(200), AddressClass::Unknown);
    }
}
