//! What a slot says of itself on the board.

use super::{Keep, Phase, Slot};
use crate::status::{RestoreStep, TaskPhase, TaskStatus};

impl Slot {
    /// How the task is, for its line on the board.
    pub(in crate::worker) fn report(&self, line: &mut TaskStatus) {
        line.position = self.position();
        line.committed = self.committed;
        line.at_end = self.at_end();
        line.progress = self.progress();
        line.snapshot = self.keep.as_ref().map(Keep::status);
        line.restored = self.restored;
        line.phase = match self.phase {
            _ if self.finished => TaskPhase::Finished,
            Phase::Live => TaskPhase::Live,
            Phase::Loading => self.loading.as_ref().map_or(TaskPhase::Assigned, |loading| TaskPhase::Restoring {
                step: RestoreStep::Load,
                done: loading.progress.done_bytes(),
                of: loading.progress.total_bytes(),
                since: loading.began,
            }),
            Phase::Refill { position, .. } => self.restoring(RestoreStep::Refill, position),
            Phase::Muted => self.restoring(RestoreStep::Muted, self.committed.unwrap_or_default()),
        };
    }

    fn restoring(&self, step: RestoreStep, until: i64) -> TaskPhase {
        let (begin, since) = self.step_began;
        let offsets = |to: i64| u64::try_from(to - begin).unwrap_or_default();
        TaskPhase::Restoring { step, done: offsets(self.position()), of: offsets(until), since }
    }
}
