//! Limits within what is kept of one host or tenant, and how often each of them bit: a host that asks for more than fits
//! must not cost memory, and must not be forgotten silently either.
//!
//! Not state: the numbers belong to the process, come into no snapshot, no hash and no finding, and nothing reads them but
//! metrics. Touched only where something has to go.

use std::sync::atomic::{AtomicU64, Ordering};

/// A named limit.
#[derive(Debug)]
pub struct Limit {
    /// Name of the constant.
    pub name: &'static str,
    reached: AtomicU64,
}

impl Limit {
    /// The limit that a constant sets.
    pub const fn new(name: &'static str) -> Self {
        Self { name, reached: AtomicU64::new(0) }
    }

    /// Something had to go, or could not be taken in.
    #[cold]
    pub(crate) fn bites(&self) {
        // Orders nothing: a number that somebody looks at now and then.
        self.reached.fetch_add(1, Ordering::Relaxed);
    }

    /// How often since the process began.
    pub fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }
}
