//! Counts allocations, when somebody asks: the product's allocator behind a switch that is off. One relaxed load per
//! allocation is what it costs everybody else.
//!
//! What always holds: memory comes from the product's allocator alone; nothing is counted before [`start`].
#![allow(unsafe_code)] // An allocator is unsafe by its trait; every call is handed on as it came.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tikv_jemallocator::Jemalloc;

static COUNTING: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// From now on allocations of all threads count.
pub(crate) fn start() {
    COUNTING.store(true, Ordering::Relaxed);
}

/// Allocations (and reallocations) so far, and bytes asked for.
pub(crate) fn counted() -> (u64, u64) {
    (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed))
}

fn count(bytes: usize) {
    if COUNTING.load(Ordering::Relaxed) {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: every method passes its arguments to the product's allocator unchanged and returns what that returns, so its
// contract is this one's; counting touches two integers and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise about `layout`, handed on.
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise about `layout`, handed on.
        unsafe { Jemalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from this allocator, hence from the product's, with this layout: the caller's promise.
        unsafe { Jemalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as for `dealloc`, and `size` is what the caller promises it to be.
        unsafe { Jemalloc.realloc(pointer, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted_from_the_start_on() {
        start();
        let (calls, bytes) = counted();
        let held = std::hint::black_box(vec![1_u8; 100_000]);
        let (calls_after, bytes_after) = counted();
        assert!(calls_after > calls && bytes_after - bytes >= 100_000, "{}", held.len());
    }
}
