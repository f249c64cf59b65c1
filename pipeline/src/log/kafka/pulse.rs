//! Whether this process stood still: a thread beats, and a pause between two beats shows that nothing here ran (a stopped
//! process, a virtual machine that was moved, a machine without processor time).
//!
//! What always holds: a pause that is still going on counts, so that whoever asks right after it sees it, also before the
//! thread beats again. It says nothing about a single thread that waits for an answer: that is no standstill.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(250);

/// A pulse; its thread ends when the last copy of it is gone.
#[derive(Clone)]
pub(super) struct Pulse(Arc<Mutex<Beats>>);

struct Beats {
    last: Instant,
    longest: Duration,
    beats: bool,
}

impl Pulse {
    /// Starts it.
    pub(super) fn start() -> Self {
        let beats = Arc::new(Mutex::new(Beats { last: Instant::now(), longest: Duration::ZERO, beats: true }));
        let of = Arc::downgrade(&beats);
        if let Err(error) = std::thread::Builder::new().name("kafka-pulse".into()).spawn(move || beat(&of)) {
            tracing::warn!(%error, "no thread for a pulse: a member that is fenced is taken for replaced");
            lock(&beats).beats = false;
        }
        Self(beats)
    }

    /// Longest pause since the start or [`Self::reset`].
    pub(super) fn longest_pause(&self) -> Duration {
        let beats = lock(&self.0);
        if beats.beats { beats.longest.max(beats.last.elapsed()) } else { Duration::MAX }
    }

    /// Forgets pauses.
    pub(super) fn reset(&self) {
        lock(&self.0).longest = Duration::ZERO;
    }
}

fn lock(beats: &Mutex<Beats>) -> std::sync::MutexGuard<'_, Beats> {
    beats.lock().unwrap_or_else(PoisonError::into_inner)
}

fn beat(of: &Weak<Mutex<Beats>>) {
    loop {
        std::thread::sleep(BEAT);
        let Some(beats) = of.upgrade() else { return };
        let mut beats = lock(&beats);
        beats.longest = beats.longest.max(beats.last.elapsed());
        beats.last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seen_while_it_goes_on_and_until_it_is_forgotten() {
        let pulse = Pulse::start();
        let stood_still = Instant::now().checked_sub(Duration::from_secs(9)).unwrap();
        lock(&pulse.0).last = stood_still;
        assert!(pulse.longest_pause() >= Duration::from_secs(9));
        let deadline = Instant::now() + Duration::from_secs(10);
        while lock(&pulse.0).last == stood_still && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(pulse.longest_pause() >= Duration::from_secs(9));
        pulse.reset();
        assert!(pulse.longest_pause() < Duration::from_secs(9));
    }
}
