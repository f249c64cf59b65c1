//! Work beside the hot path: writing and loading snapshots. On threads in production; in place where a run must be the
//! same every time (simulation, backtests).
//!
//! What always holds: a job is done exactly once; who asks for its result never waits unless told to; no more jobs work at a
//! time in [`in_turn`] than there are cores.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Who does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// A thread per job.
    #[default]
    Threads,
    /// Whoever starts the job, at once.
    InPlace,
}

/// A job that was started.
#[derive(Debug)]
pub(crate) enum Job<T> {
    Running(JoinHandle<T>),
    Done(T),
}

/// A job died of a bug.
#[derive(Debug)]
pub(crate) struct Panicked;

impl Side {
    /// Starts a job. `name` is the thread's, for people with a debugger.
    pub(crate) fn start<T: Send + 'static>(self, name: &str, job: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        if self == Self::InPlace {
            return Job::Done(job());
        }
        Job::Running(std::thread::Builder::new().name(name.to_owned()).spawn(job).expect("the system gives threads"))
    }
}

impl<T> Job<T> {
    /// Whether [`Job::take`] returns at once.
    pub(crate) fn is_finished(&self) -> bool {
        match self {
            Self::Running(thread) => thread.is_finished(),
            Self::Done(_) => true,
        }
    }

    /// The result; waits for it.
    pub(crate) fn take(self) -> Result<T, Panicked> {
        match self {
            Self::Running(thread) => thread.join().map_err(|_| Panicked),
            Self::Done(result) => Ok(result),
        }
    }
}

/// How many work in turn now, and who waits.
static WORKING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Gives the turn back, also when the work panics.
struct Turn;

impl Drop for Turn {
    fn drop(&mut self) {
        *WORKING.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        WORKING.1.notify_one();
    }
}

/// Work that needs a core: begun when one is free of such work, so that many tasks that come back together are ready one after
/// the other instead of all at the end.
pub(crate) fn in_turn<T>(work: impl FnOnce() -> T) -> T {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut working = WORKING.0.lock().unwrap_or_else(PoisonError::into_inner);
    while *working >= cores {
        working = WORKING.1.wait(working).unwrap_or_else(PoisonError::into_inner);
    }
    *working += 1;
    drop(working);
    let _turn = Turn;
    work()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_work_than_there_are_cores_and_all_of_it_is_done() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let (now, most, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs: Vec<Job<()>> = (0..4 * cores)
            .map(|n| {
                let (now, most, done) = (now.clone(), most.clone(), done.clone());
                Side::Threads.start("test", move || {
                    in_turn(|| {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        (0..1000).for_each(|_| std::thread::yield_now());
                        now.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                        // A turn that ends badly is given back, too.
                        assert!(n != 1, "planned");
                    });
                })
            })
            .collect();
        let failed = jobs.into_iter().filter_map(|job| job.take().err()).count();
        assert_eq!((failed, done.load(Ordering::SeqCst)), (1, 4 * cores));
        assert!(most.load(Ordering::SeqCst) <= cores);
    }
}
