//! `train-names`: trains the name model that `operators/src/names` ships, and measures what can be expected of it where it
//! was not trained: another source's names, families left out. Offline; the same data and seed give the same bytes.
//!
//! Not the judge of the detector: that is the traffic of whole hosts. What always holds: what a figure is measured on was
//! not trained on, neither its source nor, for families left out, its family, nor any label of it by chance; nothing is
//! chosen by the measurement across sources, the calibration included.

#![allow(clippy::print_stdout, reason = "a training run tells its figures on the standard output")]

mod chance;
mod learn;
mod learned;
mod measure;
mod sources;
mod splits;
mod synthetic;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use tidewatch_operators::names::model::Model;

use self::chance::Chance;
use self::learn::{Class, Example, Net, Settings, networks};
use self::learned::Learned;
use self::measure::share;
use self::sources::{Generated, Sources, WORD_LISTS};
use self::splits::Split;
pub use self::splits::{across, without};
use self::synthetic::{Chains, WAYS, joins_words};

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
    /// Folds of families that are left out in turn, of five, to calibrate by; 0 = none, the calibration is
    /// then the one that the shipped model has.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=5))]
    folds: u64,
    /// Leave out the measurement across sources.
    #[arg(long)]
    quick: bool,
}

/// Slope and shift of the calibration where no families are left out, of the model trained on all and of the one trained on
/// half: rounded from what families left out of half gave (0.53 to 0.58 and 0.35 to 0.68, by folds), nearer to the end with
/// fewer false names.
const CALIBRATION_ALL: (f32, f32) = (0.6, 0.4);
const CALIBRATION_HALF: (f32, f32) = (0.6, 0.4);

/// What all families of one list weigh at most, in names: no family is more worth for being longer.
const FAMILY_NAMES_MAX: f32 = 1500.0;

/// Small families weigh up to this many names, five times their own.
const FAMILY_NAMES_MIN: f32 = 200.0;

/// Made-up ordinary names weigh less than real ones.
const ORDINARY_WEIGHT: f32 = 0.5;

/// Made-up families of each way, names of each, made-up ordinary names.
const FAMILIES_PER_WAY: usize = 60;
const NAMES_PER_FAMILY: usize = 100;
const ORDINARY_NAMES: usize = 30_000;

/// What a made-up name weighs beside a real one.
const MADE_UP_WEIGHT: f32 = 0.33;

/// Letters from which on a piece may be a word in a made-up name.
const WORD_BYTES_MIN: usize = 4;

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
    let split = if args.on == "half" { Split::Half } else { Split::All };
    let calibration = splits::families_left_out(&sources, split, args.seed, args.folds as usize);
    if !args.quick {
        let half = if split == Split::Half { calibration } else { CALIBRATION_HALF };
        println!("{}", splits::across_sources(&sources, args.seed, half));
    }
    let Some(out) = &args.out else { return Ok(()) };
    let (nets, learned) = train(&split.side(&sources), &sources, args.seed);
    let bytes = learn::bytes(&nets, &learned, calibration);
    std::fs::write(out, &bytes).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}: {} bytes, trained on {}", out.display(), bytes.len(), args.on);
    held_back(&sources, &bytes);
    Ok(())
}

/// Trains on one side, with made-up names beside the real ones.
fn train(side: &Side<'_>, sources: &Sources, seed: u64) -> (Vec<Net>, Learned) {
    let mut chance = Chance::of(seed, "synthetic");
    let known: Vec<String> = side.benign.iter().map(|s| (*s).clone()).collect();
    let chains = Chains::learn(&known);
    let learned = Learned::from(&side.benign, &sources.words);
    let mut words = sources.words.clone();
    words.extend(learned.pieces.iter().filter(|p| p.len() >= WORD_BYTES_MIN).cloned());
    let mut sizes: BTreeMap<&str, f32> = BTreeMap::new();
    for g in &side.generated {
        *sizes.entry(&g.family).or_default() += 1.0;
    }
    let mut examples = Vec::new();
    for (n, g) in side.generated.iter().enumerate() {
        let size = sizes[g.family.as_str()];
        let mass = size.clamp((5.0 * size).min(FAMILY_NAMES_MIN), FAMILY_NAMES_MAX);
        let class = if WORD_LISTS.contains(&g.family.as_str()) { Class::Words } else { Class::Chance };
        examples.push(Example::new(&g.label, class, mass / size, &learned, n));
    }
    for way in 0..WAYS {
        let class = if joins_words(way) { Class::Words } else { Class::Chance };
        for _ in 0..FAMILIES_PER_WAY {
            let names = synthetic::family(way, NAMES_PER_FAMILY, &words, &chains, &mut chance);
            let each = MADE_UP_WEIGHT * synthetic::weight(way);
            examples.extend(names.iter().enumerate().map(|(n, name)| Example::new(name, class, each, &learned, n)));
        }
    }
    // Benign names weigh as much as generated ones in all.
    let mass: f32 = examples.iter().map(Example::weight).sum();
    let ordinary = synthetic::ordinary(ORDINARY_NAMES, &words, &known, &mut chance);
    let each = mass / (side.benign.len() as f32 + ORDINARY_WEIGHT * ordinary.len() as f32);
    let benign = |(n, name): (usize, &String), weight: f32| Example::new(name, Class::Benign, weight, &learned, n);
    examples.extend(ordinary.iter().enumerate().map(|e| benign(e, each * ORDINARY_WEIGHT)));
    // In the order in which [`Learned`] parts them.
    examples.extend(side.benign.iter().enumerate().map(|(n, name)| benign((n, name), each)));
    (networks(&examples, Settings::default(), seed), learned)
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
