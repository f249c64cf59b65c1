//! Work beside the hot path: writing and loading snapshots. On threads in production; in place where a run must be the
//! same every time (simulation, backtests).
//!
//! What always holds: a job is done exactly once; who asks for its result never waits unless told to.

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
