//! The generator's scans (detection.md 10.6): every form at every pace, movement, held connections, and hosts that look like
//! scanners and are none.

use std::collections::BTreeMap;

use anyhow::Result;
use tidewatch_generator::attack::{Attack, Scan, Stay, Targets};
use tidewatch_generator::bystander::Does;
use tidewatch_generator::{Plan, world};
use tidewatch_schemas::signal::Signal;

use super::interval::wilson;
use super::measure::{ALERT, Benign, Case, Found, Goal, Origin, Part, by_host};
use super::{Context, made, way};

/// Seeds measured: this many from the command's on.
const SEEDS: u64 = 2;
/// What the goal allows: failed targets, or seconds.
const SWEEP: (u64, f64) = (25, 10.0);

/// Runs it.
pub fn grid(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    let mut held = Vec::new();
    let [mut quick, mut blocks, mut slow, mut answered, mut other_ports] = [const { Vec::new() }; 5];
    for n in 0..SEEDS {
        let seed = context.seed + 100 + n;
        let plan = Plan::scans(seed);
        let dir = context.folder(&format!("scans-{n}"))?;
        made::write(&plan, &made::Renames::new(), &dir)?;
        let ran = way::run(&dir, &[], &context.rules)?;
        std::fs::remove_dir_all(&dir)?;
        ran.note("scans", &mut part);
        let (wanted, hosts) = (made::wanted(&plan, &made::Renames::new()), by_host(&ran.signals));
        for (attack, wanted) in plan.attacks.iter().zip(&wanted) {
            let Some(wanted) = wanted else { continue };
            let signals: &[&Signal] = wanted.host.as_deref().and_then(|h| hosts.get(h)).map_or(&[], Vec::as_slice);
            let (alert, low) = (wanted.found(signals, false), wanted.found(signals, true));
            let (kind, name) = named(attack);
            let case = cases.entry(format!("{kind} {name}")).or_insert_with(|| Case::of(kind, "generator", "-", name.as_str()));
            case.add(alert, low);
            match attack {
                Attack::Scan(it) if it.answering < 1.0 && it.per_s >= 1.0 => match it.targets {
                    Targets::Block { .. } => blocks.push(alert),
                    _ => quick.push(alert),
                },
                Attack::Scan(it) if it.answering < 1.0 && (0.002..0.01).contains(&it.per_s) => slow.push(alert),
                Attack::Scan(it) if it.answering >= 1.0 => match it.targets {
                    Targets::Horizontal { port: 445, .. } => answered.push(alert),
                    _ => other_ports.push(alert),
                },
                Attack::Stay(_) => held.push(signals.iter().filter(|s| s.severity >= ALERT && wanted.explains(s)).count()),
                _ => {}
            }
        }
        let explained = |s: &Signal| wanted.iter().flatten().any(|w| w.explains(s));
        // The auditor must be listed by a rule; what is told of it is right.
        let audit: Vec<String> =
            plan.bystanders.iter().filter(|b| b.does == Does::Audit).map(|b| world::host(b.host).to_string()).collect();
        part.calibrate(&ran.signals, |s| explained(s) || audit.contains(&s.entity.id));
        let others = ran.signals.iter().filter(|s| !explained(s) && !audit.contains(&s.entity.id));
        let days = f64::from(plan.hosts_per_tenant) * f64::from(plan.duration_s) / 86_400.0;
        part.benign.push(Benign::of(
            &format!("office around the scans, with hosts that look alike, seed {seed}"),
            Origin::Synthetic,
            days,
            0,
            others,
        ));
    }
    part.cases.extend(cases.into_values());
    part.goals.extend(goals([&quick, &blocks, &slow, &answered, &other_ports], &held));
    Ok(part)
}

/// The kind of signal that is right, and what the attack is called.
pub fn named(attack: &Attack) -> (&'static str, String) {
    match attack {
        Attack::Scan(Scan { targets, per_s, answering, .. }) => {
            let pace = if *per_s >= 1.0 { format!("{per_s:.0} a second") } else { format!("one in {:.0} s", 1.0 / per_s) };
            let form = match targets {
                Targets::Horizontal { port: 445, .. } => "movement to port 445",
                Targets::Horizontal { .. } => "horizontal, internal",
                Targets::Vertical { .. } => "vertical",
                Targets::Outbound { .. } => "horizontal, outbound",
                Targets::Block { .. } => "block",
            };
            (attack.kind(), format!("{form}, {:.0} % answering, {pace}", answering * 100.0))
        }
        Attack::Stay(Stay { port, .. }) => (attack.kind(), format!("held for 2.5 days, port {port}")),
        _ => (attack.kind(), String::new()),
    }
}

fn goals([quick, blocks, slow, answered, other_ports]: [&[Option<Found>]; 5], held: &[usize]) -> Vec<Goal> {
    let within = |f: &&Found| f.contacts <= SWEEP.0 || f.seconds <= SWEEP.1;
    let share = |met: usize, of: &[Option<Found>]| {
        let (low, high) = wilson(met, of.len());
        format!("{met} of {} (95 % {low:.3} to {high:.3})", of.len())
    };
    let found = |of: &[Option<Found>]| of.iter().flatten().count();
    let soon = |of: &[Option<Found>]| of.iter().flatten().filter(within).count();
    let most = |of: &[Option<Found>]| of.iter().flatten().map(|f| f.contacts).max().unwrap_or(0);
    let late = slow.iter().flatten().filter(|f| f.seconds <= 86_400.0).count();
    let peers = "flowscope about 4 failures in a row; Zeek 25 remote, 250 local; Elastic 100 addresses";
    let goal = |goal: &str, met: Option<bool>, ours: String, peers: &str| Goal::of("7", goal, met, ours, peers);
    let swept = format!("{}, {} found at all; most failed targets {}", share(soon(quick), quick), found(quick), most(quick));
    let blocked = format!("{}, {} found at all; most failed pairs {}", share(soon(blocks), blocks), found(blocks), most(blocks));
    vec![
        goal(
            "a sweep over targets or ports at 1/s or 100/s within 25 failed targets or 10 s [generator]",
            Some(soon(quick) == quick.len()),
            swept,
            peers,
        ),
        goal(
            "beyond the goal: 12 ports of each target, host by host, within 25 failed pairs or 10 s [generator]",
            None,
            blocked,
            "",
        ),
        goal(
            "one target per 5 min within 24 h [generator]",
            Some(late == slow.len()),
            share(late, slow),
            "Zeek: state expires after 15 min; sigwood 8 ports over 4 buckets",
        ),
        goal(
            "east-west to an administration port when every connection succeeds, 100/s to one in 15 min [generator]",
            Some(found(answered) == answered.len()),
            share(found(answered), answered),
            "RITA drops internal pairs; Zeek counts failures only",
        ),
        goal(
            "beyond the goal: the same to another port (slower than one in 30 s it is told with low severity) [generator]",
            None,
            share(found(other_ports), other_ports),
            "",
        ),
        Goal::of(
            "8",
            "an interactive connection open for days is reported exactly once [generator, 2.5 days]",
            held.iter().all(|n| *n == 1),
            format!("alerts about each: {held:?}"),
            "RITA re-reports hourly; Slips at 1,500 s",
        ),
    ]
}
