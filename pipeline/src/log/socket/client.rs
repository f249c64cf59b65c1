//! The command's end: a [`Log`] whose calls are answered by the owner. Reading and appending only.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidewatch_schemas::time::EventTime;

use crate::log::{
    Append, CommitError, Committed, Log, LogError, Member, Membership, OffsetRange, PollLimit, Reader, Record, TopicPartition,
    TopicSpec, Writer,
};

use super::wire::{Answer, Request, VERSION, append_out, committed_in, pair, range_in, receive, record_in, send};
use super::{ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, path, unreachable};

/// The owner answers within its own wait; beyond this it hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a process may take to say how it is; one that is stopped by a signal takes for ever.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// Idle connections kept for the next call.
const IDLE_MAX: usize = 4;

/// How long one read waits at the owner; longer waits are several reads.
const WAIT_MS: u32 = 250;

/// The log of another process on this machine. Clone it to share it.
#[derive(Clone)]
pub struct SocketLog(Arc<Line>);

struct Line {
    path: PathBuf,
    timeout: Duration,
    idle: Mutex<Vec<UnixStream>>,
}

/// How the process behind a socket is, as JSON.
pub fn ask_status(path: &Path) -> Result<String, LogError> {
    match Line::to_process(path).ask(&Request::Status)? {
        Answer::Status(json) => Ok(json),
        other => Err(unexpected(other)),
    }
}

/// Tells the process behind a socket to stop. False when it was stopping already.
pub fn ask_to_drain(path: &Path, for_good: bool) -> Result<bool, LogError> {
    match Line::to_process(path).ask(&Request::Drain { for_good })? {
        Answer::Draining(first) => Ok(first),
        other => Err(unexpected(other)),
    }
}

/// Tells the process behind a socket to read its rules again: what came of it as JSON, or why they stay as they are.
pub fn ask_to_reload(path: &Path) -> Result<Result<String, String>, LogError> {
    // Recording takes a commit, and others may be at it.
    let line = Line { timeout: ANSWER_TIMEOUT, ..Line::to_process(path) };
    match line.ask(&Request::Reload)? {
        Answer::Reloaded(outcome) => Ok(outcome),
        other => Err(unexpected(other)),
    }
}

impl SocketLog {
    /// Connects to the process that serves `path`. [`LogError::Unreachable`] when there is none.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, LogError> {
        let line = Line { path: path.as_ref().to_owned(), timeout: ANSWER_TIMEOUT, idle: Mutex::default() };
        let stream = line.dial()?;
        line.put_back(stream);
        Ok(Self(Arc::new(line)))
    }
}

impl fmt::Debug for SocketLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SocketLog").field(&self.0.path).finish()
    }
}

impl Line {
    fn to_process(path: &Path) -> Self {
        Self { path: path.to_owned(), timeout: STATUS_TIMEOUT, idle: Mutex::default() }
    }

    fn lost(&self, e: &io::Error) -> LogError {
        let reason = match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "no process serves this directory; is `tidewatch run` running?".to_owned()
            }
            io::ErrorKind::PermissionDenied => "the socket belongs to another user".to_owned(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                "the process that owns the log went away".to_owned()
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the process that owns the log does not answer".to_owned(),
            _ => e.to_string(),
        };
        unreachable(&self.path, reason)
    }

    fn dial(&self) -> Result<UnixStream, LogError> {
        let mut stream = path::connect(&self.path).map_err(|e| self.lost(&e))?;
        stream
            .set_read_timeout(Some(self.timeout))
            .and_then(|()| stream.set_write_timeout(Some(self.timeout)))
            .map_err(|e| self.lost(&e))?;
        // An owner without room answers at once and closes; what we send may then fail, but its answer is there.
        let _ = send(&mut stream, &Request::Hello { version: VERSION }, REQUEST_BYTES_MAX);
        match receive(&mut stream, ANSWER_BYTES_MAX).map_err(|e| self.lost(&e))? {
            Answer::Done => Ok(stream),
            other => Err(unexpected(other)),
        }
    }

    fn put_back(&self, stream: UnixStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(stream);
        }
    }

    fn take_idle(&self) -> Option<UnixStream> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Asks something that may be asked twice: an idle connection may be dead, then a new one is tried.
    fn ask(&self, request: &Request) -> Result<Answer, LogError> {
        if let Some(mut stream) = self.take_idle()
            && let Ok(answer) = exchange(&mut stream, request)
        {
            self.put_back(stream);
            return Ok(answer);
        }
        let mut stream = self.dial()?;
        let answer = exchange(&mut stream, request).map_err(|e| self.lost(&e))?;
        self.put_back(stream);
        Ok(answer)
    }
}

fn exchange(stream: &mut UnixStream, request: &Request) -> io::Result<Answer> {
    send(stream, request, REQUEST_BYTES_MAX)?;
    receive(stream, ANSWER_BYTES_MAX)
}

fn unexpected(answer: Answer) -> LogError {
    match answer {
        Answer::Refused(e) => e.into(),
        _ => LogError::Client { call: "the owner's log", reason: "the answer does not belong to the request".to_owned() },
    }
}

impl Log for SocketLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        match self.0.ask(&Request::CreateTopic(spec.into()))? {
            Answer::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn topics(&self) -> Result<Vec<(String, u32)>, LogError> {
        match self.0.ask(&Request::Topics)? {
            Answer::Topics(topics) => Ok(topics),
            other => Err(unexpected(other)),
        }
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        match self.0.ask(&Request::Partitions(topic.to_owned()))? {
            Answer::Partitions(count) => Ok(count),
            other => Err(unexpected(other)),
        }
    }

    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        match self.0.ask(&Request::Offsets(pair(at)))? {
            Answer::Offsets(start, end) => Ok(range_in(start, end)),
            other => Err(unexpected(other)),
        }
    }

    fn offset_at(&self, at: &TopicPartition, time: EventTime) -> Result<i64, LogError> {
        match self.0.ask(&Request::OffsetAt(pair(at), time))? {
            Answer::Offset(offset) => Ok(offset),
            other => Err(unexpected(other)),
        }
    }

    fn reader(&self, at: &TopicPartition, from: i64) -> Result<Box<dyn Reader>, LogError> {
        let range = self.offsets(at)?;
        if from < range.start || from > range.end {
            return Err(LogError::OutOfRange { at: at.clone(), wanted: from, start: range.start, end: range.end });
        }
        Ok(Box::new(SocketReader { line: Arc::clone(&self.0), at: at.clone(), position: from, at_end: false }))
    }

    /// As a tool's writer. When the connection is lost during a commit its outcome is unknown, and the error says so: the
    /// only log where that can happen, because the owner may have died.
    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        let mut stream = self.0.dial()?;
        let opened = exchange(&mut stream, &Request::OpenWriter(id.to_owned())).map_err(|e| self.0.lost(&e))?;
        match opened {
            Answer::Done => Ok(Box::new(SocketWriter { line: Arc::clone(&self.0), stream: Some(stream) })),
            other => Err(unexpected(other)),
        }
    }

    fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError> {
        let request = Request::Committed { group: group.to_owned(), at: at.iter().map(pair).collect() };
        match self.0.ask(&request)? {
            Answer::Committed(all) if all.len() == at.len() => Ok(all.into_iter().map(|c| c.map(committed_in)).collect()),
            other => Err(unexpected(other)),
        }
    }

    fn join(&self, _group: &str, _topics: &[String], _member: &Member) -> Result<Box<dyn Membership>, LogError> {
        Err(LogError::Unsupported { what: "joining a group over the control socket" })
    }

    fn enforce_retention(&self, _now: EventTime) -> Result<u64, LogError> {
        // The owner does so by itself.
        Ok(0)
    }

    fn delete_before(&self, _at: &TopicPartition, _offset: i64) -> Result<(), LogError> {
        Err(LogError::Unsupported { what: "removing records over the control socket" })
    }
}

struct SocketReader {
    line: Arc<Line>,
    at: TopicPartition,
    position: i64,
    at_end: bool,
}

impl Reader for SocketReader {
    fn poll(&mut self, limit: PollLimit, timeout: Duration) -> Result<Vec<Record>, LogError> {
        let mut left_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.at_end = false;
        loop {
            let wait = left_ms.min(WAIT_MS.into());
            left_ms -= wait;
            let request = Request::Read {
                at: pair(&self.at),
                from: self.position,
                records: limit.records as u64,
                bytes: limit.bytes as u64,
                timeout_ms: wait as u32,
            };
            let (records, position, at_end) = match self.line.ask(&request)? {
                Answer::Records { records, position, at_end } => (records, position, at_end),
                other => return Err(unexpected(other)),
            };
            self.position = position;
            self.at_end = at_end;
            if !records.is_empty() || left_ms == 0 {
                return Ok(records.into_iter().map(record_in).collect());
            }
        }
    }

    fn position(&self) -> i64 {
        self.position
    }

    fn at_end(&self) -> bool {
        self.at_end
    }
}

struct SocketWriter {
    line: Arc<Line>,
    /// Gone once an outcome is unknown: the owner's writer may be gone too.
    stream: Option<UnixStream>,
}

impl Writer for SocketWriter {
    fn commit(&mut self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        if !offsets.is_empty() {
            return Err(LogError::Unsupported { what: "committing offsets over the control socket" }.into());
        }
        let Some(stream) = &mut self.stream else {
            return Err(unreachable(&self.line.path, "the connection was lost; open a new writer").into());
        };
        let request = Request::Append(appends.iter().map(append_out).collect());
        if let Err(e) = send(stream, &request, REQUEST_BYTES_MAX) {
            if e.kind() == io::ErrorKind::InvalidInput {
                return Err(LogError::Client { call: "commit", reason: format!("epoch of {e}") }.into());
            }
            // An owner that did not get the whole request wrote nothing.
            self.stream = None;
            return Err(self.line.lost(&e).into());
        }
        match receive(stream, ANSWER_BYTES_MAX) {
            Ok(Answer::Done) => Ok(()),
            Ok(Answer::NotCommitted(e)) => Err(e.into()),
            Ok(other) => Err(unexpected(other).into()),
            Err(e) => {
                self.stream = None;
                let reason = format!("{e}; whether the last records were written is unknown");
                Err(unreachable(&self.line.path, reason).into())
            }
        }
    }
}
