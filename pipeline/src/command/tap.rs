//! `tidewatch tap`: any topic, decoded, a line for each thing in it. Reads only, joins no group, so nobody notices.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::place::Begin;
use super::shown::{Shower, Shown};
use super::{Exit, Failure, Output, open, place};
use crate::log::{Log, PollLimit, Reader, Record, TopicPartition};
use crate::topology::Topology;

/// Between two looks at all partitions while nothing comes.
const FOLLOW_WAIT: Duration = Duration::from_millis(100);

/// Show the records of a topic, decoded
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch tap topologies/quickstart.yaml signals --follow\n  \
                        tidewatch tap topologies/kafka.yaml obs --kind dns --tenant acme --from 2026-03-11T09:00:00Z --json\n\
                        It ends at the end of the topic unless --follow is given. Rows of input topics are shown with the tenant \
                        that they claim: nobody has verified it.")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// obs, findings, signals, shadow, rejected, late, replayed, control, an input topic, or any other topic of the log
    topic: String,
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// beginning, end, an offset (the same in every partition) or a time of the log
    #[arg(long, value_name = "WHERE", default_value = "beginning")]
    from: Begin,
    /// Only this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Only this kind: flow, dns, ..., finding, contact, mark, ..., or the kind of a finding or signal (ndr.beaconing)
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only what holds this text, in the line or in the JSON
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// End after so many lines
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Go on when the end is reached, and show what comes
    #[arg(long, overrides_with = "no_follow")]
    follow: bool,
    /// End at the end of the topic (the default)
    #[arg(long, overrides_with = "follow")]
    no_follow: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let topology = Topology::read(&args.topology)?;
    let reached = open::reading(&topology)?;
    let log = reached.log.as_ref();
    let (topic, partitions) = place::topic(&topology, log, &args.topic)?;
    let wanted: Vec<u32> = match args.partition {
        Some(partition) if partition >= partitions => {
            return Err(Failure::Usage(format!("topic {topic} has {partitions} partitions, 0 to {}", partitions - 1)));
        }
        Some(partition) => vec![partition],
        None => (0..partitions).collect(),
    };
    let mut taps = Vec::new();
    for partition in wanted {
        taps.push(Tap::open(args, &topology, log, TopicPartition::new(topic.clone(), partition))?);
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let behind = taps.iter().any(|t| !t.caught_up());
        if !behind {
            if !args.follow {
                break;
            }
            if reached.alone {
                tracing::warn!("no process runs this topology, so nothing more can come: the tap ends");
                break;
            }
            out.flush()?;
            std::thread::sleep(FOLLOW_WAIT);
        }
        for tap in taps.iter_mut().filter(|t| !behind || !t.caught_up()) {
            for record in tap.poll(args.follow)? {
                for (row, one) in tap.shower.show(&record).iter().enumerate() {
                    if left > 0 && args.matches(one) {
                        args.print(&tap.at, &record, row, one, out)?;
                        left -= 1;
                    }
                }
            }
        }
    }
    Ok(Exit::Good)
}

struct Tap {
    at: TopicPartition,
    reader: Box<dyn Reader>,
    shower: Shower,
    /// The end when the tap began; it is caught up from there on.
    end: i64,
    stalled: u32,
}

impl Tap {
    fn open(args: &Args, topology: &Topology, log: &dyn Log, at: TopicPartition) -> Result<Self, Failure> {
        let kept = log.offsets(&at)?;
        let from = args.from.offset(log, &at, kept)?;
        let reader = log.reader(&at, from)?;
        Ok(Self { shower: Shower::new(topology, log, &at)?, reader, end: kept.end, stalled: 0, at })
    }

    fn caught_up(&self) -> bool {
        self.reader.position() >= self.end
    }

    fn poll(&mut self, follow: bool) -> Result<Vec<Record>, Failure> {
        if self.caught_up() {
            return Ok(self.reader.poll(PollLimit::default(), Duration::ZERO)?);
        }
        let mut records = self.reader.poll(PollLimit::default(), super::POLL_WAIT)?;
        if records.is_empty() {
            if self.reader.at_end() {
                // Only markers of transactions lay before the end.
                self.end = self.reader.position();
            }
            self.stalled += 1;
            if self.stalled >= place::STALLED_POLLS {
                return Err(Failure::Failed(format!("{} gives nothing beyond offset {}", self.at, self.reader.position())));
            }
        } else {
            self.stalled = 0;
            // What came since the tap began is for those who follow.
            records.retain(|r| follow || r.offset < self.end);
        }
        Ok(records)
    }
}

impl Args {
    fn matches(&self, one: &Shown) -> bool {
        let tenant = self.tenant.as_ref().is_none_or(|t| one.tenant.as_ref() == Some(t));
        let kind = self.kind.as_ref().is_none_or(|k| *k == one.kind || one.of.as_ref() == Some(k));
        let grep = self.grep.as_ref().is_none_or(|g| one.text.contains(g.as_str()) || one.json.to_string().contains(g.as_str()));
        tenant && kind && grep
    }

    fn print(&self, at: &TopicPartition, record: &Record, row: usize, one: &Shown, out: &mut Output) -> Result<(), Failure> {
        if !self.json {
            let tenant = one.tenant.as_deref().unwrap_or("-");
            return out.line(format_args!("{}  {tenant}  {}  {}", one.time, one.kind, one.text));
        }
        out.json(&json!({
            "topic": at.topic, "partition": at.partition, "offset": record.offset, "row": row,
            "timestamp": record.timestamp.to_rfc3339(), "time": one.time.to_rfc3339(),
            "tenant": one.tenant, "kind": one.kind, "value": one.json,
        }))
    }
}
