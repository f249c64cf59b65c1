//! One epoch as one transaction: begin, records, offsets, end; or abort.
//!
//! What always holds: the whole epoch fits the commit budget or is given up; running out of time before the end was asked
//! for is an abort, after that it is unclear; a transaction that cannot be aborted is settled.
//!
//! A fencing error inside the transaction time-out can only come from another producer of the same id (the broker aborts
//! nothing younger), so it is final and this writer never takes the id back. Later than that, the broker may have timed
//! our own transaction out; then who still holds its partitions, or has none, settles, and a member that lost them gives up.

use std::time::Duration;

use super::client::{Client, Failure, Kind, Standing, Why};
use super::writer::TransactionalWriter;
use crate::log::{Append, CommitError, Committed, TopicPartition};

/// Longest single wait inside a transactional call; short, so that budgets are kept to.
pub(super) const STEP: Duration = Duration::from_secs(1);
/// One round of serving delivery reports.
const SERVE_STEP: Duration = Duration::from_millis(1);
/// Longest single wait for an abort: nobody serves delivery reports inside that call.
const ABORT_STEP: Duration = Duration::from_millis(100);
/// How long an abort may take before the producer is dropped instead.
const ABORT_WAIT: Duration = Duration::from_secs(5);
/// Pause before a call is tried again.
const AGAIN_PAUSE: Duration = Duration::from_millis(2);
/// How long a commit waits for its records to become visible.
const VISIBLE_WAIT: Duration = Duration::from_millis(500);
/// Deliveries are served after this many records, so that reports do not pile up.
const SERVE_EVERY: usize = 4096;

/// How a step of an epoch ended other than well.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nothing is committed: abort.
    Abort {
        /// Why.
        reason: String,
        /// The end of the transaction may have been asked for: if the abort fails, that decides.
        asked: bool,
    },
    /// Unclear: settle.
    Settle(String),
    /// Another producer of this id, or another owner.
    Fenced(String),
}

impl Stop {
    /// An abort before the end was asked for.
    fn abort(reason: impl Into<String>) -> Self {
        Self::Abort { reason: reason.into(), asked: false }
    }
}

/// One committed epoch.
pub(super) struct Ended {
    /// A request of it may still be under way: it was asked twice, or a connection broke.
    pub(super) in_doubt: bool,
}

/// An epoch to be committed, and its time.
#[derive(Clone, Copy)]
pub(super) struct Epoch<'a> {
    /// Its records.
    pub(super) appends: &'a [Append],
    /// The group's positions after it.
    pub(super) offsets: &'a [(TopicPartition, Committed)],
    began: Duration,
    deadline: Duration,
}

impl<'a> Epoch<'a> {
    /// Its time begins now.
    pub(super) fn new(client: &impl Client, appends: &'a [Append], offsets: &'a [(TopicPartition, Committed)]) -> Self {
        let began = client.now();
        Self { appends, offsets, began, deadline: began + client.times().commit_budget }
    }
}

impl<C: Client> TransactionalWriter<C> {
    /// One transaction, from begin to its end.
    pub(super) fn run(&mut self, epoch: Epoch<'_>) -> Result<Ended, Stop> {
        let mut again = false;
        self.client.begin().map_err(|f| self.stop(f, "begin", epoch))?;
        for (i, append) in epoch.appends.iter().enumerate() {
            if i % SERVE_EVERY == SERVE_EVERY - 1 {
                self.client.serve(Duration::ZERO);
            }
            self.send(append, epoch)?;
        }
        if !epoch.offsets.is_empty() {
            again |= self.send_offsets(epoch)?;
        }
        again |= self.end(epoch)?;
        Ok(Ended { in_doubt: again || self.client.is_in_doubt() })
    }

    /// Queues one record, waiting while the queue is full.
    fn send(&mut self, append: &Append, epoch: Epoch<'_>) -> Result<(), Stop> {
        loop {
            match self.client.append(append) {
                Ok(()) => return Ok(()),
                Err(Failure { kind: Kind::QueueFull, .. }) if self.client.now() < epoch.deadline => {
                    self.client.serve(AGAIN_PAUSE);
                }
                Err(failure) => return Err(self.stop(failure, "append", epoch)),
            }
        }
    }

    /// Adds the offsets, with the group metadata of this moment. True when it was asked more than once.
    fn send_offsets(&mut self, epoch: Epoch<'_>) -> Result<bool, Stop> {
        let mut again = false;
        loop {
            if self.client.standing() != Standing::Member {
                return Err(Stop::Fenced("its member has left the group".into()));
            }
            let left = epoch.deadline.saturating_sub(self.client.now());
            // Invariant: identical offsets in every repetition; nothing can have been committed yet, so when the budget is
            // spent, aborting is right.
            match self.client.send_offsets(epoch.offsets, left.min(STEP)) {
                Ok(()) => return Ok(again),
                Err(Failure { kind: Kind::Again, .. }) if !left.is_zero() => {
                    again = true;
                    self.client.serve(AGAIN_PAUSE);
                }
                Err(failure) => return Err(self.stop(failure, "commit offsets", epoch)),
            }
        }
    }

    /// Ends the transaction, asking again while that can help. True when it was asked more than once.
    fn end(&mut self, epoch: Epoch<'_>) -> Result<bool, Stop> {
        // The client's own flush serves reports in rounds of 100 ms; waiting here leaves it nothing to do.
        while self.client.in_flight() > 0 && self.client.now() < epoch.deadline {
            self.client.serve(SERVE_STEP);
        }
        // Invariant: right before the end is asked for, the member still holds what it commits.
        if !epoch.offsets.is_empty() && !self.client.holds(epoch.offsets) {
            return Err(Stop::Fenced("its partitions went to another member".into()));
        }
        // Once the request may be on its way, running out of time is no longer an abort.
        let mut asked = false;
        loop {
            // Invariant: finite waits only; one without a limit may never return.
            let left = epoch.deadline.saturating_sub(self.client.now());
            let failure = match self.client.commit(left.min(STEP)) {
                Ok(()) => return Ok(asked),
                Err(failure) => failure,
            };
            match failure.kind {
                // Invariant: the end was never asked for, so abort is legal.
                Kind::Unstored if !asked && !left.is_zero() => {}
                Kind::Unstored | Kind::Unstorable if !asked => return Err(Stop::abort(failure.reason)),
                Kind::Again if !left.is_zero() => asked = true,
                // Mostly a refused record, before the end was asked for; the broker's answer to an abort will tell.
                Kind::MustAbort if !asked => return Err(Stop::Abort { reason: failure.reason, asked: true }),
                // Invariant: a commit that may be under way is never aborted.
                _ => {
                    return Err(match self.stop(failure, "commit", epoch) {
                        Stop::Abort { reason, .. } => Stop::Settle(reason),
                        other => other,
                    });
                }
            }
        }
    }

    /// What a failure before the end of the transaction means.
    fn stop(&self, failure: Failure, call: &str, epoch: Epoch<'_>) -> Stop {
        let reason = format!("{call}: {}", failure.reason);
        match failure.kind {
            Kind::Expelled => Stop::Fenced(reason),
            Kind::Fenced if self.is_recent(epoch) => Stop::Fenced(reason),
            // Invariant: fatal does not mean "not committed".
            Kind::Fenced | Kind::Fatal => Stop::Settle(reason),
            Kind::Again | Kind::QueueFull | Kind::Unstored | Kind::Unstorable | Kind::MustAbort => Stop::abort(reason),
        }
    }

    /// True while the broker cannot have timed the transaction out.
    fn is_recent(&self, epoch: Epoch<'_>) -> bool {
        self.client.now().saturating_sub(epoch.began) < self.client.times().transaction
    }

    /// Asks for an abort until it is done or cannot be.
    fn try_abort(&mut self) -> Result<(), Failure> {
        let deadline = self.client.now() + ABORT_WAIT;
        loop {
            // Invariant: reports are served between short tries, because nobody serves them inside the call.
            self.client.serve(SERVE_STEP);
            match self.client.abort(ABORT_STEP) {
                Err(Failure { kind: Kind::Again, .. }) if self.client.now() < deadline => {}
                other => return other,
            }
        }
    }

    /// Gives an epoch up that another owner has taken over. The abort is a courtesy: readers need not wait for the
    /// transaction to time out.
    pub(super) fn yield_to(&mut self, reason: String) -> CommitError {
        if self.client.is_open() {
            drop(self.try_abort());
        }
        self.finish(reason)
    }

    /// Aborts, and goes on with a new producer: its higher epoch shuts out late requests of this one. When the abort does
    /// not work and the end was never asked for, the new producer aborts; when it was, the outcome must be found out.
    pub(super) fn abort(&mut self, reason: String, asked: bool, epoch: Epoch<'_>) -> Result<(), CommitError> {
        let aborted = self.try_abort();
        let refusal = self.client.refusal();
        if let Err(failure) = aborted {
            match self.stop(failure, "abort", epoch) {
                Stop::Fenced(reason) => return Err(self.finish(reason)),
                _ if asked => return self.settle(epoch, &reason),
                _ => {}
            }
        }
        self.shut_out_stragglers();
        Err(refusal.unwrap_or(CommitError::Aborted { reason }))
    }

    /// A new producer, so that what may still be under way of this one is refused. Without one, the next commit tries again.
    pub(super) fn shut_out_stragglers(&mut self) {
        if let Err(error) = self.reopen(Why::Reopen, self.client.times().reach) {
            tracing::debug!(%error, writer = self.client.id(), "no new producer yet");
        }
    }

    /// Waits until a reader can see the epoch. The coordinator answers a commit when the decision is on disk and writes
    /// the markers after that; until then the last stable offset stands before our records. Bounded, because another
    /// writer's open transaction holds it back as well; that is no reason to fail.
    pub(super) fn wait_until_visible(&mut self) {
        let stored = self.client.stored();
        if stored.is_empty() {
            return;
        }
        let deadline = self.client.now() + VISIBLE_WAIT;
        while self.client.now() < deadline {
            match self.client.is_visible(&stored, VISIBLE_WAIT) {
                Ok(false) => self.client.serve(AGAIN_PAUSE),
                Ok(true) | Err(_) => return,
            }
        }
        tracing::debug!(writer = self.client.id(), "an epoch is committed but held back by another transaction");
    }
}
