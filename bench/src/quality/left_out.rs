//! Families of generated names that no model has seen (detection.md 10.5): two models, each trained without one half of the
//! families, of all sources, judge the names of that half.
//!
//! The detector has its model built in, so whole hosts can only be bounded: from below by the shipped detector with its model
//! switched off by the rule (score 0.999, evidence out of reach), which leaves the burst of failing domains, and only where
//! labels are so long that no score counts there either; from above by what is needed beside: as many of the first ten names
//! as the rule wants must look generated to a model that has not seen the family. What always holds: no name of a family that is judged, and no label of one, was trained on.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use tidewatch_operators::names;
use tidewatch_operators::names::model::Model;
use tidewatch_operators::rule::Rule;

use super::families::{WORD_LISTS, infected, listed};
use super::halves::Half;
use super::logs::write_looks;
use super::measure::{Case, Found, Goal, Part, Wanted, by_host};
use super::{Context, way};
use crate::dns::Look;
use crate::train_names;

const KIND: &str = "ndr.dns_dga";
/// Names within which an infection is to be reported.
const TEN: u64 = 10;
/// Names of a family that are scored, at most.
const NAMES_MAX: usize = 300;

/// What is known of one family.
#[derive(Default)]
struct Family {
    /// Hosts; told by the burst alone; these, or with enough names that look generated.
    hosts: [usize; 3],
    burst: Vec<Option<Found>>,
    /// Share of names found at false rates 1e-3 and 1e-2.
    names: [f64; 2],
}

/// Measures it.
pub fn hosts(context: &Context) -> Result<Part> {
    let rule = context.rules.iter().find(|r| r.kind == "dns_dga").context("no rule of dns_dga")?;
    let families: Vec<(String, Vec<String>)> = listed(context)?.into_iter().collect();
    let (looks, wanted) = infected(&families);
    let mut out: BTreeMap<&str, Family> = BTreeMap::new();
    let mut part = Part::default();
    let burst = by_burst(context, rule, &looks, &wanted, &mut part)?;
    let names_of = first_names(&looks);
    // Kin of one family are in one half.
    let kin = |family: &str| family.trim_end_matches("-p2p").to_owned();
    let all: BTreeSet<String> = families.iter().map(|(family, _)| kin(family)).collect();
    for half in [Half::A, Half::B] {
        let hidden = half.of(all.iter().cloned().collect(), Clone::clone);
        let unseen = train_names::without(&context.data, context.seed, &|family| hidden.contains(&kin(family)))?;
        let model = Model::read(&unseen.model).context("a model that cannot be read back")?;
        for (family, list) in families.iter().filter(|(family, _)| hidden.contains(&kin(family))) {
            let step = list.len().div_ceil(NAMES_MAX).max(1);
            let logits: Vec<f32> =
                list.iter().step_by(step).filter_map(|n| label(n)).map(|l| model.judge(l.as_bytes()).logit).collect();
            let share = |at: f32| logits.iter().filter(|l| **l >= at).count() as f64 / logits.len().max(1) as f64;
            out.entry(family).or_default().names = unseen.at.map(share);
        }
        for ((family, want), burst) in wanted.iter().zip(&burst).filter(|((family, _), _)| hidden.contains(&kin(family))) {
            let names = want.host.as_deref().and_then(|h| names_of.get(h)).map_or(&[][..], Vec::as_slice);
            let look = names.iter().filter(|l| f64::from(model.score(l.as_bytes())) >= rule.threshold("score")).count();
            // Shorter ones are a burst only by their mean score, which is that of the shipped model.
            let bytes = names.iter().map(String::len).sum::<usize>() as f64 / names.len().max(1) as f64;
            let burst = burst.filter(|_| bytes >= rule.threshold("burst_label_bytes"));
            let of = out.entry(*family).or_default();
            of.hosts[0] += 1;
            of.hosts[1] += usize::from(burst.is_some());
            of.hosts[2] += usize::from(burst.is_some() || look as f64 >= rule.threshold("min_failed"));
            of.burst.push(burst);
        }
    }
    tell(&out, &mut part);
    Ok(part)
}

fn label(name: &str) -> Option<String> {
    names::registered(name).ok().map(|of| of.label.to_owned())
}

/// The first ten distinct registered domains' labels, by host.
fn first_names(looks: &[Look]) -> BTreeMap<&str, Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut out: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for look in looks {
        let Ok(of) = names::registered(&look.name) else { continue };
        let list = out.entry(&look.host).or_default();
        if list.len() < TEN as usize && seen.insert((look.host.as_str(), of.domain.to_owned())) {
            list.push(of.label.to_owned());
        }
    }
    out
}

/// What the detector tells of without its model.
fn by_burst(
    context: &Context,
    rule: &Rule,
    looks: &[Look],
    wanted: &[(&str, Wanted)],
    part: &mut Part,
) -> Result<Vec<Option<Found>>> {
    let mut blind = rule.clone();
    for (name, value) in [("score", 0.999), ("evidence", 1_000.0), ("min_names", 512.0)] {
        blind.thresholds.insert(name.to_owned(), value);
    }
    let dir = context.folder("left-out")?;
    write_looks(&dir, looks.to_vec())?;
    let ran = way::run(&dir, &[], &[blind])?;
    std::fs::remove_dir_all(&dir)?;
    part.rows += ran.rows;
    let (by, none) = (by_host(&ran.signals), Vec::new());
    let found = wanted.iter().map(|(_, want)| {
        let signals = want.host.as_deref().and_then(|h| by.get(h)).unwrap_or(&none);
        want.found(signals, false).filter(|f| f.contacts <= TEN)
    });
    Ok(found.collect())
}

fn tell(families: &BTreeMap<&str, Family>, part: &mut Part) {
    for (family, of) in families {
        let mut case = Case::of(KIND, "dga-names, left out: burst alone", "-", *family);
        for found in &of.burst {
            case.add(*found, None);
        }
        case.note = format!(
            "with names that look generated to a model without the family {} of {}; names found at 1e-3 {:.2}, at 1e-2 {:.2}",
            of.hosts[2], of.hosts[0], of.names[0], of.names[1]
        );
        part.cases.push(case);
    }
    let mean = |words: bool, of: &dyn Fn(&Family) -> f64| {
        let those: Vec<f64> = families.iter().filter(|(f, _)| WORD_LISTS.contains(f) == words).map(|(_, it)| of(it)).collect();
        those.iter().sum::<f64>() / those.len().max(1) as f64
    };
    let share = |i: usize| move |it: &Family| it.hosts[i] as f64 / it.hosts[0].max(1) as f64;
    let hosts = |words: bool| format!("between {:.3} (burst alone) and {:.3}", mean(words, &share(1)), mean(words, &share(2)));
    let count = families.len() - WORD_LISTS.iter().filter(|w| families.contains_key(*w)).count();
    part.goals.push(Goal::of(
        "3.4",
        "families left out: macro recall of whole hosts within ten failing domains [dga-names, two halves of the families, one name in 4 s]",
        None,
        format!("{count} families: {}; word lists {}", hosts(false), hosts(true)),
        "",
    ));
    let names = |words: bool| {
        format!("{:.3} at 1e-3, {:.3} at 1e-2", mean(words, &|it: &Family| it.names[0]), mean(words, &|it: &Family| it.names[1]))
    };
    part.goals.push(Goal::of(
        "3.4",
        "families left out: macro recall of names [the same]",
        None,
        format!("{}; word lists {}", names(false), names(true)),
        "linear, five folds: 0.56 at 1e-3, 0.73 at 1e-2, word lists included",
    ));
}
