//! What is to be generated: a plan says everything, and the same plan gives the same bytes. Presets for the demo, tests and
//! the command are here; what each attack does is in [`crate::attack`].

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::EventTime;

use crate::attack::{Attack, Beacon, Egress, Jitter, Names, Peer, Scan, Targets, Tunnel};
use crate::bystander::Bystander;
use crate::dns::{Family, Layout};
use crate::random::mix;
use crate::synthetic::Synthetic;

/// 2026-03-11T08:00:00Z, a Wednesday: where the presets begin.
pub const PRESET_START: EventTime = EventTime::from_secs(1_773_216_000);
/// Most tenants of a plan.
pub const TENANTS_MAX: u32 = 10_000;

/// Everything that decides what is generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Names all streams of random numbers.
    pub seed: u64,
    /// First moment.
    pub start: EventTime,
    /// Length, seconds. What is still open then is cut and marked so.
    pub duration_s: u32,
    /// Tenant ids; all tenants have the same internal addresses.
    pub tenants: Vec<String>,
    /// Client hosts of each tenant; servers come on top.
    pub hosts_per_tenant: u32,
    /// Upload of a video call, kbit/s. The volume detectors' ordinary competitor.
    pub call_kbit_s: u32,
    /// Share of hosts that browse through the proxy, which only formats with HTTP can look behind.
    pub proxied_share: f64,
    /// End after this many connections (or parts of long ones).
    pub flows_max: Option<u64>,
    /// Hosts ask for everything that ordinary machines ask for (failing, numbered, digests), not only for what they visit.
    #[serde(default)]
    pub lookups: bool,
    /// What is injected.
    pub attacks: Vec<Attack>,
    /// What looks like an attack and is none.
    #[serde(default)]
    pub bystanders: Vec<Bystander>,
}

impl Plan {
    /// An office of any size with every kind of attack once per tenant.
    pub fn office(seed: u64, tenants: u32, hosts_per_tenant: u32, start: EventTime, duration_s: u32) -> Self {
        let mut plan = Self {
            seed,
            start,
            duration_s,
            tenants: (0..tenants.min(TENANTS_MAX)).map(|i| format!("tenant-{}", i + 1)).collect(),
            hosts_per_tenant,
            call_kbit_s: 1_200,
            proxied_share: 0.2,
            flows_max: None,
            lookups: false,
            attacks: Vec::new(),
            bystanders: Vec::new(),
        };
        for tenant in 0..plan.tenants.len() as u16 {
            plan.attacks.extend(every_attack(&plan, tenant));
        }
        plan
    }

    /// The same with all the look-ups that ordinary machines make, and once per tenant each family of generated names and
    /// each layout of a tunnel, the tunnels slow and quick in turn.
    pub fn with_dns(mut self) -> Self {
        self.lookups = true;
        for tenant in 0..self.tenants.len() as u16 {
            let attacks = dns_attacks(&self, tenant);
            self.attacks.extend(attacks);
        }
        self
    }

    /// The demo: a working day of 8 hours, 3 tenants with 40 hosts each, 8 attacks that flow records alone show and two that
    /// look-ups do.
    pub fn demo(seed: u64) -> Self {
        let mut plan = Self::office(seed, 0, 40, PRESET_START, 8 * 3_600);
        plan.tenants = ["acme", "brook", "cedar"].map(str::to_owned).to_vec();
        plan.call_kbit_s = 96;
        plan.proxied_share = 0.0;
        let beacon = Beacon::default();
        plan.attacks = vec![
            Beacon { tenant: 0, host: 4, start_s: 1_500, duration_s: 10_800, period_s: 60.0, ..beacon }.into(),
            Scan { tenant: 0, host: 11, start_s: 9_000, ..Scan::smb(34, 1.0) }.into(),
            Beacon { tenant: 0, host: 23, start_s: 5_400, duration_s: 2_700, period_s: 11.4, ..Beacon::failing() }.into(),
            Beacon {
                tenant: 1,
                host: 7,
                start_s: 2_400,
                duration_s: 21_600,
                period_s: 300.0,
                jitter: Jitter::OneSided(0.3),
                ..beacon
            }
            .into(),
            Egress { tenant: 1, host: 19, start_s: 21_600, ..Egress::burst(3 << 30) }.into(),
            Beacon {
                tenant: 2,
                host: 15,
                start_s: 1_200,
                duration_s: 25_200,
                period_s: 900.0,
                jitter: Jitter::Symmetric(0.2),
                ..beacon
            }
            .into(),
            Scan {
                tenant: 2,
                host: 30,
                start_s: 12_600,
                targets: Targets::Horizontal { port: 3389, hosts: 16 },
                per_s: 0.05,
                answering: 1.0,
            }
            .into(),
            Egress { tenant: 2, host: 2, start_s: 24_300, ..Egress::burst(2 << 30) }.into(),
            Names { tenant: 1, host: 33, start_s: 16_200, names: 60, gap_s: 4.0, family: Family::Arithmetic }.into(),
            Tunnel { tenant: 0, host: 36, start_s: 19_800, queries: 200, gap_s: 6.0, layout: Layout::Hex }.into(),
        ];
        plan
    }

    /// Small enough for a test: 2 tenants with 12 hosts each, 3 hours, 5 attacks.
    pub fn small(seed: u64) -> Self {
        let mut plan = Self::office(seed, 0, 12, PRESET_START, 3 * 3_600);
        plan.tenants = ["acme", "brook"].map(str::to_owned).to_vec();
        plan.call_kbit_s = 96;
        plan.proxied_share = 0.0;
        let beacon = Beacon::default();
        plan.attacks = vec![
            Beacon { tenant: 0, host: 3, start_s: 1_800, duration_s: 5_400, period_s: 60.0, ..beacon }.into(),
            Scan { tenant: 0, host: 5, start_s: 4_000, ..Scan::smb(30, 1.0) }.into(),
            Egress { tenant: 0, host: 8, start_s: 9_000, ..Egress::burst(1 << 30) }.into(),
            Beacon { tenant: 1, host: 2, start_s: 900, duration_s: 9_000, period_s: 300.0, ..beacon }.into(),
            Tunnel { tenant: 1, host: 6, start_s: 3_000, ..Tunnel::default() }.into(),
        ];
        plan
    }

    /// Flow records without meaning, as fast as they can be written: for measuring what a row costs.
    pub fn bench(flows: u64, pairs: u64) -> Synthetic {
        Synthetic { flows, pairs, ..Synthetic::default() }
    }

    /// One moment after the last.
    pub fn end(&self) -> EventTime {
        self.start.plus(i64::from(self.duration_s) * tidewatch_schemas::time::SECOND_NS)
    }

    /// Id of a tenant by index; empty for an index the plan does not have.
    pub fn tenant(&self, index: u16) -> &str {
        self.tenants.get(usize::from(index)).map_or("", String::as_str)
    }
}

/// One of each, on hosts that the seed picks, spread over the time there is.
fn every_attack(plan: &Plan, tenant: u16) -> Vec<Attack> {
    let hosts = u64::from(plan.hosts_per_tenant.max(1));
    let first = mix(&[plan.seed, 21, u64::from(tenant)]) % hosts;
    // A stride through the hosts keeps attacks on different ones as long as there are enough.
    let stride = (hosts / 12).max(1);
    let host = |n: u64| ((first + n * stride) % hosts) as u32;
    let at = |share: f64| (f64::from(plan.duration_s) * share) as u32;
    let part = |share: f64| at(share).max(60);
    let beacon = |n: u64, period_s: f64| Beacon {
        tenant,
        host: host(n),
        start_s: at(0.05 + 0.02 * n as f64),
        duration_s: part(0.7),
        period_s,
        ..Beacon::default()
    };
    let scan = |n: u64, targets: Targets, per_s: f64| Scan {
        tenant,
        host: host(n),
        start_s: at(0.3 + 0.05 * n as f64 / 2.0),
        targets,
        per_s,
        answering: 0.5,
    };
    let names = |n: u64, start: f64| Names { tenant, host: host(n), start_s: at(start), ..Names::default() };
    vec![
        beacon(0, 60.0).into(),
        Beacon { jitter: Jitter::OneSided(0.3), ..beacon(1, 300.0) }.into(),
        Beacon { jitter: Jitter::Symmetric(0.2), ..beacon(2, 900.0) }.into(),
        Beacon { duration_s: part(0.7).min(3_000), ..Beacon { start_s: at(0.4), host: host(3), tenant, ..Beacon::failing() } }
            .into(),
        Beacon { peer: Peer::Name { addresses: 3 }, ..beacon(4, 120.0) }.into(),
        Beacon { peer: Peer::Proxied, jitter: Jitter::Symmetric(0.2), ..beacon(5, 250.0) }.into(),
        scan(6, Targets::Horizontal { port: 445, hosts: 40 }, 2.0).into(),
        scan(7, Targets::Vertical { ports: 400 }, 10.0).into(),
        scan(8, Targets::Outbound { port: 22, hosts: 200 }, 5.0).into(),
        Egress { tenant, host: host(9), start_s: at(0.8), ..Egress::burst(6 << 30) }.into(),
        Egress {
            tenant,
            host: host(10),
            start_s: at(0.6),
            duration_s: part(0.35).min(8 * 3_600),
            bytes: 4 << 30,
            flows: 200,
            destinations: 5,
        }
        .into(),
        names(11, 0.5).into(),
        Tunnel { tenant, host: host(12), start_s: at(0.65), ..Tunnel::default() }.into(),
    ]
}

/// Each family and each layout once, on hosts that the seed picks.
fn dns_attacks(plan: &Plan, tenant: u16) -> Vec<Attack> {
    let hosts = u64::from(plan.hosts_per_tenant.max(1));
    let first = mix(&[plan.seed, 22, u64::from(tenant)]) % hosts;
    let stride = (hosts / 10).max(1);
    let host = |n: u64| ((first + n * stride) % hosts) as u32;
    let at = |n: u64| (f64::from(plan.duration_s) * (0.1 + 0.05 * n as f64)) as u32;
    let families = Family::ALL.into_iter().zip(0..).map(|(family, n)| {
        let gap_s = [1.5, 4.0, 15.0, 60.0, 2.0][n as usize % 5];
        Names { tenant, host: host(n), start_s: at(n), names: 80, gap_s, family }.into()
    });
    let tunnels = Layout::ALL.into_iter().zip(5..).map(|(layout, n)| {
        let (queries, gap_s) = [(600, 0.5), (200, 6.0), (150, 20.0), (400, 1.0), (300, 12.0)][n as usize % 5];
        Tunnel { tenant, host: host(n), start_s: at(n), queries, gap_s, layout }.into()
    });
    families.chain(tunnels).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn presets_begin_on_a_working_morning_and_survive_json() {
        assert_eq!(PRESET_START.to_rfc3339(), "2026-03-11T08:00:00Z");
        let office = Plan::office(3, 2, 50, PRESET_START, 86_400);
        for plan in [Plan::demo(1), Plan::small(2), office.clone(), office.with_dns()] {
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        }
    }
}
