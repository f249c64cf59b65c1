//! What an attack does, step by step: each wake of its source is one contact, target, flow or query.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::SECOND_NS;

use super::{Attack, Beacon, Egress, Jitter, Names, Peer, Scan, Targets, Tunnel};
use crate::calendar;
use crate::event::{Answer, Outcome, QueryKind, Transport};
use crate::queue::{Call, Out};
use crate::random::mix;
use crate::world::{self, Server};

impl Attack {
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
            Self::Stay(it) => it.step(&home, from, out, at_ns),
        }
    }
}

/// Where an attack's addresses and name come from.
pub(super) struct Home {
    seed: u64,
    word: u64,
    pub(super) name: String,
}

impl Home {
    pub(super) fn address(&self, n: u64) -> Address {
        world::hosting(self.seed, self.word.wrapping_add(n))
    }
}

pub(super) fn home(seed: u64, index: u16) -> Home {
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
            Targets::Block { ports, hosts } => {
                let (n, port) = (count / u32::from(ports.max(1)), count % u32::from(ports.max(1)));
                (world::host(n + u32::from(n >= self.host)), 8_000 + port as u16, hosts * u32::from(ports))
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
        let day = calendar::day_and_second(at_ns).0 as u64;
        let name = self.family.name(out.seed, day, count, &mut out.random);
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
        let (name, kind, answer) = self.layout.query(&mut out.random, home.seed, &home.name, count);
        out.lookup(at_ns, from, &name, kind, answer);
        let gap_s = out.random.exponential(self.gap_s);
        (count + 1 < self.queries).then(|| at_ns + (gap_s * SECOND_NS as f64) as i64)
    }
}
