//! The bodies of the fuzz targets over seeded, mutated inputs, on the stable toolchain. `TIDEWATCH_FUZZ_RUNS` sets how many
//! inputs each target gets (20,000 by default), `TIDEWATCH_FUZZ_SEED` where the stream begins. Not coverage-guided: that
//! is what `schemas/fuzz` with cargo-fuzz is for.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "reads the fuzz folder's manifest and how often to run")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use tidewatch_schemas::{fuzz, wire};

/// Inputs a target, when the environment says nothing.
const RUNS: u64 = 20_000;

/// Bytes of one input, at most.
const INPUT_BYTES_MAX: usize = 4096;

#[test]
fn every_target() {
    let runs = number("TIDEWATCH_FUZZ_RUNS", RUNS);
    let seed = number("TIDEWATCH_FUZZ_SEED", 1);
    std::thread::scope(|scope| {
        for format in wire::FORMATS {
            scope.spawn(move || check(format.name, &|bytes| fuzz::format(format.name, bytes), runs, seed));
        }
        for &(name, body) in fuzz::BODIES {
            scope.spawn(move || check(name, &body, runs, seed));
        }
    });
}

fn check(name: &str, body: &dyn Fn(&[u8]), runs: u64, seed: u64) {
    if let Some((run, input)) = first_panic(name, body, runs, seed) {
        let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
        panic!("{name}: run {run} of seed {seed} panicked on {hex}");
    }
}

/// The harness finds what it is there to find: a panic behind a decoded value, not behind the seed itself.
#[test]
fn a_planted_panic_is_found() {
    let planted = |bytes: &[u8]| {
        fuzz::address(bytes);
        let port = tidewatch_schemas::address::Address::parse_endpoint(bytes).and_then(|(_, port)| port);
        assert!(port.is_none_or(|port| port == 443), "planted");
    };
    for seed in fuzz::seeds("address") {
        planted(&seed);
    }
    assert!(first_panic("address", &planted, RUNS, 1).is_some());
}

/// A target without a file in `fuzz/` is never fuzzed.
#[test]
fn every_target_has_its_file() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let targets = wire::FORMATS.iter().map(|f| f.name).chain(fuzz::BODIES.iter().map(|(name, _)| *name));
    for name in targets {
        let file = format!("fuzz_targets/{}.rs", name.replace('-', "_"));
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"{file}\"")), "{name}");
        let text = std::fs::read_to_string(folder.join(&file)).unwrap();
        assert!(
            text.contains(&format!("fuzz::format(\"{name}\", bytes)")) || text.contains(&format!("fuzz::{name}(bytes)")),
            "{file}"
        );
    }
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, got {text}")),
        Err(_) => default,
    }
}

/// Runs a body over mutated seeds; gives the first input it panics on.
fn first_panic(name: &str, body: &dyn Fn(&[u8]), runs: u64, seed: u64) -> Option<(u64, Vec<u8>)> {
    let seeds = fuzz::seeds(name);
    assert!(!seeds.is_empty(), "{name} has no seed");
    let mut random = Random(seed ^ name.bytes().fold(0u64, |hash, b| hash.wrapping_mul(31).wrapping_add(u64::from(b))));
    (0..runs).find_map(|run| {
        let input = random.mutated(&seeds);
        catch_unwind(AssertUnwindSafe(|| body(&input))).is_err().then_some((run, input))
    })
}

/// SplitMix64: small, seeded, good enough to mutate bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            self.mutate(&mut bytes, seeds);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        // Values at which lengths, signs and separators turn.
        const ODD: [u8; 16] = [0, 1, 0x7f, 0x80, 0xff, b'\t', b'\n', b'-', b'#', b'"', b'\\', b'{', b'[', b':', b'.', b'9'];
        let at = self.below(bytes.len());
        let len = 1 + self.below(8);
        let end = (at + len).min(bytes.len());
        match self.below(9) {
            _ if bytes.is_empty() => bytes.push(self.next() as u8),
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.next() as u8,
            2 => bytes[at] = ODD[self.below(ODD.len())],
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => bytes.insert(at, ODD[self.below(ODD.len())]),
            6 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            7 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            _ => {
                let to = self.below(bytes.len());
                bytes.swap(at, to);
            }
        }
    }
}
