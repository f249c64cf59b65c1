//! Rows per second of the stages that every flow passes, each alone: decoding, writing and reading a batch of observations, a
//! slice with each detector and with all, correlate, snapshots.
#![allow(clippy::expect_used, missing_docs)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidewatch_bench::stages;

fn stages(c: &mut Criterion) {
    for stage in stages::all() {
        let prepare = stage.make().expect("the stage's own input");
        let mut group = c.benchmark_group("stages");
        group.throughput(Throughput::Elements(stage.rows));
        group.sample_size(20);
        group.bench_function(&stage.name, |b| {
            b.iter_batched(|| prepare(), |ready| ready(), BatchSize::PerIteration);
        });
        group.finish();
    }
}

criterion_group!(all, stages);
criterion_main!(all);
