//! Rows for the job that is killed: first as many as make every pair live, as fast as they are taken, then, when those have
//! been worked off, further ones at a steady rate. What always holds: event time goes on at the steady rate from the start, so
//! that the first part is as spread as the rest; who goes on after a kill goes on where the topic ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidewatch::log::partitioner::murmur2_partition;
use tidewatch::log::{Append, Log, TopicPartition, TopicSpec};
use tidewatch_generator::synthetic::Visits;
use tidewatch_generator::{Plan, Synthetic};

use super::Args;

/// Partitions of the input.
pub(super) const INPUTS: u32 = 2;

/// Records appended at once before the steady rate begins.
const APPEND_RECORDS: usize = 200;

/// Seconds for which there are rows.
const LASTS_S: u64 = 4 * 3_600;

/// A wait is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The rows, and where they go.
pub(super) struct Feed<'a> {
    args: &'a Args,
    log: Box<dyn Log>,
    caught_up: AtomicBool,
    stop: AtomicBool,
    failed: AtomicBool,
}

/// Name of the input.
pub(super) fn topic(args: &Args) -> String {
    format!("{}.flows", args.deployment)
}

impl<'a> Feed<'a> {
    pub(super) fn new(args: &'a Args, log: Box<dyn Log>) -> Self {
        Self { args, log, caught_up: AtomicBool::new(false), stop: AtomicBool::new(false), failed: AtomicBool::new(false) }
    }

    /// The first part has been worked off.
    pub(super) fn caught_up(&self) {
        self.caught_up.store(true, Ordering::Release);
    }

    /// Nobody reads any more.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn make_topic(&self) -> anyhow::Result<()> {
        // By the log's own clock: the rows' times lie in the past, and the brokers would remove what is that old.
        Ok(self.log.create_topic(&TopicSpec { append_time: true, ..TopicSpec::new(topic(self.args), INPUTS) })?)
    }

    /// Rows could not be written: nobody needs to wait for what comes of them.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Writes until it is stopped.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.write().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn write(&self) -> anyhow::Result<()> {
        let (args, topic) = (self.args, topic(self.args));
        let first_part = args.first_part();
        let rows = first_part + args.rate * LASTS_S;
        let duration_s = u32::try_from(rows / args.rate).unwrap_or(u32::MAX);
        let synthetic =
            Synthetic { seed: args.seed, duration_s, replies: false, visits: Visits::Live, ..Plan::bench(rows, args.pairs) };
        let batch = u64::from(synthetic.batch.max(1));
        let mut there = 0;
        for partition in 0..INPUTS {
            there += self.log.offsets(&TopicPartition::new(&topic, partition))?.end.unsigned_abs();
        }
        let mut writer = self.log.writer("bench-producer")?;
        let mut appends = Vec::new();
        let mut steady: Option<(u64, Instant)> = None;
        for (n, record) in synthetic.records().enumerate().skip(usize::try_from(there)?) {
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            if n as u64 * batch >= first_part && steady.is_none() {
                writer.commit(&appends, &[])?;
                appends.clear();
                while there == 0 && !self.caught_up.load(Ordering::Acquire) {
                    if self.stop.load(Ordering::Acquire) {
                        return Ok(());
                    }
                    std::thread::sleep(LOOK_EVERY);
                }
                steady = Some((n as u64, Instant::now()));
            }
            appends.push(Append {
                topic: topic.clone(),
                partition: murmur2_partition(&record.key, INPUTS),
                timestamp: Some(record.timestamp),
                key: Some(record.key.into()),
                value: Some(record.value.into()),
                headers: Vec::new(),
            });
            let Some((from, since)) = steady else {
                if appends.len() >= APPEND_RECORDS {
                    writer.commit(&appends, &[])?;
                    appends.clear();
                }
                continue;
            };
            let due = Duration::from_secs_f64((n as u64 - from) as f64 * batch as f64 / args.rate as f64);
            let early = due.saturating_sub(since.elapsed());
            if !early.is_zero() {
                writer.commit(&appends, &[])?;
                appends.clear();
                std::thread::sleep(early);
            }
        }
        Ok(())
    }
}
