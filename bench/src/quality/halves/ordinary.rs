//! Captured traffic without attacks, by half: one of the two benign days with its replays, and files of the crawl.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tidewatch_operators::rule::Rule;

use super::super::logs::write_looks;
use super::super::{Context, replay, way};
use super::Half;
use super::tally::{Around, Tally};
use crate::dns::capture;

/// The half's day as it is, and its replays; nothing without the development sets.
pub fn days(context: &Context, half: Half, kind: &str, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    if !context.has_sets() {
        return Ok(());
    }
    for day in half.of(replay::DAYS.to_vec(), |day| day.folder.to_owned()) {
        let ran = way::run(&context.set("flows-ctu").join(day.folder), &[replay::NETWORK], rules)?;
        tally.take(&ran, &[], Around::Captured(day.hours / 24.0), |_| true);
        let replayed = replay::of(context, &day, &format!("half-{}-{kind}", half.name()), rules)?;
        tally.take(&replayed.ran, &[], Around::Captured(replayed.host_days), |_| true);
    }
    Ok(())
}

/// The half's files of the crawl, by one client; how long it went on nobody wrote down.
pub fn crawl(context: &Context, half: Half, rules: &[Rule], tally: &mut Tally) -> Result<()> {
    if !context.has_sets() {
        return Ok(());
    }
    let folder = context.set("dns-tunnel-pcap/normal");
    let files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    let name = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
    let mut looks = Vec::new();
    for file in half.of(files, name) {
        looks.extend(capture::read(&file)?);
    }
    let dir = context.folder(&format!("half-{}-crawl", half.name()))?;
    write_looks(&dir, looks)?;
    let ran = way::run(&dir, &[], rules)?;
    std::fs::remove_dir_all(&dir)?;
    tally.take(&ran, &[], Around::Captured(0.0), |_| true);
    Ok(())
}
