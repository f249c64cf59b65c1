//! The fuzz targets of operators and pipeline over seeded, mutated inputs; those of schemas are run in that crate.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../schemas/tests/harness/mod.rs"]
mod harness;

#[global_allocator]
static ALLOCATOR: harness::allocator::Counting = harness::allocator::Counting;

#[test]
fn every_target() {
    let targets = [tidewatch_operators::fuzz::TARGETS, tidewatch::fuzz::TARGETS].concat();
    harness::run_all(&targets);
}
