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
use tidewatch_schemas::observation::{self, Batch, Filing, Kind, Packer, Packers, Row};
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

/// Rows of one batch.
const BATCH_ROWS: usize = 4_096;

/// Decodes the records and files every row under its source, as normalize does: batches, and how many rows.
fn batches_of(synthetic: &Synthetic) -> (Vec<Bytes>, u64) {
    let mut decoder = (wire::format(FORMAT).expect("listed").decoder)();
    let (mut packers, mut batches, mut rows) = (Packers::default(), Vec::new(), 0);
    let mut finish = |packers: &mut Packers| batches.extend(packers.finish().into_iter().map(|(_, bytes)| Bytes::from(bytes)));
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
            packers.push(&row);
            rows += 1;
            if packers.len() == BATCH_ROWS {
                finish(&mut packers);
            }
        }
    }
    finish(&mut packers);
    (batches, rows)
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
    let (all, rows) = batches_of(&synthetic(BATCH_ROWS as u64));
    let bytes = &all[0];
    let batch = observation::decode(Kind::Flow, bytes).expect("just written");
    let opened: Vec<Row<'_>> = (0..batch.len()).map(|i| batch.row(i)).collect();
    let mut packer = Packer::new(Kind::Flow);
    let mut group = c.benchmark_group("obs batch");
    group.throughput(Throughput::Elements(rows));
    group.bench_function("encode", |b| {
        b.iter(|| {
            black_box(&opened).iter().for_each(|row| packer.push(row));
            packer.finish()
        });
    });
    group.bench_function("decode", |b| b.iter(|| observation::decode(Kind::Flow, black_box(bytes)).expect("just written")));
    group.bench_function("rows", |b| {
        b.iter(|| (0..batch.len()).map(|i| black_box(batch.row(i)).key()).fold(0, u64::wrapping_add))
    });
    group.finish();
}

fn slices(c: &mut Criterion) {
    let start = tidewatch_generator::PRESET_START;
    let (all, rows) = batches_of(&synthetic(SLICE_FLOWS));
    let open = |bytes: Bytes| (observation::decode(Kind::Flow, &bytes).expect("just written"), bytes);
    let batches: Vec<(Batch, Bytes)> = all.into_iter().map(open).collect();
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
            open.close(&Scope::Shared, index, &[], |hosts| seen += hosts.iter().map(|host| host.rows.len()).sum::<usize>())
                .expect("nothing spilled");
            seen
        };
        b.iter_batched(fill, close, BatchSize::LargeInput);
    });
    group.bench_function("close with all detectors", |b| {
        let close = |(mut open, mut detection): (OpenSlices, Detection)| {
            let mut out = SliceOutput::default();
            open.close(&Scope::Shared, index, &[], |hosts| {
                detection.ahead(hosts);
                hosts.iter().for_each(|host| detection.host(&host.key, host.route, slice, host.rows, &mut out));
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
