//! What the procedure needs of a client: the producer of one transactional id, its group, and what can be read back.
//!
//! What always holds: every call is bounded by the wait it is given; an implementation maps errors to [`Kind`] and decides
//! nothing.

use std::time::Duration;

use crate::log::{Append, CommitError, Committed, LogError, TopicPartition};

/// Why a producer is made, or offsets are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A writer begins, or knows nothing of a partition yet.
    Start,
    /// An epoch was aborted, or requests of it may still be under way.
    Reopen,
    /// An epoch's end is unclear.
    Settle,
}

/// How a call ended other than well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means.
    pub kind: Kind,
    /// The client's words, for people; nothing is decided by them.
    pub reason: String,
}

/// What a failure means, after the client's error classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not answered in time. The same call again may help; what was asked for may go on meanwhile.
    Again,
    /// The client's queue is full: serve it, then again.
    QueueFull,
    /// The end was *not* asked for, because records were not stored in time; asking again waits for them again.
    Unstored,
    /// The end was *not* asked for, and records will not be stored.
    Unstorable,
    /// The transaction can only be aborted.
    MustAbort,
    /// Another producer of this id, or the broker timed our own transaction out: the protocol makes no difference.
    Fenced,
    /// The group says that another owner is in our place.
    Expelled,
    /// The producer is dead, or said nothing that has a class. The transaction may have committed all the same.
    Fatal,
}

impl Failure {
    /// Shorthand.
    pub fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

/// How [`Client::init`] ended.
#[derive(Debug)]
pub enum Init {
    /// The id is this producer's.
    Done,
    /// Not yet; again may help. What to say when time is up.
    NotYet(LogError),
}

/// The client's relation to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It belongs to none.
    Alone,
    /// It belongs to a member.
    Member,
    /// Its member has left.
    Left,
}

/// Times of the procedure, in the order in which they must grow.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A commit that has not ended by then is settled.
    pub commit_budget: Duration,
    /// The broker aborts a transaction older than this, never a younger one.
    pub transaction: Duration,
    /// How long a call may wait for brokers before it says that they are away.
    pub reach: Duration,
}

/// A client of one transactional id.
pub trait Client: Send {
    /// The id.
    fn id(&self) -> &str;

    /// Times of this deployment.
    fn times(&self) -> Times;

    /// Monotonic time.
    fn now(&self) -> Duration;

    /// Lets time pass; serves delivery reports meanwhile.
    fn serve(&mut self, wait: Duration);

    /// Drops the producer, if there is one, without a request: its transaction stays as it is.
    fn close(&mut self);

    /// Whether there is an initialised producer.
    fn is_open(&self) -> bool;

    /// An unclear commit was settled so: for whoever counts.
    fn settled(&self, result: &Result<(), CommitError>) {
        let _ = result;
    }

    /// Drops the producer and makes another of the same id, still to be initialised.
    fn renew(&mut self, why: Why) -> Result<(), LogError>;

    /// Initialises: the coordinator completes a prepared commit or aborts an open transaction, then bumps the epoch.
    fn init(&mut self, wait: Duration) -> Result<Init, LogError>;

    /// Begins a transaction. Nothing is sent.
    fn begin(&mut self) -> Result<(), Failure>;

    /// Queues one record.
    fn append(&mut self, append: &Append) -> Result<(), Failure>;

    /// Records queued or sent and not yet answered.
    fn in_flight(&self) -> usize;

    /// Adds offsets to the transaction, with the group's generation and member id *of this moment*.
    fn send_offsets(&mut self, offsets: &[(TopicPartition, Committed)], wait: Duration) -> Result<(), Failure>;

    /// Waits for the records and asks for the end of the transaction.
    fn commit(&mut self, wait: Duration) -> Result<(), Failure>;

    /// Asks for an abort.
    fn abort(&mut self, wait: Duration) -> Result<(), Failure>;

    /// The last stored record of each partition of the running epoch, as acknowledged.
    fn stored(&self) -> Vec<(TopicPartition, i64)>;

    /// Why a record of the running epoch was refused, in the caller's terms, if one was.
    fn refusal(&mut self) -> Option<CommitError>;

    /// A connection broke since the producer was made: a request that was answered on another one may still be under way.
    fn is_in_doubt(&self) -> bool;

    /// Relation to the group.
    fn standing(&self) -> Standing;

    /// True when all these partitions are this member's and its assignment was not lost, as far as the client knows.
    fn holds(&self, offsets: &[(TopicPartition, Committed)]) -> bool;

    /// Grows whenever partitions come or go.
    fn changes(&self) -> u64;

    /// What the group has committed; stable offsets, so it cannot answer while a transaction of the group is pending.
    fn committed(&mut self, at: &[TopicPartition], why: Why, wait: Duration) -> Result<Vec<Option<Committed>>, LogError>;

    /// Whether a record that was stored at this offset is visible to read_committed.
    fn read_back(&mut self, at: &TopicPartition, offset: i64, wait: Duration) -> Result<bool, LogError>;

    /// Whether the last stable offsets are past these records.
    fn is_visible(&mut self, stored: &[(TopicPartition, i64)], wait: Duration) -> Result<bool, LogError>;

    /// Refuses what can be refused before anything is written.
    fn check(&mut self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError>;
}
