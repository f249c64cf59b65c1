//! The labelled names on disk, as labels under their public suffix. Reads the folder of development data; copies nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use tidewatch_operators::names::model::TOO_SHORT_BYTES;
use tidewatch_operators::names::registered;

/// Families whose names are not made up label by label: numbered or shuffled labels under fixed parents.
const NOT_BY_NAME: &[&str] = &["fosniw", "unnamed_downloader"];

/// Families that join words.
pub const WORD_LISTS: &[&str] = &["matsnu", "rovnix"];

/// A generated label.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Family.
    pub family: String,
    /// The list it comes from.
    pub source: String,
    /// Label.
    pub label: String,
}

/// All that is there.
#[derive(Debug)]
pub struct Sources {
    /// Generated, distinct by (family, source, label).
    pub generated: Vec<Generated>,
    /// Unnamed families, 2014.
    pub mixed: Vec<String>,
    /// Benign lists by name, each distinct and in the list's order.
    pub benign: Vec<(&'static str, Vec<String>)>,
    /// Words, from labels in front of popular domains.
    pub words: Vec<String>,
}

impl Sources {
    /// Reads a data folder.
    pub fn read(data: &Path) -> Result<Self> {
        let mut seen = BTreeSet::new();
        let mut generated = Vec::new();
        for line in lines(&data.join("dga-names/dga.csv.gz"))?.iter().skip(1) {
            let mut fields = line.split(',');
            let (Some(family), _, Some(name), Some(source)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let Some(label) = label(name) else { continue };
            if !NOT_BY_NAME.contains(&family) && seen.insert((family.to_owned(), source.to_owned(), label.clone())) {
                generated.push(Generated { family: family.to_owned(), source: source.to_owned(), label });
            }
        }
        let list = |path: &str| -> Result<Vec<String>> {
            Ok(distinct(lines(&data.join(path))?.iter().filter_map(|l| label(l.split(',').next()?))))
        };
        let threatfox = lines(&data.join("ti-threatfox/train.csv.gz"))?;
        let threatfox = threatfox.iter().filter_map(|l| label(l.strip_suffix(",legit,legit")?));
        let words = lines(&data.join("benign-names/subdomain-labels.txt.gz"))?;
        let words = words.iter().filter(|w| (2..=12).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase()));
        Ok(Self {
            generated,
            mixed: list("dga-names/clicksecurity-mixed-2014.txt.gz")?,
            benign: vec![
                ("top-2013", list("benign-names/top-2013.txt.gz")?),
                ("top-2016", list("benign-names/top-2016.txt.gz")?),
                ("threatfox-legit", distinct(threatfox)),
                ("maltrail-whitelist", list("ti-maltrail/whitelist.txt")?),
            ],
            words: words.take(20_000).cloned().collect(),
        })
    }

    /// A benign list.
    pub fn list(&self, name: &str) -> &[String] {
        self.benign.iter().find(|(n, _)| *n == name).map_or(&[], |(_, list)| list)
    }
}

/// The label that a name is judged by; `None` where the model does not judge.
pub fn label(name: &str) -> Option<String> {
    let name = name.trim().trim_end_matches('.').to_ascii_lowercase();
    let label = match registered(&name) {
        Ok(r) if r.provided => return None,
        Ok(r) => r.label,
        // Lists without suffixes.
        Err(tidewatch_operators::names::Unregistered::Single) => &name,
        Err(_) => return None,
    };
    (label.len() > TOO_SHORT_BYTES && !label.starts_with("xn--")).then(|| label.to_owned())
}

fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.filter(|n| seen.insert(n.clone())).collect()
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let reader: Box<dyn BufRead> = if path.extension().is_some_and(|e| e == "gz") {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    reader.lines().map(|l| l.with_context(|| format!("cannot read {}", path.display()))).collect()
}
