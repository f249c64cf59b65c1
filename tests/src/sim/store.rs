//! The simulated object store: one for the whole world, in memory, with the accidents of a network and of a store that is
//! ill. Writes can fail and be there later, or leave half an object; lists can show the past; nothing that was
//! acknowledged is ever lost or changed, for that is what the pipeline may rely on.
//!
//! Its steps cannot hand the baton on, because they run inside the runtime that waits for them: time that they take is
//! spent at the strand's next step.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::baton::{Baton, MS};
use super::fate::{Fate, Step, Turn, crash};
use super::plan::Illness;

/// What a client waits for an answer that does not come.
const TIME_OUT_NS: i64 = 3_000 * MS;
/// An answer of a slow store.
const SLOW_NS: i64 = 2_000 * MS;
/// A late write is there after so long.
const LATE_NS: i64 = 4_000 * MS;
/// A stale list shows what was there so long ago.
const STALE_NS: i64 = 15_000 * MS;

/// One state of an object.
#[derive(Clone, Debug)]
struct Version {
    bytes: Bytes,
    from_ns: i64,
    to_ns: i64,
}

type Objects = BTreeMap<Path, Vec<Version>>;

/// The store.
#[derive(Clone)]
pub struct SimStore(Arc<Inner>);

struct Inner {
    baton: Arc<Baton>,
    objects: Mutex<Objects>,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated store")
    }
}

fn failed(reason: &'static str) -> Error {
    Error::Generic { store: "simulated", source: reason.into() }
}

impl SimStore {
    /// An empty store.
    pub fn new(baton: Arc<Baton>) -> Self {
        Self(Arc::new(Inner { baton, objects: Mutex::default() }))
    }

    /// Whether a whole object of that path is there: for checks.
    pub fn holds(&self, path: &str) -> bool {
        self.read(&Path::from(path), self.0.baton.now_ns()).is_ok()
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.0.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step: whether it is done, and whether its process hears of it.
    fn step<T>(&self, step: Step, act: impl FnOnce(i64) -> Result<T>) -> Result<T> {
        let baton = &self.0.baton;
        let (turn, _) = baton.at_once(step);
        let now = baton.now_ns();
        let illness = baton.with_accidents(|a| a.illness(now));
        if turn == Turn::CrashBefore {
            crash();
        }
        let result = match (turn, illness) {
            (Turn::LoseRequest, _) | (_, Some(Illness::Away)) => None,
            (Turn::LoseReply, _) => {
                let _ = act(now);
                None
            }
            (Turn::Delay(ns), _) => {
                let _ = act(now + ns);
                None
            }
            (_, Some(Illness::Slow)) => {
                baton.owe(SLOW_NS);
                Some(act(now))
            }
            _ => Some(act(now)),
        };
        if turn == Turn::CrashAfter {
            crash();
        }
        result.unwrap_or_else(|| {
            baton.owe(TIME_OUT_NS);
            Err(failed("no answer"))
        })
    }

    fn write(&self, at: &Path, bytes: Bytes, from_ns: i64) {
        let mut objects = self.objects();
        let versions = objects.entry(at.clone()).or_default();
        for version in versions.iter_mut().filter(|v| v.to_ns > from_ns) {
            version.to_ns = from_ns;
        }
        versions.push(Version { bytes, from_ns, to_ns: i64::MAX });
    }

    fn read(&self, at: &Path, now_ns: i64) -> Result<Bytes> {
        let objects = self.objects();
        let there = objects.get(at).and_then(|v| v.iter().rev().find(|v| v.from_ns <= now_ns && now_ns < v.to_ns));
        let missing = || Error::NotFound { path: at.to_string(), source: "it is not there".into() };
        Ok(there.ok_or_else(missing)?.bytes.clone())
    }

    fn remove(&self, at: &Path, now_ns: i64) {
        for version in self.objects().get_mut(at).into_iter().flatten().filter(|v| v.from_ns <= now_ns) {
            version.to_ns = version.to_ns.min(now_ns);
        }
    }

    fn names(&self, prefix: Option<&Path>, now_ns: i64) -> Vec<ObjectMeta> {
        let under = |path: &Path| prefix.is_none_or(|p| path.prefix_match(p).is_some_and(|mut rest| rest.next().is_some()));
        let objects = self.objects();
        let there = objects.iter().filter(|(path, _)| under(path)).filter_map(|(path, versions)| {
            let version = versions.iter().rev().find(|v| v.from_ns <= now_ns && now_ns < v.to_ns)?;
            Some(meta(path, version.bytes.len()))
        });
        there.collect()
    }
}

fn meta(path: &Path, size: usize) -> ObjectMeta {
    ObjectMeta { location: path.clone(), last_modified: Default::default(), size: size as u64, e_tag: None, version: None }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
        let bytes = Bytes::from(payload);
        let ill = self.0.baton.with_accidents(|a| a.illness(self.0.baton.now_ns()));
        let stored = self.step(Step::SnapshotPut, |at_ns| match ill {
            Some(Illness::Late) => {
                self.write(location, bytes.clone(), at_ns + LATE_NS);
                Err(failed("no answer in time"))
            }
            Some(Illness::Torn) => {
                self.write(location, bytes.slice(..bytes.len() / 2), at_ns);
                Err(failed("connection cut"))
            }
            _ => {
                self.write(location, bytes.clone(), at_ns);
                Ok(())
            }
        });
        stored.map(|()| PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failed("writing in parts is not simulated"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let step = if options.head { Step::SnapshotHead } else { Step::SnapshotGet };
        let bytes = self.step(step, |now| self.read(location, now))?;
        let whole = bytes.len() as u64;
        let range: Range<u64> = match &options.range {
            Some(range) => range.as_range(whole).map_err(|_| failed("a range outside the object"))?,
            None => 0..whole,
        };
        let part = bytes.slice(range.start as usize..range.end as usize);
        let payload = GetResultPayload::Stream(stream::once(async { Ok(part) }).boxed());
        let meta = meta(location, bytes.len());
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let removed = locations.map(move |location| {
            let location = location?;
            store.step(Step::SnapshotDelete, |now| {
                store.remove(&location, now);
                Ok(())
            })?;
            Ok(location)
        });
        removed.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let stale = self.0.baton.with_accidents(|a| a.illness(self.0.baton.now_ns())) == Some(Illness::Stale);
        let listed = self.step(Step::SnapshotList, |now| Ok(self.names(prefix, if stale { now - STALE_NS } else { now })));
        let all: Vec<Result<ObjectMeta>> = match listed {
            Ok(names) => names.into_iter().map(Ok).collect(),
            Err(e) => vec![Err(e)],
        };
        stream::iter(all).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let objects = self.step(Step::SnapshotList, |now| Ok(self.names(prefix, now)))?;
        Ok(ListResult { common_prefixes: Vec::new(), objects, extensions: Default::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failed("copying is not simulated"))
    }
}
