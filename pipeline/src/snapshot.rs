//! Snapshots: a task's state at a slice boundary, in an object store, incremental. One object a snapshot; its head names
//! for every state group the object that holds it, so that a group unchanged since an earlier snapshot is not written
//! again. A snapshot becomes current when its id commits in the offsets' metadata of a later epoch; what no current
//! snapshot refers to is removed after that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use crate::epoch::OutputHash;
use crate::task::State;

/// Layout of a snapshot object; a binary reads its own alone.
const LAYOUT: u32 = 1;

/// Objects one snapshot may refer to; beyond it the next one is written whole.
pub const CHAIN_MAX: usize = 16;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The URL means nothing.
    #[error("snapshot store {url}: {reason}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The store failed.
    #[error("snapshot {name}: {source}")]
    Store {
        /// Object.
        name: String,
        /// Store's words.
        source: object_store::Error,
    },
    /// Not what was written.
    #[error("snapshot {name} is damaged: {reason}")]
    Damaged {
        /// Object.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// Where and when a snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Offset up to which the task had read.
    pub position: i64,
    /// Lowest offset that holds a row of a slice open then.
    pub replay_offset: i64,
    /// Output hash at the position.
    pub hash: [u8; 32],
}

impl Taken {
    /// The hash, typed.
    pub fn hash(&self) -> OutputHash {
        OutputHash(self.hash)
    }
}

/// A state group: (operator, key group).
type Part = (String, u16);

/// Which object holds which group.
pub type Index = BTreeMap<Part, String>;

#[derive(Serialize, Deserialize)]
struct File {
    layout: u32,
    taken: Taken,
    head: Vec<u8>,
    index: Vec<(Part, String)>,
    parts: Vec<(Part, Vec<u8>)>,
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = postcard::to_stdvec(self).expect("plain data, memory does not fail");
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// Reads an object; `Err` says what is wrong with it.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (body, digest) = bytes.split_last_chunk::<32>().ok_or("too short")?;
        if blake3::hash(body).as_bytes() != digest {
            return Err("digest differs".to_owned());
        }
        let file: Self = postcard::from_bytes(body).map_err(|e| e.to_string())?;
        if file.layout != LAYOUT {
            return Err(format!("layout {}, this binary reads {LAYOUT}", file.layout));
        }
        Ok(file)
    }
}

/// Body of a fuzz target: bytes as an object, as they are and under a digest of their own.
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = File::parse(bytes);
    let body = bytes.split_last_chunk::<32>().map_or(bytes, |(body, _)| body);
    let digest = blake3::hash(body);
    if let Ok(file) = File::parse(&[body, digest.as_bytes()].concat()) {
        assert!(File::parse(&file.bytes()).is_ok(), "what was written can be read");
    }
}

/// Good objects for [`fuzz()`].
pub(crate) fn fuzz_seeds(_: &str) -> Vec<Vec<u8>> {
    let part = |group| ("a-rule".to_owned(), group);
    let file = File {
        layout: LAYOUT,
        taken: Taken { position: 20, replay_offset: 10, hash: [7; 32] },
        head: vec![1, 2, 3],
        index: vec![(part(1), "a".to_owned()), (part(2), "b".to_owned())],
        parts: vec![(part(2), vec![9; 40])],
    };
    vec![file.bytes()]
}

/// A snapshot read back.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where it was taken.
    pub taken: Taken,
    /// All state.
    pub state: State,
    /// Which object holds which group.
    pub index: Index,
}

/// The snapshots of one task.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    store: Arc<dyn ObjectStore>,
    base: Path,
    runtime: Arc<tokio::runtime::Runtime>,
}

impl SnapshotStore {
    /// Opens a store by URL (`s3://bucket/path`, `file:///path`) or by path; a local directory is made.
    pub fn open(url: &str) -> Result<Self, SnapshotError> {
        let bad = |reason: String| SnapshotError::Url { url: url.to_owned(), reason };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("snapshots")
            .enable_all()
            .build()
            .map_err(|e| bad(e.to_string()))?;
        let runtime = Arc::new(runtime);
        let local = match url.split_once("://") {
            None => Some(PathBuf::from(url)),
            Some(("file", path)) => Some(PathBuf::from(path)),
            Some(_) => None,
        };
        if let Some(path) = local {
            std::fs::create_dir_all(&path).map_err(|e| bad(e.to_string()))?;
            let store = object_store::local::LocalFileSystem::new_with_prefix(&path).map_err(|e| bad(e.to_string()))?;
            return Ok(Self { store: Arc::new(store), base: Path::default(), runtime });
        }
        let parsed = url.parse().map_err(|e: <reqwest::Url as std::str::FromStr>::Err| bad(e.to_string()))?;
        // The clouds' own variables: credentials never stand in a topology.
        #[allow(clippy::disallowed_methods, reason = "the edge where credentials of object stores enter")]
        let options = std::env::vars().map(|(k, v)| (k.to_ascii_lowercase(), v));
        let (store, base) = object_store::parse_url_opts(&parsed, options).map_err(|e| bad(e.to_string()))?;
        Ok(Self { store: store.into(), base, runtime })
    }

    /// Over any store, in this process's memory for tests or simulated.
    pub fn over(store: Arc<dyn ObjectStore>) -> Result<Self, SnapshotError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| SnapshotError::Url { url: "(own)".to_owned(), reason: e.to_string() })?;
        Ok(Self { store, base: Path::default(), runtime: Arc::new(runtime) })
    }

    /// A store in this process's memory, for tests.
    pub fn memory() -> Result<Self, SnapshotError> {
        Self::over(Arc::new(object_store::memory::InMemory::new()))
    }

    /// The snapshots of one task.
    #[must_use]
    pub fn of(&self, task: &str) -> Self {
        Self { base: self.base.clone().join(task), ..self.clone() }
    }

    /// Whether the store answers a question: lists, changes nothing.
    pub fn answers(&self) -> Result<(), SnapshotError> {
        use futures::TryStreamExt;
        let listed = self.runtime.block_on(async { self.store.list(Some(&self.base)).try_next().await });
        listed.map(drop).map_err(|source| SnapshotError::Store { name: "(list)".to_owned(), source })
    }

    fn path(&self, id: &str) -> Path {
        self.base.clone().join(format!("{id}.snap"))
    }

    /// Writes a snapshot under a new id. `before` is the index of the snapshot that `state` continues; ignored when it is full.
    pub fn write(&self, id: &str, taken: &Taken, state: State, before: &Index) -> Result<Index, SnapshotError> {
        let mut index = if state.full { Index::new() } else { before.clone() };
        index.extend(state.parts.keys().map(|part| (part.clone(), id.to_owned())));
        let file = File {
            layout: LAYOUT,
            taken: taken.clone(),
            head: state.head,
            index: index.clone().into_iter().collect(),
            parts: state.parts.into_iter().collect(),
        };
        let bytes = file.bytes();
        let path = self.path(id);
        let put = async { self.store.put(&path, PutPayload::from(bytes)).await };
        self.runtime.block_on(put).map_err(|source| SnapshotError::Store { name: id.to_owned(), source })?;
        Ok(index)
    }

    fn read(&self, id: &str) -> Result<File, SnapshotError> {
        let store = |source| SnapshotError::Store { name: id.to_owned(), source };
        let bytes = self.runtime.block_on(async { self.store.get(&self.path(id)).await?.bytes().await }).map_err(store)?;
        File::parse(&bytes).map_err(|reason| SnapshotError::Damaged { name: id.to_owned(), reason })
    }

    /// Reads a snapshot with everything it refers to.
    pub fn load(&self, id: &str) -> Result<Loaded, SnapshotError> {
        let file = self.read(id)?;
        let index: Index = file.index.into_iter().collect();
        let mut parts: BTreeMap<Part, Vec<u8>> =
            file.parts.into_iter().filter(|(part, _)| index.get(part).is_some_and(|o| o == id)).collect();
        let others: BTreeSet<&String> = index.values().filter(|o| *o != id).collect();
        for other in others {
            let earlier = self.read(other)?;
            let wanted = earlier.parts.into_iter().filter(|(part, _)| index.get(part) == Some(other));
            parts.extend(wanted);
        }
        if let Some(missing) = index.keys().find(|part| !parts.contains_key(*part)) {
            return Err(SnapshotError::Damaged { name: id.to_owned(), reason: format!("{missing:?} is nowhere") });
        }
        let state = State { head: file.head, parts, full: true, replay_offset: Some(file.taken.replay_offset) };
        Ok(Loaded { taken: file.taken, state, index })
    }

    /// Removes objects of this task that `keep` does not name. Failures are left for the next time.
    pub fn sweep(&self, keep: &BTreeSet<String>) {
        use futures::TryStreamExt;
        let _ = self.runtime.block_on(async {
            let all: Vec<_> = self.store.list(Some(&self.base)).try_collect().await?;
            for object in all {
                let name = object.location.filename().unwrap_or("").trim_end_matches(".snap").to_owned();
                if !keep.contains(&name) {
                    self.store.delete(&object.location).await?;
                }
            }
            Ok::<(), object_store::Error>(())
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn taken(position: i64) -> Taken {
        Taken { position, replay_offset: position - 1, hash: [7; 32] }
    }

    fn state(full: bool, parts: &[(u16, u8)]) -> State {
        let parts = parts.iter().map(|(g, v)| (("op".to_owned(), *g), vec![*v])).collect();
        State { head: vec![1], parts, full, replay_offset: None }
    }

    #[test]
    fn an_increment_reads_back_whole_and_old_objects_go_when_nothing_needs_them() {
        let store = SnapshotStore::memory().unwrap().of("detect-0");
        let one = store.write("a", &taken(10), state(true, &[(1, 1), (2, 2)]), &Index::new()).unwrap();
        let two = store.write("b", &taken(20), state(false, &[(2, 9)]), &one).unwrap();
        let loaded = store.load("b").unwrap();
        assert_eq!(loaded.state.parts[&("op".to_owned(), 1)], vec![1]);
        assert_eq!(loaded.state.parts[&("op".to_owned(), 2)], vec![9]);
        assert_eq!(loaded.taken, taken(20));
        store.sweep(&two.values().cloned().collect());
        assert!(store.load("b").is_ok());
        let three = store.write("c", &taken(30), state(true, &[(3, 3)]), &two).unwrap();
        store.sweep(&three.values().cloned().collect());
        assert!(store.load("a").is_err() && store.load("b").is_err());
    }
}
