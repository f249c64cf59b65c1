//! Whom a host can beacon to: an address with port and transport, or a name with port, asked for or only looked up. Decides
//! which peers are none.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tidewatch_schemas::address::{Address, AddressClass, Classifier};

use crate::table::mixed;

/// TCP.
pub(super) const TCP: u8 = 6;
/// UDP.
pub(super) const UDP: u8 = 17;
/// SCTP.
const SCTP: u8 = 132;

/// Longest name kept, octets: a DNS name has no more (RFC 1035 section 2.3.4). A longer one is no name.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// Key of a pair inside its host's state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PeerKey {
    /// No name explains it.
    Address {
        /// Peer.
        address: Address,
        /// Its port.
        port: u16,
        /// IANA number.
        transport: u8,
    },
    /// Asked for by name, directly or through a proxy.
    Name {
        /// Lower case; one text for all that mention it.
        name: Arc<str>,
        /// Its port.
        port: u16,
    },
    /// A name of which the host was told the address that it connected to, and nothing but that look-up says so.
    Resolved {
        /// As looked up.
        name: Arc<str>,
        /// Port of the connections.
        port: u16,
    },
}

impl PeerKey {
    /// The key of a name; `None` when it is no name worth keeping (empty, too long, an address written out).
    pub fn named(name: &str, port: u16) -> Option<Self> {
        let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        (!name.is_empty() && name.len() <= NAME_BYTES_MAX && !literal).then(|| Self::Name { name: name.into(), port })
    }

    /// Destination as in contact rows.
    pub fn contact(&self) -> String {
        match self {
            Self::Address { address, .. } => address.to_string(),
            Self::Name { name, .. } | Self::Resolved { name, .. } => name.to_string(),
        }
    }

    /// Equal keys, equal hashes; for tables in memory alone.
    pub fn hash(&self) -> u64 {
        match self {
            Self::Address { address, port, transport } => {
                let (high, low) = address.0.split_at(8);
                let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
                mixed(word(low), word(high) ^ u64::from(*port) << 8 ^ u64::from(*transport))
            }
            Self::Name { name, port } => mixed(xxhash_rust::xxh3::xxh3_64(name.as_bytes()), u64::from(*port)),
            Self::Resolved { name, port } => mixed(xxhash_rust::xxh3::xxh3_64(name.as_bytes()), 1 << 16 | u64::from(*port)),
        }
    }

    /// Heap bytes.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Address { .. } => 0,
            Self::Name { name, .. } | Self::Resolved { name, .. } => name.len(),
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, port, transport } => {
                match address.to_ip() {
                    IpAddr::V4(ip) => write!(f, "{ip}:{port}/")?,
                    IpAddr::V6(ip) => write!(f, "[{ip}]:{port}/")?,
                }
                match *transport {
                    TCP => f.write_str("tcp"),
                    UDP => f.write_str("udp"),
                    SCTP => f.write_str("sctp"),
                    other => write!(f, "{other}"),
                }
            }
            Self::Name { name, port } | Self::Resolved { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// Where a peer lies, as far as beaconing cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Outside: what beacons are looked for in.
    Outside,
    /// Inside: health checks, monitoring, relays.
    Inside,
    /// Nobody in particular: multicast, broadcast, loopback, link-local, unspecified.
    Nobody,
}

/// Place of an address; `class` is that of its row, [`AddressClass::Unknown`] where the row has none.
pub(super) fn place(address: Address, class: AddressClass) -> Place {
    let class = if class == AddressClass::Unknown { Classifier::default().classify(address) } else { class };
    match class {
        AddressClass::Internal | AddressClass::Shared => Place::Inside,
        AddressClass::External | AddressClass::Documentation | AddressClass::Benchmark | AddressClass::Unknown => Place::Outside,
        AddressClass::Loopback
        | AddressClass::LinkLocal
        | AddressClass::Multicast
        | AddressClass::Broadcast
        | AddressClass::ThisNetwork
        | AddressClass::Reserved => Place::Nobody,
    }
}
