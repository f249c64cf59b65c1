//! Room for snapshots: a snapshot holds a task's state a second time until its last byte is written, and all tasks of a
//! process are due at about the same time. So they go one after the other, small ones several at a time.
//!
//! Knows bytes alone, not tasks or stores. Always holds: what a process has in snapshots on their way is at most
//! [`SNAPSHOTS_BYTES_MAX`], or one task's state where that is more.

use std::sync::{Mutex, PoisonError};

/// Bytes of state in snapshots on their way, all tasks of a process together; a larger one goes alone. Who finds no room waits
/// with the next slice, counted: then a restart has more to do again, and nothing else changes.
pub(crate) const SNAPSHOTS_BYTES_MAX: u64 = 128 << 20;

static TAKEN: Mutex<u64> = Mutex::new(0);

/// Room that a snapshot takes, until it is dropped.
#[derive(Debug)]
pub(super) struct Room(u64);

impl Room {
    /// Room for so many bytes, if there is any now.
    pub(super) fn take(bytes: u64) -> Option<Self> {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        fits(*taken, bytes).then(|| {
            *taken += bytes;
            Self(bytes)
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
    }
}

fn fits(taken: u64, bytes: u64) -> bool {
    taken == 0 || taken.saturating_add(bytes) <= SNAPSHOTS_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ones_go_together_and_a_large_one_goes_alone() {
        let max = SNAPSHOTS_BYTES_MAX;
        assert!(fits(0, 10 * max) && fits(0, 0));
        assert!(fits(max / 2, max / 2) && fits(1, max - 1) && fits(max, 0));
        assert!(!fits(max / 2, max / 2 + 1) && !fits(1, max) && !fits(10 * max, 1) && !fits(1, u64::MAX));
    }

    #[test]
    fn room_is_given_back() {
        // Other tests of this process take some as well: all together hold less than is asked for here.
        let held = loop {
            if let Some(room) = Room::take(2 * SNAPSHOTS_BYTES_MAX) {
                break room;
            }
            std::thread::yield_now();
        };
        assert!(Room::take(1).is_none());
        drop(held);
        assert!(Room::take(1).is_some());
    }
}
