//! How long it takes from a row's event to the signal that it causes, while rows come at half the rate that the machine can
//! bear. Rows carry the clock's own time; in steady steps one more host sweeps its neighbours, which is told at once.
//!
//! Two figures: all of it, and what lies beyond the end of the row's slice and the input's lateness, which the topology
//! asks for and which no engine could do without.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;
use tidewatch::backtest::SignalReader;
use tidewatch::log::partitioner::murmur2_partition;
use tidewatch::log::{Append, Log, TopicSpec};
use tidewatch::topology::Names;
use tidewatch::worker::system_clock;
use tidewatch_generator::Synthetic;
use tidewatch_schemas::time::EventTime;

use super::job::{self, Job, Until, What};
use super::paired::{self, Shape};
use super::place::Place;
use super::workload::{Kind, PARTITIONS};

/// Rows come for so long, seconds: lateness and a slice pass before the first signal can be.
const SECONDS: u64 = 180;

/// One sweep in so many seconds.
const SWEEP_EVERY_S: f64 = 0.5;

/// What came of it; seconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) rows_per_s: f64,
    pub(super) signals: usize,
    /// From the last row's event time to the signal's being there for readers of committed records.
    pub(super) whole: Quantiles,
    /// Beyond the slice's end and the lateness.
    pub(super) beyond: Quantiles,
    pub(super) lateness_s: f64,
    pub(super) slice_s: f64,
    pub(super) cpu_ns_per_flow: f64,
}

/// Of a distribution.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
    /// Upper bound and number of each step, without empty ones.
    pub(super) histogram: Vec<(f64, usize)>,
}

/// Runs it. `flows_per_s` is what the machine can bear.
pub(super) fn run(place: &mut Place, shape: &Shape, flows_per_s: f64) -> anyhow::Result<Latency> {
    let rate = flows_per_s / 2.0;
    eprintln!("measuring latency: {rate:.0} rows a second for {SECONDS} s");
    let (topic, deployment) = (place.name(), place.name());
    if shape.log != super::LogKind::Kafka {
        bail!("latency is measured on Kafka: it takes a writer and a reader besides the job");
    }
    let source = place.source(shape.log, &topic)?;
    let log = source.log()?;
    log.create_topic(&TopicSpec { append_time: true, ..TopicSpec::new(&topic, PARTITIONS) })?;
    let base = paired::job(shape, What::Pipeline, source, Until::Passed(SECONDS), place)?;
    let dir = place.file(&deployment);
    let job = Job { topic: topic.clone(), deployment: deployment.clone(), dir, kind: Kind::Flow, tail_rows: 0, ..base };
    let input = Kind::Flow.input(&topic)?;
    let process = job.start()?;
    let signals_topic = Names::of(&deployment).unwrap_or_default().signals();
    let until = Instant::now() + Duration::from_secs(SECONDS);
    let (seen, produced) = std::thread::scope(|scope| {
        let producing = scope.spawn(|| produce(shape, &*log, &topic, rate, until));
        let seen = listen(&log, &signals_topic, until);
        (seen, producing.join())
    });
    let measured = job::finish(process)?;
    produced.map_err(|_| anyhow::anyhow!("the producer panicked"))??;
    let seen = seen?;
    let (lateness_s, slice_s) = (input.lateness.as_secs_f64(), tidewatch::topology::SLICE_DEFAULT.as_secs_f64());
    let whole = seen.iter().map(|(at, last, _)| at.since(*last) as f64 / 1e9).collect();
    let beyond = seen.iter().map(|(at, _, end)| at.since(*end) as f64 / 1e9 - lateness_s).collect();
    Ok(Latency {
        rows_per_s: rate,
        signals: seen.len(),
        whole: quantiles(whole, 1.0)?,
        beyond: quantiles(beyond, 0.25)?,
        lateness_s,
        slice_s,
        cpu_ns_per_flow: measured.cpu_ns_per_flow,
    })
}

/// Writes rows at a rate, as they come: their event time is the clock's.
fn produce(shape: &Shape, log: &dyn Log, topic: &str, rate: f64, until: Instant) -> anyhow::Result<()> {
    let clock = system_clock();
    let mut writer = log.writer("cost-live")?;
    let append = |record: tidewatch_generator::Record| Append {
        topic: topic.to_owned(),
        partition: murmur2_partition(&record.key, PARTITIONS),
        timestamp: Some(record.timestamp),
        key: Some(record.key.into()),
        value: Some(record.value.into()),
        headers: Vec::new(),
    };
    let start = clock();
    let synthetic = Synthetic { start, flows: (rate * SECONDS as f64) as u64, duration_s: SECONDS as u32, ..shape.synthetic() };
    let mut sweeps = 0;
    let mut appends = Vec::new();
    for record in synthetic.records() {
        if Instant::now() >= until {
            break;
        }
        let early = record.timestamp.since(clock());
        appends.push(append(record));
        if early <= 0 {
            continue;
        }
        if clock().since(start) as f64 / 1e9 > f64::from(sweeps) * SWEEP_EVERY_S {
            appends.push(append(synthetic.sweep(sweeps, clock())));
            sweeps += 1;
        }
        writer.commit(&appends, &[])?;
        appends.clear();
        std::thread::sleep(Duration::from_nanos(early.unsigned_abs()));
    }
    Ok(())
}

/// Signals of sweeps as they become readable: when that was, their last row, the end of their slice.
fn listen(log: &std::sync::Arc<dyn Log>, topic: &str, until: Instant) -> anyhow::Result<Vec<(EventTime, EventTime, EventTime)>> {
    let clock = system_clock();
    while log.partitions(topic).is_err() {
        if Instant::now() >= until {
            bail!("the job made no topic for signals");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut reader = SignalReader::open(log, topic)?;
    let (mut seen, mut taken) = (Vec::new(), 0);
    while Instant::now() < until {
        reader.read()?;
        let now = clock();
        for (_, signal) in &reader.found[taken..] {
            if signal.kind == "ndr.scan" {
                seen.push((now, signal.last_seen, signal.detected_at));
            }
        }
        taken = reader.found.len();
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(seen)
}

fn quantiles(mut values: Vec<f64>, step: f64) -> anyhow::Result<Quantiles> {
    if values.is_empty() {
        bail!("no signal came");
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    let mut histogram: Vec<(f64, usize)> = Vec::new();
    for value in &values {
        let bound = (value / step).floor() * step + step;
        match histogram.last_mut() {
            Some((last, count)) if *last == bound => *count += 1,
            _ => histogram.push((bound, 1)),
        }
    }
    Ok(Quantiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0), histogram })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quantiles_and_steps_are_what_they_say() {
        let of = quantiles((1..=100).map(|n| f64::from(n) / 10.0).collect(), 1.0).unwrap();
        assert_eq!((of.p50, of.p99, of.max), (5.1, 9.9, 10.0));
        assert_eq!(of.histogram.iter().map(|(_, n)| n).sum::<usize>(), 100);
        assert_eq!(of.histogram[0], (1.0, 9));
        assert!(quantiles(Vec::new(), 1.0).is_err());
    }
}
