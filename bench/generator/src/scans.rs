//! The plan in which scans are looked for: every form at every pace, movement, and connections that are held open, among
//! offices at work and hosts that look alike.

use crate::attack::{Attack, Scan, Stay, Targets};
use crate::bystander::{Bystander, Does};
use crate::plan::{PRESET_START, Plan};

const DAY_S: u32 = 86_400;

/// Targets a second, from a burst to one every quarter of an hour.
const PACES: [f64; 5] = [100.0, 1.0, 1.0 / 30.0, 1.0 / 300.0, 1.0 / 900.0];

impl Plan {
    /// Three days of 90 hosts. The first day is quiet: whoever is attacked has a history.
    pub fn scans(seed: u64) -> Self {
        let mut plan = Self::office(seed, 0, 90, PRESET_START, 3 * DAY_S);
        plan.tenants = vec!["acme".to_owned()];
        let mut attacks: Vec<Attack> = Vec::new();
        for per_s in PACES {
            let n = if per_s < 0.002 { 96 } else { 180 };
            let forms = [
                (Targets::Horizontal { port: 8_443, hosts: n }, &[0.0, 0.5, 1.0][..]),
                (Targets::Vertical { ports: n as u16 }, &[0.0, 0.5]),
                (Targets::Outbound { port: 23, hosts: n }, &[0.0, 0.5]),
                (Targets::Block { ports: 12, hosts: n / 12 }, &[0.0, 0.5]),
                (Targets::Horizontal { port: 445, hosts: 40 }, &[0.5, 1.0]),
            ];
            for (targets, shares) in forms {
                for &answering in shares {
                    let host = attacks.len() as u32;
                    let start_s = DAY_S + 1_800 + 300 * host;
                    attacks.push(Scan { tenant: 0, host, start_s, targets, per_s, answering }.into());
                }
            }
        }
        for port in [22, 8_022, 443] {
            let host = attacks.len() as u32;
            attacks.push(Stay { tenant: 0, host, start_s: 3_600, duration_s: 5 * DAY_S / 2, port }.into());
        }
        let does = [Does::Audit, Does::Poll, Does::Printers, Does::PeerToPeer, Does::DeadServer, Does::Crawl];
        let first = attacks.len() as u32;
        plan.bystanders = (first..).zip(does).map(|(host, does)| Bystander { tenant: 0, host, start_s: 600, does }).collect();
        plan.attacks = attacks;
        plan
    }
}
