//! The thread of one destination: reads, batches, sends, sets aside, commits. It owns everything it touches, so nothing
//! another destination does can delay it. Batches end at count, bytes or time; while a batch has to wait, no more is
//! read, so memory is bounded by one batch.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::destination::{Destination, Opener, Outcome};
use super::event::{Event, NoEvent};
use super::retry::{self, RetryPolicy};
use super::sources::{KnownTopic, Sources, Start};
use super::stats::{Shared, Status, add};
use super::undelivered::{Undelivered, shorten};
use crate::log::{Append, CommitError, Log, LogError, Member, Membership, PollLimit, Record, Writer};
use crate::worker::WorkerError;

/// When a batch is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// At this many signals.
    pub records: usize,
    /// At this many bytes of JSON; a single larger signal is a batch of its own.
    pub bytes: usize,
    /// At this age of its first signal.
    pub wait: Duration,
}

/// 500 signals, 1 MB, 1 s: what SIEM intakes recommend and take.
impl Default for BatchLimits {
    fn default() -> Self {
        Self { records: 500, bytes: 1_000_000, wait: Duration::from_secs(1) }
    }
}

/// Pause while there is nothing to do; also how soon a stop is noticed.
const IDLE: Duration = Duration::from_millis(20);

/// Everything one destination's thread needs.
pub(super) struct Worker {
    pub(super) log: Arc<dyn Log>,
    pub(super) shared: Arc<Shared>,
    pub(super) group: String,
    pub(super) member: Member,
    pub(super) undelivered: Undelivered,
    pub(super) open: Opener,
    pub(super) start: Start,
    pub(super) topic: KnownTopic,
    pub(super) replays: bool,
    pub(super) tenants: Option<BTreeSet<String>>,
    pub(super) limits: BatchLimits,
    pub(super) retry: RetryPolicy,
}

/// From joining the group to losing it.
struct Session {
    membership: Box<dyn Membership>,
    writer: Box<dyn Writer>,
    sources: Sources,
    pending: VecDeque<Event>,
    /// Set aside, not yet committed.
    letters: Vec<Append>,
    /// When the first of `pending` was read.
    first_at: Option<Instant>,
    failures: u32,
    paused_until: Option<Instant>,
    /// The group has said which partitions are ours.
    assigned: bool,
}

impl Worker {
    /// Until a stop is asked for.
    pub(super) fn run(self) {
        let _fallen = Fallen(Arc::clone(&self.shared));
        let mut failures = 0;
        let mut skip_lost = false;
        while !self.shared.stop_asked() {
            let Some(mut destination) = self.open_destination() else { continue };
            let began = Instant::now();
            match self.session(&mut destination, skip_lost) {
                Ok(()) => break,
                Err(WorkerError::Log(LogError::OutOfRange { at, wanted, start, end })) => {
                    let reason = format!(
                        "signals of {at} from offset {wanted} on are gone, kept are {start}..{end}; resume to go on with what is kept"
                    );
                    self.shared.set_status(Status::Stopped { reason });
                    skip_lost = self.wait_for_resume();
                    continue;
                }
                Err(e @ WorkerError::Recreated { .. }) => {
                    self.shared.set_status(Status::Stopped { reason: e.to_string() });
                    self.wait_for_resume();
                    continue;
                }
                Err(e) => self.shared.set_status(Status::Retrying { reason: e.to_string() }),
            }
            skip_lost = false;
            // A session that lived beyond the longest pause was healthy.
            failures = if began.elapsed() > self.retry.cap { 1 } else { failures + 1 };
            add(&self.shared.counters.rejoined, 1);
            self.sleep(retry::pause(self.retry, failures, random(), None));
        }
        self.shared.set_status(Status::Ended);
    }

    /// Opens the destination; what is wrong with it is a matter of configuration, so it waits for somebody.
    fn open_destination(&self) -> Option<Box<dyn Destination>> {
        match (self.open)() {
            Ok(destination) => Some(destination),
            Err(e) => {
                self.shared.set_status(Status::Stopped { reason: e.to_string() });
                self.wait_for_resume();
                None
            }
        }
    }

    /// True when resumed, false when the stage ends.
    fn wait_for_resume(&self) -> bool {
        while !self.shared.stop_asked() {
            if self.shared.take_resume() {
                return true;
            }
            std::thread::sleep(IDLE);
        }
        false
    }

    fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.shared.stop_asked() && Instant::now() < until {
            std::thread::sleep(IDLE.min(until.saturating_duration_since(Instant::now())));
        }
    }

    fn session(&self, destination: &mut Box<dyn Destination>, mut skip_lost: bool) -> Result<(), WorkerError> {
        let topics = [self.undelivered.signals_topic.clone()];
        let membership = self.log.join(&self.group, &topics, &self.member)?;
        let writer = membership.writer(&format!("{}-{}", self.group, self.member.id))?;
        let sources = Sources::new(Arc::clone(&self.log), self.group.clone(), topics[0].clone(), self.start, self.topic.clone());
        let (pending, letters) = (VecDeque::new(), Vec::new());
        let (first_at, paused_until) = (None, None);
        let mut s =
            Session { membership, writer, sources, pending, letters, first_at, failures: 0, paused_until, assigned: false };
        self.shared.take_resume();
        self.shared.set_status(Status::Running);
        let mut wait = Duration::ZERO;
        loop {
            if self.shared.stop_asked() {
                // What was delivered is known; a commit that fails now only means that it is delivered again.
                self.commit(&mut s)?;
                return Ok(s.membership.leave(false)?);
            }
            if let Some(assigned) = s.membership.poll(wait)? {
                add(&self.shared.counters.lost, s.sources.assign(&assigned, skip_lost)? as usize);
                skip_lost = false;
                s.assigned = true;
                let sources = &s.sources;
                s.pending.retain(|event| sources.has(event.partition));
                // At once, so that "from now on" is remembered though nothing was delivered yet.
                self.commit(&mut s)?;
            }
            wait = IDLE;
            if self.shared.is_stopped() {
                if !self.shared.take_resume() {
                    self.report(&mut s);
                    continue;
                }
                match (self.open)() {
                    Ok(opened) => *destination = opened,
                    Err(e) => {
                        self.shared.set_status(Status::Stopped { reason: e.to_string() });
                        continue;
                    }
                }
                s.paused_until = None;
                self.shared.set_status(Status::Running);
            }
            if s.paused_until.is_some_and(|until| Instant::now() < until) {
                self.report(&mut s);
                continue;
            }
            if self.step(&mut s, destination)? {
                wait = Duration::ZERO;
            }
            self.report(&mut s);
        }
    }

    /// One round of reading, sending and committing. True when there is more to do at once.
    fn step(&self, s: &mut Session, destination: &mut Box<dyn Destination>) -> Result<bool, LogError> {
        // Nothing new while a commit is outstanding: what was set aside is bounded by one batch.
        if !s.letters.is_empty() && !self.commit(s)? {
            return Ok(false);
        }
        let was = s.pending.len();
        if s.failures == 0 {
            self.fill(s)?;
        }
        if s.pending.is_empty() {
            if self.commit(s)? {
                self.shared.set_status(Status::Running);
            }
            return Ok(false);
        }
        let first_at = *s.first_at.get_or_insert_with(Instant::now);
        let full = s.pending.len() >= self.limits.records || bytes(&s.pending) >= self.limits.bytes;
        if !full && s.failures == 0 && first_at.elapsed() < self.limits.wait {
            return Ok(s.pending.len() > was);
        }
        let outcomes = destination.send(s.pending.make_contiguous());
        self.settle(s, outcomes);
        self.commit(s)?;
        Ok(s.paused_until.is_none())
    }

    fn fill(&self, s: &mut Session) -> Result<(), LogError> {
        let records = self.limits.records.saturating_sub(s.pending.len());
        let bytes = self.limits.bytes.saturating_sub(bytes(&s.pending));
        if records == 0 || bytes == 0 {
            return Ok(());
        }
        let (pending, letters) = (&mut s.pending, &mut s.letters);
        s.sources.read(PollLimit { records, bytes }, |partition, record| self.take(partition, record, pending, letters))
    }

    fn take(&self, partition: u32, record: Record, pending: &mut VecDeque<Event>, letters: &mut Vec<Append>) {
        match Event::open(partition, &record, self.replays) {
            Ok(event) if self.tenants.as_ref().is_none_or(|wanted| wanted.contains(&event.signal.tenant)) => {
                pending.push_back(event);
            }
            Ok(_) | Err(NoEvent::Skip) => add(&self.shared.counters.skipped, 1),
            Err(NoEvent::Unreadable { code, reason }) => {
                letters.push(self.undelivered.letter(partition, &record, code, &reason));
                add(&self.shared.counters.set_aside, 1);
            }
        }
    }

    /// Does what the outcomes say. What has to be sent again stays, in order.
    fn settle(&self, s: &mut Session, outcomes: Vec<Outcome>) {
        let counters = &self.shared.counters;
        let batch = std::mem::take(&mut s.pending);
        // A destination that forgets an outcome has not said that the signal arrived.
        let forgotten = std::iter::repeat_with(|| Outcome::Retry { after: None, reason: "no outcome".into() });
        let (mut done, mut asked, mut waits, mut stops) = (false, None, None, None);
        for (event, outcome) in batch.into_iter().zip(outcomes.into_iter().chain(forgotten)) {
            match outcome {
                Outcome::Delivered => {
                    add(&counters.delivered, 1);
                    done = true;
                }
                Outcome::SetAside { code, reason } => {
                    s.letters.push(self.undelivered.letter(event.partition, &event.record, &code, &reason));
                    add(&counters.set_aside, 1);
                    done = true;
                }
                Outcome::Retry { after, reason } => {
                    asked = asked.max(after);
                    waits.get_or_insert(reason);
                    add(&counters.retried, 1);
                    s.pending.push_back(event);
                }
                Outcome::Untried => s.pending.push_back(event),
                Outcome::Stop { reason } => {
                    stops.get_or_insert(reason);
                    s.pending.push_back(event);
                }
            }
        }
        if s.pending.is_empty() {
            s.first_at = None;
        } else if !done && stops.is_none() && waits.is_none() {
            waits = Some("nothing was tried".to_owned());
        }
        s.failures = if done { 0 } else { s.failures };
        s.paused_until = None;
        if let Some(reason) = stops {
            s.failures += 1;
            self.shared.set_status(Status::Stopped { reason });
        } else if let Some(reason) = waits {
            s.failures += 1;
            let pause = retry::pause(self.retry, s.failures, random(), asked);
            if !pause.is_zero() {
                s.paused_until = Some(Instant::now() + pause);
                self.shared.set_status(Status::Retrying { reason });
            }
        } else {
            s.failures = 0;
            self.shared.set_status(Status::Running);
        }
    }

    /// Commits what was set aside and the positions that moved. False when the log is full: then it is tried again.
    fn commit(&self, s: &mut Session) -> Result<bool, LogError> {
        let offsets = s.sources.moved(&s.pending);
        if offsets.is_empty() && s.letters.is_empty() {
            return Ok(true);
        }
        loop {
            match s.writer.commit(&s.letters, &offsets) {
                Ok(()) => {
                    s.letters.clear();
                    s.sources.settled(&offsets);
                    return Ok(true);
                }
                Err(CommitError::TooLarge { .. }) if shorten(&mut s.letters) => {}
                Err(CommitError::Full { at, limit_bytes }) => {
                    s.paused_until = Some(Instant::now() + self.retry.first);
                    self.shared.set_status(Status::Retrying { reason: format!("{at} is full at {limit_bytes} bytes") });
                    return Ok(false);
                }
                Err(CommitError::Log(e)) => return Err(e),
                // The session begins anew from the committed positions: some signals go out twice, none is lost.
                Err(e) => return Err(LogError::Client { call: "commit", reason: e.to_string() }),
            }
        }
    }

    fn report(&self, s: &mut Session) {
        let backlog = s.sources.backlog(s.pending.len());
        self.shared.counters.backlog.store(backlog, std::sync::atomic::Ordering::Relaxed);
        self.shared.set_idle(s.assigned && s.sources.at_end() && s.pending.is_empty() && s.letters.is_empty());
    }
}

/// Says so when the thread falls over, instead of leaving "running" behind.
struct Fallen(Arc<Shared>);

impl Drop for Fallen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_status(Status::Stopped { reason: "internal fault; delivers again after a restart".to_owned() });
        }
    }
}

fn bytes(pending: &VecDeque<Event>) -> usize {
    pending.iter().map(Event::size).sum()
}

/// A number nobody can foresee, from the standard library's seeded hasher: enough to spread retries.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
