//! Large uploads (detection.md 10.6): twice, five and twenty times what a host sends outside on its busiest day, as a burst
//! and over eight hours, over 1, 20 and 200 flows to one and five places; and nightly backups.

use std::collections::BTreeMap;

use anyhow::Result;
use tidewatch_generator::attack::Egress;
use tidewatch_generator::event::Event;
use tidewatch_generator::random::mix;
use tidewatch_generator::{PRESET_START, Plan, Traffic, world};
use tidewatch_schemas::signal::Signal;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::interval::wilson;
use super::measure::{ALERT, Benign, Case, Goal, Origin, Part, by_host};
use super::{Context, made, way};

const KIND: &str = "ndr.egress_volume";
/// Days of history before the transfers.
const HISTORY_DAYS: u32 = 5;
pub const DAYS: u32 = 7;
/// Hosts of a cell: of five times the daily p99, which the goal is about, and of the others.
const HOSTS_GOAL: u32 = 4;
const HOSTS_OTHER: u32 = 1;
/// Hosts with a nightly backup, at two in the morning.
pub const BACKUPS: u32 = 4;
const BACKUP_START_S: u32 = 18 * 3_600;
/// Upload of a video call, kbit/s: little, so that a busy day is no excuse.
const CALL_KBIT_S: u32 = 96;

/// One form of an upload.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    factor: u32,
    slow: bool,
    flows: u32,
    destinations: u32,
}

/// An office with uploads, one on each of the first hosts, and nightly backups on the last ones.
pub struct Made {
    /// Uploads are the first attacks, in the order of their forms.
    pub plan: Plan,
    /// Puts all nights of a backup at one place.
    pub renames: made::Renames,
    /// Octets that each host sends outside on its busiest day of history.
    busiest: BTreeMap<u32, u64>,
}

/// All forms; of five times the daily p99 so many hosts each, of the others so many.
pub fn cells(hosts_goal: u32, hosts_other: u32) -> Vec<Cell> {
    let mut cells = Vec::new();
    for factor in [2, 5, 20] {
        for slow in [false, true] {
            for flows in [1, 20, 200] {
                for destinations in [1, 5] {
                    for _ in 0..if factor == 5 { hosts_goal } else { hosts_other } {
                        cells.push(Cell { factor, slow, flows, destinations });
                    }
                }
            }
        }
    }
    cells
}

/// An office in which these are uploaded.
pub fn uploads(seed: u64, cells: &[Cell]) -> Made {
    let hosts = cells.len() as u32 + BACKUPS;
    let office = Plan::office(seed + 200, 0, hosts, PRESET_START, DAYS * 86_400);
    let mut plan = Plan { tenants: vec!["quality".into()], call_kbit_s: CALL_KBIT_S, ..office };
    let busiest = busiest_days(&plan);
    plan.attacks = cells
        .iter()
        .enumerate()
        .map(|(n, cell)| {
            let host = n as u32;
            let start_s = HISTORY_DAYS * 86_400 + (mix(&[seed, 202, n as u64]) % 28_800) as u32;
            let bytes = busiest.get(&host).copied().unwrap_or(0).max(1 << 20) * u64::from(cell.factor);
            let duration_s = if cell.slow { 28_800 } else { 600 };
            Egress { tenant: 0, host, start_s, duration_s, bytes, flows: cell.flows, destinations: cell.destinations }.into()
        })
        .collect();
    for host in cells.len() as u32..hosts {
        for night in 0..DAYS - 1 {
            let word = mix(&[seed, 207, u64::from(host), u64::from(night)]);
            let start_s = BACKUP_START_S + night * 86_400 + (word % 600) as u32;
            let bytes = (2 << 30) + (word >> 32) % (64 << 20);
            plan.attacks.push(Egress { tenant: 0, host, start_s, duration_s: 1_200, bytes, flows: 1, destinations: 1 }.into());
        }
    }
    // Every night to the same place.
    let mut renames = made::Renames::new();
    let called = made::called(&plan);
    for nights in called[cells.len()..].chunks(DAYS as usize - 1) {
        let Some(place) = nights[0].first() else { continue };
        renames.extend(nights.iter().flatten().map(|address| (address.clone(), place.clone())));
    }
    Made { plan, renames, busiest }
}

/// Which night of the backups a moment belongs to, from two hours before they begin.
pub fn night(at: EventTime) -> usize {
    let after_s = at.since(PRESET_START) / SECOND_NS - i64::from(BACKUP_START_S) + 7_200;
    (after_s.max(0) / 86_400) as usize
}

/// Runs it.
pub fn grid(context: &Context) -> Result<Part> {
    let cells = cells(HOSTS_GOAL, HOSTS_OTHER);
    let Made { plan, renames, busiest } = uploads(context.seed, &cells);
    let hosts = plan.hosts_per_tenant;
    let backups = cells.len() as u32..hosts;
    let dir = context.folder("egress")?;
    made::write(&plan, &renames, &dir)?;
    let ran = way::run(&dir, &[], &context.rules)?;
    std::fs::remove_dir_all(&dir)?;

    let mut part = Part::default();
    ran.note("egress", &mut part);
    let (wanted, by) = (made::wanted(&plan, &renames), by_host(&ran.signals));
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    let mut goal: BTreeMap<bool, Case> = BTreeMap::new();
    for (cell, wanted) in cells.iter().zip(&wanted) {
        let Some(wanted) = wanted else { continue };
        let signals = wanted.host.as_deref().and_then(|h| by.get(h)).map_or(&[][..], Vec::as_slice);
        let (alert, low) = (wanted.found(signals, false), wanted.found(signals, true));
        let shape = if cell.slow { "over 8 h" } else { "in 10 min" };
        for (order, name) in [
            (0, format!("{} times the daily p99, {shape}", cell.factor)),
            (1, format!("{} flows, {shape}", cell.flows)),
            (2, format!("to {} places, {shape}", cell.destinations)),
        ] {
            let case = cases.entry(format!("{order} {name}")).or_insert_with(|| Case::of(KIND, "generator", "-", name.as_str()));
            case.add(alert, low);
        }
        if cell.factor == 5 {
            goal.entry(cell.slow).or_default().add(alert, low);
        }
    }
    part.cases.extend(cases.into_values());
    for (slow, case) in goal {
        let (low, high) = wilson(case.detected, case.positives);
        let ours = format!("{} of {} ({:.3}; 95 % {low:.3} to {high:.3})", case.detected, case.positives, case.recall());
        let what = format!("5x the host's daily p99, {}: recall 0.9", if slow { "slow (8 h)" } else { "burst" });
        part.goals.push(Goal::of(
            "5",
            &what,
            case.recall() >= 0.9,
            ours,
            "no figure; Slips, sigwood 0 alerts on the benign days, flowscope 9",
        ));
    }
    let explained = |s: &Signal| wanted[..cells.len()].iter().flatten().any(|w| w.explains(s));
    part.calibrate(&ran.signals, explained);
    let backup_hosts: Vec<String> = backups.map(|h| world::host(h).to_string()).collect();
    part.goals.push(backups_told(&ran.signals, &backup_hosts, &renames));
    let others = ran.signals.iter().filter(|s| !explained(s) && !backup_hosts.contains(&s.entity.id));
    part.benign.push(Benign::of("office around the uploads", Origin::Synthetic, f64::from(hosts * DAYS), 0, others));
    part.notes.push(format!(
        "egress: the daily p99 of a host is what it sends outside on its busiest of {HISTORY_DAYS} days (median {} MB)",
        middle(&busiest) >> 20
    ));
    Ok(part)
}

/// The nightly backup: how many hosts are told of, night by night.
fn backups_told(signals: &[Signal], hosts: &[String], places: &made::Renames) -> Goal {
    let mut nights = [0_usize; DAYS as usize];
    for host in hosts {
        let mut of_host = [false; DAYS as usize];
        let to_place = |s: &&Signal| {
            let to = s.destination.as_ref().and_then(|d| d.ip.as_ref());
            to.is_some_and(|ip| places.values().any(|place| place == ip))
        };
        let ours = |s: &&Signal| s.kind == KIND && s.entity.id == *host && s.severity >= ALERT;
        for s in signals.iter().filter(ours).filter(to_place) {
            if let Some(night) = of_host.get_mut(night(s.decided_at)) {
                *night = true;
            }
        }
        for (n, told) in of_host.into_iter().enumerate() {
            nights[n] += usize::from(told);
        }
    }
    let met = nights[2..].iter().sum::<usize>() == 0;
    let ours = format!("hosts told of, night by night, of {}: {:?}", hosts.len(), &nights[..DAYS as usize - 1]);
    Goal::of("5", "a nightly backup is silent from its third occurrence on", met, ours, "none models it")
}

/// Octets that each host sends outside on its busiest day of the history.
fn busiest_days(plan: &Plan) -> BTreeMap<u32, u64> {
    let index: BTreeMap<_, u32> = (0..plan.hosts_per_tenant).map(|h| (world::host(h), h)).collect();
    let internal = |a: tidewatch_schemas::address::Address| a.to_string().starts_with("10.");
    let mut days: BTreeMap<(u32, i64), u64> = BTreeMap::new();
    for event in Traffic::new(plan, 0) {
        let Event::Flow(flow) = event else { continue };
        let day = flow.end.since(plan.start) / (86_400 * SECOND_NS);
        if let Some(&host) = index.get(&flow.connection.initiator)
            && day < i64::from(HISTORY_DAYS)
            && flow.bytes_sent > 0
            && !internal(flow.connection.responder)
        {
            *days.entry((host, day)).or_default() += flow.bytes_sent;
        }
    }
    let mut busiest: BTreeMap<u32, u64> = BTreeMap::new();
    for ((host, _), bytes) in days {
        let most = busiest.entry(host).or_default();
        *most = (*most).max(bytes);
    }
    busiest
}

fn middle(values: &BTreeMap<u32, u64>) -> u64 {
    let mut sorted: Vec<u64> = values.values().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}
