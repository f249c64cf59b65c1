//! What a slot tells of an epoch to a collector of traces; only where a topology names one.

use super::Slot;
use crate::telemetry::Epoch;
use crate::worker::WorkerConfig;
use crate::worker::tell::Moments;

impl Slot {
    /// The epoch has ended; its outputs are still there. `failed`: it did not commit.
    pub(in crate::worker) fn trace(&mut self, config: &WorkerConfig, moments: Moments, failed: Option<&str>) {
        let Some(telemetry) = &config.telemetry else { return };
        telemetry.epoch(Epoch {
            stage: config.stage,
            group: &config.group,
            at: &self.at,
            from: self.committed.unwrap_or(self.from),
            to: self.position(),
            records: self.heard.records,
            rows: self.out.ledger.total().rows_in,
            began_ns: moments.began.0,
            closing_ns: moments.closing.0,
            ended_ns: moments.committed.0,
            failed: failed.map(str::to_owned),
            outputs: self.out.appends(),
            links: self.links.as_mut().map(std::mem::take).unwrap_or_default(),
        });
    }
}
