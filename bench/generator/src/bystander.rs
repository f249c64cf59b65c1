//! Hosts that do what an attack does, by duty or by nature: each looks like a scan to somebody who counts too little. They have no
//! label; an alert about one is a false alarm.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::SECOND_NS;

use crate::event::{Outcome, Transport};
use crate::queue::{Call, Out};
use crate::random::mix;
use crate::world::{self, Server};

/// One such host.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bystander {
    /// Tenant index.
    pub tenant: u16,
    /// Host index.
    pub host: u32,
    /// When it begins.
    pub start_s: u32,
    /// What it does.
    pub does: Does,
}

/// What looks like a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Does {
    /// A vulnerability scanner: 30 ports of 60 hosts every night. Rules must name it (`scanners`).
    Audit,
    /// Monitoring: 60 services every five minutes, of which three are dead.
    Poll,
    /// A driver that looks for printers in its network every hour.
    Printers,
    /// A peer-to-peer client: peers at ports of their own, half of them gone.
    PeerToPeer,
    /// A client of a server that is gone, every 20 s.
    DeadServer,
    /// A crawler: web sites by the thousand, of which a fifth does not answer.
    Crawl,
}

impl Bystander {
    /// Takes a step; the moment of the next.
    pub(crate) fn step(&self, out: &mut Out<'_>, at_ns: i64, count: u32) -> i64 {
        let from = world::host(self.host);
        let lasts_s = out.random.between(0.02, 0.3);
        let call = |to, port, transport, outcome| Call {
            at_ns,
            lasts_s,
            from,
            to,
            port,
            transport,
            outcome,
            service: "",
            sent: 300,
            received: 900,
        };
        let chance = |out: &mut Out<'_>, share: f64| if out.random.chance(share) { Outcome::NoReply } else { Outcome::Complete };
        // The n-th address of the office's client network, itself left out.
        let neighbour = |n: u32| world::host(n + u32::from(n >= self.host));
        let gap_s = match self.does {
            Does::Audit => {
                let outcome = if out.random.chance(0.9) { Outcome::Refused } else { Outcome::Complete };
                out.call(call(neighbour(count / 30 % 60), 1 + (count % 30) as u16 * 37, Transport::Tcp, outcome));
                if count % 1800 == 1799 { 86_400.0 - 1_800.0 * 0.5 } else { 0.5 }
            }
            Does::Poll => {
                let n = count % 60;
                let outcome = if n < 3 { Outcome::NoReply } else { Outcome::Complete };
                out.call(call(neighbour(n), [22, 443, 9090][n as usize % 3], Transport::Tcp, outcome));
                if n == 59 { 300.0 - 59.0 * 0.2 } else { 0.2 }
            }
            Does::Printers => {
                out.call(call(neighbour(count % 200), 161, Transport::Udp, Outcome::NoReply));
                if count % 200 == 199 { 3_600.0 } else { 0.02 }
            }
            Does::PeerToPeer => {
                let peer = mix(&[out.seed, 81, u64::from(self.host), u64::from(count)]);
                let port = if peer.is_multiple_of(8) { 6_881 } else { 1_024 + (peer >> 8) as u16 % 60_000 };
                let outcome = chance(out, 0.5);
                out.call(call(world::public(out.seed, peer), port, Transport::Tcp, outcome));
                out.random.exponential(20.0)
            }
            Does::DeadServer => {
                // An address among the servers' that nobody has.
                let gone = world::server(u16::MAX - 7, Server::Files);
                out.call(call(gone, 445, Transport::Tcp, Outcome::NoReply));
                20.0
            }
            Does::Crawl => {
                let site = mix(&[out.seed, 82, u64::from(self.host), u64::from(count)]);
                let outcome = chance(out, 0.2);
                out.call(call(world::public(out.seed, site), 443, Transport::Tcp, outcome));
                out.random.exponential(10.0)
            }
        };
        at_ns + (gap_s.max(0.01) * SECOND_NS as f64) as i64
    }
}
