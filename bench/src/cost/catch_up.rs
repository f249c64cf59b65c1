//! A job that was stopped while rows kept coming: how quickly it is where it would be, its own restart included.

use serde::Serialize;
use tidewatch_generator::Record;

use super::job::{Job, Until, What};
use super::paired::{self, Shape};
use super::place::Place;
use super::workload::Workload;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CatchUp {
    /// Rows that came while it was stopped.
    pub(super) rows: u64,
    /// From the start of the process until all of them were committed on the whole way, seconds.
    pub(super) wall_s: f64,
    pub(super) flows_per_s: f64,
    /// Rows that it had worked off before, and at what rate.
    pub(super) rows_before: u64,
    pub(super) flows_per_s_before: f64,
}

/// Half of the rows, a stop, the other half, a start.
pub(super) fn run(place: &mut Place, shape: &Shape) -> anyhow::Result<CatchUp> {
    eprintln!("measuring how a stopped job catches up: {} rows", shape.flows);
    let workload = Workload::new(shape.kind, shape.synthetic());
    let (topic, deployment) = (place.name(), place.name());
    let source = place.source(shape.log, &topic)?;
    let mut records = workload.records();
    let half = usize::try_from(shape.flows / u64::from(shape.synthetic().batch) / 2).unwrap_or(usize::MAX);
    let first: Vec<Record> = records.by_ref().take(half).collect();
    let load = |records: &mut dyn Iterator<Item = Record>, close| workload.load(&*source.log()?, &topic, records, close);
    let before = load(&mut first.into_iter(), false)?;
    let base = paired::job(shape, What::Pipeline, source.clone(), Until::Read, place)?;
    let dir = place.file(&deployment);
    let job = Job { topic: topic.clone(), deployment, dir, rows: before.rows, tail_rows: 0, ..base };
    let early = job.run()?;
    let after = load(&mut records, true)?;
    let late = Job { rows: after.rows, until: Until::Closed(after.end), ..job }.run()?;
    Ok(CatchUp {
        rows: after.rows,
        wall_s: late.wall_s,
        flows_per_s: after.rows as f64 / late.wall_s.max(1e-9),
        rows_before: before.rows,
        flows_per_s_before: early.flows_per_s,
    })
}
