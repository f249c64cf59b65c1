//! Faults planted on purpose, so that the simulation of `tests` can show that it would find them. Behind the feature
//! `planted`, which no product build has: without it [`is`] is a constant `false` and nothing of this is left.
//!
//! What always holds: a fault is switched on for one thread, which runs one simulated world, and nobody else sees it; or for a
//! whole process, for good, before it does anything.

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A snapshot is current as soon as it is written, before the epoch that names it has committed.
    SnapshotEarly,
    /// Suppression is remembered by the process, also for a signal whose epoch never committed.
    SuppressionUncommitted,
    /// A slice closes as soon as one upstream has passed its end.
    OneUpstream,
    /// A slice does not wait for an upstream on the roster that has not spoken.
    RosterIncomplete,
    /// Keys go when the whole process holds much, whatever their own task holds.
    EvictByProcess,
    /// A partition that cannot be reached counts as silent.
    SilenceUnreachable,
    /// Rows of one moment go by where they lay.
    TiesByPosition,
    /// What is processed again after a restart is written again.
    Unmuted,
}

#[cfg(feature = "planted")]
mod on {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::sync::OnceLock;

    use super::Bug;

    /// The fault of a whole process.
    static EVERYWHERE: OnceLock<Bug> = OnceLock::new();

    /// What a process with the fault of suppression remembers.
    type Remembered = BTreeMap<(u32, String), i64>;

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
        static PROCESS: Cell<(u32, u64)> = const { Cell::new((0, 0)) };
        static REMEMBERED: RefCell<Remembered> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Switches a fault on for this thread, or all off, and forgets what earlier worlds left.
    pub fn plant(bug: Option<Bug>) {
        BUG.set(bug);
        REMEMBERED.take();
    }

    /// Which simulated process runs on this thread now, and how many bytes of state its tasks hold.
    pub fn enter(process: u32, bytes: u64) {
        PROCESS.set((process, bytes));
    }

    /// Switches a fault on for all threads of this process, for good. The first one holds.
    pub fn plant_everywhere(bug: Bug) {
        let _the_first_one_holds = EVERYWHERE.set(bug);
    }

    /// Whether the fault is on.
    pub fn is(bug: Bug) -> bool {
        BUG.get() == Some(bug) || EVERYWHERE.get() == Some(&bug)
    }

    /// Bytes of state of the running process.
    pub fn process_bytes() -> u64 {
        PROCESS.get().1
    }

    /// What this process remembers of a subject.
    pub fn remembered(subject: &str) -> Option<i64> {
        REMEMBERED.with_borrow(|all| all.get(&(PROCESS.get().0, subject.to_owned())).copied())
    }

    /// Lets this process remember.
    pub fn remember(subject: String, until: i64) {
        REMEMBERED.with_borrow_mut(|all| all.insert((PROCESS.get().0, subject), until));
    }
}

#[cfg(not(feature = "planted"))]
mod on {
    use super::Bug;

    /// Whether the fault is on: never.
    pub const fn is(_: Bug) -> bool {
        false
    }

    pub(crate) const fn process_bytes() -> u64 {
        0
    }

    pub(crate) const fn remembered(_: &str) -> Option<i64> {
        None
    }

    pub(crate) fn remember(_: String, _: i64) {}
}

pub use on::is;
#[cfg(feature = "planted")]
pub use on::{enter, plant, plant_everywhere, process_bytes, remember, remembered};
#[cfg(not(feature = "planted"))]
pub(crate) use on::{process_bytes, remember, remembered};
