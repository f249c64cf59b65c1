//! Workers on threads: each is driven until somebody says stop, and started again in place when it failed for a reason that
//! passes.
//!
//! What always holds: a worker that failed is dropped whole (its clients, readers and membership with it) before the next
//! one is made, so nothing of it piles up; pauses grow and are capped; a stop is noticed within a fraction of a second,
//! also while waiting.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::status::{Board, Cause};
use crate::topology::Stage;
use crate::worker::{Clock, Step};

use super::fault;
use super::{Run, RunError, Shared};

/// An idle worker looks again after so long.
const IDLE_WAIT: Duration = Duration::from_millis(20);

/// Pause before the first new try; doubled with each further one.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// Longest pause between two tries: a cause that is gone is noticed within it, and a broker is not asked more often.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// A worker that has run for so long and lost no epoch has recovered, also when it had nothing to commit.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);

/// A wait that goes on is logged again after so long.
const SAID_EVERY: Duration = Duration::from_secs(300);

/// A stop is looked for this often while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Run {
    /// Says that every worker still waits for its tasks, so that nobody takes the process for ready before the first of them
    /// has begun.
    pub fn expect_workers(&self, stages: &[Stage], shared: &Shared) {
        for stage in stages.iter().filter(|s| **s != Stage::Deliver) {
            for index in 0..self.threads(*stage) {
                let about = format!("{} worker {index}", stage.name());
                shared.board.raise(Cause::Group, &about, "starting", (self.clock)());
            }
        }
    }

    /// Runs stages on threads until `stop`, or until bounded inputs have ended. Each stage's workers leave their group for
    /// good when `for_good`.
    pub fn threaded(&self, stages: &[Stage], shared: &Shared, stop: &AtomicBool, for_good: bool) -> Result<(), RunError> {
        let left: [Mutex<u32>; 3] = std::array::from_fn(|_| Mutex::new(0));
        let mut jobs = Vec::new();
        for (place, stage) in [Stage::Normalize, Stage::Detect, Stage::Correlate].into_iter().enumerate() {
            if !stages.contains(&stage) {
                continue;
            }
            let of = self.threads(stage);
            *left[place].lock().unwrap_or_else(PoisonError::into_inner) = of;
            for index in 0..of {
                jobs.push((place, stage, index, of));
            }
        }
        let left = &left;
        std::thread::scope(|scope| {
            let running: Vec<_> = jobs
                .into_iter()
                .map(|(place, stage, index, of)| {
                    let job = move || -> Result<(), RunError> {
                        // Whoever fails, fails for all: the others stop at their next step.
                        let result = self.drive(stage, index, of, shared, stop, for_good);
                        if result.is_err() {
                            stop.store(true, Ordering::Release);
                        }
                        let mut left = left[place].lock().unwrap_or_else(PoisonError::into_inner);
                        *left -= 1;
                        if *left == 0 && place < 2 {
                            shared.done[place + 1].store(true, Ordering::Release);
                        }
                        result
                    };
                    let thread = std::thread::Builder::new().name(format!("{}-{index}", stage.name()));
                    (stage, thread.spawn_scoped(scope, job))
                })
                .collect();
            let mut outcome = Ok(());
            for (stage, thread) in running {
                let joined = match thread {
                    Ok(thread) => thread.join().unwrap_or(Err(RunError::Panic { stage: stage.name() })),
                    Err(_) => Err(RunError::Panic { stage: stage.name() }),
                };
                if outcome.is_ok() {
                    outcome = joined;
                }
            }
            outcome
        })
    }

    /// One worker's thread: worker after worker, until one ends well or fails for good.
    fn drive(
        &self,
        stage: Stage,
        index: u32,
        of: u32,
        shared: &Shared,
        stop: &AtomicBool,
        for_good: bool,
    ) -> Result<(), RunError> {
        let (mut wait, mut ran) = (Wait::new(self, shared, stage, index), false);
        loop {
            let result = self.attempt(stage, index, of, shared, stop, for_good, &mut wait, &mut ran);
            let Err(error) = result else { return Ok(()) };
            let Some(cause) = fault::cause(&error) else { return Err(error) };
            // At a start, what is missing or refused is a matter of configuration: whoever starts it is told at once.
            if !ran && !self.patient && cause != Cause::Unreachable {
                return Err(error);
            }
            if stop.load(Ordering::Acquire) {
                // Nothing that is committed is in doubt, and nothing else was promised; the next start goes on from there.
                tracing::warn!(stage = stage.name(), %error, "stopped while waiting: the running epoch is not committed");
                return Ok(());
            }
            let pause = wait.note(cause, &error.to_string());
            sleep(pause, stop);
        }
    }

    /// One worker, from its start to its end.
    #[allow(clippy::too_many_arguments)] // The caller's own, passed on.
    fn attempt(
        &self,
        stage: Stage,
        index: u32,
        of: u32,
        shared: &Shared,
        stop: &AtomicBool,
        for_good: bool,
        wait: &mut Wait<'_>,
        ran: &mut bool,
    ) -> Result<(), RunError> {
        if stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let at = |source| RunError::Worker { stage: stage.name(), source };
        let mut worker = self.worker(stage, index, of, shared)?;
        let began = Instant::now();
        while !stop.load(Ordering::Acquire) {
            let step = match worker.step(IDLE_WAIT) {
                Ok(step) => step,
                Err(source) => {
                    worker.abandon();
                    return Err(at(source));
                }
            };
            if worker.is_sound() && (worker.epochs() > 0 || began.elapsed() > RECOVERED_AFTER) {
                *ran = true;
                wait.over();
            }
            if step == Step::Done {
                break;
            }
        }
        worker.stop(for_good || shared.for_good.load(Ordering::Acquire)).map_err(at)
    }
}

/// A worker's wait: what is told of it, and how long the next pause is. A change is logged once, then rarely, however often
/// it is tried.
struct Wait<'a> {
    board: &'a Board,
    clock: &'a Clock,
    about: String,
    /// What for, since when, and when that was last logged.
    running: Option<(Cause, EventTime, EventTime)>,
    tries: u32,
}

impl<'a> Wait<'a> {
    fn new(run: &'a Run, shared: &'a Shared, stage: Stage, index: u32) -> Self {
        let about = format!("{} worker {index}", stage.name());
        Self { board: &shared.board, clock: &run.clock, about, running: None, tries: 0 }
    }

    /// A try failed. The pause before the next one.
    fn note(&mut self, cause: Cause, reason: &str) -> Duration {
        let now = (self.clock)();
        self.tries += 1;
        let (before, since, said) = self.running.map_or((None, now, now), |(cause, since, said)| (Some(cause), since, said));
        if before != Some(cause) {
            self.board.clear_all(&self.about);
        }
        self.board.raise(cause, &self.about, reason, now);
        let news = before != Some(cause) || now.since(said) >= SAID_EVERY.as_nanos() as i64;
        if news {
            let (worker, cause, to_do, tries) = (&self.about, cause.name(), cause.advice(), self.tries);
            tracing::warn!(%worker, cause, tries, reason, to_do, "waiting");
        }
        self.running = Some((cause, since, if news { now } else { said }));
        PAUSE_FIRST.saturating_mul(1 << (self.tries - 1).min(10)).min(PAUSE_MAX)
    }

    /// The worker works.
    fn over(&mut self) {
        let Some((cause, since, _)) = self.running.take() else { return };
        self.board.clear_all(&self.about);
        let waited_s = (self.clock)().since(since) / SECOND_NS;
        tracing::warn!(worker = %self.about, cause = cause.name(), waited_s, tries = self.tries, "goes on");
        self.tries = 0;
    }
}

/// Sleeps, unless a stop comes.
fn sleep(pause: Duration, stop: &AtomicBool) {
    let until = Instant::now() + pause;
    while !stop.load(Ordering::Acquire) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}
