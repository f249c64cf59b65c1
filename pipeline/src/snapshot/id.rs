//! Names of snapshots. A name begins with its generation: one more than that of the snapshot it follows, as committed.
//!
//! What always holds: an object whose generation is below a committed one's can never become current any more, whoever wrote
//! it; hence only such objects are ever removed, and what an owner that came later writes is safe from an earlier owner.

use std::fmt::Write as _;

/// A new name. `before` is the committed one it follows; `writer` and `now_ns` keep two owners of one task apart.
pub(crate) fn next(before: Option<&str>, position: i64, writer: &str, now_ns: i64) -> String {
    let generation = before.map_or(0, generation).saturating_add(1);
    let writer = xxhash_rust::xxh3::xxh3_64(writer.as_bytes()) as u32;
    let mut name = format!("g{generation:010}-{:020}-", position.max(0));
    let _ = write!(name, "{:x}-{writer:08x}", now_ns.max(0));
    name
}

/// Generation of a name; 0 for a name of another form.
pub(crate) fn generation(name: &str) -> u64 {
    let digits = name.strip_prefix('g').and_then(|n| n.split('-').next());
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_owner_never_writes_what_an_earlier_one_may_remove() {
        let first = next(None, 100, "a", 2_000);
        // A clock far behind, no progress since.
        let second = next(Some(&first), 100, "b", 1);
        assert!(generation(&second) > generation(&first));
        assert_ne!(next(Some(&first), 100, "a", 1), second);
        assert_eq!(generation("00000000000000000100-5-1"), 0);
    }
}
