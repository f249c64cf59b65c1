//! `train-names`: trains the name model that `operators/src/names` ships, and measures what can be expected of it where it
//! was not trained: another source's names, families left out. Offline; the same data and seed give the same bytes.
//!
//! Not the judge of the detector: that is the traffic of whole hosts.

mod chance;
mod learn;
mod linear;
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
    /// Model file to write, trained on all sources; without it only the measurements are made.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 6)]
    epochs: u32,
    #[arg(long, default_value_t = 0.08)]
    step: f32,
    #[arg(long, default_value_t = 0.15)]
    dropout: f64,
    #[arg(long, default_value_t = 1e-5)]
    decay: f32,
    #[arg(long, default_value_t = 1.0)]
    synth: f32,
    #[arg(long, default_value_t = 0.3)]
    words: f32,
    #[arg(long, default_value_t = 0.3)]
    ordinary: f32,
    #[arg(long, default_value = "12")]
    only: String,
    /// Score a file of labels
    #[arg(long)]
    probe: Option<PathBuf>,
}

/// What one training sees.
struct Side<'a> {
    generated: Vec<&'a Generated>,
    benign: Vec<&'a String>,
}

fn train(side: &Side<'_>, sources: &Sources, args: &Args) -> Net {
    let settings = Settings { epochs: args.epochs, step: args.step, dropout: args.dropout, decay: args.decay };
    Net::train(&examples(side, sources, args), settings, args.seed)
}

fn examples(side: &Side<'_>, sources: &Sources, args: &Args) -> Vec<Example> {
    let mut chance = Chance::of(args.seed, "synthetic");
    let known: Vec<String> = side.benign.iter().map(|s| (*s).clone()).collect();
    let chains = Chains::learn(&known);
    let mut sizes: BTreeMap<&str, f32> = BTreeMap::new();
    for g in &side.generated {
        *sizes.entry(&g.family).or_default() += 1.0;
    }
    let mut examples = Vec::new();
    for g in &side.generated {
        let size = sizes[g.family.as_str()];
        let mass = size.clamp((5.0 * size).min(200.0), 2000.0);
        let words = if WORD_LISTS.contains(&g.family.as_str()) { args.words } else { 1.0 };
        examples.push(Example::new(&g.label, true, words * mass / size));
    }
    for way in 0..WAYS {
        for _ in 0..20 {
            let weight = args.synth * if WORD_WAYS.contains(&way) { args.words } else { 1.0 };
            for name in synthetic::family(way, 100, &sources.words, &chains, &mut chance) {
                examples.push(Example::new(&name, true, weight));
            }
        }
    }
    let mass: f32 = examples.iter().map(|e| e.weight).sum();
    let ordinary = synthetic::ordinary(20_000, &sources.words, &known, &mut chance);
    let each = mass / (side.benign.len() as f32 + args.ordinary * ordinary.len() as f32);
    examples.extend(ordinary.iter().map(|n| Example::new(n, false, each * args.ordinary)));
    examples.extend(side.benign.iter().map(|n| Example::new(n, false, each)));
    examples
}

fn logits<'s>(model: &Model<'_>, labels: impl Iterator<Item = &'s String>) -> Vec<f32> {
    labels.map(|l| model.logit(l.as_bytes())).collect()
}

fn joined(generated: &[f32], benign: &[f32]) -> Vec<Scored> {
    let of = |scores: &[f32], generated: bool| scores.iter().map(|s| Scored { score: *s, generated }).collect::<Vec<_>>();
    [of(generated, true), of(benign, false)].concat()
}

fn line(name: &str, generated: &[f32], benign: &[f32]) {
    let at: Vec<f64> = [1e-4, 1e-3, 1e-2, 5e-2].iter().map(|f| share(generated, threshold(benign, *f))).collect();
    println!(
        "{name}: AUC {:.4}; found at 1e-4 {:.3}, 1e-3 {:.3}, 1e-2 {:.3}, 5e-2 {:.3}",
        area(&joined(generated, benign)),
        at[0],
        at[1],
        at[2],
        at[3]
    );
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let sources = Sources::read(&args.data)?;
    println!("{} generated, {:?} benign, {} mixed", sources.generated.len(), sources.benign.iter().map(|(n, l)| (*n, l.len())).collect::<Vec<_>>(), sources.mixed.len());
    if args.only.contains('3') {
        experiment(&sources, args);
    }
    if args.only.contains('1') {
        across(&sources, args);
    }
    if args.only.contains('2') {
        left_out(&sources, args);
    }
    if args.out.is_some() || args.probe.is_some() {
        let bytes = all(&sources, args);
        if let Some(out) = &args.out {
            std::fs::write(out, &bytes).with_context(|| format!("cannot write {}", out.display()))?;
        }
    }
    Ok(())
}

fn all(sources: &Sources, args: &Args) -> Vec<u8> {
    let benign: BTreeSet<&String> = sources.benign.iter().flat_map(|(_, l)| l).collect();
    let side = Side { generated: sources.generated.iter().collect(), benign: benign.into_iter().collect() };
    train(&side, sources, args).bytes(1.0, 0.0)
}

fn across(sources: &Sources, args: &Args) {
    let (from, to): (Vec<&Generated>, Vec<&Generated>) = sources.generated.iter().partition(|g| g.source == "baderj");
    let train_benign: Vec<&String> = sources.list("top-2016").iter().collect();
    let seen: BTreeSet<&String> = train_benign.iter().map(|n| *n).collect();
    let test_benign: Vec<&String> = sources.list("top-2013").iter().filter(|l| !seen.contains(l)).collect();
    let trained: BTreeSet<&String> = from.iter().map(|g| &g.label).collect();
    let side = Side { generated: from.clone(), benign: train_benign.clone() };
    let bytes = train(&side, sources, args).bytes(1.0, 0.0);
    let model = Model::read(&bytes).expect("just written");
    let benign = logits(&model, test_benign.iter().copied());
    let test: Vec<&Generated> = to.into_iter().filter(|g| !trained.contains(&g.label)).collect();
    let generated = logits(&model, test.iter().map(|g| &g.label));
    line("across sources, all", &generated, &benign);
    let plain: Vec<f32> = test.iter().zip(&generated).filter(|(g, _)| !WORD_LISTS.contains(&g.family.as_str())).map(|(_, s)| *s).collect();
    line("across sources, no word lists", &plain, &benign);
    let mut by: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for (g, s) in test.iter().zip(&generated) {
        by.entry(&g.family).or_default().push(*s);
    }
    let (t3, t2) = (threshold(&benign, 1e-3), threshold(&benign, 1e-2));
    for (family, scores) in &by {
        println!("   {family:20} {:.3} {:.3}", share(scores, t3), share(scores, t2));
    }
    for (name, list) in sources.benign.iter().skip(2) {
        let scores = logits(&model, list.iter().filter(|l| !seen.contains(l)));
        println!("   benign {name}: above 1e-3 {:.4}, above 1e-2 {:.4}", share(&scores, t3), share(&scores, t2));
    }
    if let Some(probe) = &args.probe {
        let text = std::fs::read_to_string(probe).unwrap_or_default();
        let labels: Vec<String> = text.lines().filter_map(sources::label).collect();
        let labels: BTreeSet<&String> = labels.iter().filter(|l| !seen.contains(l)).collect();
        let scores = logits(&model, labels.iter().copied());
        println!("   probe {}: above 1e-3 {:.4}, above 1e-2 {:.4}", labels.len(), share(&scores, t3), share(&scores, t2));
        let mut top: Vec<(f32, &String)> = scores.iter().copied().zip(labels.iter().copied()).collect();
        top.sort_by(|a, b| b.0.total_cmp(&a.0));
        println!("   {:?}", top.iter().step_by(1 + top.len() / 4000).take(40).map(|(s, l)| format!("{}:{s:.1}", l)).collect::<Vec<_>>());
    }
    let mixed = logits(&model, sources.mixed.iter().filter(|l| !trained.contains(l)));
    line("clicksecurity mixed", &mixed, &benign);
    let all = joined(&generated, &benign);
    let (slope, shift) = calibrate(&all);
    let fit: Vec<Scored> = all.iter().map(|s| Scored { score: 1.0 / (1.0 + libm::expf(-(slope * s.score + shift))), ..*s }).collect();
    println!("calibration slope {slope:.3} shift {shift:.3} ECE {:.4}", calibration_error(&fit));
}

fn experiment(sources: &Sources, args: &Args) {
    let (from, to): (Vec<&Generated>, Vec<&Generated>) = sources.generated.iter().partition(|g| g.source == "baderj");
    let seen: BTreeSet<&String> = sources.list("top-2016").iter().collect();
    let test_benign: Vec<&String> = sources.list("top-2013").iter().filter(|l| !seen.contains(l)).collect();
    let trained: BTreeSet<&String> = from.iter().map(|g| &g.label).collect();
    let side = Side { generated: from.clone(), benign: sources.list("top-2016").iter().collect() };
    let test: Vec<&Generated> = to.into_iter().filter(|g| !trained.contains(&g.label)).collect();
    let plain: Vec<&Generated> = test.iter().copied().filter(|g| !WORD_LISTS.contains(&g.family.as_str())).collect();
    let report = |name: &str, f: &dyn Fn(&str) -> f32| {
        let b: Vec<f32> = test_benign.iter().map(|l| f(l)).collect();
        let g: Vec<f32> = test.iter().map(|t| f(&t.label)).collect();
        let p: Vec<f32> = plain.iter().map(|t| f(&t.label)).collect();
        line(&format!("{name} all"), &g, &b);
        line(&format!("{name} plain"), &p, &b);
        let w: Vec<f32> = sources.list("threatfox-legit").iter().filter(|l| !seen.contains(l)).map(|l| f(l)).collect();
        println!("   threatfox {:.4} {:.4}", share(&w, threshold(&b, 1e-3)), share(&w, threshold(&b, 1e-2)));
    };
    let ex = examples(&side, sources, args);
    let none = examples(&side, sources, &Args { synth: 0.0, ordinary: 0.0, data: args.data.clone(), out: None, probe: None, only: String::new(), ..*args });
    let lin = |w: &[f32], l: &str| {
        let e = Example::new(l, false, 1.0);
        e.buckets.iter().map(|b| w[usize::from(*b)]).sum::<f32>() / (e.buckets.len().max(1) as f32).sqrt()
    };
    let w1 = linear::train(&ex, 4, 0.1, 1e-5, 1);
    report("linear synth", &|l| lin(&w1, l));
    let w2 = linear::train(&none, 4, 0.1, 1e-5, 1);
    report("linear none", &|l| lin(&w2, l));
    let settings = Settings { epochs: args.epochs, step: args.step, dropout: args.dropout, decay: args.decay };
    let nets: Vec<Vec<u8>> = (1..=3).map(|s| Net::train(&ex, settings, s).bytes(1.0, 0.0)).collect();
    let models: Vec<Model<'_>> = nets.iter().map(|b| Model::read(b).expect("written")).collect();
    report("one net", &|l| models[0].logit(l.as_bytes()));
    report("three nets", &|l| models.iter().map(|m| m.logit(l.as_bytes())).sum());
    report("three nets + linear", &|l| models.iter().map(|m| m.logit(l.as_bytes())).sum::<f32>() / 3.0 + lin(&w1, l));
    report("three nets + linear none", &|l| models.iter().map(|m| m.logit(l.as_bytes())).sum::<f32>() / 3.0 + lin(&w2, l));
    let other = Net::train(&none, settings, 9).bytes(1.0, 0.0);
    let other = Model::read(&other).expect("written");
    report("net none", &|l| other.logit(l.as_bytes()));
}

fn left_out(sources: &Sources, args: &Args) {
    let mut families: Vec<&str> = sources.generated.iter().map(|g| g.family.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    Chance::of(args.seed, "folds").shuffle(&mut families);
    let train_benign: Vec<&String> = sources.list("top-2016").iter().collect();
    let seen: BTreeSet<&String> = train_benign.iter().map(|n| *n).collect();
    let test_benign: Vec<&String> = sources.list("top-2013").iter().filter(|l| !seen.contains(l)).collect();
    let (mut at3, mut at2, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows = Vec::new();
    let (mut pooled_g, mut pooled_b) = (Vec::new(), Vec::new());
    for fold in 0..5 {
        let out: BTreeSet<&str> = families.iter().copied().skip(fold).step_by(5).collect();
        let (test, from): (Vec<&Generated>, Vec<&Generated>) = sources.generated.iter().partition(|g| out.contains(g.family.as_str()));
        let side = Side { generated: from, benign: train_benign.clone() };
        let bytes = train(&side, sources, args).bytes(1.0, 0.0);
        let model = Model::read(&bytes).expect("just written");
        let benign = logits(&model, test_benign.iter().copied());
        let (t3, t2) = (threshold(&benign, 1e-3), threshold(&benign, 1e-2));
        pooled_b.extend(benign);
        for family in &out {
            let scores = logits(&model, test.iter().filter(|g| g.family == **family).map(|g| &g.label));
            let (a, b) = (share(&scores, t3), share(&scores, t2));
            rows.push((family.to_string(), scores.len(), a, b));
            if !WORD_LISTS.contains(family) {
                plain.push((a, b));
            }
            at3.push(a);
            at2.push(b);
            let skip = 1 + scores.len() / 1000;
            pooled_g.extend(scores.into_iter().step_by(skip));
        }
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    for (family, n, a, b) in rows {
        println!("   {family:20} {n:6} {a:.3} {b:.3}");
    }
    println!("families left out: macro recall {:.3} at 1e-3, {:.3} at 1e-2", mean(&at3), mean(&at2));
    let of = |f: fn(&(f64, f64)) -> f64| plain.iter().map(f).sum::<f64>() / plain.len() as f64;
    println!("   without word lists: {:.3} at 1e-3, {:.3} at 1e-2", of(|p| p.0), of(|p| p.1));
    line("pooled", &pooled_g, &pooled_b);
    let all = joined(&pooled_g, &pooled_b);
    let (slope, shift) = calibrate(&all);
    println!("calibration slope {slope:.3} shift {shift:.3}");
}
