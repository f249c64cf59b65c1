//! The attacks that can be injected, and what each does step by step. Every parameter is in the plan; nothing here knows
//! which detector is meant to find it, only the kind of signal that would be right ([`Attack::kind`]).

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::SECOND_NS;

use crate::event::{Answer, Outcome, QueryKind, Transport};
use crate::queue::{Call, Out};
use crate::random::mix;
use crate::world::{self, Server};

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
}

impl Default for Names {
    fn default() -> Self {
        Self { tenant: 0, host: 0, start_s: 0, names: 150, gap_s: 1.5 }
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
}

impl Default for Tunnel {
    fn default() -> Self {
        Self { tenant: 0, host: 0, start_s: 0, queries: 600, gap_s: 0.5 }
    }
}

macro_rules! into_attack {
    ($($kind:ident),*) => { $(impl From<$kind> for Attack {
        fn from(it: $kind) -> Self { Self::$kind(it) }
    })* };
}
into_attack!(Beacon, Scan, Egress, Names, Tunnel);

impl Attack {
    /// (tenant index, host index, start in seconds).
    pub fn place(&self) -> (u16, u32, u32) {
        match self {
            Self::Beacon(it) => (it.tenant, it.host, it.start_s),
            Self::Scan(it) => (it.tenant, it.host, it.start_s),
            Self::Egress(it) => (it.tenant, it.host, it.start_s),
            Self::Names(it) => (it.tenant, it.host, it.start_s),
            Self::Tunnel(it) => (it.tenant, it.host, it.start_s),
        }
    }

    /// The signal kind that would be right. An outbound scan has none among probectl's six and is `ndr.scan`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Beacon(_) => "ndr.beaconing",
            Self::Scan(Scan { targets: Targets::Outbound { .. }, .. }) => "ndr.scan",
            Self::Scan(_) => "ndr.lateral",
            Self::Egress(_) => "ndr.egress_volume",
            Self::Names(_) => "ndr.dns_dga",
            Self::Tunnel(_) => "ndr.dns_exfil",
        }
    }

    /// Where it goes, when that is one place: (address or name, port).
    pub fn destination(&self, seed: u64, index: u16) -> (Option<String>, Option<u16>) {
        let home = home(seed, index);
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
            Self::Names(_) => (None, None),
            Self::Tunnel(_) => (Some(home.name), None),
        }
    }

    /// Takes step `count` at `at_ns`; the moment of the next one, `None` after the last.
    pub(crate) fn step(&self, index: u16, out: &mut Out<'_>, at_ns: i64, count: u32) -> Option<i64> {
        let home = home(out.seed, index);
        let from = world::host(self.place().1);
        match self {
            Self::Beacon(it) => it.step(&home, from, out, at_ns, count),
            Self::Scan(it) => it.step(&home, from, out, at_ns, count),
            Self::Egress(it) => it.step(&home, from, out, at_ns, count),
            Self::Names(it) => it.step(from, out, at_ns, count),
            Self::Tunnel(it) => it.step(&home, from, out, at_ns, count),
        }
    }
}

/// Where an attack's addresses and name come from.
struct Home {
    seed: u64,
    word: u64,
    name: String,
}

impl Home {
    fn address(&self, n: u64) -> Address {
        world::hosting(self.seed, self.word.wrapping_add(n))
    }
}

fn home(seed: u64, index: u16) -> Home {
    let word = mix(&[seed, 31, u64::from(index)]);
    Home { seed, word, name: world::rare_name(seed, word) }
}

impl Beacon {
    fn step(&self, home: &Home, from: Address, out: &mut Out<'_>, at_ns: i64, count: u32) -> Option<i64> {
        if !out.random.chance(self.dropout) {
            self.contact(home, from, out, at_ns, count);
        }
        let factor = match self.jitter {
            Jitter::None => 1.0,
            Jitter::OneSided(jitter) => 1.0 - jitter * out.random.unit(),
            Jitter::Symmetric(jitter) => 1.0 + jitter * (2.0 * out.random.unit() - 1.0),
        };
        // A period of nothing would never end.
        let next = at_ns + ((self.period_s * factor).max(0.01) * SECOND_NS as f64) as i64;
        (next < out.start_ns + (i64::from(self.start_s) + i64::from(self.duration_s)) * SECOND_NS).then_some(next)
    }

    fn contact(&self, home: &Home, from: Address, out: &mut Out<'_>, at_ns: i64, count: u32) {
        let noise = 1.0 + self.size_noise * (2.0 * out.random.unit() - 1.0);
        let call = Call {
            at_ns,
            lasts_s: out.random.between(0.15, 0.6),
            from,
            to: home.address(0),
            port: self.port,
            transport: Transport::Tcp,
            outcome: if self.refused { Outcome::Refused } else { Outcome::Complete },
            service: if self.refused || self.port != 443 { "" } else { "ssl" },
            sent: (520.0 * noise) as u64,
            received: (1_400.0 * noise) as u64,
        };
        match self.peer {
            Peer::Address => drop(out.call(call)),
            Peer::Name { addresses } => {
                let to = home.address(u64::from(count) % u64::from(addresses.max(1)));
                if out.random.chance(0.3) {
                    out.lookup(at_ns - 40_000_000, from, &home.name, QueryKind::A, Answer::Address(to));
                }
                let connection = out.call(Call { to, ..call });
                if !self.refused {
                    out.tls(connection, at_ns, &home.name);
                }
            }
            Peer::Proxied => out.proxied(Call { port: self.port, ..call }, &home.name),
        }
    }
}

impl Scan {
    fn step(&self, home: &Home, from: Address, out: &mut Out<'_>, at_ns: i64, count: u32) -> Option<i64> {
        let (to, port, targets) = match self.targets {
            // The host itself is no target; addresses beyond the last host are dark.
            Targets::Horizontal { port, hosts } => (world::host(count + u32::from(count >= self.host)), port, hosts),
            Targets::Vertical { ports } => (world::server(out.office, Server::Files), count as u16 + 1, u32::from(ports)),
            Targets::Outbound { port, hosts } => {
                (world::public(home.seed, home.word.wrapping_add(u64::from(count))), port, hosts)
            }
        };
        let answers = out.random.chance(self.answering);
        let outcome = match (answers, out.random.chance(0.5)) {
            (true, _) => Outcome::Complete,
            (false, true) => Outcome::Refused,
            (false, false) => Outcome::NoReply,
        };
        let (lasts_s, sent, received) = (out.random.between(0.05, 0.4), 180 + out.random.below(200), 240 + out.random.below(400));
        out.call(Call { at_ns, lasts_s, from, to, port, transport: Transport::Tcp, outcome, service: "", sent, received });
        let gap_s = out.random.between(0.8, 1.2) / self.per_s.max(1e-6);
        (count + 1 < targets).then(|| at_ns + (gap_s * SECOND_NS as f64) as i64)
    }
}

impl Egress {
    fn step(&self, home: &Home, from: Address, out: &mut Out<'_>, at_ns: i64, count: u32) -> Option<i64> {
        let flows = self.flows.max(1);
        let spacing_s = f64::from(self.duration_s) / f64::from(flows);
        // The parts add up to the whole exactly.
        let upto = |n: u32| (u128::from(self.bytes) * u128::from(n) / u128::from(flows)) as u64;
        let sent = upto(count + 1) - upto(count);
        let lasts_s = spacing_s * out.random.between(0.7, 0.98);
        let to = home.address(u64::from(count % self.destinations.max(1)));
        out.call(Call {
            at_ns,
            lasts_s,
            from,
            to,
            port: 443,
            transport: Transport::Tcp,
            outcome: Outcome::Complete,
            service: "ssl",
            sent,
            received: 3_000 + sent / 400,
        });
        // Uploads begin when the files are ready, not on a beat: the first of the rest among uniform moments.
        let rest = f64::from(flows - count);
        let share = 1.0 - libm::pow(1.0 - out.random.unit(), 1.0 / rest);
        let left_ns = (out.start_ns + (i64::from(self.start_s) + i64::from(self.duration_s)) * SECOND_NS - at_ns).max(0);
        (count + 1 < flows).then(|| at_ns + (share * left_ns as f64) as i64)
    }
}

impl Names {
    fn step(&self, from: Address, out: &mut Out<'_>, at_ns: i64, count: u32) -> Option<i64> {
        let length = 12 + out.random.below(9) as usize;
        let mut name = text(out, b"abcdefghijklmnopqrstuvwxyz", length);
        name.push_str(".example");
        // The last one is registered.
        let found = count + 1 == self.names;
        let answer = if found { Answer::Address(world::hosting(out.seed, 77)) } else { Answer::NoName };
        out.lookup(at_ns, from, &name, QueryKind::A, answer);
        let gap_s = out.random.exponential(self.gap_s);
        (!found && count < self.names).then(|| at_ns + (gap_s * SECOND_NS as f64) as i64)
    }
}

impl Tunnel {
    fn step(&self, home: &Home, from: Address, out: &mut Out<'_>, at_ns: i64, count: u32) -> Option<i64> {
        const BASE32: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
        let (first, second) = (text(out, BASE32, 58), text(out, BASE32, 40));
        let name = format!("{first}.{second}.t.{}", home.name);
        let reply = text(out, BASE32, 120);
        out.lookup(at_ns, from, &name, QueryKind::Txt, Answer::Text(reply));
        let gap_s = out.random.exponential(self.gap_s);
        (count + 1 < self.queries).then(|| at_ns + (gap_s * SECOND_NS as f64) as i64)
    }
}

fn text(out: &mut Out<'_>, letters: &[u8], length: usize) -> String {
    (0..length).map(|_| out.random.one_of(letters).map_or('a', |&b| char::from(b))).collect()
}
