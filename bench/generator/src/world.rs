//! Addresses and names of the generated world: offices in 10.0.0.0/8, the internet around them. All of it computed from
//! the seed and an index, nothing stored, so a million hosts cost no memory.
//!
//! All tenants use the same internal addresses: whoever mixes tenants up sees it at once. External addresses lie in public
//! space that is in ordinary use, never in documentation ranges, which classify as neither internal nor external. Names end
//! in `.example` (RFC 2606), so no generated verdict is about a real site.

use tidewatch_schemas::address::Address;

use crate::random::{Random, mix};

/// Hosts of one office; each office has its own servers and collector.
pub const OFFICE_HOSTS: u32 = 200;
/// Offices of a tenant with servers of their own; the next ones share them in turn.
pub const OFFICES_MAX: u32 = 250;
/// Hosts a tenant can have: 10.4.0.2 to 10.253.249.251.
pub const HOSTS_MAX: u32 = 250 * 250 * 250;
/// Sites that people browse.
pub const SITES: u64 = 3_000;
/// First octets of ordinary destinations.
const PUBLIC: [u8; 6] = [23, 34, 52, 104, 142, 151];
/// First octets of destinations that attacks use: hosting, neither cleaner nor dirtier than the others.
const HOSTING: [u8; 4] = [45, 91, 185, 193];
/// Addresses that the shared content networks answer from.
const SHARED: u64 = 160;

/// A server of an office; the number is the last octet of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Server {
    /// Domain controller: Kerberos, LDAP, time.
    Directory = 10,
    /// File server.
    Files = 20,
    /// Mail server.
    Mail = 25,
    /// Print server.
    Print = 30,
    /// Intranet pages.
    Intranet = 40,
    /// DNS resolver.
    Resolver = 53,
    /// Monitoring host.
    Monitor = 60,
    /// Backup server.
    Backup = 70,
    /// Web proxy, port 3128.
    Proxy = 80,
    /// Published web server.
    Web = 90,
}

/// Servers that the monitoring host polls, with the port asked.
pub const POLLED: [(Server, u16); 7] = [
    (Server::Directory, 389),
    (Server::Files, 445),
    (Server::Mail, 993),
    (Server::Print, 9100),
    (Server::Intranet, 443),
    (Server::Resolver, 53),
    (Server::Web, 443),
];

/// Names that a whole office talks to: (name, addresses behind it).
pub const POPULAR: [(&str, u64); 8] = [
    ("telemetry.deskware.example", 1),
    ("updates.deskware.example", 2),
    ("cloud.guardsoft.example", 1),
    ("push.phonecloud.example", 1),
    ("chat.teamtalk.example", 2),
    ("meet.teamtalk.example", 4),
    ("crm.salesdesk.example", 1),
    ("pool.clock.example", 4),
];

/// Address of a host by its index in the tenant.
pub fn host(index: u32) -> Address {
    let block = index / 250 % 62_500;
    Address::v4([10, 4 + (block / 250) as u8, (block % 250) as u8, 2 + (index % 250) as u8])
}

/// Office of a host.
pub fn office(index: u32) -> u16 {
    (index / OFFICE_HOSTS % OFFICES_MAX) as u16
}

/// Address of a server of an office.
pub fn server(office: u16, which: Server) -> Address {
    Address::v4([10, 0, office as u8, which as u8])
}

/// Any of the internet's ordinary addresses, named by a word.
pub fn public(seed: u64, word: u64) -> Address {
    from_hash(mix(&[seed, 1, word]), &PUBLIC)
}

/// An address at a hosting company: where attacks call.
pub fn hosting(seed: u64, word: u64) -> Address {
    from_hash(mix(&[seed, 2, word]), &HOSTING)
}

/// Name of a site that people browse.
pub fn site_name(rank: u64) -> String {
    let (a, b) = (FIRST[(rank % 60) as usize], SECOND[(rank / 60 % 50) as usize]);
    match rank % 3 {
        0 => format!("www.{a}{b}.example"),
        1 => format!("{a}-{b}.example"),
        _ => format!("www.{b}{a}.example"),
    }
}

/// One of the addresses of a site: a shared content network's for three in five sites, else its own.
pub fn site_address(seed: u64, rank: u64, random: &mut Random) -> Address {
    if rank % 5 < 3 {
        return shared_address(seed, mix(&[seed, 4, rank, random.below(3)]));
    }
    public(seed, (rank << 8) | random.below(2))
}

/// Name and address of a part of a page that a content network serves: scripts, fonts, pictures, counters.
pub fn part(seed: u64, rank: u64, random: &mut Random) -> (String, Address) {
    let shard = random.below(6);
    let hash = mix(&[seed, 5, rank, shard]);
    let name = match shard {
        0 => "fonts.webparts.example".to_owned(),
        1 => "metrics.webparts.example".to_owned(),
        2 | 3 => format!("e{}.g{}.edgenet.example", hash % 20_000, hash % 7),
        _ => format!("d{:x}.cloudfiles.example", hash & 0xff_ffff_ffff),
    };
    (name, shared_address(seed, hash))
}

/// One of the addresses behind a popular name.
pub fn popular(seed: u64, which: usize, random: &mut Random) -> (&'static str, Address) {
    let (name, addresses) = POPULAR[which % POPULAR.len()];
    (name, public(seed, (7 << 32) | ((which as u64) << 8) | random.below(addresses)))
}

/// A name that nobody else asks for: the home of an attack.
pub fn rare_name(seed: u64, word: u64) -> String {
    let hash = mix(&[seed, 6, word]);
    let (a, b) = (SECOND[(hash % 50) as usize], FIRST[(hash / 64 % 60) as usize]);
    format!("{a}{b}{}.example", hash / 4096 % 90 + 10)
}

fn shared_address(seed: u64, word: u64) -> Address {
    public(seed, (3 << 40) | (word % SHARED))
}

fn from_hash(hash: u64, first: &[u8]) -> Address {
    let bytes = hash.to_le_bytes();
    // `first` is one of the two constant, non-empty lists; last octet 1..=254.
    let octet = first[usize::from(bytes[0]) % first.len()];
    Address::v4([octet, bytes[1], bytes[2], 1 + bytes[3] % 254])
}

const FIRST: [&str; 60] = [
    "harbor", "silver", "north", "green", "copper", "river", "stone", "bright", "cedar", "falcon", "amber", "coast", "prairie",
    "summit", "willow", "orchard", "lantern", "meadow", "anchor", "velvet", "cobalt", "juniper", "marble", "island", "sunset",
    "timber", "valley", "winter", "golden", "hidden", "little", "market", "modern", "nimble", "ocean", "paper", "quiet", "rapid",
    "sandy", "tidy", "union", "violet", "wander", "yellow", "zephyr", "autumn", "border", "candle", "desert", "ember", "forest",
    "garden", "honey", "ivory", "jolly", "kettle", "lemon", "mellow", "noble", "olive",
];

const SECOND: [&str; 50] = [
    "news", "shop", "travel", "books", "sports", "recipes", "bank", "weather", "maps", "music", "video", "forum", "wiki", "jobs",
    "homes", "cars", "health", "school", "games", "photo", "mail", "cloud", "docs", "tools", "store", "times", "daily", "radio",
    "press", "review", "guide", "design", "studio", "works", "labs", "group", "trade", "finance", "energy", "garage", "kitchen",
    "outdoor", "fashion", "science", "history", "tickets", "events", "parcel", "market", "board",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn hosts_are_distinct_internal_addresses_apart_from_servers() {
        let all: BTreeSet<_> = (0..100_000).map(host).collect();
        assert_eq!(all.len(), 100_000);
        assert!(all.iter().all(|a| matches!(a.to_ip(), IpAddr::V4(v4) if v4.octets()[0] == 10 && v4.octets()[1] >= 4)));
        assert_eq!(host(HOSTS_MAX - 1).to_string(), "10.253.249.251");
        assert_eq!(server(3, Server::Resolver).to_string(), "10.0.3.53");
    }

    #[test]
    fn the_internet_is_public_space_in_ordinary_use() {
        for word in 0..10_000 {
            let (IpAddr::V4(site), IpAddr::V4(attack)) = (public(9, word).to_ip(), hosting(9, word).to_ip()) else {
                unreachable!("all addresses are IPv4")
            };
            assert!(PUBLIC.contains(&site.octets()[0]) && HOSTING.contains(&attack.octets()[0]));
            assert!(!site.is_documentation() && !attack.is_documentation() && !attack.is_multicast());
        }
        let names: BTreeSet<_> = (0..SITES).map(site_name).collect();
        assert!(names.len() as u64 > SITES * 99 / 100);
    }
}
