//! A restart's figures for people and machines: one round as text, all runs as JSON, and a page over them. A file that is there
//! keeps what it holds of other logs and numbers of pairs. A bound that is missed is told as missed.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{Figures, LogKind, Round};

/// From the kill to the first new epoch, seconds, restarted in place on Kafka.
const KAFKA_S_MAX: f64 = 5.0;

/// The same on the embedded log with up to a million pairs.
const MILLION_S_MAX: f64 = 5.0;

/// The same with ten million.
const TEN_MILLION_S_MAX: f64 = 30.0;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    runs: Vec<Figures>,
}

/// One round, as it is over.
pub(super) fn round(round: &Round) -> String {
    let t = &round.slowest;
    format!(
        "kill -9 with snapshots {:.0} s old\n\
         first epoch   {:>6.2} s after the kill; of every detect task {:.2} s, of every task {:.2} s\n\
         process       {:>6.2} s until the old one was gone, {:.2} s opening the log, {:.2} s topics and rules\n\
         slowest task  {:>6.2} s: committed {:.3}, load {:.3} (read {:.3}, verify {:.3}, decode {:.3}), open {:.3}, refill {:.3}, muted {:.3}, commit {:.3}\n\
         state         {} keys, {:.0} MiB counted, {:.0} MiB in snapshots, {} evicted; {:.0} MiB resident before the kill\n",
        round.snapshot_age_s,
        round.first_commit_s,
        round.all_commit_s,
        round.every_commit_s,
        round.gone_s,
        round.open_s,
        round.begin_s,
        t.total_s,
        t.committed_s,
        t.load_s,
        t.read_s,
        t.verify_s,
        t.decode_s,
        t.open_s,
        t.refill_s,
        t.muted_s,
        t.commit_s,
        round.keys,
        mib(round.state_bytes),
        mib(round.snapshot_bytes),
        round.evicted,
        mib(round.rss_bytes),
    )
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Adds a run to the file, and writes the page over all of them.
pub(super) fn write(path: &Path, page: Option<&Path>, figures: Figures) -> anyhow::Result<()> {
    let mut report: Report = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is no report of restarts", path.display()))?,
        Err(_) => Report::default(),
    };
    report.runs.retain(|run| (run.log, run.pairs) != (figures.log, figures.pairs));
    report.runs.push(figures);
    report.runs.sort_by_key(|run| (run.log.name(), run.pairs));
    let put = |path: &Path, text: String| std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    put(path, serde_json::to_string_pretty(&report)? + "\n")?;
    page.map_or(Ok(()), |page| put(page, text(&report)))
}

fn bound_s(run: &Figures) -> f64 {
    match run.log {
        LogKind::Kafka => KAFKA_S_MAX,
        LogKind::Embedded if run.pairs <= 1_000_000 => MILLION_S_MAX,
        LogKind::Embedded => TEN_MILLION_S_MAX,
    }
}

/// The page.
fn text(report: &Report) -> String {
    let mut page = "# Restart after kill -9\n\n\
        Made by `tidewatch-bench restart`; do not edit. The job runs the whole way while rows keep coming, is killed when its snapshots, \
        all of a time when it had caught up, are as old as they get, and is started again at once: on Kafka as the same static member. Seconds from the kill.\n\n\
        | log | pairs | bound | first new epoch, median (worst) | every detect task | every task | kills | load |\n\
        | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for run in &report.runs {
        let bound_s = bound_s(run);
        let judged = |of: fn(&Round) -> f64| {
            let (median, worst) = spread(run, of);
            format!("{}: {}", both((median, worst)), if worst <= bound_s { "met" } else { "**missed**" })
        };
        let _ = writeln!(
            page,
            "| {} | {} | {bound_s:.0} | {} | {} | {} | {} | {:.0} |",
            run.log.name(),
            run.pairs,
            judged(|r| r.first_commit_s),
            judged(|r| r.all_commit_s),
            both(spread(run, |r| r.every_commit_s)),
            run.rounds.len(),
            spread(run, |r| r.load).1
        );
    }
    page += "\nLoad: processes that wanted one of the machine's cores at the worst kill, the job's own threads among them; with more than there \
        are cores, others' work is in every figure.\n";
    page += "\nWhere the time goes, medians; the parts of a load overlap between tasks:\n\n\
        | log | pairs | old process gone | open log | topics, rules | slowest detect task | committed | load | read | verify | decode | open | \
        refill | muted | commit |\n\
        | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for run in &report.runs {
        let parts: [fn(&Round) -> f64; 13] = [
            |r| r.gone_s,
            |r| r.open_s,
            |r| r.begin_s,
            |r| r.slowest.total_s,
            |r| r.slowest.committed_s,
            |r| r.slowest.load_s,
            |r| r.slowest.read_s,
            |r| r.slowest.verify_s,
            |r| r.slowest.decode_s,
            |r| r.slowest.open_s,
            |r| r.slowest.refill_s,
            |r| r.slowest.muted_s,
            |r| r.slowest.commit_s,
        ];
        let parts: Vec<String> = parts.iter().map(|of| format!("{:.2}", spread(run, of).0)).collect();
        let _ = writeln!(page, "| {} | {} | {} |", run.log.name(), run.pairs, parts.join(" | "));
    }
    page += "\nMemory before the kill:\n\n\
        | log | pairs | hosts | counted per pair | resident per pair | in snapshots per pair | resident | evicted |\n\
        | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for run in &report.runs {
        let per_pair = |of: fn(&Round) -> f64| spread(run, of).0 / run.pairs as f64;
        let _ = writeln!(
            page,
            "| {} | {} | {:.0} | {:.0} B | {:.0} B | {:.0} B | {:.0} MiB | {:.0} |",
            run.log.name(),
            run.pairs,
            spread(run, |r| r.keys as f64).0,
            per_pair(|r| r.state_bytes as f64),
            per_pair(|r| r.rss_bytes as f64),
            per_pair(|r| r.snapshot_bytes as f64),
            spread(run, |r| mib(r.rss_bytes)).0,
            spread(run, |r| r.evicted as f64).1,
        );
    }
    page += "\nResident memory has everything in it: the process itself, queues, rows of open slices, and what the allocator keeps.\n\n\
        | log | pairs | rows before the first kill | loaded in | rows a second | snapshots every | obs partitions | threads a stage | machine | \
        date | commit | command |\n\
        | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | --- | --- |\n";
    for run in &report.runs {
        let m = &run.machine;
        let _ = writeln!(
            page,
            "| {} | {} | {} | {:.0} s | {} | {} s | {} | {} | {} x {}, {} GiB | {} | {} | `{}` |",
            run.log.name(),
            run.pairs,
            run.flows,
            run.loaded_s,
            run.rate,
            run.every_s,
            run.partitions,
            run.workers,
            m.cores,
            m.cpu,
            m.memory_gib,
            m.date,
            m.commit.as_deref().unwrap_or("unknown"),
            m.command
        );
    }
    page
}

/// Median and worst of the rounds.
fn spread(run: &Figures, of: impl Fn(&Round) -> f64) -> (f64, f64) {
    let mut all: Vec<f64> = run.rounds.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    let Some(last) = all.len().checked_sub(1) else { return (0.0, 0.0) };
    (f64::midpoint(all[last / 2], all[last.div_ceil(2)]), all[last])
}

fn both((median, worst): (f64, f64)) -> String {
    format!("{median:.2} ({worst:.2})")
}
