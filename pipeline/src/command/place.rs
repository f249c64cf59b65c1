//! Where in a log: topics by their short or full names, positions in them, and one record by its place. Every name that is
//! not known is answered with those that are.

use std::str::FromStr;

use tidewatch_schemas::document::did_you_mean;
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::{FORMATS, Format};

use super::Failure;
use crate::log::{Log, LogError, OffsetRange, PollLimit, Record, TopicPartition};
use crate::topology::{Input, Topology};

/// Names listed in a message, at most.
const LISTED_MAX: usize = 20;

/// The internal topics by their short names.
pub fn internal(topology: &Topology) -> [(&'static str, String); 8] {
    let names = &topology.names;
    [
        ("obs", names.obs()),
        ("findings", names.findings()),
        ("signals", names.signals()),
        ("shadow", names.shadow()),
        ("rejected", names.rejected()),
        ("late", names.late()),
        ("replayed", names.replayed()),
        ("control", names.control()),
    ]
}

/// A topic by its short name, its full name, or any that the log has; with its partition count.
pub fn topic(topology: &Topology, log: &dyn Log, name: &str) -> Result<(String, u32), Failure> {
    let internal = internal(topology);
    let full = internal.iter().find(|(short, _)| *short == name).map_or(name, |(_, full)| full);
    match log.partitions(full) {
        Ok(partitions) => return Ok((full.to_owned(), partitions)),
        Err(LogError::UnknownTopic { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    let by_whom = if internal.iter().any(|(_, topic)| topic == full) {
        Some("`tidewatch run` makes it when it starts")
    } else if topology.input_topics().iter().any(|spec| spec.name == full) {
        Some("`tidewatch run` or `tidewatch produce` makes it")
    } else if topology.inputs.iter().any(|i| i.topic == full) {
        Some("the topology gives it no `partitions`, so it is for others to make")
    } else {
        None
    };
    if let Some(by_whom) = by_whom {
        return Err(Failure::Usage(format!("topic {full} is not there yet: {by_whom}")));
    }
    let there = log.topics()?;
    let known: Vec<&str> = internal
        .iter()
        .map(|(short, _)| *short)
        .chain(there.iter().map(|(t, _)| t.as_str()).filter(|t| internal.iter().all(|(_, full)| full != t)))
        .collect();
    Err(Failure::Usage(unknown("topic", name, &known)))
}

/// `unknown WHAT "NAME"; did you mean X? known are ...`.
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let meant = did_you_mean(name, known.iter().copied()).map(|m| format!(" did you mean {m}?")).unwrap_or_default();
    let listed = known.iter().take(LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
    let more = known.len().checked_sub(LISTED_MAX).filter(|n| *n > 0).map(|n| format!(" and {n} more")).unwrap_or_default();
    format!("unknown {what} {name:?};{meant} known are {listed}{more}")
}

/// A format by name.
pub fn format(name: &str) -> Result<&'static Format, Failure> {
    let names: Vec<&str> = FORMATS.iter().map(|f| f.name).collect();
    FORMATS.iter().find(|f| f.name == name).ok_or_else(|| Failure::Usage(unknown("format", name, &names)))
}

/// The topology's input of that topic.
pub fn input<'t>(topology: &'t Topology, topic: &str) -> Result<&'t Input, Failure> {
    let names: Vec<&str> = topology.inputs.iter().map(|i| i.topic.as_str()).collect();
    topology.inputs.iter().find(|i| i.topic == topic).ok_or_else(|| Failure::Usage(unknown("input topic", topic, &names)))
}

/// So many polls without a record before the end, and the partition counts as unreadable.
pub const STALLED_POLLS: u32 = 30;

/// Every committed record of a partition from `from` to before `to`, in order.
pub fn each_record(
    log: &dyn Log,
    at: &TopicPartition,
    from: i64,
    to: i64,
    mut take: impl FnMut(Record) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reader = log.reader(at, from)?;
    let mut stalled = 0;
    while reader.position() < to {
        let records = reader.poll(PollLimit::default(), super::POLL_WAIT)?;
        if records.is_empty() {
            // Only markers of transactions may lie before the end.
            if reader.at_end() {
                break;
            }
            stalled += 1;
            if stalled == STALLED_POLLS {
                return Err(Failure::Failed(format!("{at} gives nothing beyond offset {}", reader.position())));
            }
            continue;
        }
        stalled = 0;
        records.into_iter().filter(|r| r.offset < to).try_for_each(&mut take)?;
    }
    Ok(())
}

/// Where reading begins in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The oldest record kept.
    Beginning,
    /// What comes from now on.
    End,
    /// An offset, the same in every partition.
    Offset(i64),
    /// The first record with this timestamp or a later one.
    Time(EventTime),
}

impl FromStr for Begin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            _ => match (text.parse::<i64>(), EventTime::parse_rfc3339(text)) {
                (Ok(offset), _) if offset >= 0 => Ok(Self::Offset(offset)),
                (_, Some(time)) => Ok(Self::Time(time)),
                _ => Err("expected beginning, end, an offset or a time as 2026-03-11T08:00:00Z".to_owned()),
            },
        }
    }
}

impl Begin {
    /// The offset in a partition, inside what is kept.
    pub fn offset(self, log: &dyn Log, at: &TopicPartition, kept: OffsetRange) -> Result<i64, LogError> {
        let offset = match self {
            Self::Beginning => kept.start,
            Self::End => kept.end,
            Self::Offset(offset) => offset,
            Self::Time(time) => log.offset_at(at, time)?,
        };
        Ok(offset.clamp(kept.start, kept.end))
    }
}

/// One record: `TOPIC@PARTITION:OFFSET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Short or full name.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Offset.
    pub offset: i64,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('@').and_then(|(topic, rest)| {
            let (partition, offset) = rest.split_once(':')?;
            Some((topic, partition.parse().ok()?, offset.parse().ok().filter(|o: &i64| *o >= 0)?))
        });
        match parts {
            Some((topic, partition, offset)) if !topic.is_empty() => Ok(Self { topic: topic.to_owned(), partition, offset }),
            _ => Err("expected TOPIC@PARTITION:OFFSET, as zeek.conn@0:17".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_beginnings_are_read() {
        let place = Place { topic: "zeek.conn".into(), partition: 2, offset: 17 };
        assert_eq!("zeek.conn@2:17".parse(), Ok(place));
        for wrong in ["", "t", "t@1", "t@:1", "@0:1", "t@0:-1", "t@x:1"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
        assert_eq!("12".parse(), Ok(Begin::Offset(12)));
        assert_eq!("2026-03-11T08:00:00Z".parse(), Ok(Begin::Time(EventTime::from_secs(1_773_216_000))));
        for wrong in ["-1", "yesterday", ""] {
            assert!(wrong.parse::<Begin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        assert_eq!(
            unknown("topic", "signal", &["obs", "signals"]),
            "unknown topic \"signal\"; did you mean signals? known are obs, signals"
        );
        assert!(unknown("topic", "x", &["t"; 30]).ends_with("t, t and 10 more"));
    }
}
