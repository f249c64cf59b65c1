//! The batches that normalize writes: what waits for each partition of `obs`, and the late rows, cut so that every record
//! fits its topic.

use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::observation::{self, Batch, Columns, Kind};

use super::{NormalizeTask, OBS_RECORD_BYTES_MAX, OBS_RECORD_ROWS_MAX};
use crate::detect::late_headers;
use crate::epoch::Outputs;
use crate::log::Append;

/// Where a batch goes.
#[derive(Clone, Copy)]
enum Target<'a> {
    Obs(u32),
    Late(&'a String),
}

impl NormalizeTask {
    fn write(&self, columns: &mut Columns, to: Target<'_>, out: &mut Outputs) {
        for (kind, batch) in columns.finish() {
            self.write_batch(kind, &batch, to, out);
        }
    }

    /// Writes the rows that wait for one partition of `obs`.
    pub(super) fn write_full(&mut self, partition: usize, out: &mut Outputs) {
        let mut columns = std::mem::take(&mut self.columns);
        if let Some(columns) = columns.get_mut(partition) {
            self.write(columns, Target::Obs(partition as u32), out);
        }
        self.columns = columns;
    }

    /// Writes all rows that wait.
    pub(super) fn write_pending(&mut self, out: &mut Outputs) {
        let mut columns = std::mem::take(&mut self.columns);
        for (partition, columns) in columns.iter_mut().enumerate() {
            self.write(columns, Target::Obs(partition as u32), out);
        }
        self.columns = columns;
        let mut late = std::mem::take(&mut self.late);
        self.write(&mut late, Target::Late(&self.config.late.clone()), out);
        self.late = late;
    }

    /// Halves a batch until its bytes fit a record. The halves are built anew: a slice would carry the whole dictionary.
    fn write_batch(&self, kind: Kind, batch: &arrow_array::RecordBatch, to: Target<'_>, out: &mut Outputs) {
        let rows = batch.num_rows();
        let value = if rows > OBS_RECORD_ROWS_MAX { Vec::new() } else { observation::encode(batch) };
        if rows > 1
            && (value.is_empty() || value.len() > OBS_RECORD_BYTES_MAX)
            && let Some(opened) = Batch::open(kind, batch)
        {
            for range in [0..rows / 2, rows / 2..rows] {
                let mut half = Columns::default();
                range.for_each(|i| half.push(&opened.row(i)));
                self.write(&mut half, to, out);
            }
            return;
        }
        let headers = match to {
            Target::Obs(_) => vec![
                (header::RECORD.to_owned(), RecordType::Observations(kind, kind.version()).to_header().into()),
                (header::INPUT.to_owned(), self.input_header.clone()),
            ],
            Target::Late(_) => late_headers(kind, self.input_header.clone(), "normalize"),
        };
        let (topic, partition) = match to {
            Target::Obs(partition) => (&self.config.obs.0, partition),
            Target::Late(topic) => (topic, 0),
        };
        out.note(Append { topic: topic.clone(), partition, timestamp: None, key: None, value: Some(value.into()), headers });
    }
}
