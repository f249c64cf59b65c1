//! The fuzz targets of schemas over seeded, mutated inputs; see [`harness`].

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "reads the fuzz folder's manifest and how often to run")]

mod harness;

use tidewatch_schemas::{fuzz, wire};

#[global_allocator]
static ALLOCATOR: harness::allocator::Counting = harness::allocator::Counting;

#[test]
fn every_target() {
    harness::run_all(fuzz::TARGETS);
}

/// The harness finds what it is there to find: a panic behind a decoded value, not behind the seed itself.
#[test]
fn a_planted_panic_is_found() {
    let planted = |bytes: &[u8]| {
        let port = tidewatch_schemas::address::Address::parse_endpoint(bytes).and_then(|(_, port)| port);
        assert!(port.is_none_or(|port| port == 443), "planted");
    };
    let target = fuzz::Target { name: "address", body: planted, seeds: fuzz::seeds, heap_bytes_max: 1 << 20 };
    for seed in fuzz::seeds("address") {
        planted(&seed);
    }
    assert_eq!(harness::fuzz(&target, 20_000, 1).err().map(|found| found.what), Some("it panicked".to_owned()));
}

/// Memory is counted: an input that says how much to reserve is caught.
#[test]
fn a_planted_allocation_is_found() {
    let planted = |bytes: &[u8]| {
        let announced = bytes.iter().take_while(|b| b.is_ascii_digit()).count() << 10;
        drop(Vec::<u8>::with_capacity(announced));
    };
    let target = fuzz::Target { name: "quantity", body: planted, seeds: |_| vec![b"1".to_vec()], heap_bytes_max: 4 << 10 };
    let found = harness::fuzz(&target, 20_000, 1).err().map(|found| found.what).unwrap();
    assert!(found.ends_with("bytes on the heap, at most 4096"), "{found}");
}

/// A target without a file in `fuzz/` is never fuzzed; a format without a target neither.
#[test]
fn every_target_has_its_file() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for fuzz::Target { name, .. } in fuzz::TARGETS {
        let file = format!("fuzz_targets/{}.rs", name.replace('-', "_"));
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"{file}\"")), "{name}");
        let text = std::fs::read_to_string(folder.join(&file)).unwrap();
        assert!(text.contains(&format!("fuzz::run(\"{name}\", bytes)")), "{file}");
    }
    for format in wire::FORMATS {
        assert!(fuzz::TARGETS.iter().any(|t| t.name == format.name), "{}", format.name);
    }
}
