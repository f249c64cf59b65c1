//! `tidewatch dlq`: what was rejected, why, and back again. A replayed record goes to the deployment's own topic of
//! replayed records, never to the topic it came from: no other reader of that topic gets it twice.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Exit, Failure, Output, open, place, shown};
use crate::log::{Log, LogError, PollLimit, Record, TopicPartition};
use crate::topology::Topology;

mod list;
mod replay;
mod show;

/// Header of a replayed record: `partition:offset` in the rejected topic.
pub(super) const REPLAYED_FROM: &str = "tw-replayed-from";

/// Replayed places remembered, at most; older ones are then listed as not replayed.
const REPLAYED_MAX: usize = 1_000_000;

/// Look at rejected records, and replay them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch dlq list topologies/quickstart.yaml\n  \
                        tidewatch dlq show topologies/quickstart.yaml 17\n  \
                        tidewatch dlq replay topologies/quickstart.yaml --offset 17 --value repaired.bin\n  \
                        tidewatch dlq replay topologies/quickstart.yaml --reason tenant")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Replay(replay::Args),
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    match &args.command {
        Command::List(args) => list::run(args, out),
        Command::Show(args) => show::run(args, out),
        Command::Replay(args) => replay::run(args, out),
    }
}

/// The rejected topic of a topology and what is to know beside it.
struct Rejected {
    topology: Topology,
    log: std::sync::Arc<dyn Log>,
    topic: String,
    partitions: u32,
}

impl Rejected {
    fn open(topology: &Path) -> Result<Self, Failure> {
        let topology = Topology::read(topology)?;
        let log = open::reading(&topology)?.log;
        let (topic, partitions) = place::topic(&topology, log.as_ref(), "rejected")?;
        Ok(Self { topology, log, topic, partitions })
    }

    /// Every rejected record there is now, partition by partition.
    fn each(&self, mut take: impl FnMut(u32, Record) -> Result<(), Failure>) -> Result<(), Failure> {
        each(self.log.as_ref(), &self.topic, self.partitions, |at, record| take(at.partition, record))
    }

    /// One rejected record.
    fn at(&self, partition: u32, offset: i64) -> Result<Record, Failure> {
        if partition >= self.partitions {
            let last = self.partitions.saturating_sub(1);
            return Err(Failure::Usage(format!("{} has the partitions 0 to {last}, not {partition}", self.topic)));
        }
        let at = TopicPartition::new(self.topic.clone(), partition);
        let mut reader = self.log.reader(&at, offset)?;
        let found = reader.poll(PollLimit { records: 1, ..PollLimit::default() }, super::POLL_WAIT)?;
        found.into_iter().find(|r| r.offset == offset).ok_or_else(|| {
            Failure::Usage(format!("no rejected record at offset {offset} of {at}; `tidewatch dlq list` shows them"))
        })
    }

    /// Places that have been replayed.
    fn replayed(&self) -> Result<BTreeSet<(u32, i64)>, Failure> {
        let topic = self.topology.names.replayed();
        let partitions = match self.log.partitions(&topic) {
            Err(LogError::UnknownTopic { .. }) => return Ok(BTreeSet::new()),
            partitions => partitions?,
        };
        let mut replayed = BTreeSet::new();
        each(self.log.as_ref(), &topic, partitions, |_, record| {
            if let Some(from) = shown::text_of(&record, REPLAYED_FROM)
                && let Some((partition, offset)) = from.split_once(':')
                && let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse())
            {
                replayed.insert((partition, offset));
                if replayed.len() > REPLAYED_MAX {
                    replayed.pop_first();
                }
            }
            Ok(())
        })?;
        Ok(replayed)
    }
}

fn each(
    log: &dyn Log,
    topic: &str,
    partitions: u32,
    mut take: impl FnMut(&TopicPartition, Record) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for partition in 0..partitions {
        let at = TopicPartition::new(topic, partition);
        let kept = log.offsets(&at)?;
        place::each_record(log, &at, kept.start, kept.end, |record| take(&at, record))?;
    }
    Ok(())
}
