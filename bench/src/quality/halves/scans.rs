//! A half's scans and movement: the plan of scans, movement to more ports and fewer hosts, captured scans; among hosts that look
//! alike and are none, and administrators at work.

use anyhow::Result;
use tidewatch_generator::attack::{Attack, Scan, Targets};
use tidewatch_generator::bystander::{Bystander, Does};
use tidewatch_generator::zeek::Log;
use tidewatch_generator::{PRESET_START, Plan, world};
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::signal::Signal;

use super::super::measure::Wanted;
use super::super::scans::named;
use super::super::{Context, captured, made, way};
use super::tally::{Around, Soon, Tally, Truth};
use super::{Half, ordinary};

/// Hosts that neither attack nor look alike.
const OTHERS: u32 = 12;
const DAYS: u32 = 3;
const DAY_S: u32 = 86_400;
/// Movement besides the plan's: ports, hosts reached, targets a second, share that answers.
const PORTS: [u16; 4] = [22, 445, 3_389, 5_985];
const REACHED: [u32; 4] = [8, 12, 20, 40];
const PACES: [f64; 3] = [1.0, 1.0 / 30.0, 1.0 / 300.0];
const ANSWERING: [f64; 2] = [0.5, 1.0];
/// Administrators, of whom nobody ought to speak: they log on to so many machines, once on each of two days, all answering.
const ADMINISTERED: [u32; 4] = [3, 5, 7, 9];
const ADMINISTERED_GAP_S: [f64; 3] = [15.0, 60.0, 300.0];
/// What the goal allows to a sweep at one target a second or more: seconds, or failed targets.
const SWEEP: (f64, u64) = (10.0, 25);

pub fn material(context: &Context, half: Half, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    let seed = half.seed(context);
    let mut forms: Vec<Attack> = Plan::scans(seed).attacks.into_iter().filter(|a| matches!(a, Attack::Scan(_))).collect();
    for port in PORTS {
        for hosts in REACHED {
            for per_s in PACES {
                for answering in ANSWERING {
                    let targets = Targets::Horizontal { port, hosts };
                    forms.push(Scan { tenant: 0, host: 0, start_s: 0, targets, per_s, answering }.into());
                }
            }
        }
    }
    let name = |attack: &Attack| match attack {
        Attack::Scan(it) => format!("{} {:?}", named(attack).1, it.targets),
        _ => String::new(),
    };
    let mut attacks = half.of(forms, name);
    for (attack, host) in attacks.iter_mut().zip(0..) {
        if let Attack::Scan(it) = attack {
            (it.host, it.start_s) = (host, DAY_S + 1_800 + 200 * host);
        }
    }
    let told = attacks.len();
    let mut work: Vec<(u16, u32, f64)> = Vec::new();
    for port in [22, 3_389, 5_985] {
        work.extend(ADMINISTERED.into_iter().flat_map(|hosts| ADMINISTERED_GAP_S.map(|gap_s| (port, hosts, gap_s))));
    }
    let name = |(port, hosts, gap_s): &(u16, u32, f64)| format!("administers {hosts} by port {port}, one in {gap_s} s");
    for ((port, hosts, gap_s), host) in half.of(work, name).into_iter().zip(told as u32..) {
        let targets = Targets::Horizontal { port, hosts };
        for day in 1..DAYS {
            let start_s = day * DAY_S + 3_600 + 300 * (host - told as u32);
            attacks.push(Scan { tenant: 0, host, start_s, targets, per_s: 1.0 / gap_s, answering: 1.0 }.into());
        }
    }
    let first = 1 + attacks.iter().map(|a| a.place().1).max().unwrap_or(0);
    let does = [Does::Audit, Does::Poll, Does::Printers, Does::PeerToPeer, Does::DeadServer, Does::Crawl];
    let bystanders: Vec<Bystander> =
        (first..).zip(does).map(|(host, does)| Bystander { tenant: 0, host, start_s: 600, does }).collect();
    let hosts = first + does.len() as u32 + OTHERS;
    let office = Plan::office(seed, 0, hosts, PRESET_START, DAYS * DAY_S);
    let plan = Plan { tenants: vec!["quality".into()], attacks, bystanders, ..office };
    let dir = context.folder(&format!("half-{}-scans", half.name()))?;
    made::write_logs(&plan, &made::Renames::new(), &dir, &[Log::Conn])?;
    let ran = way::run(&dir, &[], rules)?;
    std::fs::remove_dir_all(&dir)?;
    let wanted = made::wanted(&plan, &made::Renames::new());
    let truth = |(attack, wanted): (&Attack, Option<Wanted>)| {
        let soon = match attack {
            Attack::Scan(Scan { targets: Targets::Block { .. }, .. }) => Soon::Ever,
            Attack::Scan(it) if it.per_s >= 1.0 && it.answering < 1.0 => Soon::Either(SWEEP.0, SWEEP.1),
            _ => Soon::Ever,
        };
        Some(Truth { kind: attack.kind(), wanted: wanted?, soon })
    };
    let truths: Vec<Truth> = plan.attacks.iter().zip(wanted).take(told).filter_map(truth).collect();
    // The auditor must be listed by a rule.
    let audit = world::host(first).to_string();
    tally.take(&ran, &truths, Around::Generated(f64::from(hosts * DAYS)), |s: &Signal| s.entity.id != audit);

    if context.has_sets() {
        let mut all = captured::scans(context, &format!("half-{}", half.name()))?;
        all.push(captured::nmap(context)?);
        for it in half.of(all, |it| it.name.clone()) {
            let ran = way::run(&it.dir, &it.internal, rules)?;
            tally.take(&ran, &[Truth::of("ndr.scan", it.wanted)], Around::Nothing, |_| true);
        }
    }
    ordinary::days(context, half, "scans", rules, tally)
}
