//! What can only be seen while a run goes on: how far it is, what its tasks hold at most, which snapshots became current.
//! Looks at the board that every process keeps for its people; measures nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use tidewatch::status::TaskStatus;
use tidewatch::topology::{Stage, Topology};
use tidewatch_schemas::time::EventTime;

use super::job::{Job, Measured, TaskFigures, Until};

/// What was seen.
pub(super) struct Watch<'a> {
    job: &'a Job,
    detect_tasks: usize,
    correlate_tasks: usize,
    tasks: BTreeMap<u32, TaskFigures>,
    slice_bytes_max: u64,
    snapshots: BTreeSet<(String, u32, String)>,
    snapshot_bytes: u64,
    /// Processor time and rows left when the tail began.
    tail: Option<(f64, f64)>,
    used_s: f64,
}

impl<'a> Watch<'a> {
    pub(super) fn new(job: &'a Job, topology: &Topology) -> Self {
        Self {
            job,
            detect_tasks: topology.obs.partitions as usize,
            correlate_tasks: topology.findings.partitions as usize,
            tasks: BTreeMap::new(),
            slice_bytes_max: 0,
            snapshots: BTreeSet::new(),
            snapshot_bytes: 0,
            tail: None,
            used_s: 0.0,
        }
    }

    /// Takes in how it is now; true when the job is done.
    pub(super) fn look(&mut self, wall_s: f64, used_s: f64, rows: u64, tasks: &[TaskStatus]) -> bool {
        self.used_s = used_s;
        let of = |stage: Stage| tasks.iter().filter(move |t| t.stage == stage.name());
        self.slice_bytes_max = self.slice_bytes_max.max(of(Stage::Detect).map(|t| t.progress.slice_bytes).sum());
        for task in of(Stage::Detect) {
            let closed = is_closed(task, self.job.until);
            let seen = self.tasks.entry(task.partition).or_default();
            seen.partition = task.partition;
            seen.slice_bytes_max = seen.slice_bytes_max.max(task.progress.slice_bytes);
            seen.waiting_rows_max = seen.waiting_rows_max.max(task.progress.waiting_rows);
            (seen.keys, seen.state_bytes) = (task.progress.keys, task.progress.state_bytes);
            if closed && seen.closed_s == 0.0 {
                seen.closed_s = wall_s;
            }
        }
        for task in tasks {
            let Some(snapshot) = &task.snapshot else { continue };
            let Some(current) = snapshot.current.clone().filter(|_| snapshot.at.is_some()) else { continue };
            if self.snapshots.insert((task.stage.clone(), task.partition, current)) {
                self.snapshot_bytes += snapshot.bytes;
            }
        }
        self.look_for_tail(rows, of(Stage::Detect).filter_map(|t| t.progress.watermark).min());
        let all = of(Stage::Detect).count() == self.detect_tasks && of(Stage::Correlate).count() == self.correlate_tasks;
        match self.job.until {
            Until::Passed(seconds) => wall_s >= seconds as f64,
            Until::Closed(_) => rows >= self.job.rows && all && of(Stage::Correlate).all(|t| is_closed(t, self.job.until)),
            Until::Read => rows >= self.job.rows && all && tasks.iter().all(|t| t.at_end && is_committed(t)),
        }
    }

    /// The tail begins when so many rows are left, by the mean of what normalize has read and what detect has closed.
    fn look_for_tail(&mut self, rows: u64, closed: Option<EventTime>) {
        let Until::Closed(end) = self.job.until else { return };
        if self.tail.is_some() || self.job.tail_rows == 0 {
            return;
        }
        let span = end.since(self.job.start).max(1) as f64;
        let closed = closed.map_or(0.0, |at| (at.since(self.job.start).max(0) as f64 / span).min(1.0));
        let left = self.job.rows as f64 - (rows as f64 + closed * self.job.rows as f64) / 2.0;
        if left <= self.job.tail_rows as f64 {
            self.tail = Some((self.used_s, left));
        }
    }

    /// The figures with all that was seen.
    pub(super) fn figures(self, measured: Measured, tasks: &[TaskStatus]) -> Measured {
        let sum = |of: fn(&TaskStatus) -> u64| tasks.iter().filter(|t| t.stage == Stage::Detect.name()).map(of).sum();
        Measured {
            tail_cpu_ns_per_flow: self.tail.map(|(before_s, left)| (self.used_s - before_s) * 1e9 / left.max(1.0)),
            keys: sum(|t| t.progress.keys),
            state_bytes: sum(|t| t.progress.state_bytes),
            evicted: sum(|t| t.progress.evicted),
            spilled_rows: sum(|t| t.progress.spilled_rows),
            slice_bytes_max: self.slice_bytes_max,
            snapshots: self.snapshots.len() as u64,
            snapshot_bytes: self.snapshot_bytes,
            tasks: self.tasks.into_values().collect(),
            ..measured
        }
    }
}

fn is_committed(task: &TaskStatus) -> bool {
    task.committed == Some(task.position) || task.position == 0
}

fn is_closed(task: &TaskStatus, until: Until) -> bool {
    let Until::Closed(end) = until else { return false };
    task.progress.watermark.is_some_and(|at| at >= end) && is_committed(task)
}
