//! Every way in which a call can end, one at a time, over a client that does what a script says: what the procedure does
//! next, and what it tells its caller.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::*;
use crate::log::{Append, CommitError, Committed, LogError, TopicPartition, Writer};

const S: Duration = Duration::from_secs(1);

/// What the script gives next; what it has run out of goes well.
struct Script {
    now: Duration,
    calls: Vec<&'static str>,
    offsets: VecDeque<Kind>,
    commits: VecDeque<Kind>,
    aborts: VecDeque<Kind>,
    appends: VecDeque<Kind>,
    /// The process is stopped for so long inside its next commit call.
    stopped: Duration,
    inits_fail: bool,
    committed: Option<Committed>,
    stored: Vec<(TopicPartition, i64)>,
    in_doubt: bool,
    visible: bool,
    holds: VecDeque<bool>,
    standing: Standing,
    waits: Vec<Duration>,
}

#[derive(Clone)]
struct Scripted {
    script: Arc<Mutex<Script>>,
    open: bool,
}

impl Scripted {
    fn new(standing: Standing) -> Self {
        let script = Script {
            now: Duration::ZERO,
            calls: Vec::new(),
            offsets: VecDeque::new(),
            commits: VecDeque::new(),
            aborts: VecDeque::new(),
            appends: VecDeque::new(),
            stopped: Duration::ZERO,
            inits_fail: false,
            committed: start(),
            stored: vec![(at(), 7)],
            in_doubt: false,
            visible: true,
            holds: VecDeque::new(),
            standing,
            waits: Vec::new(),
        };
        Self { script: Arc::new(Mutex::new(script)), open: false }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn call(&self, name: &'static str, wait: Duration, next: impl Fn(&mut Script) -> Option<Kind>) -> Result<(), Failure> {
        let mut script = self.script();
        script.calls.push(name);
        script.waits.push(wait);
        match next(&mut script) {
            None => Ok(()),
            Some(kind) => {
                if matches!(kind, Kind::Again | Kind::Unstored) {
                    script.now += wait;
                }
                Err(Failure::new(kind, "said by the script"))
            }
        }
    }
}

impl Client for Scripted {
    fn id(&self) -> &str {
        "w"
    }
    fn times(&self) -> Times {
        Times { commit_budget: 8 * S, transaction: 10 * S, reach: 10 * S }
    }
    fn now(&self) -> Duration {
        self.script().now
    }
    fn serve(&mut self, wait: Duration) {
        self.script().now += wait;
    }
    fn close(&mut self) {
        self.open = false;
    }
    fn is_open(&self) -> bool {
        self.open
    }
    fn renew(&mut self, why: Why) -> Result<(), LogError> {
        self.script().calls.push(match why {
            Why::Start => "start",
            Why::Reopen => "reopen",
            Why::Settle => "settle",
        });
        self.open = false;
        Ok(())
    }
    fn init(&mut self, wait: Duration) -> Result<Init, LogError> {
        let mut script = self.script();
        script.waits.push(wait);
        if script.inits_fail {
            script.now += wait;
            let (what, reason) = ("cluster".to_owned(), "away".to_owned());
            return Ok(Init::NotYet(LogError::Unreachable { what, reason }));
        }
        drop(script);
        self.open = true;
        Ok(Init::Done)
    }
    fn begin(&mut self) -> Result<(), Failure> {
        self.call("begin", Duration::ZERO, |_| None)
    }
    fn append(&mut self, _: &Append) -> Result<(), Failure> {
        self.call("append", Duration::ZERO, |s| s.appends.pop_front())
    }
    fn in_flight(&self) -> usize {
        0
    }
    fn send_offsets(&mut self, _: &[(TopicPartition, Committed)], wait: Duration) -> Result<(), Failure> {
        self.call("offsets", wait, |s| s.offsets.pop_front())
    }
    fn commit(&mut self, wait: Duration) -> Result<(), Failure> {
        let stopped = std::mem::take(&mut self.script().stopped);
        self.script().now += stopped;
        self.call("commit", wait, |s| s.commits.pop_front())
    }
    fn abort(&mut self, wait: Duration) -> Result<(), Failure> {
        self.call("abort", wait, |s| s.aborts.pop_front())
    }
    fn stored(&self) -> Vec<(TopicPartition, i64)> {
        self.script().stored.clone()
    }
    fn refusal(&mut self) -> Option<CommitError> {
        None
    }
    fn is_in_doubt(&self) -> bool {
        self.script().in_doubt
    }
    fn standing(&self) -> Standing {
        self.script().standing
    }
    fn holds(&self, _: &[(TopicPartition, Committed)]) -> bool {
        self.script().holds.pop_front().unwrap_or(true)
    }
    fn changes(&self) -> u64 {
        0
    }
    fn committed(&mut self, at: &[TopicPartition], _: Why, wait: Duration) -> Result<Vec<Option<Committed>>, LogError> {
        self.call("committed", wait, |_| None).unwrap();
        Ok(vec![self.script().committed.clone(); at.len()])
    }
    fn read_back(&mut self, _: &TopicPartition, _: i64, wait: Duration) -> Result<bool, LogError> {
        self.call("read back", wait, |_| None).unwrap();
        Ok(self.script().visible)
    }
    fn is_visible(&mut self, _: &[(TopicPartition, i64)], _: Duration) -> Result<bool, LogError> {
        Ok(true)
    }
    fn check(&mut self, _: &[Append], _: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        Ok(())
    }
}

fn at() -> TopicPartition {
    TopicPartition::new("in", 0)
}

fn start() -> Option<Committed> {
    Some(Committed { offset: 4, metadata: String::new() })
}

fn end() -> Committed {
    Committed { offset: 9, metadata: String::new() }
}

/// A writer of a member, and its script.
fn writer() -> (TransactionalWriter<Scripted>, Scripted) {
    let client = Scripted::new(Standing::Member);
    (TransactionalWriter::open(client.clone()).unwrap(), client)
}

fn record() -> Append {
    let topic = "out".to_owned();
    Append { topic, partition: 0, timestamp: None, key: None, value: None, headers: Vec::new() }
}

/// One epoch: how it ended, and the calls of it.
fn epoch(writer: &mut TransactionalWriter<Scripted>, client: &Scripted) -> (Result<(), CommitError>, Vec<&'static str>) {
    client.script().calls.clear();
    let told = writer.commit(&[record()], &[(at(), end())]);
    (told, std::mem::take(&mut client.script().calls))
}

fn aborted(told: &Result<(), CommitError>) -> bool {
    matches!(told, Err(CommitError::Aborted { .. }))
}

fn fenced(told: &Result<(), CommitError>) -> bool {
    matches!(told, Err(CommitError::Fenced { .. }))
}

#[test]
fn an_epoch_is_one_transaction() {
    let (mut w, c) = writer();
    let (told, calls) = epoch(&mut w, &c);
    assert!(told.is_ok());
    assert_eq!(calls, ["committed", "begin", "append", "offsets", "commit"]);
    let (told, calls) = epoch(&mut w, &c);
    assert!(told.is_ok());
    assert_eq!(calls, ["begin", "append", "offsets", "commit"], "positions are known");
}

#[test]
fn a_commit_that_is_not_answered_is_asked_for_again_and_the_producer_made_anew() {
    let (mut w, c) = writer();
    c.script().commits = [Kind::Again, Kind::Again].into();
    let (told, calls) = epoch(&mut w, &c);
    assert!(told.is_ok());
    assert_eq!(calls[3..], ["offsets", "commit", "commit", "commit", "reopen"]);
}

#[test]
fn offsets_asked_for_twice_and_broken_connections_cost_a_producer_too() {
    let (mut w, c) = writer();
    c.script().offsets = [Kind::Again].into();
    assert_eq!(epoch(&mut w, &c).1.last(), Some(&"reopen"));
    c.script().in_doubt = true;
    assert_eq!(epoch(&mut w, &c).1.last(), Some(&"reopen"));
}

#[test]
fn out_of_time_before_the_end_was_asked_for_is_an_abort() {
    let (mut w, c) = writer();
    c.script().commits = vec![Kind::Unstored; 99].into();
    let (told, calls) = epoch(&mut w, &c);
    assert!(aborted(&told), "{told:?}");
    assert_eq!(calls[calls.len() - 2..], ["abort", "reopen"]);
    assert!(c.now() >= 8 * S && c.now() < 9 * S, "{:?}", c.now());
    let (mut w, c) = writer();
    c.script().offsets = vec![Kind::Again; 99].into();
    let (told, calls) = epoch(&mut w, &c);
    assert!(aborted(&told) && !calls.contains(&"commit"), "{calls:?}");
}

#[test]
fn an_unclear_commit_is_never_aborted_and_told_by_the_offsets() {
    let moved = Committed { offset: 6, metadata: String::new() };
    for (found, what) in [(Some(end()), "committed"), (start(), "aborted"), (Some(moved), "elsewhere"), (None, "elsewhere")] {
        // Never answered; answered late by something that demands an abort; dead; fenced after it ran out of time.
        let ends = [
            (vec![Kind::Again; 99], Duration::ZERO),
            (vec![Kind::Again, Kind::MustAbort], Duration::ZERO),
            (vec![Kind::Fatal], Duration::ZERO),
            (vec![Kind::Fenced], 11 * S),
        ];
        for (kinds, stopped) in ends {
            let (mut w, c) = writer();
            // What it starts from is known before; then the broker tells how it ended.
            w.starts.insert(at(), start());
            c.script().committed.clone_from(&found);
            c.script().commits = kinds.into();
            c.script().stopped = stopped;
            let (told, calls) = epoch(&mut w, &c);
            assert!(!calls.contains(&"abort"), "{calls:?}");
            let settle = calls.iter().position(|c| *c == "settle").unwrap();
            assert_eq!(calls[settle..settle + 2], ["settle", "committed"]);
            match what {
                "committed" => assert!(told.is_ok(), "{told:?}"),
                "aborted" => assert!(aborted(&told), "{told:?}"),
                _ => {
                    assert!(fenced(&told), "{told:?}");
                    assert!(fenced(&epoch(&mut w, &c).0), "finished for good");
                }
            }
        }
    }
}

#[test]
fn where_no_offset_moves_a_stored_record_tells() {
    for (visible, stored) in [(true, true), (false, true), (true, false)] {
        let client = Scripted::new(Standing::Alone);
        let mut w = TransactionalWriter::open(client.clone()).unwrap();
        client.script().commits = [Kind::Fatal].into();
        client.script().visible = visible;
        if !stored {
            client.script().stored.clear();
        }
        let told = w.commit(&[record()], &[]);
        let calls = client.script().calls.clone();
        // Without one stored record the end was not asked for: it is not committed, whatever can be seen.
        assert_eq!(told.is_ok(), visible && stored, "{told:?}");
        assert_eq!(calls.contains(&"read back"), stored);
        assert!(told.is_ok() || aborted(&told));
    }
}

#[test]
fn what_can_only_be_aborted_is_and_an_abort_that_fails_is_settled_once_the_end_was_asked_for() {
    let (mut w, c) = writer();
    c.script().commits = [Kind::MustAbort].into();
    c.script().aborts = [Kind::Again, Kind::Again].into();
    let (told, calls) = epoch(&mut w, &c);
    assert!(aborted(&told));
    assert_eq!(calls[4..], ["commit", "abort", "abort", "abort", "reopen"]);

    let (mut w, c) = writer();
    c.script().commits = [Kind::MustAbort].into();
    c.script().aborts = [Kind::Fatal].into();
    c.script().committed = start();
    let (told, calls) = epoch(&mut w, &c);
    assert!(aborted(&told));
    assert_eq!(calls[4..], ["commit", "abort", "settle", "committed"]);

    // Before the end: the new producer aborts.
    let (mut w, c) = writer();
    c.script().offsets = [Kind::MustAbort].into();
    c.script().aborts = [Kind::Fatal].into();
    let (told, calls) = epoch(&mut w, &c);
    assert!(aborted(&told));
    assert_eq!(calls[3..], ["offsets", "abort", "reopen"]);
}

#[test]
fn an_abort_that_is_refused_for_ever_ends() {
    let (mut w, c) = writer();
    c.script().offsets = [Kind::MustAbort].into();
    c.script().aborts = vec![Kind::Again; 10_000].into();
    let (told, calls) = epoch(&mut w, &c);
    assert!(aborted(&told));
    assert_eq!(calls.last(), Some(&"reopen"));
    assert!(c.now() < 7 * S, "{:?}", c.now());
}

#[test]
fn who_is_fenced_never_takes_the_id_back() {
    for kind in [Kind::Fenced, Kind::Expelled] {
        let (mut w, c) = writer();
        c.script().offsets = [kind].into();
        let (told, calls) = epoch(&mut w, &c);
        assert!(fenced(&told), "{told:?}");
        assert!(!calls.contains(&"reopen") && !calls.contains(&"settle"), "{calls:?}");
        let (told, calls) = epoch(&mut w, &c);
        assert!(fenced(&told) && calls.is_empty());
    }
}

#[test]
fn fenced_later_than_its_transaction_lives_is_settled_while_the_partitions_are_held() {
    // Asked before the epoch, before its end, and before the id is taken back.
    for (holds, settles) in [([true, true, true], true), ([true, true, false], false)] {
        let (mut w, c) = writer();
        c.script().holds = holds.to_vec().into();
        c.script().commits = [Kind::Fenced].into();
        c.script().stopped = 11 * S;
        let (told, calls) = epoch(&mut w, &c);
        assert_eq!(calls.contains(&"settle"), settles, "{calls:?}");
        assert!(if settles { aborted(&told) } else { fenced(&told) }, "{told:?}");
    }
}

#[test]
fn partitions_that_are_not_held_are_not_committed() {
    let (mut w, c) = writer();
    c.script().holds = vec![false].into();
    let (told, calls) = epoch(&mut w, &c);
    assert!(fenced(&told) && calls.is_empty());
    // Lost while the records were written.
    let (mut w, c) = writer();
    c.script().holds = vec![true, false].into();
    let (told, calls) = epoch(&mut w, &c);
    assert!(fenced(&told) && !calls.contains(&"commit"), "{calls:?}");
    assert!(calls.contains(&"abort"), "readers need not wait");
    // Its member has left.
    let (mut w, c) = writer();
    c.script().standing = Standing::Left;
    assert!(fenced(&epoch(&mut w, &c).0));
}

#[test]
fn an_outcome_that_cannot_be_found_out_finishes_the_writer() {
    let (mut w, c) = writer();
    c.script().commits = [Kind::Fatal].into();
    c.script().inits_fail = true;
    let (told, _) = epoch(&mut w, &c);
    assert!(matches!(told, Err(CommitError::Log(LogError::Unreachable { .. }))), "{told:?}");
    assert!(c.now() >= SETTLE_WAIT);
    c.script().inits_fail = false;
    let (told, calls) = epoch(&mut w, &c);
    assert!(fenced(&told) && calls.is_empty(), "it never guesses");
}

#[test]
fn every_wait_is_finite_and_short() {
    let (mut w, c) = writer();
    c.script().offsets = vec![Kind::Again; 3].into();
    c.script().commits = vec![Kind::Again; 99].into();
    epoch(&mut w, &c).0.unwrap_err();
    let waits = c.script().waits.clone();
    // Read-backs have the whole time of settling; transactional calls a second.
    assert!(waits.iter().all(|w| *w <= SETTLE_WAIT) && waits.iter().filter(|w| **w > S).count() <= 2, "{waits:?}");
}
