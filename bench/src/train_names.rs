//! `train-names`: trains the name model that `operators/src/names` ships, and measures what can be expected of it where it
//! was not trained: another source's names, families left out. Offline; the same data and seed give the same bytes.
//!
//! Not the judge of the detector: that is the traffic of whole hosts. What always holds: what a figure is measured on was
//! not trained on, neither its source nor, for families left out, its family, nor any label of it by chance.

#![allow(clippy::print_stdout, reason = "a training run tells its figures on the standard output")]

mod chance;
mod learn;
mod measure;
mod sources;
mod synthetic;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use tidewatch_operators::names::model::Model;

use self::chance::Chance;
use self::learn::{Example, Net, Settings};
use self::measure::{Scored, area, calibrate, calibration_error, share, threshold};
use self::sources::{Generated, Sources, WORD_LISTS};
use self::synthetic::{Chains, WAYS, WORD_WAYS};

/// Train the name model and measure it on sources and families that it did not see.
#[derive(ClapArgs)]
pub struct Args {
    /// Folder of the labelled data (dga-names, benign-names, ...).
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Model file to write.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What the model is trained on: `all`, or `half` (baderj's families and the list of 2016 alone), to measure whole hosts
    /// on the rest.
    #[arg(long, default_value = "all", value_parser = ["all", "half"])]
    on: String,
    /// Seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave the measurements out; the calibration is then the one measured last.
    #[arg(long)]
    quick: bool,
}

/// Slope and shift of the calibration, as measured last on the families left out.
const CALIBRATION: (f32, f32) = (0.816, 0.795);

/// What all families of one list weigh at most, in names: no family is more worth for being longer.
const FAMILY_NAMES_MAX: f32 = 2000.0;

/// Small families weigh up to this many names, five times their own.
const FAMILY_NAMES_MIN: f32 = 200.0;

/// Word lists weigh less: a name of two words is somebody's as often as not, and each such example costs a benign one.
const WORDS_WEIGHT: f32 = 0.3;

/// Made-up ordinary names weigh less than real ones.
const ORDINARY_WEIGHT: f32 = 0.3;

/// Made-up families of each way, names of each, made-up ordinary names.
const FAMILIES_PER_WAY: usize = 20;
const NAMES_PER_FAMILY: usize = 100;
const ORDINARY_NAMES: usize = 20_000;

/// Folds of families.
const FOLDS: usize = 5;

/// Score from which a name looks generated to the detector, see its page.
const LOOKS_GENERATED: f32 = 0.8;

/// What one training sees.
struct Side<'a> {
    generated: Vec<&'a Generated>,
    benign: Vec<&'a String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let sources = Sources::read(&args.data)?;
    println!("{} generated labels, {} of unnamed families", sources.generated.len(), sources.mixed.len());
    for (name, list) in &sources.benign {
        println!("{} benign labels of {name}", list.len());
    }
    let calibration = if args.quick {
        CALIBRATION
    } else {
        let calibration = families_left_out(&sources, args.seed);
        across_sources(&sources, args.seed, calibration);
        calibration
    };
    let Some(out) = &args.out else { return Ok(()) };
    let bytes = train(&final_side(&sources, &args.on), &sources, args.seed).bytes(calibration.0, calibration.1);
    std::fs::write(out, &bytes).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}: {} bytes, trained on {}", out.display(), bytes.len(), args.on);
    held_back(&sources, &bytes);
    Ok(())
}

fn final_side<'s>(sources: &'s Sources, on: &str) -> Side<'s> {
    let half = on == "half";
    let lists: &[&str] = if half { &["top-2016"] } else { &["top-2013", "top-2016", "threatfox-legit"] };
    let benign: BTreeSet<&String> = lists.iter().flat_map(|l| sources.list(l)).collect();
    Side {
        generated: sources.generated.iter().filter(|g| !half || g.source == "baderj").collect(),
        benign: benign.into_iter().collect(),
    }
}

fn train(side: &Side<'_>, sources: &Sources, seed: u64) -> Net {
    let mut chance = Chance::of(seed, "synthetic");
    let known: Vec<String> = side.benign.iter().map(|s| (*s).clone()).collect();
    let chains = Chains::learn(&known);
    let mut sizes: BTreeMap<&str, f32> = BTreeMap::new();
    for g in &side.generated {
        *sizes.entry(&g.family).or_default() += 1.0;
    }
    let mut examples = Vec::new();
    for g in &side.generated {
        let size = sizes[g.family.as_str()];
        let mass = size.clamp((5.0 * size).min(FAMILY_NAMES_MIN), FAMILY_NAMES_MAX);
        let words = if WORD_LISTS.contains(&g.family.as_str()) { WORDS_WEIGHT } else { 1.0 };
        examples.push(Example::new(&g.label, true, words * mass / size));
    }
    for way in 0..WAYS {
        let weight = if WORD_WAYS.contains(&way) { WORDS_WEIGHT } else { 1.0 };
        for _ in 0..FAMILIES_PER_WAY {
            let names = synthetic::family(way, NAMES_PER_FAMILY, &sources.words, &chains, &mut chance);
            examples.extend(names.iter().map(|n| Example::new(n, true, weight)));
        }
    }
    // Benign names weigh as much as generated ones in all.
    let mass: f32 = examples.iter().map(|e| e.weight).sum();
    let ordinary = synthetic::ordinary(ORDINARY_NAMES, &sources.words, &known, &mut chance);
    let each = mass / (side.benign.len() as f32 + ORDINARY_WEIGHT * ordinary.len() as f32);
    examples.extend(ordinary.iter().map(|n| Example::new(n, false, each * ORDINARY_WEIGHT)));
    examples.extend(side.benign.iter().map(|n| Example::new(n, false, each)));
    Net::train(&examples, Settings::default(), seed)
}

fn logits<'s>(model: &Model<'_>, labels: impl Iterator<Item = &'s String>) -> Vec<f32> {
    labels.map(|l| model.logit(l.as_bytes())).collect()
}

fn joined(generated: &[f32], benign: &[f32]) -> Vec<Scored> {
    let of = |scores: &[f32], generated: bool| scores.iter().map(|s| Scored { score: *s, generated }).collect::<Vec<_>>();
    [of(generated, true), of(benign, false)].concat()
}

fn tell(name: &str, generated: &[f32], benign: &[f32]) {
    let found = [1e-4, 1e-3, 1e-2, 5e-2].map(|f| share(generated, threshold(benign, f)));
    println!(
        "{name}: {} generated, {} benign, AUC {:.4}; found at false rates 1e-4 {:.3}, 1e-3 {:.3}, 1e-2 {:.3}, 5e-2 {:.3}",
        generated.len(),
        benign.len(),
        area(&joined(generated, benign)),
        found[0],
        found[1],
        found[2],
        found[3]
    );
}

/// Benign names to test with: the list of 2013 without what the list of 2016 has.
fn older_names(sources: &Sources) -> Vec<&String> {
    let seen: BTreeSet<&String> = sources.list("top-2016").iter().collect();
    sources.list("top-2013").iter().filter(|l| !seen.contains(l)).collect()
}

/// Trains on one source of generated and one of benign names, tests on another of each.
fn across_sources(sources: &Sources, seed: u64, (slope, shift): (f32, f32)) {
    let side = final_side(sources, "half");
    let trained: BTreeSet<&String> = side.generated.iter().map(|g| &g.label).collect();
    let bytes = train(&side, sources, seed).bytes(slope, shift);
    let model = Model::read(&bytes).expect("just written");
    let benign = logits(&model, older_names(sources).into_iter());
    let test: Vec<&Generated> =
        sources.generated.iter().filter(|g| g.source != "baderj" && !trained.contains(&g.label)).collect();
    let is_word = |g: &&&Generated| WORD_LISTS.contains(&g.family.as_str());
    let all = logits(&model, test.iter().map(|g| &g.label));
    tell("across sources", &all, &benign);
    tell("  without word lists", &logits(&model, test.iter().filter(|g| !is_word(g)).map(|g| &g.label)), &benign);
    tell("  word lists", &logits(&model, test.iter().filter(is_word).map(|g| &g.label)), &benign);
    let at = [1e-3, 1e-2].map(|f| threshold(&benign, f));
    for family in test.iter().map(|g| g.family.as_str()).collect::<BTreeSet<_>>() {
        let scores = logits(&model, test.iter().filter(|g| g.family == family).map(|g| &g.label));
        println!("  {family}: {:.3} at 1e-3, {:.3} at 1e-2", share(&scores, at[0]), share(&scores, at[1]));
    }
    let of = |l: &f32| 1.0 / (1.0 + libm::expf(-(slope * l + shift)));
    let scored: Vec<Scored> = joined(&all, &benign).iter().map(|s| Scored { score: of(&s.score), ..*s }).collect();
    let right = |low: f32| {
        let one = |generated: bool| {
            let of_kind: Vec<f32> = scored.iter().filter(|s| s.generated == generated).map(|s| s.score).collect();
            share(&of_kind, low)
        };
        (one(true), one(false))
    };
    let (half, looks) = (right(0.5), right(LOOKS_GENERATED));
    println!(
        "  calibration error {:.3}; at 0.5 found {:.3}, false {:.4}; at {LOOKS_GENERATED} found {:.3}, false {:.4}",
        calibration_error(&scored),
        half.0,
        half.1,
        looks.0,
        looks.1
    );
}

/// What [`across`] measures.
#[derive(Clone, Copy, Debug)]
pub struct Across {
    /// Generated and benign labels of the test.
    pub tested: (usize, usize),
    /// Area under the curve with all families, and without word lists.
    pub area: [f64; 2],
    /// Found at false rates 1e-4, 1e-3, 1e-2 and 5e-2, with all families.
    pub found: [f64; 4],
    /// The same without word lists.
    pub found_without_words: [f64; 4],
    /// Share of right answers at 0.5, both sides weighing the same.
    pub accuracy: f64,
    /// Expected calibration error.
    pub error: f64,
    /// Share of service names of another source that score 0.5 or more, and that look generated to the detector.
    pub services_false: [f64; 2],
}

/// Trains on one source of generated and one of benign names, tests on another of each, as the shipped model's training does;
/// says nothing on the standard output.
///
/// # Errors
/// Says what cannot be read.
pub fn across(data: &std::path::Path, seed: u64) -> Result<Across> {
    let sources = Sources::read(data)?;
    let side = final_side(&sources, "half");
    let trained: BTreeSet<&String> = side.generated.iter().map(|g| &g.label).collect();
    let bytes = train(&side, &sources, seed).bytes(CALIBRATION.0, CALIBRATION.1);
    let model = Model::read(&bytes).expect("just written");
    let benign = logits(&model, older_names(&sources).into_iter());
    let test: Vec<&Generated> =
        sources.generated.iter().filter(|g| g.source != "baderj" && !trained.contains(&g.label)).collect();
    let all = logits(&model, test.iter().map(|g| &g.label));
    let is_word = |g: &&&Generated| WORD_LISTS.contains(&g.family.as_str());
    let plain = logits(&model, test.iter().filter(|g| !is_word(g)).map(|g| &g.label));
    let at = |scores: &[f32]| [1e-4, 1e-3, 1e-2, 5e-2].map(|f| share(scores, threshold(&benign, f)));
    let of = |l: &f32| 1.0 / (1.0 + libm::expf(-(CALIBRATION.0 * l + CALIBRATION.1)));
    let scored: Vec<Scored> = joined(&all, &benign).iter().map(|s| Scored { score: of(&s.score), ..*s }).collect();
    let scores = |generated: bool| -> Vec<f32> { scored.iter().filter(|s| s.generated == generated).map(|s| s.score).collect() };
    let services: Vec<f32> = sources.list("maltrail-whitelist").iter().map(|l| model.score(l.as_bytes())).collect();
    Ok(Across {
        tested: (all.len(), benign.len()),
        area: [area(&joined(&all, &benign)), area(&joined(&plain, &benign))],
        found: at(&all),
        found_without_words: at(&plain),
        accuracy: f64::midpoint(share(&scores(true), 0.5), 1.0 - share(&scores(false), 0.5)),
        error: calibration_error(&scored),
        services_false: [0.5, LOOKS_GENERATED].map(|low| share(&services, low)),
    })
}

/// Leaves a fifth of the families out, of all sources, five times. Returns the calibration over them.
fn families_left_out(sources: &Sources, seed: u64) -> (f32, f32) {
    let mut families: Vec<&str> =
        sources.generated.iter().map(|g| g.family.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    Chance::of(seed, "folds").shuffle(&mut families);
    let older = older_names(sources);
    let mut recalls: Vec<(&str, usize, [f64; 2])> = Vec::new();
    let (mut generated, mut benign) = (Vec::new(), Vec::new());
    for fold in 0..FOLDS {
        let out: BTreeSet<&str> = families.iter().copied().skip(fold).step_by(FOLDS).collect();
        let (test, from): (Vec<&Generated>, Vec<&Generated>) =
            sources.generated.iter().partition(|g| out.contains(g.family.as_str()));
        let side = Side { generated: from, benign: sources.list("top-2016").iter().collect() };
        let bytes = train(&side, sources, seed).bytes(1.0, 0.0);
        let model = Model::read(&bytes).expect("just written");
        let here = logits(&model, older.iter().copied());
        let at = [1e-3, 1e-2].map(|f| threshold(&here, f));
        benign.extend(here);
        for family in out {
            let scores = logits(&model, test.iter().filter(|g| g.family == family).map(|g| &g.label));
            recalls.push((family, scores.len(), at.map(|t| share(&scores, t))));
            // A long list says no more about calibration than a short one.
            let skip = 1 + scores.len() / 1000;
            generated.extend(scores.into_iter().step_by(skip));
        }
    }
    recalls.sort_by_key(|r| r.0);
    for (family, names, at) in &recalls {
        println!("  left out {family}: {names} names, {:.3} at 1e-3, {:.3} at 1e-2", at[0], at[1]);
    }
    for (what, words) in [("families left out", false), ("word lists left out", true)] {
        let of: Vec<[f64; 2]> = recalls.iter().filter(|r| WORD_LISTS.contains(&r.0) == words).map(|r| r.2).collect();
        let mean = |i: usize| of.iter().map(|r| r[i]).sum::<f64>() / of.len().max(1) as f64;
        println!("{what}: {}, macro recall {:.3} at 1e-3, {:.3} at 1e-2", of.len(), mean(0), mean(1));
    }
    tell("families left out, together", &generated, &benign);
    let calibration = calibrate(&joined(&generated, &benign));
    println!("calibration: slope {:.3}, shift {:.3}", calibration.0, calibration.1);
    calibration
}

/// The finished model on what is never trained on: names of unnamed families, and of today's services.
fn held_back(sources: &Sources, bytes: &[u8]) {
    let model = Model::read(bytes).expect("just written");
    let scores = |list: &[String]| -> Vec<f32> { list.iter().map(|l| model.score(l.as_bytes())).collect() };
    for (name, list) in [("unnamed families of 2014", &sources.mixed[..]), ("services", sources.list("maltrail-whitelist"))] {
        let scores = scores(list);
        println!(
            "{name}: {:.4} of {} at 0.5, {:.4} at {LOOKS_GENERATED}",
            share(&scores, 0.5),
            scores.len(),
            share(&scores, LOOKS_GENERATED)
        );
    }
}
