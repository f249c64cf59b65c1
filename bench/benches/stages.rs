//! Rows per second of the three stages that every flow passes: decoding a probectl record, writing and reading a batch of
//! observations, closing a slice with all detectors. Sees each stage alone; what a flow costs on the whole way is what
//! `tidewatch-bench cost` measures.
#![allow(clippy::expect_used, missing_docs)]

use std::hint::black_box;

use bumpalo::Bump;
use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidewatch::detect::slices::{OpenSlices, Origin, SliceLimits};
use tidewatch::time::closing::Scope;
use tidewatch_generator::{Plan, Synthetic};
use tidewatch_operators::detection::{Detection, SliceOutput};
use tidewatch_operators::detectors;
use tidewatch_operators::operator::Slice;
use tidewatch_operators::rule::filter::Filters;
use tidewatch_schemas::observation::{self, Batch, Columns, Filing, Kind, Row};
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use tidewatch_schemas::wire::{self, Decoded, RecordMeta};

const FORMAT: &str = "probectl-flow";

/// Flows of the slice that is closed.
const SLICE_FLOWS: u64 = 20_000;

const SLICE_NS: i64 = 10 * SECOND_NS;

fn synthetic(flows: u64) -> Synthetic {
    // As many flows in a slice as a busy tenant has, all inside one slice: the preset starts at a full hour.
    Synthetic { duration_s: 9, tenants: 1, ..Plan::bench(flows, 100_000) }
}

/// Decodes the records and files every row under its source, as normalize does.
fn columns(synthetic: &Synthetic) -> (Columns, u64) {
    let mut decoder = (wire::format(FORMAT).expect("listed").decoder)();
    let (mut columns, mut rows) = (Columns::default(), 0);
    for (offset, record) in synthetic.records().enumerate() {
        let (arena, mut decoded) = (Bump::new(), Decoded::default());
        let meta = RecordMeta { timestamp: record.timestamp };
        decoder.decode(&record.value, meta, &arena, &mut decoded).expect("generated");
        for decoded in &decoded.rows {
            let mut row = decoded.row;
            let Row::Flow(flow) = &mut row else { continue };
            (flow.source_class, flow.destination_class) = (0, 0);
            let inside = |a: &tidewatch_schemas::address::Address| a.to_v4().is_some_and(|v4| v4[0] == 10);
            let host = flow.source_address.filter(inside).or(flow.destination_address);
            row.file(&Filing {
                tenant: decoded.tenant,
                host_address: host,
                host_name: None,
                primary: true,
                format: FORMAT,
                offset: offset as i64,
                row: decoded.index,
            });
            columns.push(&row);
            rows += 1;
        }
    }
    (columns, rows)
}

fn decode(c: &mut Criterion) {
    let record = synthetic(500).records().next().expect("one batch");
    let meta = RecordMeta { timestamp: record.timestamp };
    let mut decoder = (wire::format(FORMAT).expect("listed").decoder)();
    let mut arena = Bump::new();
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(500));
    group.bench_function(FORMAT, |b| {
        b.iter(|| {
            let mut decoded = Decoded::default();
            decoder.decode(black_box(&record.value), meta, &arena, &mut decoded).expect("generated");
            let rows = decoded.rows.len();
            drop(decoded);
            arena.reset();
            rows
        });
    });
    group.finish();
}

fn batches(c: &mut Criterion) {
    let (mut columns, rows) = columns(&synthetic(4_096));
    let (_, batch) = columns.finish().pop().expect("flows");
    let bytes = observation::encode(&batch);
    let mut group = c.benchmark_group("obs batch");
    group.throughput(Throughput::Elements(rows));
    group.bench_function("encode", |b| b.iter(|| observation::encode(black_box(&batch))));
    group.bench_function("decode", |b| b.iter(|| observation::decode(Kind::Flow, black_box(&bytes)).expect("just written")));
    group.finish();
}

fn slices(c: &mut Criterion) {
    let start = tidewatch_generator::PRESET_START;
    let (mut columns, rows) = columns(&synthetic(SLICE_FLOWS));
    let batches: Vec<(Batch, Bytes)> = columns
        .finish()
        .iter()
        .flat_map(|(kind, all)| {
            (0..all.num_rows()).step_by(4_096).map(move |at| {
                let part = all.slice(at, 4_096.min(all.num_rows() - at));
                let bytes = Bytes::from(observation::encode(&part));
                (observation::decode(*kind, &bytes).expect("just written"), bytes)
            })
        })
        .collect();
    let rules = tidewatch::rules::load(None, detectors::ALL).expect("built-in rules").rules;
    let index = start.0.div_euclid(SLICE_NS);
    let slice = Slice { start: EventTime(index * SLICE_NS), end: EventTime((index + 1) * SLICE_NS) };
    let limits = SliceLimits { bytes_max: 1 << 30, spill_dir: std::path::PathBuf::new() };
    let fill = || {
        let mut open = OpenSlices::new(limits.clone());
        for (offset, (batch, bytes)) in batches.iter().enumerate() {
            let origin = Origin { input: 0, offset: offset as i64 };
            open.add(batch.clone(), bytes, origin, |_| Some((Scope::Shared, index))).expect("nothing spills");
        }
        open
    };
    let mut group = c.benchmark_group("slice");
    group.throughput(Throughput::Elements(rows));
    group.sample_size(20);
    group.bench_function("sort and group", |b| {
        let close = |mut open: OpenSlices| {
            let mut seen = 0;
            open.close(&Scope::Shared, index, &[], &Filters::default(), |_, _, rows| seen += rows.len())
                .expect("nothing spilled");
            seen
        };
        b.iter_batched(fill, close, BatchSize::LargeInput);
    });
    group.bench_function("close with all detectors", |b| {
        let close = |(mut open, mut detection): (OpenSlices, Detection)| {
            let mut out = SliceOutput::default();
            open.close(&Scope::Shared, index, &[], &Filters::default(), |key, route, rows| {
                detection.host(key, route, slice, rows, &mut out)
            })
            .expect("nothing spilled");
            detection.end(slice, &|_| true, &mut out);
            (out.contacts.len(), detection)
        };
        b.iter_batched(|| (fill(), Detection::new(&rules)), close, BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(stages, decode, batches, slices);
criterion_main!(stages);
