//! What the memory log and the embedded log share: partitions with bounds, atomic epochs, fencing, groups, waiting.
//!
//! A [`LocalLog`] is one process's log over a [`Store`] of bytes. It is not a server: other processes come through
//! [`crate::log::socket`]. What always holds: commits are settled one after the other; a record becomes visible only
//! after the store holds its whole epoch; opening a writer waits until a commit in flight is settled; whoever reads
//! below a start that has moved gets [`LogError::OutOfRange`], never a silent skip.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tidewatch_schemas::time::EventTime;

use super::{Committed, Log, LogError, Member, Membership, OffsetRange, Reader, TopicPartition, TopicSpec, Writer};

mod check;
mod groups;
mod reader;
mod settings;
mod state;
mod store;
mod trim;
mod writer;

pub use settings::{Clock, PARTITION_BYTES_MAX, RECORD_OVERHEAD_BYTES, Settings, wall_clock};
pub use state::{COMMITTED_MAX, GROUP_MEMBERS_MAX, PARTITIONS_MAX, Stats, TOPICS_MAX, WRITERS_MAX};
pub use store::{Bounds, Epoch, Placed, Recovered, Store};

use groups::LocalMembership;
use reader::LocalReader;
use state::State;
use writer::LocalWriter;

/// A log inside this process. Cloning gives another handle on the same log.
pub struct LocalLog<S: Store>(Arc<Inner<S>>);

/// Lock order: `commits`, `trims`, `state`. `state` is never held while the store works.
pub(crate) struct Inner<S> {
    pub(crate) store: S,
    pub(crate) settings: Settings,
    /// Held while an epoch is checked, stored and published.
    commits: Mutex<()>,
    /// Held while old records are removed.
    trims: Mutex<()>,
    state: Mutex<State>,
    /// Something became visible, was removed, or a group changed.
    changed: Condvar,
}

impl<S> Inner<S> {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn commits(&self) -> MutexGuard<'_, ()> {
        lock(&self.commits)
    }
}

/// A panic elsewhere never leaves these states half changed: every change below is made after its checks, without
/// anything that can fail in between.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Store> LocalLog<S> {
    /// A log over what the store holds.
    pub fn over(store: S, recovered: Recovered, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            store,
            settings,
            commits: Mutex::new(()),
            trims: Mutex::new(()),
            state: Mutex::new(State::new(recovered)),
            changed: Condvar::new(),
        }))
    }

    /// What this log has done since it was opened.
    pub fn stats(&self) -> Stats {
        self.0.state().stats
    }

    /// Bytes a partition holds, [`RECORD_OVERHEAD_BYTES`] per record included: what its limit and retention count.
    pub fn held_bytes(&self, at: &TopicPartition) -> Result<u64, LogError> {
        let state = self.0.state();
        let id = state.partition(at)?;
        Ok(state.bounds(id).bytes)
    }

    /// The backing store.
    pub fn store(&self) -> &S {
        &self.0.store
    }

    /// The log's clock: what stamps records without a timestamp.
    pub fn now(&self) -> EventTime {
        (self.0.settings.clock)()
    }
}

impl<S: Store> Clone for LocalLog<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Store> fmt::Debug for LocalLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLog").field("store", &self.0.store).finish_non_exhaustive()
    }
}

impl<S: Store> Log for LocalLog<S> {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        check::topic_spec(spec)?;
        let _settled = self.0.commits();
        let first = match self.0.state().place_topic(spec)? {
            Some(first) => first,
            None => return Ok(()),
        };
        self.0.store.create_topic(spec, first)?;
        self.0.state().add_topic(spec, first);
        self.0.changed.notify_all();
        Ok(())
    }

    fn topics(&self) -> Result<Vec<(String, u32)>, LogError> {
        Ok(self.0.state().topics.iter().map(|(name, t)| (name.clone(), t.spec.partitions)).collect())
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.0.state().topic(topic).map(|t| t.spec.partitions)
    }

    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        let state = self.0.state();
        let id = state.partition(at)?;
        Ok(state.range(id))
    }

    fn offset_at(&self, at: &TopicPartition, time: EventTime) -> Result<i64, LogError> {
        let (id, range) = {
            let state = self.0.state();
            let id = state.partition(at)?;
            (id, state.range(id))
        };
        Ok(self.0.store.first_at(id, range, time)?.unwrap_or(range.end))
    }

    fn reader(&self, at: &TopicPartition, from: i64) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(LocalReader::open(Arc::clone(&self.0), at, from)?))
    }

    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        Ok(Box::new(LocalWriter::open(Arc::clone(&self.0), id, None)?))
    }

    fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError> {
        let state = self.0.state();
        let of_group = state.committed.get(group);
        at.iter()
            .map(|tp| {
                state.partition(tp)?;
                Ok(of_group.and_then(|g| g.get(tp)).cloned())
            })
            .collect()
    }

    fn join(&self, group: &str, topics: &[String], member: &Member) -> Result<Box<dyn Membership>, LogError> {
        Ok(Box::new(LocalMembership::join(Arc::clone(&self.0), group, topics, member)?))
    }

    fn enforce_retention(&self, now: EventTime) -> Result<u64, LogError> {
        trim::enforce_retention(&self.0, now)
    }

    fn delete_before(&self, at: &TopicPartition, offset: i64) -> Result<(), LogError> {
        trim::delete_before(&self.0, at, offset)
    }
}
