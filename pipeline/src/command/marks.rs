//! What normalize has recorded of the inputs: the roster and the newest watermark of each partition, read back from the
//! control topic. Works beside a running process and without one.

use std::collections::{BTreeMap, BTreeSet};

use tidewatch_schemas::control::{Cause, InputRef, Mark, Roster};
use tidewatch_schemas::time::EventTime;

use super::{Failure, place};
use crate::log::{Log, LogError, TopicPartition};
use crate::topology::Topology;

/// Records of a partition looked through for the newest marks, at most.
pub const MARKS_MAX: i64 = 10_000;

/// The recorded marks.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Newest roster.
    roster: Roster,
    watermarks: BTreeMap<InputRef, EventTime>,
    left: BTreeSet<InputRef>,
}

impl Recorded {
    /// Reads them.
    pub fn read(log: &dyn Log, topology: &Topology) -> Result<Self, Failure> {
        let at = TopicPartition::new(topology.names.control(), 0);
        let range = match log.offsets(&at) {
            Err(LogError::UnknownTopic { .. } | LogError::UnknownPartition { .. }) => return Ok(Self::default()),
            range => range?,
        };
        let mut recorded = Self::default();
        place::each_record(log, &at, range.start.max(range.end - MARKS_MAX), range.end, |record| {
            if let Some(mark) = record.value.as_deref().and_then(|v| Mark::decode(v).ok()) {
                recorded.mark(mark);
            }
            Ok(())
        })?;
        Ok(recorded)
    }

    fn mark(&mut self, mark: Mark) {
        if mark.roster.epoch >= self.roster.epoch {
            self.roster = mark.roster;
        }
        if mark.cause == Cause::Leave {
            self.left.insert(mark.input);
            return;
        }
        self.left.remove(&mark.input);
        let known = self.watermarks.entry(mark.input).or_insert(mark.watermark);
        *known = mark.watermark.max(*known);
    }

    /// Every partition that slices wait for: (input, lane, watermark; `None` = it has told none).
    pub fn inputs(&self) -> Vec<(InputRef, Option<String>, Option<EventTime>)> {
        let waited = self.roster.partitions().filter(|(input, _)| !self.left.contains(input));
        waited
            .map(|(input, lane)| {
                let watermark = self.watermarks.get(&input).copied().filter(|w| *w != EventTime::MIN);
                (input, lane.map(str::to_owned), watermark)
            })
            .collect()
    }

    /// The lowest of each lane: who holds its slices.
    pub fn holders(&self) -> Vec<(Option<String>, InputRef, Option<EventTime>)> {
        let mut lowest: BTreeMap<Option<String>, (Option<EventTime>, InputRef)> = BTreeMap::new();
        for (input, lane, watermark) in self.inputs() {
            if lowest.get(&lane).is_none_or(|(w, _)| watermark < *w) {
                lowest.insert(lane, (watermark, input));
            }
        }
        lowest.into_iter().map(|(lane, (watermark, input))| (lane, input, watermark)).collect()
    }
}
