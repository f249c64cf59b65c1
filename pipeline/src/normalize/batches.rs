//! The batches that normalize writes: what waits for each partition of `obs`, and the late rows. A batch is written when it
//! is full, so that every record fits its topic and none has to be cut.

use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::observation::{Kind, Packers};

use super::{NormalizeTask, OBS_RECORD_BYTES_MAX, OBS_RECORD_ROWS_MAX, ROW_BYTES_MAX};
use crate::detect::late_headers;
use crate::epoch::Outputs;
use crate::log::Append;

/// Bytes from which a batch is written: one more row, whose texts are as long in JSON at least, still fits the record.
const OBS_RECORD_BYTES_FULL: usize = OBS_RECORD_BYTES_MAX - 2 * ROW_BYTES_MAX;

/// Where a batch goes.
#[derive(Clone, Copy)]
enum Target {
    Obs(u32),
    Late,
}

/// Whether the rows of a kind that wait are a whole record.
fn is_full(waiting: &Packers, kind: Kind) -> bool {
    let (rows, bytes) = waiting.waiting(kind);
    rows >= OBS_RECORD_ROWS_MAX || bytes >= OBS_RECORD_BYTES_FULL
}

impl NormalizeTask {
    /// Writes the rows of a kind that wait for one partition of `obs`, when they are a whole record.
    pub(super) fn write_full(&mut self, partition: usize, kind: Kind, out: &mut Outputs) {
        if let Some(waiting) = self.waiting.get_mut(partition)
            && is_full(waiting, kind)
            && let Some(value) = waiting.finish_kind(kind)
        {
            self.write(kind, value, Target::Obs(partition as u32), out);
        }
    }

    /// Writes the late rows of a kind, when they are a whole record.
    pub(super) fn write_late(&mut self, kind: Kind, out: &mut Outputs) {
        if is_full(&self.late, kind)
            && let Some(value) = self.late.finish_kind(kind)
        {
            self.write(kind, value, Target::Late, out);
        }
    }

    /// Writes all rows that wait.
    pub(super) fn write_pending(&mut self, out: &mut Outputs) {
        for partition in 0..self.waiting.len() {
            for (kind, value) in self.waiting[partition].finish() {
                self.write(kind, value, Target::Obs(partition as u32), out);
            }
        }
        for (kind, value) in self.late.finish() {
            self.write(kind, value, Target::Late, out);
        }
    }

    fn write(&self, kind: Kind, value: Vec<u8>, to: Target, out: &mut Outputs) {
        let (topic, partition, headers) = match to {
            Target::Obs(partition) => (
                &self.config.obs.0,
                partition,
                vec![
                    (header::RECORD.to_owned(), RecordType::Observations(kind, kind.version()).to_header().into()),
                    (header::INPUT.to_owned(), self.input_header.clone()),
                ],
            ),
            Target::Late => (&self.config.late, 0, late_headers(kind, self.input_header.clone(), "normalize")),
        };
        out.note(Append { topic: topic.clone(), partition, timestamp: None, key: None, value: Some(value.into()), headers });
    }
}
