//! What holds of every format.

use proptest::prelude::*;
use prost::Message;

use crate::fuzz;
use crate::proto::tests::{V0A, V0B, V0C, V0D};
use crate::wire::FORMATS;

/// A good record of every format.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    FORMATS.iter().map(|f| (f.name, fuzz::seeds(f.name).concat())).filter(|(_, seed)| !seed.is_empty()).collect()
}

#[test]
fn names_are_unique_and_documented() {
    let mut names: Vec<&str> = FORMATS.iter().map(|f| f.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FORMATS.len());
    for f in FORMATS {
        assert!(!f.about.is_empty() && f.lateness_s >= 10 && super::format(f.name).is_some());
        assert!(!fuzz::seeds(f.name).is_empty(), "{} has no fuzz seed", f.name);
    }
    let _ = ([V0A, V0B, V0C, V0D], crate::proto::flow::FlowBatch::default().encoded_len());
}

#[test]
fn cut_off_everywhere() {
    for (name, seed) in seeds() {
        for cut in 0..seed.len() {
            fuzz::format(name, &seed[..cut]);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        for f in FORMATS {
            fuzz::format(f.name, &bytes);
        }
    }

    #[test]
    fn one_byte_changed(at in any::<prop::sample::Index>(), to: u8) {
        for (name, mut seed) in seeds() {
            let at = at.index(seed.len());
            seed[at] = to;
            fuzz::format(name, &seed);
        }
    }
}
