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
const SEEDS: u64 = 1;
/// What the goal allows: failed targets, or seconds.
const SWEEP: (u64, f64) = (25, 10.0);

/// Runs it.
pub fn grid(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    let (mut quick, mut slow, mut answered, mut held) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
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
                Attack::Scan(Scan { per_s, answering, .. }) if *per_s >= 1.0 && *answering < 1.0 => quick.push(alert),
                Attack::Scan(Scan { per_s, answering, .. }) if *per_s < 0.01 && *per_s > 0.002 && *answering < 1.0 => {
                    slow.push(alert);
                }
                Attack::Scan(Scan { answering, targets: Targets::Horizontal { .. }, .. }) if *answering >= 1.0 => {
                    answered.push(alert);
                }
                Attack::Stay(_) => held.push(signals.iter().filter(|s| s.severity >= ALERT && wanted.explains(s)).count()),
                _ => {}
            }
        }
        let explained = |s: &Signal| wanted.iter().flatten().any(|w| w.explains(s));
        part.calibrate(&ran.signals, explained);
        // The auditor must be listed by a rule; what is told of it is right.
        let audit: Vec<String> =
            plan.bystanders.iter().filter(|b| b.does == Does::Audit).map(|b| world::host(b.host).to_string()).collect();
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
    part.goals.extend(goals(&quick, &slow, &answered, &held));
    Ok(part)
}

fn named(attack: &Attack) -> (&'static str, String) {
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

fn goals(quick: &[Option<Found>], slow: &[Option<Found>], answered: &[Option<Found>], held: &[usize]) -> Vec<Goal> {
    let within = |f: &Found| f.contacts <= SWEEP.0 || f.seconds <= SWEEP.1;
    let share = |met: usize, of: usize| {
        let (low, high) = wilson(met, of);
        format!("{met} of {of} (95 % {low:.3} to {high:.3})")
    };
    let found = |of: &[Option<Found>]| of.iter().flatten().count();
    let soon = quick.iter().flatten().filter(|f| within(f)).count();
    let late = slow.iter().flatten().filter(|f| f.seconds <= 86_400.0).count();
    let most = quick.iter().flatten().map(|f| f.contacts).max().unwrap_or(0);
    let ours = format!("{}, {} found at all; worst {most} failed targets", share(soon, quick.len()), found(quick));
    vec![
        Goal::of(
            "7",
            "a sweep at 1/s or 100/s within 25 failed targets or 10 s [generator]",
            soon == quick.len(),
            ours,
            "flowscope about 4 failures in a row; Zeek 25 remote, 250 local; Elastic 100 addresses",
        ),
        Goal::of(
            "7",
            "one target per 5 min within 24 h [generator]",
            late == slow.len(),
            share(late, slow.len()),
            "Zeek: state expires after 15 min; sigwood 8 ports over 4 buckets",
        ),
        Goal::of(
            "7",
            "east-west when every connection succeeds [generator]",
            found(answered) == answered.len(),
            share(found(answered), answered.len()),
            "RITA drops internal pairs; Zeek counts failures only",
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
