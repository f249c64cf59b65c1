//! The grid of beacons (detection.md 10.3), injected into an office at work, and pairs without memory as controls.
//!
//! Cells with fewer than five contacts are listed, not counted. A cell ends after [`CONTACTS_MAX`] contacts: what is not
//! found by then is missed, so recall can only come out lower than with all of its life.

use std::collections::HashMap;

use anyhow::Result;
use tidewatch_generator::attack::{Attack, Beacon, Jitter, Peer};
use tidewatch_generator::random::{Random, mix};
use tidewatch_generator::{PRESET_START, Plan, world};
use tidewatch_schemas::signal::Signal;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::interval::wilson;
use super::logs::{Conn, write_conns};
use super::measure::{Benign, Case, Found, Goal, Origin, Part, Wanted, by_host};
use super::{Context, made, way};

const PERIODS_S: [f64; 6] = [30.0, 60.0, 300.0, 3_600.0, 14_400.0, 86_400.0];
const JITTERS: [f64; 6] = [0.0, 0.1, 0.2, 0.37, 0.5, 0.9];
const NOISES: [f64; 3] = [0.0, 0.2, 0.5];
const LIVES_S: [u32; 5] = [1_800, 7_200, 28_800, 86_400, 604_800];
const DROPOUTS: [f64; 2] = [0.0, 0.2];
const CHURNS: [(&str, Peer); 3] = [
    ("one address", Peer::Address),
    ("3 addresses, one SNI", Peer::Name { addresses: 3 }),
    (SHARED, Peer::Name { addresses: 4 }),
];
/// A name of its own under a content network's domain, at addresses that the network's other names have too.
const SHARED: &str = "shared CDN name";
/// Contacts of one cell, at most.
const CONTACTS_MAX: f64 = 300.0;
/// Cells with fewer contacts are not counted.
pub const CONTACTS_MIN: usize = 5;
/// Contacts within which the goal wants a beacon found.
pub const GOAL_CONTACTS: u64 = 30;
/// Hosts of the office; each carries many cells, spread over the days.
pub const HOSTS: u32 = 24;
/// Days of it.
pub const DAYS: u32 = 8;
/// Memoryless pairs: how many of each mean.
const CONTROLS: u32 = 100;
const MEANS_S: [f64; 4] = [30.0, 60.0, 300.0, 3_600.0];

/// One form of a beacon.
#[derive(Clone, Copy)]
pub struct Form {
    period_s: f64,
    jitter: f64,
    symmetric: bool,
    noise: f64,
    life_s: u32,
    dropout: f64,
    churn: &'static str,
    peer: Peer,
}

impl Form {
    /// Contacts that its life has room for.
    pub fn contacts(&self) -> f64 {
        f64::from(self.life_s) / self.period_s
    }

    /// The goal is about its jitter.
    pub fn is_asked(&self) -> bool {
        self.jitter <= 0.5
    }

    /// What it is called.
    pub fn name(&self) -> String {
        let shape = if self.symmetric { "both ways" } else { "one-sided" };
        format!(
            "every {} s, jitter {} {shape}, size noise {}, for {} s, {} lost, {}",
            self.period_s, self.jitter, self.noise, self.life_s, self.dropout, self.churn
        )
    }

    /// The `n`-th of an office.
    pub fn attack(&self, seed: u64, n: u64) -> Attack {
        let duration_s = f64::from(self.life_s).min(CONTACTS_MAX * self.period_s) as u32;
        let room_s = u64::from(DAYS * 86_400 - duration_s).max(1);
        let beacon = Beacon {
            host: n as u32 % HOSTS,
            start_s: (mix(&[seed, 201, n]) % room_s) as u32,
            duration_s,
            period_s: self.period_s,
            jitter: match (self.jitter == 0.0, self.symmetric) {
                (true, _) => Jitter::None,
                (_, true) => Jitter::Symmetric(self.jitter),
                (_, false) => Jitter::OneSided(self.jitter),
            },
            size_noise: self.noise,
            dropout: self.dropout,
            peer: self.peer,
            ..Beacon::default()
        };
        beacon.into()
    }
}

/// The grid with jitter one-sided or both ways; without jitter both are one, and among the one-sided.
pub fn forms(symmetric: bool) -> Vec<Form> {
    let mut out = Vec::new();
    for period_s in PERIODS_S {
        for jitter in JITTERS.into_iter().filter(|j| !symmetric || *j > 0.0) {
            for noise in NOISES {
                for life_s in LIVES_S {
                    for dropout in DROPOUTS {
                        for (churn, peer) in CHURNS {
                            out.push(Form { period_s, jitter, symmetric, noise, life_s, dropout, churn, peer });
                        }
                    }
                }
            }
        }
    }
    out
}

#[derive(Clone, Copy)]
struct Cell {
    form: Form,
    contacts: usize,
    alert: Option<Found>,
    low: Option<Found>,
}

type Group = (String, Box<dyn Fn(&Cell) -> bool>);

/// `period × (1 − jitter × U)`.
pub fn one_sided(context: &Context) -> Result<Part> {
    run(context, "one-sided", false)
}

/// `period × (1 ± jitter)`.
pub fn symmetric(context: &Context) -> Result<Part> {
    run(context, "both ways", true)
}

const KIND: &str = "ndr.beaconing";

fn run(context: &Context, shape: &str, symmetric: bool) -> Result<Part> {
    let seed = context.seed + u64::from(symmetric);
    let forms = forms(symmetric);
    let mut cells: Vec<Cell> = forms.iter().map(|form| Cell { form: *form, contacts: 0, alert: None, low: None }).collect();
    let attacks = forms.iter().zip(0..).map(|(form, n)| form.attack(seed, n)).collect();
    let office = Plan::office(seed, 0, HOSTS, PRESET_START, DAYS * 86_400);
    let plan = Plan { tenants: vec!["quality".into()], attacks, ..office };
    let renames = shared(&plan, &forms);
    let dir = context.folder(if symmetric { "beacons-symmetric" } else { "beacons" })?;
    made::write(&plan, &renames, &dir)?;
    let ran = way::run(&dir, &[], &context.rules)?;
    std::fs::remove_dir_all(&dir)?;
    let mut part = Part::default();
    ran.note(&format!("beacons, {shape}"), &mut part);
    let wanted = made::wanted(&plan, &renames);
    let hosts = by_host(&ran.signals);
    let none = Vec::new();
    let of = |w: &Wanted, low: bool| {
        let signals = w.host.as_deref().and_then(|h| hosts.get(h)).unwrap_or(&none);
        w.found(signals, low)
    };
    for (cell, w) in cells.iter_mut().zip(&wanted) {
        let Some(w) = w else { continue };
        cell.contacts = w.contacts.len();
        (cell.alert, cell.low) = (of(w, false), of(w, true));
    }
    // Names are drawn, so two cells may have one.
    let mut by_name: HashMap<(&str, &str), Vec<&Wanted>> = HashMap::new();
    for w in wanted.iter().flatten() {
        for to in &w.destinations {
            by_name.entry((w.host.as_deref().unwrap_or(""), to)).or_default().push(w);
        }
    }
    let explained = |s: &Signal| {
        let end = s.destination.as_ref();
        let named = [end.and_then(|d| d.domain.as_deref()), end.and_then(|d| d.ip.as_deref())];
        named
            .into_iter()
            .flatten()
            .any(|to| by_name.get(&(s.entity.id.as_str(), to)).is_some_and(|of| of.iter().any(|w| w.explains(s))))
    };
    part.calibrate(&ran.signals, explained);
    let others = ran.signals.iter().filter(|s| !explained(s));
    let set = format!("office around the beacons, {shape}");
    part.benign.push(Benign::of(&set, Origin::Synthetic, f64::from(HOSTS * DAYS), 0, others));
    part.notes.push(format!(
        "beacons, {shape}: {} cells in an office of {HOSTS} hosts for {DAYS} days, seed {seed}; a cell ends after {CONTACTS_MAX} contacts",
        cells.len()
    ));
    judge(&cells, shape, &mut part);
    Ok(part)
}

/// Names and addresses of a content network for the forms that hide behind one.
pub fn shared(plan: &Plan, forms: &[Form]) -> made::Renames {
    let mut renames = made::Renames::new();
    let mut random = Random::of([plan.seed, 204, 0, 0]);
    for (n, (addresses, form)) in made::called(plan).into_iter().zip(forms).enumerate() {
        if form.churn != SHARED {
            continue;
        }
        let (name, _) = plan.attacks[n].destination(plan.seed, n as u16);
        if let Some(name) = name {
            renames.insert(name, format!("d{:010x}.cloudfiles.example", mix(&[plan.seed, 205, n as u64]) & 0xff_ffff_ffff));
        }
        for address in addresses {
            let (_, of_network) = world::part(plan.seed, random.below(world::SITES), &mut random);
            renames.insert(address, of_network.to_string());
        }
    }
    renames
}

/// Pairs without memory, so many of each mean, and what nobody ought to say of them, each with the place of its mean.
pub fn memoryless(seed: u64, of_each: u32) -> (Vec<Conn>, Vec<(usize, Wanted)>) {
    let mut random = Random::of([seed, 206, 0, 0]);
    let (mut conns, mut wanted) = (Vec::new(), Vec::new());
    for (m, mean_s) in MEANS_S.into_iter().enumerate() {
        for n in 0..of_each {
            let (from, to) =
                (world::host(n % HOSTS).to_string(), world::hosting(seed, u64::from(n) + 1_000 * m as u64).to_string());
            let mut at_s = random.unit() * mean_s;
            let mut contacts = Vec::new();
            while contacts.len() < CONTACTS_MAX as usize && at_s < f64::from(DAYS) * 86_400.0 {
                let start_ns = PRESET_START.0 + (at_s * SECOND_NS as f64) as i64;
                contacts.push(EventTime(start_ns));
                conns.push(Conn {
                    start_ns,
                    end_ns: start_ns + 100_000_000 + random.below(400_000_000) as i64,
                    from: from.clone(),
                    from_port: 32_768 + random.below(28_000) as u16,
                    to: to.clone(),
                    to_port: 443,
                    proto: "tcp",
                    state: "SF".into(),
                    history: "ShADadFf".into(),
                    sent: 500 + random.below(40),
                    received: 1_300 + random.below(200),
                    packets_sent: 6,
                    packets_received: 6,
                });
                at_s += random.exponential(mean_s);
            }
            let last = contacts.last().copied().unwrap_or(PRESET_START);
            wanted.push((m, Wanted { kinds: vec![KIND], host: Some(from), destinations: vec![to], contacts, last }));
        }
    }
    (conns, wanted)
}

/// Pairs without memory: nothing about them is a beacon.
pub fn controls(context: &Context) -> Result<Part> {
    let (conns, wanted) = memoryless(context.seed, CONTROLS);
    let dir = context.folder("memoryless")?;
    write_conns(&dir, conns)?;
    let ran = way::run(&dir, &[], &context.rules)?;
    std::fs::remove_dir_all(&dir)?;
    let mut part = Part::default();
    ran.note("memoryless", &mut part);
    part.calibrate(&ran.signals, |_| false);
    let (hosts, none) = (by_host(&ran.signals), Vec::new());
    let mut all = Case::of(KIND, "controls", "-", "");
    for (m, mean_s) in MEANS_S.into_iter().enumerate() {
        let mut case = Case::of(KIND, "controls", "-", format!("memoryless, mean {mean_s} s: alerts ought to be none"));
        for (_, w) in wanted.iter().filter(|(of, _)| *of == m) {
            let signals = w.host.as_deref().and_then(|h| hosts.get(h)).unwrap_or(&none);
            let (alert, low) = (w.found(signals, false), w.found(signals, true));
            case.add(alert, low);
            all.add(alert, low);
        }
        part.cases.push(case);
    }
    let (low, high) = wilson(all.detected, all.positives);
    let ours = format!(
        "{} of {} memoryless pairs alerted ({:.3}; 95 % {low:.3} to {high:.3}), {} with low severity",
        all.detected,
        all.positives,
        all.recall(),
        all.low_only
    );
    let peers = "RITA, flowscope RITA type 1.0; flowscope CV 0-0.17; Elastic 0-0.33";
    part.goals.push(Goal::of("2.4", "Poisson control at most 0.02", all.recall() <= 0.02, ours, peers));
    Ok(part)
}

fn case(cells: &[Cell], set: &str, name: &str, takes: &dyn Fn(&Cell) -> bool) -> Case {
    let mut case = Case::of(KIND, set, "-", name);
    for cell in cells.iter().filter(|c| takes(c)) {
        if cell.contacts < CONTACTS_MIN {
            case.too_few += 1;
        } else {
            case.add(cell.alert, cell.low);
        }
    }
    case
}

fn judge(cells: &[Cell], shape: &str, part: &mut Part) {
    let set = format!("generator, {shape}");
    let mut groups: Vec<Group> = Vec::new();
    groups.push(("all cells".to_owned(), Box::new(|_| true)));
    for p in PERIODS_S {
        groups.push((format!("period {p} s"), Box::new(move |c| c.form.period_s == p)));
    }
    for j in JITTERS {
        groups.push((format!("jitter {:.0} %", j * 100.0), Box::new(move |c| c.form.jitter == j)));
    }
    for n in NOISES {
        groups.push((format!("size noise {:.0} %", n * 100.0), Box::new(move |c| c.form.noise == n)));
    }
    for l in LIVES_S {
        groups.push((format!("life {:.1} h", f64::from(l) / 3_600.0), Box::new(move |c| c.form.life_s == l)));
    }
    for d in DROPOUTS {
        groups.push((format!("{:.0} % lost", d * 100.0), Box::new(move |c| c.form.dropout == d)));
    }
    for (churn, _) in CHURNS {
        groups.push((churn.to_owned(), Box::new(move |c| c.form.churn == churn)));
    }
    groups.push((
        "30 contacts or more, jitter to 50 %".into(),
        Box::new(|c| c.contacts as u64 >= GOAL_CONTACTS && c.form.jitter <= 0.5),
    ));
    groups.push((
        "30 contacts or more, jitter 90 %".into(),
        Box::new(|c| c.contacts as u64 >= GOAL_CONTACTS && c.form.jitter > 0.5),
    ));
    for (name, takes) in &groups {
        let case = case(cells, &set, name, takes.as_ref());
        if case.positives + case.too_few > 0 {
            part.cases.push(case);
        }
    }
    let mut goal = |goal: &str, at_least: f64, within: u64, peers: &str, takes: &dyn Fn(&Cell) -> bool| {
        let of: Vec<&Cell> = cells.iter().filter(|c| c.contacts >= CONTACTS_MIN && takes(c)).collect();
        let found = of.iter().filter(|c| c.alert.is_some_and(|f| f.contacts <= within)).count();
        let low = of.iter().filter(|c| c.alert.is_none() && c.low.is_some()).count();
        let share = found as f64 / of.len().max(1) as f64;
        let (from, to) = wilson(found, of.len());
        let low = if low > 0 { format!("; {low} more only with low severity") } else { String::new() };
        let ours = format!("{found} of {} ({share:.3}; 95 % {from:.3} to {to:.3}){low}", of.len());
        part.goals.push(Goal::of("2.4", &format!("{goal} [{shape}]"), share >= at_least, ours, peers));
    };
    let jittered = |c: &Cell| c.form.jitter <= 0.5 && (60.0..=3_600.0).contains(&c.form.period_s);
    goal(
        "jitter to 50 %, 60 s to 1 h: recall 0.95 within 30 contacts, of cells that have 30",
        0.95,
        GOAL_CONTACTS,
        "flowscope 1; RITA >= .7 1; Elastic 0-1; Sentinel 0-1; sigwood 0-.5",
        &|c| jittered(c) && c.contacts as u64 >= GOAL_CONTACTS,
    );
    goal("the same, of all cells with five contacts or more", 0.95, GOAL_CONTACTS, "", &jittered);
    goal("4 h period over 7 days: recall 0.9, jitter to 50 %", 0.9, u64::MAX, "RITA below 0.7", &|c| {
        c.form.period_s == 14_400.0 && c.form.life_s == 604_800 && c.form.jitter <= 0.5
    });
    goal("4 h period over 7 days: recall 0.9, every jitter", 0.9, u64::MAX, "RITA below 0.7", &|c| {
        c.form.period_s == 14_400.0 && c.form.life_s == 604_800
    });
    goal("2 h life: recall 0.9, jitter to 50 %", 0.9, u64::MAX, "RITA 0", &|c| c.form.life_s == 7_200 && c.form.jitter <= 0.5);
    goal("2 h life: recall 0.9, every jitter", 0.9, u64::MAX, "RITA 0", &|c| c.form.life_s == 7_200);
}
