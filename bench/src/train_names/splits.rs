//! What is trained on and what is judged by: families left out within what is trained on, for choices and the calibration;
//! one source against another, for the figure that counts.
//!
//! Always holds: the split across sources is never looked at by the other one; no label is on both sides of any split.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::Result;
use tidewatch_operators::names::model::Model;

use super::chance::Chance;
use super::measure::{Scored, area, calibrate, calibration_error, share, threshold};
use super::sources::{Generated, Sources, WORD_LISTS};
use super::{CALIBRATION_ALL, CALIBRATION_HALF, LOOKS_GENERATED, Side, learn, synthetic, train};

/// What the finished model is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Every source but those held back.
    All,
    /// baderj's families and the list of 2016.
    Half,
}

impl Split {
    /// What is trained on.
    pub fn side(self, sources: &Sources) -> Side<'_> {
        let lists: &[&str] = match self {
            Self::Half => &["top-2016"],
            Self::All => &["top-2013", "top-2016", "threatfox-legit"],
        };
        let benign: BTreeSet<&String> = lists.iter().flat_map(|l| sources.list(l)).collect();
        Side {
            generated: sources.generated.iter().filter(|g| self == Self::All || g.source == "baderj").collect(),
            benign: benign.into_iter().collect(),
        }
    }

    /// Benign names to train with and to measure with, when families are left out.
    fn benign_apart(self, sources: &Sources) -> (Vec<&String>, Vec<&String>) {
        let apart = |list: &str, from: &[&str]| -> Vec<&String> {
            let seen: BTreeSet<&String> = from.iter().flat_map(|l| sources.list(l)).collect();
            sources.list(list).iter().filter(|l| !seen.contains(l)).collect()
        };
        match self {
            // The list of 2013 is the other split's.
            Self::Half => (
                sources.list("top-2016").iter().collect(),
                apart("threatfox-legit", &["top-2013", "top-2016", "maltrail-whitelist"]),
            ),
            Self::All => (sources.list("top-2016").iter().collect(), apart("top-2013", &["top-2016"])),
        }
    }

    fn calibration(self) -> (f32, f32) {
        match self {
            Self::All => CALIBRATION_ALL,
            Self::Half => CALIBRATION_HALF,
        }
    }
}

/// Folds of families.
const FOLDS: usize = 5;

/// Names of a family that count in a measurement of families left out: none is worth more for being longer.
const NAMES_MAX: usize = 300;

/// Ways of joining words, families of each and names of each, that are measured with words of the names left out.
const WORD_WAYS: [usize; 4] = [13, 14, 21, 23];
const WORD_FAMILIES: usize = 2;
const WORD_NAMES: usize = 60;

/// The names of one fold that were not trained on: kind, logits.
struct Fold {
    families: Vec<(String, Vec<f32>)>,
    benign: Vec<f32>,
}

/// Leaves a fifth of the families out, of all sources, `folds` times of five, and judges by benign names of another list; word
/// lists of that list's words beside them. Prints what is found and returns the calibration; with no folds, the one measured
/// last.
pub fn families_left_out(sources: &Sources, split: Split, seed: u64, folds: usize) -> (f32, f32) {
    if folds == 0 {
        return split.calibration();
    }
    let side = split.side(sources);
    let mut families: Vec<&str> = side.generated.iter().map(|g| g.family.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    Chance::of(seed, "folds").shuffle(&mut families);
    let (with, apart) = split.benign_apart(sources);
    let words = hyphened(&apart);
    let one = |fold: usize| -> Fold {
        let out: BTreeSet<&str> = families.iter().copied().skip(fold).step_by(FOLDS).collect();
        let (test, from): (Vec<&Generated>, Vec<&Generated>) =
            side.generated.iter().partition(|g| out.contains(g.family.as_str()));
        let (nets, learned) = train(&Side { generated: from, benign: with.clone() }, sources, seed + fold as u64);
        let bytes = learn::bytes(&nets, &learned, (1.0, 0.0));
        let model = Model::read(&bytes).expect("just written");
        let mut found: Vec<(String, Vec<f32>)> = Vec::new();
        for family in out {
            let labels: Vec<&String> = test.iter().filter(|g| g.family == family).map(|g| &g.label).collect();
            let skip = labels.len().div_ceil(NAMES_MAX).max(1);
            found.push((family.to_owned(), logits(&model, labels.into_iter().step_by(skip))));
        }
        let mut chance = Chance::of(seed + fold as u64, "words left out");
        let chains = synthetic::Chains::learn(&[]);
        for way in WORD_WAYS {
            for _ in 0..WORD_FAMILIES {
                let names = synthetic::family(way, WORD_NAMES, &words, &chains, &mut chance);
                found.push((format!("words, way {way}"), logits(&model, names.iter())));
            }
        }
        Fold { families: found, benign: logits(&model, apart.iter().copied()) }
    };
    tell_left_out((0..folds.min(FOLDS)).map(one).collect())
}

fn tell_left_out(folds: Vec<Fold>) -> (f32, f32) {
    let (mut generated, mut plain, mut benign) = (Vec::new(), Vec::new(), Vec::new());
    let mut recalls: Vec<(String, usize, [f64; 3])> = Vec::new();
    for fold in folds {
        let at = [1e-3, 1e-2, 5e-2].map(|f| threshold(&fold.benign, f));
        for (family, scores) in fold.families {
            recalls.push((family.clone(), scores.len(), at.map(|t| share(&scores, t))));
            if !is_words(&family) {
                plain.extend(scores.iter().copied());
            }
            generated.extend(scores);
        }
        benign.extend(fold.benign);
    }
    recalls.sort_by(|a, b| a.0.cmp(&b.0));
    for (family, names, at) in &recalls {
        println!("  left out {family}: {names} names, {:.3} at 1e-3, {:.3} at 1e-2, {:.3} at 5e-2", at[0], at[1], at[2]);
    }
    for (what, words) in [("families left out", false), ("word lists left out", true)] {
        let of: Vec<[f64; 3]> = recalls.iter().filter(|r| is_words(&r.0) == words).map(|r| r.2).collect();
        let mean = |i: usize| of.iter().map(|r| r[i]).sum::<f64>() / of.len().max(1) as f64;
        println!("{what}: {}, macro recall {:.3} at 1e-3, {:.3} at 1e-2, {:.3} at 5e-2", of.len(), mean(0), mean(1), mean(2));
    }
    tell("families left out, together", &generated, &benign);
    tell("  without word lists", &plain, &benign);
    let calibration = calibrate(&joined(&generated, &benign));
    for score in [0.5, LOOKS_GENERATED] {
        let logit = (libm::logf(score / (1.0 - score)) - calibration.1) / calibration.0;
        println!("  at {score} found {:.3}, false {:.4}", share(&generated, logit), share(&benign, logit));
    }
    println!("calibration: slope {:.3}, shift {:.3}", calibration.0, calibration.1);
    calibration
}

fn is_words(family: &str) -> bool {
    WORD_LISTS.contains(&family) || family.starts_with("words, ")
}

/// Words between the hyphens of names.
fn hyphened(names: &[&String]) -> Vec<String> {
    let words: BTreeSet<&str> = names.iter().filter(|n| n.contains('-')).flat_map(|n| n.split('-')).collect();
    let is_word = |w: &&str| (2..=12).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase());
    words.into_iter().filter(is_word).map(str::to_owned).collect()
}

fn logits<'s>(model: &Model<'_>, labels: impl Iterator<Item = &'s String>) -> Vec<f32> {
    labels.map(|l| model.judge(l.as_bytes()).logit).collect()
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

/// What [`across`] measures.
#[derive(Clone, Debug)]
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
    /// Found and false at 0.5, and where a name looks generated to the detector.
    pub at_scores: [(f64, f64); 2],
    /// Expected calibration error.
    pub error: f64,
    /// Share of service names of another source that score 0.5 or more, and that look generated to the detector.
    pub services_false: [f64; 2],
    /// Each family: found at false rates 1e-3 and 1e-2.
    pub families: Vec<(String, [f64; 2])>,
}

impl fmt::Display for Across {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "across sources: {} generated, {} benign", self.tested.0, self.tested.1)?;
        let names = ["all", "without word lists"];
        for ((name, area), found) in names.iter().zip(self.area).zip([self.found, self.found_without_words]) {
            let [a, b, c, d] = found;
            writeln!(f, "  {name}: AUC {area:.4}; found at false rates 1e-4 {a:.3}, 1e-3 {b:.3}, 1e-2 {c:.3}, 5e-2 {d:.3}")?;
        }
        for (family, at) in &self.families {
            writeln!(f, "  {family}: {:.3} at 1e-3, {:.3} at 1e-2", at[0], at[1])?;
        }
        let [half, looks] = self.at_scores;
        writeln!(f, "  accuracy at 0.5 {:.3}, calibration error {:.3}", self.accuracy, self.error)?;
        writeln!(
            f,
            "  at 0.5 found {:.3}, false {:.4}; at {LOOKS_GENERATED} found {:.3}, false {:.4}",
            half.0, half.1, looks.0, looks.1
        )?;
        write!(f, "  service names: {:.4} at 0.5, {:.4} at {LOOKS_GENERATED}", self.services_false[0], self.services_false[1])
    }
}

/// A model that has not seen some families, of any source.
pub struct Unseen {
    /// The model.
    pub model: Vec<u8>,
    /// Logits at false rates 1e-3 and 1e-2 of benign names that it has not seen either.
    pub at: [f32; 2],
}

/// Names of a family that are trained on, at most, so that training is quick.
const QUICK_NAMES_MAX: usize = 2_000;

/// Trains on the families that `out` does not name, says nothing on the standard output.
///
/// # Errors
/// Says what cannot be read.
pub fn without(data: &Path, seed: u64, out: &dyn Fn(&str) -> bool) -> Result<Unseen> {
    let sources = Sources::read(data)?;
    let side = Split::All.side(&sources);
    let hidden: BTreeSet<&String> = side.generated.iter().filter(|g| out(&g.family)).map(|g| &g.label).collect();
    let mut by: BTreeMap<&str, Vec<&Generated>> = BTreeMap::new();
    for g in side.generated.iter().filter(|g| !hidden.contains(&g.label)) {
        by.entry(&g.family).or_default().push(g);
    }
    let quick = by.into_values().flat_map(|of| {
        let step = of.len().div_ceil(QUICK_NAMES_MAX).max(1);
        of.into_iter().step_by(step)
    });
    let (with, apart) = Split::All.benign_apart(&sources);
    let (nets, learned) = train(&Side { generated: quick.collect(), benign: with }, &sources, seed);
    let model = learn::bytes(&nets, &learned, CALIBRATION_ALL);
    let benign = logits(&Model::read(&model).expect("just written"), apart.into_iter());
    let at = [1e-3, 1e-2].map(|f| threshold(&benign, f));
    Ok(Unseen { model, at })
}

/// Trains on one source of generated and one of benign names, tests on another of each, as the shipped model's training does;
/// says nothing on the standard output.
///
/// # Errors
/// Says what cannot be read.
pub fn across(data: &Path, seed: u64) -> Result<Across> {
    Ok(across_sources(&Sources::read(data)?, seed, CALIBRATION_HALF))
}

/// The same for sources that were read.
pub fn across_sources(sources: &Sources, seed: u64, calibration: (f32, f32)) -> Across {
    let side = Split::Half.side(sources);
    let trained: BTreeSet<&String> = side.generated.iter().map(|g| &g.label).collect();
    let (nets, learned) = train(&side, sources, seed);
    let bytes = learn::bytes(&nets, &learned, calibration);
    let model = Model::read(&bytes).expect("just written");
    // The list of 2013 without what the list of 2016 has.
    let seen: BTreeSet<&String> = side.benign.iter().copied().collect();
    let benign = logits(&model, sources.list("top-2013").iter().filter(|l| !seen.contains(l)));
    let test: Vec<&Generated> =
        sources.generated.iter().filter(|g| g.source != "baderj" && !trained.contains(&g.label)).collect();
    let all = logits(&model, test.iter().map(|g| &g.label));
    let of = |wanted: &dyn Fn(&str) -> bool| -> Vec<f32> {
        test.iter().zip(&all).filter(|(g, _)| wanted(&g.family)).map(|(_, logit)| *logit).collect()
    };
    let plain = of(&|family| !WORD_LISTS.contains(&family));
    let found = |scores: &[f32]| [1e-4, 1e-3, 1e-2, 5e-2].map(|f| share(scores, threshold(&benign, f)));
    let names: BTreeSet<&str> = test.iter().map(|g| g.family.as_str()).collect();
    let score = |l: &f32| 1.0 / (1.0 + libm::expf(-(calibration.0 * l + calibration.1)));
    let scores = |logits: &[f32]| -> Vec<f32> { logits.iter().map(score).collect() };
    let at_scores = [0.5, LOOKS_GENERATED].map(|low| (share(&scores(&all), low), share(&scores(&benign), low)));
    let services: Vec<f32> = sources.list("maltrail-whitelist").iter().map(|l| model.score(l.as_bytes())).collect();
    Across {
        tested: (all.len(), benign.len()),
        area: [area(&joined(&all, &benign)), area(&joined(&plain, &benign))],
        found: found(&all),
        found_without_words: found(&plain),
        accuracy: f64::midpoint(at_scores[0].0, 1.0 - at_scores[0].1),
        at_scores,
        error: calibration_error(&joined(&scores(&all), &scores(&benign))),
        services_false: [0.5, LOOKS_GENERATED].map(|low| share(&services, low)),
        families: names
            .into_iter()
            .map(|name| {
                let [_, a, b, _] = found(&of(&|family| family == name));
                (name.to_owned(), [a, b])
            })
            .collect(),
    }
}
