//! The marks that normalize writes: its partition's watermark and why it moved, into every partition of `obs` and into
//! `control`, and leaves of inputs that have not been heard of for too long.

use std::sync::PoisonError;

use bytes::Bytes;
use tidewatch_schemas::control::{Cause, InputRef, Mark, Roster};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::time::EventTime;

use super::NormalizeTask;
use crate::epoch::Outputs;
use crate::log::Append;

impl NormalizeTask {
    pub(super) fn mark(&self, watermark: EventTime, cause: Cause, out: &mut Outputs) {
        for partition in 0..self.config.obs.1 {
            self.mark_in(&self.config.obs.0, partition, watermark, cause, out);
        }
        self.mark_in(&self.config.control, 0, watermark, cause, out);
    }

    pub(super) fn mark_in(&self, topic: &str, partition: u32, watermark: EventTime, cause: Cause, out: &mut Outputs) {
        let mark = Mark {
            input: InputRef { topic: self.at.topic.clone(), partition: self.at.partition },
            lane: self.config.inputs.first().and_then(|i| i.tenancy.lane().map(str::to_owned)),
            watermark,
            cause,
            input_offset: self.next_offset,
            roster: Roster::default(),
        };
        self.write_mark(topic, partition, mark, out);
    }

    /// Somebody else has not been heard of for too long: goes on without it.
    pub(super) fn leave_of(&self, input: InputRef, out: &mut Outputs) {
        let mark = Mark {
            input,
            lane: None,
            watermark: EventTime::MIN,
            cause: Cause::Leave,
            input_offset: 0,
            roster: Roster::default(),
        };
        for partition in 0..self.config.obs.1 {
            self.write_mark(&self.config.obs.0, partition, mark.clone(), out);
        }
        self.write_mark(&self.config.control, 0, mark, out);
    }

    /// Every mark carries the roster as known now.
    fn write_mark(&self, topic: &str, partition: u32, mark: Mark, out: &mut Outputs) {
        let mark = Mark { roster: self.config.roster.lock().unwrap_or_else(PoisonError::into_inner).clone(), ..mark };
        let value = Bytes::from(mark.encode().expect("a roster is bounded by the topology"));
        let headers = vec![(header::RECORD.to_owned(), Bytes::from(RecordType::Mark.to_header()))];
        let topic = topic.to_owned();
        out.note(Append { topic, partition, timestamp: None, key: None, value: Some(value), headers });
    }
}
