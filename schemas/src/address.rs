//! Network addresses in one canonical form: 16 bytes, IPv4 as IPv4-mapped IPv6. Equal addresses are equal bytes.
//!
//! Parsing is in `address/parse.rs`, what an address is good for (inside, outside, neither) in `address/class.rs`. No
//! look-up, no name resolution.

mod class;
mod parse;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

pub use class::{AddressClass, Classifier};

/// An IPv4 or IPv6 address; IPv4 is kept as `::ffff:a.b.c.d`, so text, mapped and plain forms compare equal.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// From four octets.
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).to_ipv6_mapped().octets())
    }

    /// The four octets of an IPv4 address, mapped ones included; `None` for IPv6.
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// The standard library's type, IPv4 unmapped.
    pub fn to_ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }

    /// Parses an address without a port: dotted IPv4 (no leading zeros, four parts), or any form of IPv6 (short, long,
    /// upper case, IPv4 tail, mapped). A zone (`fe80::1%eth0`) is read and dropped: it means nothing off its host. No
    /// allocation; anything else, brackets and ports included, is `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        parse::address(text)
    }

    /// Parses an address with an optional port: all that [`Address::parse`] takes, `a.b.c.d:port`, `[v6]`, `[v6]:port`.
    pub fn parse_endpoint(text: &[u8]) -> Option<(Self, Option<u16>)> {
        parse::endpoint(text)
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_v4() {
            // Written for every new pair: four numbers into one piece cost a tenth of four formatted ones.
            Some(octets) => {
                let (mut text, mut len) = ([b'.'; 15], 0);
                for (i, octet) in octets.into_iter().enumerate() {
                    len += usize::from(i > 0);
                    for (least, digit) in [(100, octet / 100), (10, octet / 10 % 10), (0, octet % 10)] {
                        if octet >= least {
                            text[len] = b'0' + digit;
                            len += 1;
                        }
                    }
                }
                f.pad(std::str::from_utf8(&text[..len]).unwrap_or(""))
            }
            None => fmt::Display::fmt(&self.to_ip(), f),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
