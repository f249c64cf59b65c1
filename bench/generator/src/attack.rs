//! The attacks that can be injected, and their parameters; what each does step by step is in `attack/steps.rs`. Nothing here knows
//! which detector is meant to find it, only the kind of signal that would be right ([`Attack::kind`]).

use serde::{Deserialize, Serialize};

use crate::dns::{Family, Layout};
use crate::world::{self, Server};

mod stay;
mod steps;

pub use stay::Stay;

/// One injected attack. Hosts are client indexes within the tenant, starts are seconds after the plan's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attack {
    /// Calls home at intervals.
    Beacon(Beacon),
    /// Tries many targets.
    Scan(Scan),
    /// Carries data out.
    Egress(Egress),
    /// Looks generated names up.
    Names(Names),
    /// Carries data out in DNS names.
    Tunnel(Tunnel),
    /// Keeps one connection open.
    Stay(Stay),
}

/// How the sleep between two contacts varies; shares of the period.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Never.
    None,
    /// `period × (1 − jitter × U[0,1])`.
    OneSided(f64),
    /// `period × (1 ± jitter)`, uniform.
    Symmetric(f64),
}

/// How a beacon reaches its home.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// One address, no name.
    Address,
    /// One name over this many addresses in turn.
    Name {
        /// Addresses behind the name, at least 1.
        addresses: u8,
    },
    /// CONNECT to one name through the office's proxy.
    Proxied,
}

/// A beacon.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beacon {
    /// Tenant index.
    pub tenant: u16,
    /// Host index.
    pub host: u32,
    /// First contact.
    pub start_s: u32,
    /// No contact after this long.
    pub duration_s: u32,
    /// Sleep before jitter, seconds.
    pub period_s: f64,
    /// Variation of the sleep.
    pub jitter: Jitter,
    /// How home is reached.
    pub peer: Peer,
    /// Port at home (the proxy's own is 3128).
    pub port: u16,
    /// Home refuses every contact.
    pub refused: bool,
    /// Share of contacts that do not happen.
    pub dropout: f64,
    /// Half-width of the sizes' variation, share.
    pub size_noise: f64,
}

impl Default for Beacon {
    fn default() -> Self {
        Self {
            tenant: 0,
            host: 0,
            start_s: 0,
            duration_s: 3_600,
            period_s: 60.0,
            jitter: Jitter::None,
            peer: Peer::Address,
            port: 443,
            refused: false,
            dropout: 0.0,
            size_noise: 0.2,
        }
    }
}

impl Beacon {
    /// A remote-access tool whose home refuses: a try every 11 s or so.
    pub fn failing() -> Self {
        Self { period_s: 11.4, jitter: Jitter::Symmetric(0.3), port: 4_782, refused: true, ..Self::default() }
    }
}

/// Ports by which machines are administered.
const ADMINISTRATION: [u16; 7] = [22, 23, 135, 139, 445, 3389, 5985];

/// What a scan tries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// One port of this many internal hosts.
    Horizontal {
        /// Port tried.
        port: u16,
        /// Hosts tried.
        hosts: u32,
    },
    /// This many ports of the file server, from 1 on.
    Vertical {
        /// Ports tried.
        ports: u16,
    },
    /// One port of this many external addresses.
    Outbound {
        /// Port tried.
        port: u16,
        /// Addresses tried.
        hosts: u32,
    },
    /// Each of some ports, from 8,000 on, of each of some internal hosts, host by host.
    Block {
        /// Ports tried.
        ports: u16,
        /// Hosts tried.
        hosts: u32,
    },
}

/// A scan.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// Tenant index.
    pub tenant: u16,
    /// Host index.
    pub host: u32,
    /// First target.
    pub start_s: u32,
    /// What is tried.
    pub targets: Targets,
    /// Targets per second.
    pub per_s: f64,
    /// Share of targets that answer.
    pub answering: f64,
}

impl Scan {
    /// Internal hosts on the file sharing port.
    pub fn smb(hosts: u32, per_s: f64) -> Self {
        let targets = Targets::Horizontal { port: 445, hosts };
        Self { tenant: 0, host: 0, start_s: 0, targets, per_s, answering: 0.5 }
    }
}

/// A large upload.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Egress {
    /// Tenant index.
    pub tenant: u16,
    /// Host index.
    pub host: u32,
    /// First byte.
    pub start_s: u32,
    /// All begin within this time.
    pub duration_s: u32,
    /// Payload over all flows, octets.
    pub bytes: u64,
    /// Number of flows, at least 1.
    pub flows: u32,
    /// Number of addresses, at least 1.
    pub destinations: u32,
}

impl Egress {
    /// In ten minutes, over 20 flows to one address.
    pub fn burst(bytes: u64) -> Self {
        Self { tenant: 0, host: 0, start_s: 0, duration_s: 600, bytes, flows: 20, destinations: 1 }
    }
}

/// A burst of look-ups of generated names, of which almost none exists.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Names {
    /// Tenant index.
    pub tenant: u16,
    /// Host index.
    pub host: u32,
    /// First look-up.
    pub start_s: u32,
    /// Names asked, each once.
    pub names: u32,
    /// Mean gap (exponential), seconds.
    pub gap_s: f64,
    /// How they are made.
    #[serde(default)]
    pub family: Family,
}

impl Default for Names {
    fn default() -> Self {
        Self { tenant: 0, host: 0, start_s: 0, names: 150, gap_s: 1.5, family: Family::default() }
    }
}

/// A tunnel in DNS names under one domain.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Tenant index.
    pub tenant: u16,
    /// Host index.
    pub host: u32,
    /// First query.
    pub start_s: u32,
    /// Queries, each with a name of its own.
    pub queries: u32,
    /// Mean gap (exponential), seconds.
    pub gap_s: f64,
    /// What the names look like.
    #[serde(default)]
    pub layout: Layout,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self { tenant: 0, host: 0, start_s: 0, queries: 600, gap_s: 0.5, layout: Layout::default() }
    }
}

macro_rules! into_attack {
    ($($kind:ident),*) => { $(impl From<$kind> for Attack {
        fn from(it: $kind) -> Self { Self::$kind(it) }
    })* };
}
into_attack!(Beacon, Scan, Egress, Names, Tunnel, Stay);

impl Attack {
    /// (tenant index, host index, start in seconds).
    pub fn place(&self) -> (u16, u32, u32) {
        match self {
            Self::Beacon(it) => (it.tenant, it.host, it.start_s),
            Self::Scan(it) => (it.tenant, it.host, it.start_s),
            Self::Egress(it) => (it.tenant, it.host, it.start_s),
            Self::Names(it) => (it.tenant, it.host, it.start_s),
            Self::Tunnel(it) => (it.tenant, it.host, it.start_s),
            Self::Stay(it) => (it.tenant, it.host, it.start_s),
        }
    }

    /// The signal kind that would be right: `ndr.lateral` for many internal hosts' administration ports, `ndr.scan` for any
    /// other scan.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Beacon(_) => "ndr.beaconing",
            Self::Scan(Scan { targets: Targets::Horizontal { port, .. }, .. }) if ADMINISTRATION.contains(port) => "ndr.lateral",
            Self::Scan(_) => "ndr.scan",
            Self::Egress(_) => "ndr.egress_volume",
            Self::Names(_) => "ndr.dns_dga",
            Self::Tunnel(_) => "ndr.dns_exfil",
            Self::Stay(_) => "ndr.long_connection",
        }
    }

    /// Kinds that would be right besides: who sweeps hosts for an administration port scans them, too.
    pub fn also(&self) -> &'static [&'static str] {
        match self {
            Self::Scan(_) => &["ndr.scan", "ndr.lateral"],
            _ => &[],
        }
    }

    /// Where it goes, when that is one place: (address or name, port).
    pub fn destination(&self, seed: u64, index: u16) -> (Option<String>, Option<u16>) {
        let home = steps::home(seed, index);
        match self {
            Self::Beacon(Beacon { peer: Peer::Address, port, .. }) => (Some(home.address(0).to_string()), Some(*port)),
            Self::Beacon(Beacon { port, .. }) => (Some(home.name), Some(*port)),
            Self::Scan(Scan { host, targets: Targets::Vertical { .. }, .. }) => {
                (Some(world::server(world::office(*host), Server::Files).to_string()), None)
            }
            Self::Scan(Scan { targets: Targets::Horizontal { port, .. } | Targets::Outbound { port, .. }, .. }) => {
                (None, Some(*port))
            }
            Self::Egress(Egress { destinations: 0 | 1, .. }) => (Some(home.address(0).to_string()), Some(443)),
            Self::Egress(_) => (None, Some(443)),
            Self::Names(_) | Self::Scan(Scan { targets: Targets::Block { .. }, .. }) => (None, None),
            Self::Stay(it) => (Some(home.address(0).to_string()), Some(it.port)),
            Self::Tunnel(_) => (Some(home.name), None),
        }
    }
}
