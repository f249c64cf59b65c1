//! Memory asked for before it is needed. States are more than any cache holds, and one leads to the next; asked for one
//! round after the other, the waits of many hosts are one.
//!
//! Changes no answer and reads nothing that decides: leaving all of it out would only be slower.

/// What is asked for: what a round brings, the next can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Where a state's tables say that records lie.
    Index,
    /// The records.
    Records,
    /// What the records point at.
    Rest,
}

impl Round {
    /// In their order.
    pub const ALL: [Self; 3] = [Self::Index, Self::Records, Self::Rest];
}

/// Bytes that come at once.
const LINE: usize = 64;

/// Lines of a slice that are asked for at most: more would push each other out.
const LINES_MAX: usize = 32;

/// Asks for the memory of a value.
#[inline]
pub(crate) fn ask<T>(value: &T) {
    ask_all(std::slice::from_ref(value));
}

/// Asks for the memory of values, the first [`LINES_MAX`] lines of it.
#[inline]
pub(crate) fn ask_all<T>(values: &[T]) {
    let first = values.as_ptr().cast::<u8>();
    let skew = first.addr() % LINE;
    let lines = (skew + size_of_val(values)).div_ceil(LINE).min(LINES_MAX);
    for line in 0..lines {
        hint(first.wrapping_add(line * LINE));
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
#[allow(unsafe_code, reason = "the one hint to the processor that has no safe form")]
fn hint(at: *const u8) {
    // SAFETY: the hint reads and writes nothing and never faults, whatever the address ("may not cause any memory fault",
    // AMD64 Architecture Programmer's Manual, volume 3, PREFETCHlevel); it needs SSE, which every x86_64 has.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast()) }
}

/// Elsewhere the processor is left to itself.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn hint(_: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_memory_may_be_asked_for() {
        ask(&0_u8);
        ask_all::<u64>(&[]);
        ask_all(&[(); 7]);
        ask_all(&vec![1_u64; 100_000]);
        hint(std::ptr::null());
        hint(std::ptr::without_provenance(usize::MAX));
    }
}
