//! Tunnels in names (detection.md 10.4) and generated names: made-up layouts one axis at a time, captured tunnels and names
//! of tools at other rates, and the generator's own in an office with everything that machines ask for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use tidewatch_generator::attack::{Attack, Names, Tunnel};
use tidewatch_generator::dns::{Family, Layout};
use tidewatch_generator::random::mix;
use tidewatch_generator::{PRESET_START, Plan};
use tidewatch_schemas::signal::Signal;
use tidewatch_schemas::time::EventTime;

use super::interval::wilson;
use super::logs::write_looks;
use super::measure::{Benign, Case, Found, Goal, Origin, Part, Wanted, by_host};
use super::{Context, made, way};
use crate::dns::{Look, PARTS, RATES, START_S, at_rate, capture, slowed, tool_names, tunnels};

const KIND: &str = "ndr.dns_exfil";
/// Seeds of each made-up layout.
const SEEDS: u64 = 5;
/// The pace at which names of tools that were listed without times are asked, as fast tools do.
const NATIVE_QUERIES_S: f64 = 10.0;
/// What the goals want at each rate.
const GOALS: [f64; 3] = [0.95, 0.9, 0.5];

/// One tunnel to run: whose case it is, its look-ups, and the domain under which they are.
pub struct Run {
    /// Its case.
    pub case: usize,
    /// Its look-ups.
    pub looks: Vec<Look>,
    /// The domain under which they are.
    pub domain: String,
    /// Found later than this it is not found, seconds.
    pub within_s: f64,
}

/// A tunnel on a host of its own and under a domain of its own.
pub struct Placed {
    case: usize,
    /// As of [`Run`].
    pub within_s: f64,
    /// What ought to be found.
    pub wanted: Wanted,
    /// Its names, and the octets of each in front of the domain.
    sizes: Vec<(String, usize)>,
}

/// What came of it: its case, how it was found, octets of names until then.
struct Came {
    case: usize,
    found: Option<Found>,
    leaked: usize,
}

/// Puts each tunnel on a host of its own and under a domain of its own: all their look-ups, and each tunnel.
pub fn placed(runs: Vec<Run>) -> (Vec<Look>, Vec<Placed>) {
    let (mut all, mut placed) = (Vec::new(), Vec::new());
    for (n, run) in runs.into_iter().enumerate() {
        let host = format!("10.{}.{}.{}", 30 + n / 62_500, n / 250 % 250, 2 + n % 250);
        let own = format!("{}{n}.{}", &run.domain[..3], run.domain.rsplit('.').next().unwrap_or("example"));
        let mut looks = run.looks;
        for look in &mut looks {
            look.host.clone_from(&host);
            look.name = look.name.replace(&run.domain, &own);
            look.answers = look.answers.replace(&run.domain, &own);
        }
        let contacts: Vec<EventTime> = looks.iter().map(|l| EventTime(l.at_ns)).collect();
        let last = contacts.last().copied().unwrap_or(EventTime::from_secs(START_S));
        let wanted = Wanted { kinds: vec![KIND], host: Some(host), destinations: vec![own.clone()], contacts, last };
        let sizes: Vec<(String, usize)> =
            looks.iter().map(|l| (l.name.clone(), l.name.len().saturating_sub(own.len() + 1))).collect();
        placed.push(Placed { case: run.case, within_s: run.within_s, wanted, sizes });
        all.extend(looks);
    }
    (all, placed)
}

/// Runs tunnels all at once.
fn run(context: &Context, name: &str, runs: Vec<Run>, part: &mut Part) -> Result<Vec<Came>> {
    let dir = context.folder(name)?;
    let (all, placed) = placed(runs);
    write_looks(&dir, all)?;
    let ran = way::run(&dir, &[], &context.rules)?;
    std::fs::remove_dir_all(&dir)?;
    ran.note(name, part);
    part.calibrate(&ran.signals, |s| s.kind == KIND);
    let (hosts, none) = (by_host(&ran.signals), Vec::new());
    let came = placed.into_iter().map(|it| {
        let signals = it.wanted.host.as_deref().and_then(|h| hosts.get(h)).unwrap_or(&none);
        let found = it.wanted.found(signals, false).filter(|f| f.seconds <= it.within_s);
        let names: BTreeSet<&(String, usize)> = it.sizes.iter().take(found.map_or(0, |f| f.contacts as usize)).collect();
        Came { case: it.case, found, leaked: names.iter().map(|(_, bytes)| bytes).sum() }
    });
    Ok(came.collect())
}

/// Fills cases with what came, and says in the note how much had leaked.
fn fill(cases: &mut [Case], came: &[Came]) {
    for one in came {
        cases[one.case].add(one.found, None);
    }
    for (n, case) in cases.iter_mut().enumerate() {
        let mut leaked: Vec<usize> = came.iter().filter(|c| c.case == n && c.found.is_some()).map(|c| c.leaked).collect();
        leaked.sort_unstable();
        if let (Some(middle), Some(most)) = (leaked.get(leaked.len() / 2), leaked.last()) {
            case.note = format!("leaked in names: median {middle} B, most {most} B");
        }
    }
}

/// Made-up layouts: encodings, chunks, places, rhythms and types, one changed at a time, at three rates.
pub fn layouts(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let (mut cases, mut runs, mut of) = (Vec::new(), Vec::new(), Vec::new());
    for (rate, (name, bytes_s, within_s)) in RATES.into_iter().enumerate() {
        for (axis, value, layout) in tunnels::axes() {
            for n in 0..SEEDS {
                let looks = layout.looks(context.seed * 1_000 + n, "carrier.example", bytes_s, within_s);
                runs.push(Run { case: cases.len(), looks, domain: "carrier.example".into(), within_s });
            }
            // Hexadecimal digits, their number and the response at once: what asks for digests of files looks like.
            of.push((rate, axis == "chunks" && layout.code != 0));
            cases.push(Case::of(KIND, "generator, layouts", "-", format!("{name}: {axis} {value}")));
        }
    }
    let came = run(context, "layouts", runs, &mut part)?;
    fill(&mut cases, &came);
    for (rate, (name, ..)) in RATES.into_iter().enumerate() {
        let here: Vec<&Case> = cases.iter().zip(&of).filter(|(_, (r, _))| *r == rate).map(|(c, _)| c).collect();
        let (found, all) = (here.iter().map(|c| c.detected).sum::<usize>(), here.iter().map(|c| c.positives).sum::<usize>());
        part.goals.push(rate_goal(name, rate, found, all, "generator, all layouts"));
        let plain = here.first().map_or(0.0, |c| c.recall());
        let single = cases.iter().zip(&of).filter(|(_, (r, several))| *r == rate && !several).map(|(c, _)| c);
        if let Some(worst) = single.min_by(|a, b| a.recall().total_cmp(&b.recall())) {
            let drop = (plain - worst.recall()) * 100.0;
            let ours = format!("plain {plain:.2}; worst {:.2} ({}), {drop:.0} points less", worst.recall(), worst.case);
            let goal = format!("recall drops by at most 2 points under every perturbation, one at a time [{name}]");
            part.goals.push(Goal::of("4.4", &goal, drop <= 2.0, ours, "classifiers of names: 54 to 99 points"));
        }
        for case in cases.iter().zip(&of).filter(|(_, (r, several))| *r == rate && *several).map(|(c, _)| c) {
            let ours = format!("{} of {} ({})", case.detected, case.positives, case.case);
            let goal = format!("beyond the goal: as digests of files that are not known [{name}]");
            part.goals.push(Goal::of("4.4", &goal, None, ours, ""));
        }
    }
    part.cases.extend(cases);
    Ok(part)
}

fn rate_goal(name: &str, rate: usize, found: usize, all: usize, of: &str) -> Goal {
    let share = found as f64 / all.max(1) as f64;
    let (low, high) = wilson(found, all);
    let within = ["within 10 min", "within 1 h", "within 24 h"][rate];
    let goal = format!("recall {} at {name} {within} [{of}]", GOALS[rate]);
    let ours = format!("{found} of {all} ({share:.3}; 95 % {low:.3} to {high:.3})");
    let peers = ["", "ibHH detects 0.7 B/s", "Nadler et al.: limit about 1 kB/h"][rate];
    Goal::of("4.4", &goal, share >= GOALS[rate], ours, peers)
}

/// The two captured tunnels as they are, and in parts at other rates; names of four tools at three rates and as fast as tools
/// ask.
pub fn captures(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let (mut cases, mut runs) = (Vec::new(), Vec::new());
    // By rate: cases that count for its goal. Native ones apart.
    let mut rated: [Vec<usize>; 3] = Default::default();
    let mut native = Vec::new();
    for (tool, half, file) in
        [("dnscat2", "tuning", "dnscat2-cname_00001_20230903170247.pcap"), ("iodine", "judging", "iodine-cname.pcap")]
    {
        let looks = capture::read(&context.set("dns-tunnel-pcap").join(file))?;
        let domain = looks.first().and_then(|l| tidewatch_operators::names::registered(&l.name).ok());
        let domain = domain.map_or("ggy666.tk", |of| of.domain).to_owned();
        let mut add = |what: String, all: Vec<Vec<Look>>, within_s: f64| {
            let case = cases.len();
            runs.extend(all.into_iter().map(|looks| Run { case, looks, domain: domain.clone(), within_s }));
            cases.push(Case::of(KIND, "dns-tunnel-pcap", half, format!("{tool}, {what}")));
            case
        };
        native.push(add("native rate, whole".into(), vec![slowed(&looks, |gap_ns| gap_ns)], 1e9));
        let parts: Vec<&[Look]> = looks.chunks(looks.len().div_ceil(PARTS)).collect();
        for by in [1, 2, 10, 100] {
            let slow = parts.iter().map(|p| slowed(p, |gap_ns| gap_ns * by)).collect();
            add(format!("parts at 1/{by} of it"), slow, 1e9);
        }
        for (rate, (name, bytes_s, within_s)) in RATES.into_iter().enumerate() {
            let slow = parts.iter().map(|p| at_rate(p, bytes_s, within_s)).collect();
            rated[rate].push(add(format!("parts at {name}"), slow, within_s));
        }
    }
    for (tool, looks) in tool_names(&context.data)? {
        let parts: Vec<&[Look]> = looks.chunks(looks.len().div_ceil(PARTS)).collect();
        let fast = |part: &[Look]| -> Vec<Look> {
            let at = |n: usize| START_S * 1_000_000_000 + (n as f64 / NATIVE_QUERIES_S * 1e9) as i64;
            part.iter().enumerate().map(|(n, l)| Look { at_ns: at(n), ..l.clone() }).collect()
        };
        let mut add = |what: String, all: Vec<Vec<Look>>, within_s: f64| {
            let case = cases.len();
            let domain = "carrier.example".to_owned();
            runs.extend(all.into_iter().map(|looks| Run { case, looks, domain: domain.clone(), within_s }));
            cases.push(Case::of(KIND, "dns-tunnel-names", "judging", format!("{tool}, {what}")));
            case
        };
        native.push(add(format!("{NATIVE_QUERIES_S} names a second"), parts.iter().map(|p| fast(p)).collect(), 1e9));
        for (rate, (name, bytes_s, within_s)) in RATES.into_iter().enumerate() {
            let slow = parts.iter().map(|p| at_rate(p, bytes_s, within_s)).collect();
            rated[rate].push(add(format!("names at {name}"), slow, within_s));
        }
    }
    let came = run(context, "captures", runs, &mut part)?;
    fill(&mut cases, &came);
    for (rate, (name, ..)) in RATES.into_iter().enumerate() {
        let of = |f: fn(&Case) -> usize| rated[rate].iter().map(|n| f(&cases[*n])).sum::<usize>();
        part.goals.push(rate_goal(name, rate, of(|c| c.detected), of(|c| c.positives), "captures and names of tools"));
    }
    let of_native = |n: usize| came.iter().filter(move |c| c.case == n);
    let good = |c: &Came| c.found.is_some_and(|f| f.seconds <= 10.0) && c.leaked <= 2_000;
    let tools: Vec<String> = native
        .iter()
        .map(|n| {
            let worst = of_native(*n)
                .filter_map(|c| c.found.map(|f| (f.seconds, c.leaked)))
                .fold((0.0_f64, 0_usize), |w, c| (w.0.max(c.0), w.1.max(c.1)));
            let missed = of_native(*n).filter(|c| c.found.is_none()).count();
            let missed = if missed > 0 { format!(", {missed} missed") } else { String::new() };
            format!("{} {:.1} s {} B{missed}", cases[*n].case.split(',').next().unwrap_or(""), worst.0, worst.1)
        })
        .collect();
    let met = native.iter().filter(|n| of_native(**n).all(good)).count();
    let ours = format!("{met} of {}, at worst: {}", native.len(), tools.join("; "));
    let peers = "RITA 25.6 s 17.9 kB, 37.0 s 9.6 kB; flowscope 16.3 s 11.7 kB, 31.7 s 7.9 kB";
    part.goals.push(Goal::of(
        "4.4",
        "6 of 6 tools at native rate in 10 s and with 2 kB of names at most",
        met == native.len(),
        ours,
        peers,
    ));
    part.notes.push(format!(
        "tunnels: two tools were captured with times; of the other four only names are there, asked at {NATIVE_QUERIES_S} a second without types and answers. Every tunnel has a host and a domain of its own"
    ));
    part.cases.extend(cases);
    Ok(part)
}

/// The generator's families and layouts in an office with every look-up that machines make.
pub fn office(context: &Context) -> Result<Part> {
    const HOSTS: u32 = 120;
    let mut part = Part::default();
    let seed = context.seed + 400;
    let mut attacks: Vec<Attack> = Vec::new();
    let mut of = Vec::new();
    for family in Family::ALL {
        for gap_s in [1.5, 15.0, 300.0] {
            for _ in 0..4 {
                let n = attacks.len() as u32;
                let start_s = 3_600 + (mix(&[seed, 203, u64::from(n)]) % 14_400) as u32;
                attacks.push(Names { host: n % HOSTS, start_s, names: 80, gap_s, family, ..Names::default() }.into());
                of.push(("ndr.dns_dga", format!("{family:?}, one in {gap_s} s")));
            }
        }
    }
    for layout in Layout::ALL {
        for (queries, gap_s) in [(600, 0.5), (400, 6.0), (300, 60.0)] {
            for _ in 0..4 {
                let n = attacks.len() as u32;
                let start_s = 3_600 + (mix(&[seed, 203, u64::from(n)]) % 14_400) as u32;
                attacks.push(Tunnel { host: n % HOSTS, start_s, queries, gap_s, layout, ..Tunnel::default() }.into());
                of.push((KIND, format!("{layout:?}, one in {gap_s} s")));
            }
        }
    }
    let office = Plan::office(seed, 0, HOSTS, PRESET_START, 86_400);
    let plan = Plan { tenants: vec!["quality".into()], lookups: true, attacks, ..office };
    let dir = context.folder("look-ups")?;
    let queries = made::write(&plan, &made::Renames::new(), &dir)?;
    let ran = way::run(&dir, &[], &context.rules)?;
    std::fs::remove_dir_all(&dir)?;
    ran.note("look-ups", &mut part);
    let wanted = made::wanted(&plan, &made::Renames::new());
    let (hosts, none) = (by_host(&ran.signals), Vec::new());
    let mut cases: BTreeMap<(&str, String), Case> = BTreeMap::new();
    let (mut names, mut words) = (Vec::new(), Vec::new());
    for ((kind, name), wanted) in of.into_iter().zip(&wanted) {
        let Some(wanted) = wanted else { continue };
        let signals = wanted.host.as_deref().and_then(|h| hosts.get(h)).unwrap_or(&none);
        let (alert, low) = (wanted.found(signals, false), wanted.found(signals, true));
        if kind != KIND {
            let list = if name.starts_with("Words") || name.starts_with("Dated") { &mut words } else { &mut names };
            list.push(alert);
        }
        let case = cases.entry((kind, name.clone())).or_insert_with(|| Case::of(kind, "generator, office", "-", name.as_str()));
        case.add(alert, low);
    }
    part.cases.extend(cases.into_values());
    part.goals.push(ten_names(&names, "generator: letters, arithmetic, hexadecimal", true));
    part.goals.push(ten_names(&words, "generator: words and syllables", false));
    let explained = |s: &Signal| wanted.iter().flatten().any(|w| w.explains(s));
    part.calibrate(&ran.signals, explained);
    let others = ran.signals.iter().filter(|s| !explained(s));
    part.benign.push(Benign::of(
        "office around generated names and tunnels",
        Origin::Synthetic,
        f64::from(HOSTS),
        queries,
        others,
    ));
    Ok(part)
}

/// The goal of infected hosts; word lists are reported, not asked for.
pub fn ten_names(of: &[Option<Found>], what: &str, asked: bool) -> Goal {
    let soon = of.iter().flatten().filter(|f| f.contacts <= 10).count();
    let found = of.iter().flatten().count();
    let worst = of.iter().flatten().map(|f| f.contacts).max().unwrap_or(0);
    let (low, high) = wilson(soon, of.len());
    let ours = format!(
        "{soon} of {} within ten names (95 % {low:.3} to {high:.3}), {found} found at all, worst after {worst}",
        of.len()
    );
    let goal = if asked {
        format!("an infection is reported within 10 distinct failing registered domains [{what}]")
    } else {
        format!("word lists, reported apart: within 10 distinct failing registered domains [{what}]")
    };
    Goal::of("3.4", &goal, asked.then_some(soon == of.len()), ours, "Slips 10 NXDOMAIN answers; Maltrail 20 an hour")
}
