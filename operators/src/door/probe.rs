//! Targets of our own synthetic tests, as destinations of a kind of their own: correlate knows by them what calls may be our
//! probes'. Only results name them: no connection, handshake or request does, whatever it asks for.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::observation::ResultRow;

/// Begin of such a destination; what a host asks for and begins so is no destination.
pub(crate) const PROBED: &str = "probe:";

/// What browsers of anybody report is no test of ours, and what is only looked up is not connected to.
const FOREIGN_TYPE: &str = "rum";
const LOOK_UP_TYPES: [&str; 2] = ["dns", "dnstrace"];

/// A target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target<'a> {
    Address(Address),
    Name(&'a str),
}

impl Target<'_> {
    /// Equal targets, equal hashes, and none that another destination of a host has.
    pub(super) fn hash(&self) -> u64 {
        let bytes: &[u8] = match self {
            Self::Address(address) => &address.0,
            Self::Name(name) => name.as_bytes(),
        };
        xxhash_rust::xxh3::xxh3_64_with_seed(bytes, 2)
    }

    /// As a destination.
    pub(super) fn contact(&self) -> String {
        match self {
            Self::Address(address) => format!("{PROBED}{address}"),
            Self::Name(name) => format!("{PROBED}{}", name.to_ascii_lowercase()),
        }
    }
}

/// What a result says that was contacted: the configured target, and the address that it turned out to be.
pub(super) fn targets<'a>(row: &ResultRow<'a>) -> impl Iterator<Item = Target<'a>> {
    let ours = row.canary_type != FOREIGN_TYPE;
    let configured = Some(row.server).filter(|_| ours && !LOOK_UP_TYPES.contains(&row.canary_type));
    configured.and_then(host).into_iter().chain(row.peer_address.filter(|_| ours).map(Target::Address))
}

/// The host of a configured target: an address, a name, either with a port, or a URL.
fn host(text: &str) -> Option<Target<'_>> {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split(['/', '?', '#']).next().unwrap_or(text);
    if let Some((address, _)) = Address::parse_endpoint(text.as_bytes()) {
        return Some(Target::Address(address));
    }
    let name = text.split_once(':').map_or(text, |(name, _)| name).trim_end_matches('.');
    (!name.is_empty()).then_some(Target::Name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contacts(canary_type: &str, server: &str, peer_address: Option<Address>) -> Vec<String> {
        let row = ResultRow { canary_type, server, peer_address, ..ResultRow::default() };
        targets(&row).map(|target| target.contact()).collect()
    }

    #[test]
    fn a_target_is_named_as_its_connections_are() {
        for server in ["https://Www.Example.com/health?x=1", "www.example.com:8443", "www.example.com."] {
            assert_eq!(contacts("http", server, None), ["probe:www.example.com"]);
        }
        for server in ["203.0.113.9", "203.0.113.9:443", "http://203.0.113.9:80/", "::ffff:203.0.113.9"] {
            assert_eq!(contacts("tcp", server, None), ["probe:203.0.113.9"]);
        }
        assert_eq!(contacts("tcp", "[2001:db8::9]:443", None), ["probe:2001:db8::9"]);
        let peer = Some(Address::v4([203, 0, 113, 9]));
        assert_eq!(contacts("icmp", "a.example", peer), ["probe:a.example", "probe:203.0.113.9"]);
        assert_eq!(contacts("dns", "a.example", peer), ["probe:203.0.113.9"]);
        assert!(contacts("rum", "a.example", peer).is_empty() && contacts("tcp", "", None).is_empty());
    }
}
