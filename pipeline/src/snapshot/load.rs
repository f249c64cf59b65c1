//! Reading a snapshot back: its own object and what it needs of earlier ones, in parallel pieces, every group against its
//! digest. Groups are views into the bytes as they came; nothing is copied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt};
use tidewatch_schemas::time::EventTime;

use super::form::{self, Fault, Head};
use super::{Loaded, SnapshotError, SnapshotStore};
use crate::task::State;

/// One request of a remote store brings at most so many bytes: a request's time-out then never hangs on a snapshot's size.
const PIECE_BYTES_MAX: u64 = 16 << 20;

/// Requests of one load at a time.
const REQUESTS_MAX: usize = 4;

/// How far a load is, in bytes; each counts half when it has been read and half when it has been taken up.
#[derive(Debug, Default)]
pub struct LoadProgress {
    done_halves: AtomicU64,
    total_bytes: AtomicU64,
}

impl LoadProgress {
    /// Bytes done.
    pub fn done_bytes(&self) -> u64 {
        self.done_halves.load(Ordering::Relaxed) / 2
    }

    /// Bytes of the whole snapshot; 0 = not known yet.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// So many bytes were read, or were taken up.
    pub(crate) fn add(&self, bytes: u64) {
        self.done_halves.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Nanoseconds that parts of a load took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadTimes {
    /// The snapshot's own object.
    pub own_ns: i64,
    /// What it needs of earlier ones.
    pub earlier_ns: i64,
    /// Digests.
    pub verify_ns: i64,
}

impl SnapshotStore {
    /// Reads a snapshot with everything it refers to.
    pub fn load(&self, id: &str, progress: &LoadProgress, clock: &dyn Fn() -> EventTime) -> Result<Loaded, SnapshotError> {
        let began = clock();
        let (head, own) = self.own(id, progress)?;
        let total: u64 = head.index.values().map(|p| p.len).sum();
        progress.total_bytes.store(total, Ordering::Relaxed);
        let own_read = clock();
        let mut parts = BTreeMap::new();
        let mut earlier: BTreeMap<Arc<str>, Vec<&super::Part>> = BTreeMap::new();
        for (part, place) in &head.index {
            if *place.object == *id {
                let (at, end) = (place.at as usize, place.at.saturating_add(place.len) as usize);
                if end > own.len() {
                    return Err(damaged(id, format!("it ends before the state of {part:?}")));
                }
                parts.insert(part.clone(), own.slice(at..end));
            } else {
                earlier.entry(place.object.clone()).or_default().push(part);
            }
        }
        for (part, bytes) in self.earlier(&head, earlier, progress)? {
            parts.insert(part, bytes);
        }
        let all_read = clock();
        for (part, place) in &head.index {
            let bytes = parts.get(part).ok_or_else(|| damaged(id, format!("the state of {part:?} is nowhere")))?;
            if form::digest(bytes) != place.digest {
                return Err(damaged(&place.object, format!("the digest of the state of {part:?} differs")));
            }
        }
        let times =
            LoadTimes { own_ns: own_read.since(began), earlier_ns: all_read.since(own_read), verify_ns: clock().since(all_read) };
        let state = State { head: head.task, parts, full: true, replay_offset: Some(head.taken.replay_offset) };
        Ok(Loaded { taken: head.taken, stamp: head.stamp, state, index: head.index, bytes: total, times })
    }

    /// The snapshot's own object: head and all bytes.
    fn own(&self, id: &str, progress: &LoadProgress) -> Result<(Head, Bytes), SnapshotError> {
        let path = self.path(id);
        let bytes = self.runtime.block_on(async {
            match whole(&*self.store, &path, progress).await {
                Ok(bytes) => Ok(bytes),
                Err(e) => Err(self.why(id, &path, 1, e).await),
            }
        })?;
        match form::decode(id, &bytes) {
            Ok(head) => Ok((head, bytes)),
            Err(Fault::Foreign(stamp)) => Err(SnapshotError::Foreign { name: id.to_owned(), stamp }),
            Err(Fault::Damaged(reason)) => Err(damaged(id, reason)),
            Err(Fault::Short(needed)) => Err(damaged(id, format!("{} bytes of at least {needed}", bytes.len()))),
        }
    }

    /// An object's bytes as they are, and the other objects it refers to, if that can be read.
    pub fn raw(&self, name: &str) -> Result<(Bytes, Vec<String>), SnapshotError> {
        let path = self.path(name);
        let progress = LoadProgress::default();
        let bytes = self.runtime.block_on(whole(&*self.store, &path, &progress)).map_err(|e| SnapshotError::store(name, e))?;
        let referred = form::decode(name, &bytes).map(|head| super::objects(&head.index)).unwrap_or_default();
        Ok((bytes, referred.into_iter().filter(|o| o != name).collect()))
    }

    /// Where a snapshot was taken and by whom, from its bytes; `Err` says what is wrong with them.
    pub fn taken(&self, name: &str, bytes: &[u8]) -> Result<(super::Taken, super::Stamp), String> {
        form::decode(name, bytes).map(|head| (head.taken, head.stamp)).map_err(|fault| match fault {
            Fault::Foreign(stamp) => format!("written by tidewatch {} in layout {}", stamp.program, stamp.layout),
            Fault::Damaged(reason) => reason,
            Fault::Short(needed) => format!("{} bytes of at least {needed}", bytes.len()),
        })
    }

    /// Why an object of at least so many bytes could not be read: a shorter one is torn, and no retry mends it.
    async fn why(&self, name: &str, path: &Path, needed: u64, error: object_store::Error) -> SnapshotError {
        match self.store.head(path).await {
            Ok(meta) if meta.size < needed => damaged(name, format!("{} bytes of at least {needed}", meta.size)),
            _ => SnapshotError::store(name, error),
        }
    }

    fn earlier<'h>(
        &self,
        head: &'h Head,
        wanted: BTreeMap<Arc<str>, Vec<&'h super::Part>>,
        progress: &LoadProgress,
    ) -> Result<Vec<(super::Part, Bytes)>, SnapshotError> {
        let read = wanted.into_iter().map(|(object, parts)| async move {
            let ranges: Vec<std::ops::Range<u64>> =
                parts.iter().map(|p| head.index[*p].at..head.index[*p].at + head.index[*p].len).collect();
            let path = self.path(&object);
            let bytes = match self.store.get_ranges(&path, &ranges).await {
                Ok(bytes) => bytes,
                Err(e) => return Err(self.why(&object, &path, ranges.iter().map(|r| r.end).max().unwrap_or(0), e).await),
            };
            progress.add(bytes.iter().map(|b| b.len() as u64).sum());
            Ok(parts.into_iter().cloned().zip(bytes).collect::<Vec<_>>())
        });
        let all = futures::stream::iter(read).buffer_unordered(REQUESTS_MAX).try_collect::<Vec<_>>();
        Ok(self.runtime.block_on(all)?.into_iter().flatten().collect())
    }
}

fn damaged(name: &str, reason: String) -> SnapshotError {
    SnapshotError::Damaged { name: name.to_owned(), reason }
}

/// All bytes of an object: a local file in one read, a remote object in pieces side by side.
async fn whole(store: &dyn ObjectStore, path: &Path, progress: &LoadProgress) -> Result<Bytes, object_store::Error> {
    let first = store.get_opts(path, GetOptions::new().with_range(Some(0..PIECE_BYTES_MAX))).await?;
    let size = first.meta.size;
    progress.total_bytes.store(size, Ordering::Relaxed);
    if let GetResultPayload::File(..) = &first.payload {
        let bytes = store.get(path).await?.bytes().await?;
        progress.add(bytes.len() as u64);
        return Ok(bytes);
    }
    let first = first.bytes().await?;
    progress.add(first.len() as u64);
    if first.len() as u64 >= size {
        return Ok(first);
    }
    let pieces = (first.len() as u64..size).step_by(PIECE_BYTES_MAX as usize).map(|from| async move {
        let piece = store.get_range(path, from..size.min(from + PIECE_BYTES_MAX)).await?;
        progress.add(piece.len() as u64);
        Ok::<Bytes, object_store::Error>(piece)
    });
    // In their order; as many on the way as may be.
    let rest: Vec<Bytes> = futures::stream::iter(pieces).buffered(REQUESTS_MAX).try_collect().await?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(usize::MAX));
    bytes.extend_from_slice(&first);
    drop(first);
    for piece in rest {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}
