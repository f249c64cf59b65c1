//! A blocking call of the client on a thread of its own, so that one that never comes back holds up nothing.
//!
//! What always holds: whoever waits gets an answer within the call's own time-out and [`GRACE`]; what a hanging call works on
//! stays alive for it and is nobody else's. Nothing here knows what is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// A call that has not come back so long after its own time-out does not come back.
const GRACE: Duration = Duration::from_secs(2);
/// Calls of a process that hang at a time, at most: each keeps a client and its threads. Beyond it a call is made on the
/// caller's own thread and waited for, however long that takes.
const HUNG_MAX: usize = 16;

/// Calls that hang now.
static HUNG: AtomicUsize = AtomicUsize::new(0);

/// Makes the call; `None` = it does not come back.
pub(super) fn run<S, T>(subject: &Arc<S>, wait: Duration, call: impl FnOnce(&S) -> T + Send + 'static) -> Option<T>
where
    S: Send + Sync + 'static,
    T: Send + 'static,
{
    if HUNG.load(Ordering::Relaxed) >= HUNG_MAX {
        return Some(call(subject));
    }
    let (answer, answered) = sync_channel(0);
    let of = Arc::clone(subject);
    let work = move || {
        let result = call(&of);
        drop(of);
        if answer.send(result).is_err() {
            // Late, but back: the subject dies here, on a thread that nobody waits for.
            HUNG.fetch_sub(1, Ordering::Relaxed);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("kafka-call".into()).spawn(work) {
        tracing::warn!(%error, "no thread for a call of the kafka client");
        return None;
    }
    match answered.recv_timeout(wait + GRACE) {
        Ok(result) => Some(result),
        Err(RecvTimeoutError::Timeout) => {
            HUNG.fetch_add(1, Ordering::Relaxed);
            // A call that comes back from now on finds nobody to hand its answer to, and is no longer counted.
            None
        }
        // The call panicked.
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_call_that_does_not_come_back_is_left_alone() {
        let subject = Arc::new(Mutex::new(1));
        assert_eq!(run(&subject, Duration::ZERO, |s| *s.lock().unwrap()), Some(1));
        let held = subject.lock().unwrap();
        assert_eq!(run(&subject, Duration::ZERO, |s| *s.lock().unwrap()), None);
        drop(held);
        assert_eq!(run(&subject, Duration::ZERO, |s| *s.lock().unwrap()), Some(1));
    }
}
