//! The figures as a table, as JSON and as a page. What always holds: the first section's figures stand at the top of the
//! JSON under fixed names; a budget that is missed is told as missed, with the figure.

use std::fmt::Write;

use anyhow::Context;
use serde_json::{Value, json};

use super::catch_up::CatchUp;
use super::latency::{Latency, Quantiles};
use super::machine::Machine;
use super::paired::{LIMIT_NS_MAX, Paired, Shape};

/// The budget of the whole way, nanoseconds per flow.
const PIPELINE_NS_MAX: f64 = 1_000.0;

/// The whole way is never more than so many times the limit of its run.
const RATIO_MAX: f64 = 3.0;

/// The embedded log's way at most so many times Kafka's.
const EMBEDDED_RATIO_MAX: f64 = 1.3;

/// A backtest over a file at most so many times Kafka's.
const FILE_RATIO_MAX: f64 = 0.8;

/// Memory of ten million live pairs, beside the rows of open slices, MiB.
const LIVE_MIB_MAX: f64 = 2_048.0;

/// A flow's cost over ten million live pairs may lie so much above that over a hundred thousand, nanoseconds.
const GROWTH_NS_MAX: f64 = 100.0;

/// Two workers are at least so many times as fast as one.
const WORKERS_RATIO_MIN: f64 = 1.8;

/// All of a run.
pub(super) struct Report {
    machine: Machine,
    shape: Shape,
    /// By name; `main` first.
    pub(super) sections: Vec<(String, Paired)>,
    pub(super) catch_up: Option<CatchUp>,
    pub(super) latency: Option<Latency>,
    /// Everything together, seconds.
    pub(super) took_s: f64,
}

/// A budget beside what was measured.
struct Budget {
    what: &'static str,
    allowed: String,
    found: String,
    met: bool,
}

impl Report {
    pub(super) fn new(shape: Shape) -> anyhow::Result<Self> {
        Ok(Self { machine: Machine::here()?, shape, sections: Vec::new(), catch_up: None, latency: None, took_s: 0.0 })
    }

    fn section(&self, name: &str) -> Option<&Paired> {
        self.sections.iter().find(|(n, _)| n == name).map(|(_, paired)| paired)
    }

    fn budgets(&self) -> Vec<Budget> {
        let Some(main) = self.section("main") else { return Vec::new() };
        let mut out = Vec::new();
        let mut most = |what, allowed: f64, found: f64, unit: &str| {
            let number = |n: f64| if n < 100.0 { format!("{n:.2}{unit}") } else { format!("{n:.0}{unit}") };
            out.push(Budget {
                what,
                allowed: format!("at most {}", number(allowed)),
                found: number(found),
                met: found <= allowed,
            });
        };
        most("CPU per flow", PIPELINE_NS_MAX, main.pipeline_cpu_ns_per_flow, " ns");
        most("times the limit of the same run", RATIO_MAX, main.ratio, "");
        most("the limit itself, else the run is void", LIMIT_NS_MAX, main.limit_cpu_ns_per_flow, " ns");
        if let Some(embedded) = self.section("embedded") {
            most("embedded log against Kafka", EMBEDDED_RATIO_MAX, embedded.against(main, |m| m.cpu_ns_per_flow), "");
        }
        if let Some(file) = self.section("file") {
            most("backtest over a file against Kafka", FILE_RATIO_MAX, file.against(main, |m| m.cpu_ns_per_flow), "");
        }
        if let Some(live) = self.section("live-10000000") {
            most("memory of ten million live pairs, open slices apart", LIVE_MIB_MAX, live.rss_mib - live.slice_mib_max, " MiB");
            let few = self.section("live-100000").and_then(|p| p.tail_cpu_ns_per_flow);
            if let Some((many, few)) = live.tail_cpu_ns_per_flow.zip(few) {
                most("CPU per flow at 10 million live pairs above that at 100 thousand", GROWTH_NS_MAX, many - few, " ns");
            }
        }
        for (what, one) in [
            ("two workers against one, both on two cores, embedded log", "workers-1"),
            ("two workers on two cores against one on one core, embedded log", "workers-1-core-1"),
        ] {
            let Some((one, two)) = self.section(one).zip(self.section("workers-2")) else { continue };
            let times = two.against(one, |m| m.flows_per_s);
            out.push(Budget {
                what,
                allowed: format!("at least {WORKERS_RATIO_MIN:.2}"),
                found: format!("{times:.2}"),
                met: times >= WORKERS_RATIO_MIN,
            });
        }
        out
    }

    /// For the terminal.
    pub(super) fn text(&self) -> String {
        let mut out: String = self.sections.iter().map(|(name, paired)| paired.line(name)).collect();
        for budget in self.budgets() {
            let word = if budget.met { "met   " } else { "MISSED" };
            _ = writeln!(out, "{word} {}: {} ({})", budget.what, budget.found, budget.allowed);
        }
        out
    }

    /// For machines.
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        let first = || self.sections.first().map(|(_, paired)| paired);
        let main = self.section("main").or_else(first).context("nothing was measured")?;
        let mut top = serde_json::to_value(main)?;
        let sections: serde_json::Map<String, Value> = self
            .sections
            .iter()
            .skip(1)
            .map(|(name, paired)| Ok((name.clone(), serde_json::to_value(paired)?)))
            .collect::<anyhow::Result<_>>()?;
        let budgets: Vec<Value> = self
            .budgets()
            .iter()
            .map(|b| json!({"what": b.what, "allowed": b.allowed, "found": b.found, "met": b.met}))
            .collect();
        if let Value::Object(fields) = &mut top {
            fields.insert("machine".into(), serde_json::to_value(&self.machine)?);
            fields.insert("flows".into(), self.shape.flows.into());
            fields.insert("pairs".into(), self.shape.pairs.into());
            fields.insert("seed".into(), self.shape.seed.into());
            fields.insert("budgets".into(), budgets.into());
            fields.insert("sections".into(), sections.into());
            fields.insert("catch_up".into(), serde_json::to_value(&self.catch_up)?);
            fields.insert("latency".into(), serde_json::to_value(&self.latency)?);
            fields.insert("hot_partition".into(), serde_json::to_value(main.hot())?);
            fields.insert("took_s".into(), self.took_s.into());
        }
        Ok(top)
    }

    /// For readers.
    pub(super) fn markdown(&self) -> String {
        let m = &self.machine;
        let mut out = format!(
            "<!-- Written by `tidewatch-bench cost`; the command stands below. -->\n\n# What a flow costs\n\n\
             {}, commit {}, {} with {} cores and {} GiB, Linux {}, {:.0} minutes:\n\n    {}\n\n",
            m.date,
            m.commit.as_deref().unwrap_or("not known"),
            m.cpu,
            m.cores,
            m.memory_gib,
            m.kernel,
            self.took_s / 60.0,
            m.command
        );
        out += "CPU, limit, memory and flows a second are medians of the rounds named, the range beside CPU; topics' bytes, state, snapshots and \
                signals are of the last round, allocations, catching up and latency of a run each. CPU is user and system time of our processes \
                alone. The limit is one process that consumes the same records with librdkafka (from files and the embedded log: \
                reads them) and decodes the same fields into columns, in turn with the pipeline. The pipeline runs exactly once, \
                with all snapshots that fell due.";
        if self.section("embedded").is_some() || self.section("workers-2").is_some() {
            out += " The three logs run in turn, round by round, beside a broker that idles, and so do the numbers of workers; one \
                    against another is the median of the rounds' own ratios.";
        }
        out += "\n\n";
        out += "## Budgets\n\n| budget | allowed | found | |\n| --- | ---: | ---: | --- |\n";
        for b in self.budgets() {
            _ = writeln!(out, "| {} | {} | {} | {} |", b.what, b.allowed, b.found, if b.met { "met" } else { "**missed**" });
        }
        if self.budgets().iter().any(|b| !b.met) {
            out += "\nWhat a budget that is missed would need stands in [docs/cost.md](../../docs/cost.md); where the time goes, below.\n";
        }
        out += "\n## Runs\n\n| run | rounds | rows | CPU per flow | limit | times | user, system | broker | flows/s | peak, settled MiB \
                | open slices MiB | signals |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
        for (name, p) in &self.sections {
            let [low, high] = p.spread.pipeline;
            let [ratio_low, ratio_high] = p.spread.ratio;
            _ = writeln!(
                out,
                "| {name}{} | {} | {} | {:.0} ({low:.0} to {high:.0}) ns | {:.0} ns | {:.1} ({ratio_low:.1} to {ratio_high:.1}) | \
                 {:.0}, {:.0} ns | {} | {:.0} | {:.0}, {:.0} | {:.0} | {} |",
                if p.void { " (void)" } else { "" },
                p.rounds.len(),
                p.workload.rows,
                p.pipeline_cpu_ns_per_flow,
                p.limit_cpu_ns_per_flow,
                p.ratio,
                p.pipeline_user_ns_per_flow,
                p.pipeline_system_ns_per_flow,
                p.broker_cpu_ns_per_flow.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0} ns")),
                p.flows_per_s,
                p.rss_mib,
                p.rss_settled_mib,
                p.slice_mib_max,
                p.signals
            );
        }
        out += "\n## State\n\n| run | pairs that called | 3 times | 10 times | keys with state | bytes per pair, counted | resident, above the \
                start | evicted | last rows alone |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
        for (name, p) in self.sections.iter().filter(|(_, p)| p.workload.pairs > 0) {
            let grown = p.rounds.last().map_or(0.0, |r| {
                let bytes = r.pipeline.rss_settled_bytes.saturating_sub(r.pipeline.rss_start_bytes);
                bytes as f64 / p.workload.pairs.max(1) as f64
            });
            _ = writeln!(
                out,
                "| {name} | {} | {} | {} | {} | {:.0} | {grown:.0} | {} | {} |",
                p.workload.pairs,
                p.workload.pairs_3,
                p.workload.pairs_10,
                p.keys,
                p.bytes_per_pair.unwrap_or_default(),
                p.evicted,
                p.tail_cpu_ns_per_flow.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0} ns"))
            );
        }
        self.markdown_threads(&mut out);
        self.markdown_rest(&mut out);
        out
    }

    /// Processor time by what the threads do.
    fn markdown_threads(&self, out: &mut String) {
        const WORKS: [&str; 6] = ["normalize", "detect", "correlate", "kafka client", "snapshots", "rest"];
        let told = || self.sections.iter().filter(|(_, p)| !p.threads_cpu_ns_per_flow.is_empty());
        if told().next().is_none() {
            return;
        }
        _ = writeln!(
            out,
            "\n## Where the time goes\n\nCPU per flow, ns, by what the threads do. Normalize decodes, routes and packs rows, detect \
             opens and orders them and has the detectors look at them; both write their epochs. The Kafka client's threads fetch, \
             send, compress and check. What threads did that have ended since (a snapshot's, a commit's) is not told apart.\n\n\
             | run | {} | limit |\n| --- |{} ---: |",
            WORKS.join(" | "),
            " ---: |".repeat(WORKS.len())
        );
        for (name, p) in told() {
            let works = WORKS.map(|work| format!("{:.0}", p.threads_cpu_ns_per_flow.get(work).copied().unwrap_or(0.0)));
            _ = writeln!(out, "| {name} | {} | {:.0} |", works.join(" | "), p.limit_cpu_ns_per_flow);
        }
    }

    fn markdown_rest(&self, out: &mut String) {
        if let Some(main) = self.section("main") {
            *out += "\n## Main run\n\n";
            for (topic, bytes) in &main.topic_bytes_per_flow {
                _ = writeln!(out, "- {bytes:.1} bytes per flow on {topic}");
            }
            if let Some((calls, bytes)) = main.allocations_per_flow.zip(main.allocated_bytes_per_flow) {
                _ = writeln!(
                    out,
                    "- {calls:.3} allocations and {bytes:.0} allocated bytes per flow, everything from start to end"
                );
            }
            _ = writeln!(out, "- {} snapshots became current in a run", main.snapshots);
        }
        if let Some((skewed, even)) =
            self.section("skewed").zip(self.section("main")).or(self.section("main").zip(self.section("even")))
            && let Some(hot) = skewed.hot()
        {
            let times = |[hot, middle]: [f64; 2]| hot / middle.max(1.0);
            _ = writeln!(
                out,
                "\n## One host with {:.0} % of all flows\n\n{:.0} ns per flow instead of {:.0}, {:.0} flows/s instead of {:.0}. Its \
                 partition held {:.1} times the rows of the middle one in open slices and {:.1} times the state.",
                skewed.skew * 100.0,
                skewed.pipeline_cpu_ns_per_flow,
                even.pipeline_cpu_ns_per_flow,
                skewed.flows_per_s,
                even.flows_per_s,
                times(hot.waiting_rows_max),
                times(hot.state_bytes)
            );
        }
        if let Some(c) = &self.catch_up {
            _ = writeln!(
                out,
                "\n## Catching up after a stop\n\n{} rows that came while the job was stopped were worked off in {:.1} s from the \
                 start of its process, its restore included: {:.0} flows/s.",
                c.rows, c.wall_s, c.flows_per_s
            );
        }
        if let Some(l) = &self.latency {
            _ = writeln!(
                out,
                "\n## Latency at half the load\n\n{:.0} rows a second, {} signals, from the last row's event time to the signal as \
                 readers of committed records see it; of it {:.0} s lateness and up to {:.0} s slice are the topology's wish.\n\n\
                 | seconds | median | 90 % | 99 % | most |\n| --- | ---: | ---: | ---: | ---: |",
                l.rows_per_s, l.signals, l.lateness_s, l.slice_s
            );
            let mut line = |what, q: &Quantiles| {
                _ = writeln!(out, "| {what} | {:.2} | {:.2} | {:.2} | {:.2} |", q.p50, q.p90, q.p99, q.max);
            };
            line("all", &l.whole);
            line("beyond slice and lateness", &l.beyond);
            *out += "\n| beyond, up to | signals |\n| ---: | ---: |\n";
            for (bound, count) in &l.beyond.histogram {
                _ = writeln!(out, "| {bound:.2} s | {count} |");
            }
        }
    }
}
