//! A half's generated names and tunnels: in an office with all that machines ask for, listed families, made-up layouts, tools;
//! and look-ups of a crawl.

use anyhow::Result;
use tidewatch_generator::attack::{Attack, Names, Tunnel};
use tidewatch_generator::dns::{Family, Layout};
use tidewatch_generator::random::mix;
use tidewatch_generator::zeek::Log;
use tidewatch_generator::{PRESET_START, Plan};
use tidewatch_operators::rule::Rule;

use super::super::logs::write_looks;
use super::super::look_ups::{Run, placed};
use super::super::{Context, families, made, way};
use super::tally::{Around, Soon, Tally, Truth};
use super::{Half, ordinary};
use crate::dns::{Look, PARTS, RATES, at_rate, capture, tool_names, tunnels};

const NAMES: &str = "ndr.dns_dga";
const DATA: &str = "ndr.dns_exfil";
/// Failing registered domains within which an infection is to be reported.
const TEN: u64 = 10;
/// Of each form in the office.
const REPEATS: u32 = 4;
/// Hosts of the office that nobody attacks.
const OTHERS: u32 = 40;
/// Seeds of each made-up layout.
const SEEDS: u64 = 2;

pub fn material(context: &Context, half: Half, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    office(context, half, rules, tally)?;
    if context.has_sets() {
        listed(context, half, rules, tally)?;
    }
    carried(context, half, rules, tally)?;
    ordinary::crawl(context, half, rules, tally)?;
    ordinary::days(context, half, "look-ups", rules, tally)
}

fn office(context: &Context, half: Half, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    let seed = half.seed(context) + 400;
    let names = Family::ALL.into_iter().flat_map(|family| {
        [1.5, 15.0, 300.0].map(|gap_s| -> Attack { Names { names: 80, gap_s, family, ..Names::default() }.into() })
    });
    let tunnels = Layout::ALL.into_iter().flat_map(|layout| {
        [(600, 0.5), (400, 6.0), (300, 60.0)]
            .map(|(queries, gap_s)| -> Attack { Tunnel { queries, gap_s, layout, ..Tunnel::default() }.into() })
    });
    let name = |attack: &Attack| format!("{attack:?}");
    let mut forms = half.of(names.collect(), name);
    forms.extend(half.of(tunnels.collect(), name));
    let mut attacks: Vec<Attack> = Vec::new();
    for mut form in forms {
        for _ in 0..REPEATS {
            let n = attacks.len() as u32;
            let at_s = 3_600 + (mix(&[seed, 203, u64::from(n)]) % 14_400) as u32;
            match &mut form {
                Attack::Names(it) => (it.host, it.start_s) = (n, at_s),
                Attack::Tunnel(it) => (it.host, it.start_s) = (n, at_s),
                _ => {}
            }
            attacks.push(form.clone());
        }
    }
    let hosts = attacks.len() as u32 + OTHERS;
    let office = Plan::office(seed, 0, hosts, PRESET_START, 86_400);
    let plan = Plan { tenants: vec!["quality".into()], lookups: true, attacks, ..office };
    let dir = context.folder(&format!("half-{}-look-ups", half.name()))?;
    made::write_logs(&plan, &made::Renames::new(), &dir, &[Log::Dns])?;
    let ran = way::run(&dir, &[], rules)?;
    std::fs::remove_dir_all(&dir)?;
    let wanted = made::wanted(&plan, &made::Renames::new());
    let truth = |(attack, wanted): (&Attack, Option<_>)| {
        let soon = if attack.kind() == NAMES { Soon::Contacts(TEN) } else { Soon::Ever };
        Some(Truth { kind: attack.kind(), wanted: wanted?, soon })
    };
    let truths: Vec<Truth> = plan.attacks.iter().zip(wanted).filter_map(truth).collect();
    tally.take(&ran, &truths, Around::Generated(f64::from(hosts)), |_| true);
    Ok(())
}

/// Whole hosts of listed families, by family.
fn listed(context: &Context, half: Half, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    let all = families::listed(context)?;
    let ours = half.of(all.into_iter().collect(), |(family, _)| family.clone());
    let (looks, wanted) = families::infected(&ours);
    let dir = context.folder(&format!("half-{}-families", half.name()))?;
    write_looks(&dir, looks)?;
    let ran = way::run(&dir, &[], rules)?;
    std::fs::remove_dir_all(&dir)?;
    let truths: Vec<Truth> =
        wanted.into_iter().map(|(_, wanted)| Truth { kind: NAMES, wanted, soon: Soon::Contacts(TEN) }).collect();
    tally.take(&ran, &truths, Around::Nothing, |_| true);
    Ok(())
}

/// Made-up layouts by what is changed, and tools by name, at three rates.
fn carried(context: &Context, half: Half, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    let mut runs = Vec::new();
    for (_, _, layout) in half.of(tunnels::axes(), |(axis, value, _)| format!("{axis} {value}")) {
        for (_, bytes_s, within_s) in RATES {
            for n in 0..SEEDS {
                let looks = layout.looks(half.seed(context) * 1_000 + n, "carrier.example", bytes_s, within_s);
                runs.push(Run { case: 0, looks, domain: "carrier.example".into(), within_s });
            }
        }
    }
    if context.has_sets() {
        for (_, domain, looks) in half_of_tools(context, half)? {
            for part in looks.chunks(looks.len().div_ceil(PARTS)) {
                for (_, bytes_s, within_s) in RATES {
                    runs.push(Run { case: 0, looks: at_rate(part, bytes_s, within_s), domain: domain.clone(), within_s });
                }
            }
        }
    }
    let (looks, placed) = placed(runs);
    let dir = context.folder(&format!("half-{}-carried", half.name()))?;
    write_looks(&dir, looks)?;
    let ran = way::run(&dir, &[], rules)?;
    std::fs::remove_dir_all(&dir)?;
    let truths: Vec<Truth> =
        placed.into_iter().map(|p| Truth { kind: DATA, wanted: p.wanted, soon: Soon::Seconds(p.within_s) }).collect();
    tally.take(&ran, &truths, Around::Nothing, |_| true);
    Ok(())
}

/// A tool, its domain and its look-ups. One tool is in one half, whatever it was captured by.
fn half_of_tools(context: &Context, half: Half) -> Result<Vec<(String, String, Vec<Look>)>> {
    let mut all: Vec<(String, String, Vec<Look>)> = Vec::new();
    for (tool, file) in [("dnscat2", "dnscat2-cname_00001_20230903170247.pcap"), ("iodine", "iodine-cname.pcap")] {
        let looks = capture::read(&context.set("dns-tunnel-pcap").join(file))?;
        let domain = looks.first().and_then(|l| tidewatch_operators::names::registered(&l.name).ok());
        let domain = domain.map_or("ggy666.tk", |of| of.domain).to_owned();
        all.push((tool.to_owned(), domain, looks));
    }
    for (tool, looks) in tool_names(&context.data)? {
        all.push((tool, "carrier.example".to_owned(), looks));
    }
    let mut tools: Vec<String> = all.iter().map(|(tool, ..)| tool.clone()).collect();
    tools.sort();
    tools.dedup();
    let ours = half.of(tools, Clone::clone);
    all.retain(|(tool, ..)| ours.contains(tool));
    Ok(all)
}
