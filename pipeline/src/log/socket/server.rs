//! The owner's end: one thread that accepts, one per connection, none of them the pipeline's.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::log::{Log, LogError, PollLimit, Writer};

use super::wire::{Answer, Request, VERSION, WireCommitError, WireError, append_in, place, receive_body, record_out, send};
use super::{ANSWER_BYTES_MAX, CONNECTIONS_MAX, REQUEST_BYTES_MAX, path, unreachable};

/// A started request must arrive, and an answer must be taken, within this time; else the connection is dropped.
const STALL: Duration = Duration::from_secs(10);

/// Longest wait inside one request; clients ask again. Bounds how long a vanished client keeps its thread.
const WAIT_MS_MAX: u32 = 250;

/// Bytes of records in one answer; the last record may pass it.
const READ_BYTES_MAX: u64 = 4 << 20;

/// Serves the log on a socket at `path` until the handle is dropped. What lies there already is replaced: the caller owns
/// the directory.
pub fn serve(log: Arc<dyn Log>, path: &Path) -> Result<Handle, LogError> {
    serve_process(Service { log: Some(log), voice: None }, path)
}

/// What a process answers with.
#[derive(Clone, Default)]
pub struct Service {
    /// Its log, where others cannot reach it by themselves.
    pub log: Option<Arc<dyn Log>>,
    /// How it is, and its ear.
    pub voice: Option<Arc<dyn Voice>>,
}

/// A process that says how it is and can be told to stop.
pub trait Voice: Send + Sync {
    /// How everything is, as JSON.
    fn status(&self) -> String;

    /// Stops as SIGTERM does. False when it was stopping already.
    fn drain(&self, for_good: bool) -> bool;

    /// Reads its rules again and proposes them, as SIGHUP does: what came of it as JSON, or why they stay as they are.
    fn reload(&self) -> Result<String, String>;
}

/// Serves a process on a socket at `path` until the handle is dropped. What lies there already is replaced.
pub fn serve_process(service: Service, path: &Path) -> Result<Handle, LogError> {
    let failed = |e: io::Error| unreachable(path, format!("cannot make the control socket: {e}"));
    let listener = path::bind(path).map_err(failed)?;
    let shared = Arc::new(Shared::new(service));
    let of_thread = Arc::clone(&shared);
    let thread =
        std::thread::Builder::new().name("control".to_owned()).spawn(move || accept(&listener, &of_thread)).map_err(failed)?;
    Ok(Handle { shared, path: path.to_owned(), thread: Some(thread) })
}

/// Keeps the socket open; dropping it ends all connections and waits for their threads.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

/// Counters of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStats {
    /// Connections served.
    pub accepted: u64,
    /// Connections refused because [`CONNECTIONS_MAX`] were open.
    pub refused: u64,
    /// Connections dropped because of what they sent or did not take.
    pub dropped: u64,
    /// Connections open now.
    pub open: usize,
}

impl Handle {
    /// Counters since the start.
    pub fn stats(&self) -> SocketStats {
        self.watch().stats()
    }

    /// The counters without the handle, for whoever tells them.
    pub fn watch(&self) -> SocketWatch {
        SocketWatch(Arc::clone(&self.shared))
    }
}

/// Reads a socket's counters.
#[derive(Clone, Debug)]
pub struct SocketWatch(Arc<Shared>);

impl SocketWatch {
    /// Counters since the start.
    pub fn stats(&self) -> SocketStats {
        SocketStats {
            accepted: self.0.accepted.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
            dropped: self.0.dropped.load(Ordering::Relaxed),
            open: self.0.open().len(),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the accepting thread. When the file is gone nobody can: then that thread stays until the process ends.
        let woken = path::connect(&self.path).is_ok();
        let _ = std::fs::remove_file(&self.path);
        if let (true, Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
        let mut open = self.shared.open();
        for stream in open.values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        while !open.is_empty() {
            open = self.shared.closed.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
        drop(open);
        drop(self.shared.service().take());
    }
}

struct Shared {
    /// Taken away at the end, so that a directory is free when the handle is gone.
    service: Mutex<Option<Service>>,
    stop: AtomicBool,
    /// A second handle on each connection, so that it can be ended from outside.
    open: Mutex<BTreeMap<u64, UnixStream>>,
    closed: Condvar,
    accepted: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
}

impl Shared {
    fn new(service: Service) -> Self {
        Self {
            service: Mutex::new(Some(service)),
            stop: AtomicBool::new(false),
            open: Mutex::default(),
            closed: Condvar::new(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn service(&self) -> MutexGuard<'_, Option<Service>> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, UnixStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// After a failed accept (out of descriptors): others must first let go of some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut number = 0;
    loop {
        let accepted = listener.accept();
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        let Ok((mut stream, _)) = accepted else {
            std::thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        number += 1;
        // A client that does not take its answers is dropped; one that sends nothing holds its place only.
        let prepared = stream.set_write_timeout(Some(STALL)).and_then(|()| stream.try_clone());
        let Ok(second) = prepared else { continue };
        {
            let mut open = shared.open();
            if open.len() >= CONNECTIONS_MAX {
                drop(open);
                shared.refused.fetch_add(1, Ordering::Relaxed);
                // A few bytes into an empty socket buffer: this cannot block.
                let _ = send(&mut stream, &Answer::Refused(WireError::Busy), ANSWER_BYTES_MAX);
                continue;
            }
            open.insert(number, second);
        }
        let place = Place { shared: Arc::clone(shared), number };
        let started = std::thread::Builder::new().name("control-client".to_owned()).spawn(move || {
            // Dropped before `place`: whoever sees the place free can rely on the log being let go.
            let Some(service) = place.shared.service().clone() else { return };
            if converse(&mut stream, &service, &place.shared.stop).is_err() {
                place.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        });
        if started.is_ok() {
            shared.accepted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A connection's place among [`CONNECTIONS_MAX`]; free again however its thread ends.
struct Place {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.open().remove(&self.number);
        self.shared.closed.notify_all();
    }
}

/// Answers requests until the client goes.
fn converse(stream: &mut UnixStream, service: &Service, stop: &AtomicBool) -> io::Result<()> {
    let mut writer: Option<Box<dyn Writer>> = None;
    loop {
        let mut len = [0; 4];
        stream.set_read_timeout(None)?;
        if stream.read(&mut len[..1])? == 0 {
            return Ok(());
        }
        stream.set_read_timeout(Some(STALL))?;
        stream.read_exact(&mut len[1..])?;
        let request = match receive_body::<Request>(stream, len, REQUEST_BYTES_MAX) {
            Ok(request) => request,
            Err(e) => {
                let words = WireError::Other(format!("bad request: {e}"));
                let _ = send(stream, &Answer::Refused(words), ANSWER_BYTES_MAX);
                return Err(e);
            }
        };
        if stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let answer = answer(service, &mut writer, request).unwrap_or_else(|e| Answer::Refused(e.into()));
        if let Err(e) = send(stream, &answer, ANSWER_BYTES_MAX) {
            if e.kind() != io::ErrorKind::InvalidInput {
                return Err(e);
            }
            let words = WireError::Other(format!("answer too large: {e}"));
            send(stream, &Answer::Refused(words), ANSWER_BYTES_MAX)?;
        }
    }
}

fn answer(service: &Service, writer: &mut Option<Box<dyn Writer>>, request: Request) -> Result<Answer, LogError> {
    match (request, &service.voice, &service.log) {
        (Request::Hello { version: VERSION }, ..) => Ok(Answer::Done),
        (Request::Hello { version }, ..) => {
            let words = format!("the owner speaks version {VERSION}, this command version {version}: use the same program");
            Ok(Answer::Refused(WireError::Other(words)))
        }
        (Request::Status, Some(voice), _) => Ok(Answer::Status(voice.status())),
        (Request::Drain { for_good }, Some(voice), _) => Ok(Answer::Draining(voice.drain(for_good))),
        (Request::Reload, Some(voice), _) => Ok(Answer::Reloaded(voice.reload())),
        (Request::Status | Request::Drain { .. } | Request::Reload, None, _) => Err(LogError::Unsupported { what: "status" }),
        (request, _, Some(log)) => of_log(log.as_ref(), writer, request),
        (_, _, None) => Err(LogError::Unsupported { what: "reading through the process's socket (the brokers are for that)" }),
    }
}

fn of_log(log: &dyn Log, writer: &mut Option<Box<dyn Writer>>, request: Request) -> Result<Answer, LogError> {
    Ok(match request {
        Request::Hello { .. } | Request::Status | Request::Drain { .. } | Request::Reload => Answer::Done,
        Request::CreateTopic(spec) => {
            log.create_topic(&spec.into())?;
            Answer::Done
        }
        Request::Topics => Answer::Topics(log.topics()?),
        Request::Partitions(topic) => Answer::Partitions(log.partitions(&topic)?),
        Request::Offsets(at) => {
            let range = log.offsets(&place(at))?;
            Answer::Offsets(range.start, range.end)
        }
        Request::OffsetAt(at, time) => Answer::Offset(log.offset_at(&place(at), time)?),
        Request::Read { at, from, records, bytes, timeout_ms } => {
            let limit =
                PollLimit { records: usize::try_from(records).unwrap_or(usize::MAX), bytes: bytes.min(READ_BYTES_MAX) as usize };
            let mut reader = log.reader(&place(at), from)?;
            let records = reader.poll(limit, Duration::from_millis(timeout_ms.min(WAIT_MS_MAX).into()))?;
            let (position, at_end) = (reader.position(), reader.at_end());
            Answer::Records { records: records.into_iter().map(record_out).collect(), position, at_end }
        }
        Request::Committed { group, at } => {
            let at: Vec<_> = at.into_iter().map(place).collect();
            let committed = log.committed(&group, &at)?;
            Answer::Committed(committed.into_iter().map(|c| c.map(|c| (c.offset, c.metadata))).collect())
        }
        Request::OpenWriter(id) => {
            *writer = Some(log.writer(&id)?);
            Answer::Done
        }
        Request::Append(appends) => match writer {
            None => Answer::Refused(WireError::Other("no writer was opened on this connection".to_owned())),
            Some(writer) => {
                let appends: Vec<_> = appends.into_iter().map(append_in).collect();
                match writer.commit(&appends, &[]) {
                    Ok(()) => Answer::Done,
                    Err(e) => Answer::NotCommitted(WireCommitError::from(e)),
                }
            }
        },
    })
}
