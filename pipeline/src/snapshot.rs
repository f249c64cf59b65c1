//! Snapshots: a task's state at some offset, in an object store, incremental. One object a snapshot; its head names for
//! every state group the object that holds it, so that a group unchanged since an earlier snapshot is not written again. A
//! snapshot becomes current when its id commits in the offsets' metadata of a later epoch; what no current snapshot refers
//! to is removed after that.
//!
//! What always holds: an object is there whole or not at all (a torn one is seen by its digests and counts as none); nothing
//! is removed that a current snapshot, or one that can still become current, refers to (`snapshot/id.rs`).

mod form;
pub(crate) mod id;
mod load;
mod stamp;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutPayload, RetryConfig, WriteMultipart};
use serde::{Deserialize, Serialize};

use crate::epoch::OutputHash;
use crate::task::State;

pub(crate) use form::{fuzz, fuzz_seeds};
pub use load::{LoadProgress, LoadTimes};
pub use stamp::{LAYOUT, OUTPUT_VERSION, Stamp};

/// Objects one snapshot may refer to; beyond it the next one is written whole.
pub const CHAIN_MAX: usize = 16;

/// A remote object of more bytes is sent in pieces of so many, a few at a time.
const PIECE_BYTES: usize = 8 << 20;

/// Pieces of one object on their way at a time.
const PIECES_MAX: usize = 4;

/// A request that fails is repeated for so long before whoever asked hears of it; they repeat with pauses of their own.
const RETRY_S_MAX: u64 = 15;

/// Characters kept of a store's words, which may be a whole page.
const WORDS_MAX: usize = 300;

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
    /// The object is not there.
    #[error("snapshot {name} is not in the store")]
    Missing {
        /// Object.
        name: String,
    },
    /// The store refuses these credentials.
    #[error("snapshot {name}: the object store refuses access: {reason}")]
    Denied {
        /// Object.
        name: String,
        /// Store's words.
        reason: String,
    },
    /// No space is left.
    #[error("snapshot {name}: no space is left: {reason}")]
    Full {
        /// Object.
        name: String,
        /// System's words.
        reason: String,
    },
    /// The store failed.
    #[error("snapshot {name}: the object store fails: {reason}")]
    Store {
        /// Object.
        name: String,
        /// Store's words.
        reason: String,
    },
    /// Not what was written.
    #[error("snapshot {name} is damaged: {reason}")]
    Damaged {
        /// Object.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Of another layout.
    #[error("snapshot {name} was written by tidewatch {} in layout {}; this one reads layout {LAYOUT}", stamp.program, stamp.layout)]
    Foreign {
        /// Object.
        name: String,
        /// Who wrote it.
        stamp: Stamp,
    },
}

impl SnapshotError {
    fn store(name: &str, error: object_store::Error) -> Self {
        let name = name.to_owned();
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        let mut full = false;
        while let Some(cause) = source {
            full |= cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded));
            source = cause.source();
        }
        let reason = short(&error.to_string());
        match error {
            object_store::Error::NotFound { .. } => Self::Missing { name },
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::Denied { name, reason }
            }
            _ if full => Self::Full { name, reason },
            _ => Self::Store { name, reason },
        }
    }

    /// No later attempt can succeed: the snapshot is no help any more.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. } | Self::Foreign { .. })
    }
}

/// One line, not too long.
fn short(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(WORDS_MAX) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
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
pub type Part = (String, u16);

/// Where a group lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Object.
    pub object: Arc<str>,
    /// First byte in it.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// Digest of them.
    pub digest: [u8; form::DIGEST_BYTES],
}

/// Where all groups of a snapshot lie.
pub type Index = BTreeMap<Part, Place>;

/// Objects that an index refers to.
pub fn objects(index: &Index) -> BTreeSet<String> {
    index.values().map(|place| &*place.object).collect::<BTreeSet<&str>>().into_iter().map(str::to_owned).collect()
}

/// A snapshot read back.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where it was taken.
    pub taken: Taken,
    /// Who wrote it.
    pub stamp: Stamp,
    /// All state.
    pub state: State,
    /// Where the groups lie.
    pub index: Index,
    /// Bytes of all groups.
    pub bytes: u64,
    /// How long it took.
    pub times: LoadTimes,
}

/// The snapshots of one task.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    store: Arc<dyn ObjectStore>,
    base: Path,
    /// Directory, when it is one.
    local: Option<PathBuf>,
    runtime: Arc<tokio::runtime::Runtime>,
}

impl SnapshotStore {
    /// Opens a store by URL (`s3://bucket/path`, `file:///path`) or by path; a local directory is made. Credentials,
    /// endpoint and region come from the clouds' own environment variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, ...), never
    /// from a topology. Plain HTTP is refused unless `AWS_ALLOW_HTTP` is `true`.
    pub fn open(url: &str) -> Result<Self, SnapshotError> {
        #[allow(clippy::disallowed_methods, reason = "the edge where credentials of object stores enter")]
        Self::open_with(url, std::env::vars())
    }

    /// The same with variables given by the caller instead of the environment's.
    pub fn open_with(url: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, SnapshotError> {
        let bad = |reason: String| SnapshotError::Url { url: url.to_owned(), reason };
        let runtime = runtime().map_err(bad)?;
        let local = match url.split_once("://") {
            None => Some(PathBuf::from(url)),
            Some(("file", path)) => Some(PathBuf::from(path)),
            Some(_) => None,
        };
        if let Some(path) = local {
            std::fs::create_dir_all(&path).map_err(|e| bad(e.to_string()))?;
            let store = object_store::local::LocalFileSystem::new_with_prefix(&path).map_err(|e| bad(e.to_string()))?;
            // Current means: it is there after a power cut, too.
            let store = Arc::new(store.with_fsync(true));
            return Ok(Self { store, base: Path::default(), local: Some(path), runtime });
        }
        let (store, base) = remote(url, variables).map_err(bad)?;
        Ok(Self { store, base, local: None, runtime })
    }

    /// Over any store, in this process's memory for tests or simulated.
    pub fn over(store: Arc<dyn ObjectStore>) -> Result<Self, SnapshotError> {
        let runtime = runtime().map_err(|reason| SnapshotError::Url { url: "(own)".to_owned(), reason })?;
        Ok(Self { store, base: Path::default(), local: None, runtime })
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
        listed.map(drop).map_err(|error| SnapshotError::store("(list)", error))
    }

    fn path(&self, id: &str) -> Path {
        self.base.clone().join(format!("{id}.snap"))
    }

    /// Writes a snapshot under a new id. `before` is the index of the snapshot that `state` continues; ignored when it is
    /// full. Returns its index and the bytes written.
    pub fn write(
        &self,
        id: &str,
        stamp: &Stamp,
        taken: &Taken,
        state: State,
        before: &Index,
    ) -> Result<(Index, u64), SnapshotError> {
        let (pieces, index) = form::encode(stamp, id, taken, state, before);
        let len: usize = pieces.iter().map(Bytes::len).sum();
        let path = self.path(id);
        let put = async {
            if self.local.is_some() || len <= PIECE_BYTES {
                self.store.put(&path, PutPayload::from_iter(pieces)).await.map(drop)
            } else {
                self.send(&path, pieces).await
            }
        };
        self.runtime.block_on(put).map_err(|e| SnapshotError::store(id, e))?;
        Ok((index, len as u64))
    }

    /// A large object to a remote store.
    async fn send(&self, path: &Path, pieces: Vec<Bytes>) -> Result<(), object_store::Error> {
        let mut upload = WriteMultipart::new_with_chunk_size(self.store.put_multipart(path).await?, PIECE_BYTES);
        for piece in pieces {
            if let Err(e) = upload.wait_for_capacity(PIECES_MAX).await {
                // What came so far is not kept, nor paid for.
                let _ = upload.abort().await;
                return Err(e);
            }
            upload.put(piece);
        }
        upload.finish().await.map(drop)
    }

    /// Removes objects of this task that are older than the committed snapshot `current` and that `keep` does not name;
    /// returns how many. Failures are left for the next time.
    pub fn sweep(&self, current: &str, keep: &BTreeSet<String>) -> usize {
        use futures::StreamExt;
        let committed = id::generation(current);
        let old = |name: &str| id::generation(name) < committed && name != current && !keep.contains(name);
        let removed = self.runtime.block_on(async {
            let mut removed = 0;
            let mut failed: Option<object_store::Error> = None;
            let mut all = self.store.list(Some(&self.base));
            while let Some(object) = all.next().await {
                let object = match object {
                    Ok(object) => object,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                let Some(name) = object.location.filename().and_then(|n| n.strip_suffix(".snap")) else { continue };
                if old(name) {
                    match self.store.delete(&object.location).await {
                        Ok(()) => removed += 1,
                        Err(error) => failed = Some(error),
                    }
                }
            }
            if let Some(error) = failed {
                let error = SnapshotError::store("(old ones)", error);
                tracing::warn!(base = %self.base, %error, "old snapshots stay until the next sweep");
            }
            removed
        });
        removed + self.sweep_unfinished(old)
    }

    /// What a local directory keeps of writes that a crash cut off: `ID.snap#N`, which no listing shows.
    fn sweep_unfinished(&self, old: impl Fn(&str) -> bool) -> usize {
        let Some(root) = &self.local else { return 0 };
        let Ok(entries) = std::fs::read_dir(root.join(self.base.as_ref())) else { return 0 };
        let unfinished = entries.flatten().filter(|entry| {
            let name = entry.file_name();
            name.to_str().and_then(|n| n.split_once(".snap#")).is_some_and(|(id, _)| old(id))
        });
        unfinished.filter(|entry| std::fs::remove_file(entry.path()).is_ok()).count()
    }
}

fn runtime() -> Result<Arc<tokio::runtime::Runtime>, String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).thread_name("snapshots").enable_all().build();
    runtime.map(Arc::new).map_err(|e| e.to_string())
}

/// A bucket of one of the clouds, or of whatever speaks their protocol.
fn remote(url: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<(Arc<dyn ObjectStore>, Path), String> {
    // Somebody else may have chosen one already: then that one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let parsed: reqwest::Url = url.parse().map_err(|e: <reqwest::Url as std::str::FromStr>::Err| e.to_string())?;
    let (scheme, path) = ObjectStoreScheme::parse(&parsed).map_err(|e| e.to_string())?;
    // One request per removed object: few are removed at a time, and not every server that speaks S3 knows the other way.
    let own = [("aws_disable_bulk_delete".to_owned(), "true".to_owned())];
    let variables = variables.into_iter().map(|(k, v)| (k.to_ascii_lowercase(), v));
    let options: Vec<(String, String)> = own.into_iter().chain(variables).collect();
    let retry = RetryConfig { retry_timeout: std::time::Duration::from_secs(RETRY_S_MAX), ..RetryConfig::default() };
    macro_rules! build {
        ($builder:ty) => {{
            let builder = <$builder>::new().with_url(url).with_retry(retry);
            let builder = options.into_iter().fold(builder, |builder, (key, value)| match key.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
            Arc::new(builder.build().map_err(|e| short(&e.to_string()))?) as Arc<dyn ObjectStore>
        }};
    }
    let store = match scheme {
        ObjectStoreScheme::AmazonS3 => build!(object_store::aws::AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => build!(object_store::gcp::GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => build!(object_store::azure::MicrosoftAzureBuilder),
        _ => return Err("not a store that is known: s3://, gs://, az://, file:// or a directory".to_owned()),
    };
    Ok((store, path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tidewatch_schemas::time::EventTime;

    fn taken(position: i64) -> Taken {
        Taken { position, replay_offset: position - 1, hash: [7; 32] }
    }

    fn part(group: u16) -> Part {
        ("op".to_owned(), group)
    }

    fn state(full: bool, parts: &[(u16, u8)]) -> State {
        let parts = parts.iter().map(|(g, v)| (part(*g), Bytes::from(vec![*v; 5]))).collect();
        State { head: vec![1], parts, full, replay_offset: None }
    }

    fn write(store: &SnapshotStore, id: &str, position: i64, state: State, before: &Index) -> Index {
        store.write(id, &Stamp::own(1), &taken(position), state, before).unwrap().0
    }

    fn load(store: &SnapshotStore, id: &str) -> Result<Loaded, SnapshotError> {
        store.load(id, &LoadProgress::default(), &|| EventTime(0))
    }

    /// Three in a row, the second incremental; names of ever later generations.
    fn chain(store: &SnapshotStore) -> (Vec<String>, Vec<Index>) {
        let a = id::next(None, 10, "w", 1);
        let b = id::next(Some(&a), 20, "w", 2);
        let c = id::next(Some(&b), 30, "w", 3);
        let one = write(store, &a, 10, state(true, &[(1, 1), (2, 2)]), &Index::new());
        let two = write(store, &b, 20, state(false, &[(2, 9)]), &one);
        let three = write(store, &c, 30, state(true, &[(3, 3)]), &two);
        (vec![a, b, c], vec![one, two, three])
    }

    #[test]
    fn an_increment_reads_back_whole_and_old_objects_go_when_nothing_needs_them() {
        let dir = tempfile::tempdir().unwrap();
        for store in [SnapshotStore::memory().unwrap(), SnapshotStore::open(dir.path().to_str().unwrap()).unwrap()] {
            let store = store.of("detect-0");
            let (ids, indices) = chain(&store);
            let loaded = load(&store, &ids[1]).unwrap();
            assert_eq!((loaded.state.parts[&part(1)][0], loaded.state.parts[&part(2)][0]), (1, 9));
            assert_eq!((&loaded.taken, &loaded.index), (&taken(20), &indices[1]));
            assert_eq!(store.sweep(&ids[1], &objects(&indices[1])), 0, "the first is needed, the third may become current");
            assert!(load(&store, &ids[1]).is_ok() && load(&store, &ids[2]).is_ok());
            assert_eq!(store.sweep(&ids[2], &objects(&indices[2])), 2);
            assert!(load(&store, &ids[0]).unwrap_err().is_lost() && load(&store, &ids[1]).unwrap_err().is_lost());
        }
    }

    /// An earlier owner that wakes up late sweeps by what it knew; what came after it stays.
    #[test]
    fn a_late_sweep_of_an_earlier_owner_removes_nothing_that_is_needed() {
        let store = SnapshotStore::memory().unwrap().of("detect-0");
        let a = id::next(None, 10, "first", 1_000);
        let one = write(&store, &a, 10, state(true, &[(1, 1)]), &Index::new());
        let b = id::next(Some(&a), 10, "second", 5);
        write(&store, &b, 10, state(false, &[(2, 2)]), &one);
        store.sweep(&a, &objects(&one));
        assert!(load(&store, &b).is_ok());
    }

    #[test]
    fn damage_anywhere_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path().to_str().unwrap()).unwrap().of("t");
        let (ids, _) = chain(&store);
        let file = |id: &str| dir.path().join("t").join(format!("{id}.snap"));
        for id in &ids[..2] {
            let whole = std::fs::read(file(id)).unwrap();
            for at in 0..whole.len() {
                let mut torn = whole.clone();
                torn[at] ^= 1;
                std::fs::write(file(id), &torn).unwrap();
                let seen = load(&store, id);
                assert!(seen.is_err_and(|e| e.is_lost()), "byte {at} of {id}");
            }
            for len in 0..whole.len() {
                std::fs::write(file(id), &whole[..len]).unwrap();
                assert!(load(&store, id).is_err_and(|e| e.is_lost()), "{len} bytes of {id}");
            }
            std::fs::write(file(id), &whole).unwrap();
        }
    }

    #[test]
    fn what_a_crash_left_of_a_write_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path().to_str().unwrap()).unwrap().of("t");
        let (ids, indices) = chain(&store);
        let left = dir.path().join("t").join(format!("{}.snap#1", ids[0]));
        std::fs::write(&left, "half").unwrap();
        store.sweep(&ids[2], &objects(&indices[2]));
        assert!(!left.exists());
    }

    #[test]
    fn a_url_that_means_nothing_is_refused() {
        for url in ["ftp://x/y", "s3://", "http://127.0.0.1/x"] {
            assert!(matches!(SnapshotStore::open(url), Err(SnapshotError::Url { .. })), "{url}");
        }
    }
}
