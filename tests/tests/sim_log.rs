//! The simulated cluster as a log: it conforms, and the production commit protocol on it settles whatever becomes of its
//! requests; mistakes that a client could make show.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidewatch::log::conformance::{Capabilities, Fixture, Outcome, suite};
use tidewatch::log::{Append, CommitError, Committed, Log, Member, Membership, TopicPartition, TopicSpec, Writer};
use tidewatch_tests::sim::broker::{self, Broker};
use tidewatch_tests::sim::fate::{Calm, Crash, Fate, ProcessId, SimClock, Step, Turn};
use tidewatch_tests::sim::log::{Bug, Settings, SimLog};

/// Real threads on a simulated clock, for the suite: who waits lets the others run.
#[derive(Default)]
struct Threads {
    clock: SimClock,
    never: Mutex<()>,
    woken: Condvar,
}

impl Fate for Threads {
    fn at(&self, _: ProcessId, _: Step) -> Turn {
        Turn::Go
    }

    fn after(&self, _: ProcessId, _: Step) -> bool {
        false
    }

    fn wait(&self, _: ProcessId, until_ns: i64) {
        let guard = self.never.lock().unwrap();
        drop(self.woken.wait_timeout(guard, Duration::from_micros(100)).unwrap());
        self.clock.advance_to(until_ns.min(self.now_ns() + 1_000_000));
    }

    fn now_ns(&self) -> i64 {
        self.clock.now_ns()
    }
}

/// A moment after which Kafka can date records.
const START_NS: i64 = 1_780_000_000_000_000_000;

#[test]
fn the_simulated_log_conforms() {
    let reports = suite(&|_want| {
        let fate = Arc::new(Threads { clock: SimClock::at(START_NS), ..Threads::default() });
        let broker = Arc::new(Mutex::new(Broker::new(broker::Settings::default(), START_NS)));
        let log = SimLog::new(broker, fate, ProcessId(1), Settings::default());
        Fixture {
            log: Arc::new(log),
            capabilities: Capabilities { retention_at_once: false, byte_limit: false, ..Capabilities::LOCAL },
            prefix: "c.".to_owned(),
            patience: Duration::from_secs(5),
            keep: Box::new(()),
        }
    });
    let broken: Vec<_> = reports.iter().filter(|r| matches!(r.outcome, Outcome::Fails(_))).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let held = reports.iter().filter(|r| r.outcome == Outcome::Holds).count();
    assert!(held > 18, "only {held} checks were asked");
}

/// Does something at a step, so many times after so many times.
#[derive(Default)]
struct Script {
    calm: Calm,
    lines: Mutex<Vec<(Step, u32, u32, Turn)>>,
    seen: Mutex<Vec<Step>>,
}

impl Script {
    /// From the `skip`th time on, `times` times.
    fn plan(&self, step: Step, skip: u32, times: u32, turn: Turn) {
        self.lines.lock().unwrap().push((step, skip, times, turn));
    }

    fn count(&self, step: Step) -> usize {
        self.seen.lock().unwrap().iter().filter(|s| **s == step).count()
    }
}

impl Fate for Script {
    fn at(&self, _: ProcessId, step: Step) -> Turn {
        self.seen.lock().unwrap().push(step);
        for (_, skip, times, turn) in self.lines.lock().unwrap().iter_mut().filter(|l| l.0 == step) {
            if *skip > 0 {
                *skip -= 1;
            } else if *times > 0 {
                *times -= 1;
                return *turn;
            }
        }
        Turn::Go
    }

    fn after(&self, _: ProcessId, _: Step) -> bool {
        false
    }

    fn wait(&self, process: ProcessId, until_ns: i64) {
        self.calm.wait(process, until_ns);
    }

    fn now_ns(&self) -> i64 {
        self.calm.now_ns()
    }
}

/// One member of a group with its writer.
struct World {
    script: Arc<Script>,
    broker: Arc<Mutex<Broker>>,
    log: SimLog,
    member: Box<dyn Membership>,
    writer: Box<dyn Writer>,
}

const S: i64 = 1_000_000_000;

fn at() -> TopicPartition {
    TopicPartition::new("in", 0)
}

fn append(value: &str) -> Append {
    Append {
        topic: "out".to_owned(),
        partition: 0,
        timestamp: None,
        key: None,
        value: Some(Bytes::from(value.to_owned())),
        headers: Vec::new(),
    }
}

fn member_of(log: &SimLog) -> Box<dyn Membership> {
    let mut member = log.join("g", &["in".to_owned()], &Member { id: "m".to_owned(), index: 0, of: 1 }).unwrap();
    assert!(member.poll(Duration::from_secs(10)).unwrap().is_some());
    member
}

impl World {
    fn new(bug: Option<Bug>) -> Self {
        let script = Arc::new(Script { calm: Calm { clock: SimClock::at(START_NS) }, ..Script::default() });
        let broker = Arc::new(Mutex::new(Broker::new(broker::Settings::default(), START_NS)));
        let settings = Settings { bug, ..Settings::default() };
        let log = SimLog::new(broker.clone(), script.clone(), ProcessId(1), settings);
        log.create_topic(&TopicSpec::new("in", 1)).unwrap();
        log.create_topic(&TopicSpec::new("out", 1)).unwrap();
        let member = member_of(&log);
        let writer = member.writer("w").unwrap();
        Self { script, broker, log, member, writer }
    }

    /// Another incarnation of the same process.
    fn restart(&self, process: u32, bug: Option<Bug>) -> (SimLog, Box<dyn Membership>, Box<dyn Writer>) {
        let settings = Settings { bug, ..Settings::default() };
        let log = SimLog::new(self.broker.clone(), self.script.clone(), ProcessId(process), settings);
        let member = member_of(&log);
        let writer = member.writer("w").unwrap();
        (log, member, writer)
    }

    /// One epoch: a record, and the position after it.
    fn commit(&mut self, value: &str, offset: i64) -> Result<(), CommitError> {
        self.writer.commit(&[append(value)], &[(at(), Committed { offset, metadata: value.to_owned() })])
    }

    /// What can be read, and the committed offset, once everything has calmed down.
    fn outcome(&self) -> (Vec<String>, Option<i64>) {
        let mut broker = self.broker.lock().unwrap();
        broker.advance(self.script.now_ns() + 100 * S);
        let records = broker.records(&TopicPartition::new("out", 0));
        let values = records.iter().map(|r| String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap()).collect();
        (values, broker.committed("g").get(&at()).map(|c| c.offset))
    }
}

/// For every request of an epoch, lost or unanswered once, often, or for good: the caller is told the truth, and the next
/// epoch goes on from it.
#[test]
fn whatever_becomes_of_a_request_the_outcome_is_told_as_it_is() {
    let steps = [
        Step::EpochPartitions,
        Step::EpochAppend,
        Step::EpochGroup,
        Step::EpochOffsets,
        Step::EpochEnd,
        Step::EpochVisible,
        Step::EpochAbort,
        Step::EpochReopen,
        Step::SettleInit,
        Step::SettleCommitted,
    ];
    let turns = [Turn::LoseRequest, Turn::LoseReply, Turn::Delay(S / 2), Turn::Delay(3 * S), Turn::Delay(15 * S)];
    let mut outcomes = [0, 0];
    for step in steps {
        for turn in turns {
            for (times, also_end) in [(1, false), (3, false), (8, false), (1, true), (20, true)] {
                let mut w = World::new(None);
                w.commit("one", 1).unwrap();
                w.script.plan(step, 0, times, turn);
                if also_end {
                    w.script.plan(Step::EpochEnd, 0, 8, Turn::LoseReply);
                }
                let told = w.commit("two", 2);
                let case = format!("{step} {turn:?} x{times}, end also {also_end}: {told:?}");
                let mut expected = vec!["one".to_owned()];
                match &told {
                    Ok(()) => expected.push("two".to_owned()),
                    Err(CommitError::Aborted { .. }) => {}
                    other => panic!("{case}: {other:?}"),
                }
                outcomes[usize::from(told.is_ok())] += 1;
                let deadline = w.script.now_ns() + 60 * S;
                let offset = expected.len() as i64;
                // As the worker does: what was aborted is tried again.
                while w.commit("next", offset + 1).is_err() {
                    assert!(w.script.now_ns() < deadline, "{case}: never goes on");
                }
                expected.push("next".to_owned());
                assert_eq!(w.outcome(), (expected, Some(offset + 1)), "{case}");
            }
        }
    }
    assert!(outcomes.iter().all(|n| *n > 10), "aborted and committed: {outcomes:?}");
}

#[test]
fn a_late_end_finds_a_new_epoch() {
    let mut w = World::new(None);
    // The first request for the end is late; asked again, the commit is answered. The late one must not end what follows.
    w.script.plan(Step::EpochEnd, 0, 1, Turn::Delay(5 * S));
    w.commit("one", 1).unwrap();
    assert_eq!(w.script.count(Step::EpochReopen), 1, "a producer of a higher epoch");
    w.script.plan(Step::EpochEnd, 0, 9, Turn::LoseRequest);
    let told = w.commit("two", 2);
    assert!(matches!(told, Err(CommitError::Aborted { .. })), "{told:?}");
    assert_eq!(w.outcome(), (vec!["one".to_owned()], Some(1)));
}

#[test]
fn a_writer_that_cannot_find_out_is_finished() {
    let mut w = World::new(None);
    w.script.plan(Step::EpochEnd, 0, 20, Turn::LoseReply);
    w.script.plan(Step::SettleInit, 0, 1000, Turn::LoseRequest);
    let told = w.commit("one", 1);
    assert!(matches!(told, Err(CommitError::Log(_))), "{told:?}");
    assert!(matches!(w.commit("two", 2), Err(CommitError::Fenced { .. })));
    w.script.lines.lock().unwrap().clear();
    let (log, _member, mut writer) = w.restart(2, None);
    let found = log.committed("g", &[at()]).unwrap()[0].clone().unwrap();
    assert_eq!(found.offset, 1, "the successor reads what became of it");
    writer.commit(&[append("two")], &[(at(), Committed { offset: 2, metadata: String::new() })]).unwrap();
    assert_eq!(w.outcome(), (vec!["one".to_owned(), "two".to_owned()], Some(2)));
}

/// Cut at every step of an epoch, before and after: the successor finds all of it or nothing, and goes on.
#[test]
fn a_crash_leaves_all_or_nothing() {
    let mut committed = 0;
    let steps = [Step::EpochBegin, Step::EpochPartitions, Step::EpochAppend, Step::EpochGroup, Step::EpochOffsets];
    for step in steps.into_iter().chain([Step::EpochEnd, Step::EpochVisible]) {
        for turn in [Turn::CrashBefore, Turn::CrashAfter] {
            let mut w = World::new(None);
            w.commit("one", 1).unwrap();
            w.script.plan(step, 0, 1, turn);
            let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| w.commit("two", 2)));
            assert!(cut.unwrap_err().is::<Crash>());
            let (log, _member, mut writer) = w.restart(2, None);
            let found = log.committed("g", &[at()]).unwrap()[0].clone().unwrap().offset;
            let mut expected = vec!["one".to_owned()];
            if found == 2 {
                expected.push("two".to_owned());
                committed += 1;
            }
            expected.push("next".to_owned());
            writer.commit(&[append("next")], &[(at(), Committed { offset: found + 1, metadata: String::new() })]).unwrap();
            assert_eq!(w.outcome(), (expected, Some(found + 1)), "{step} {turn:?}");
        }
    }
    assert_eq!(committed, 3, "from the end on");
}

#[test]
fn a_zombie_commits_nothing() {
    let mut w = World::new(None);
    w.commit("one", 1).unwrap();
    let (_log, _member, mut writer) = w.restart(2, None);
    writer.commit(&[append("two")], &[(at(), Committed { offset: 2, metadata: String::new() })]).unwrap();
    let told = w.commit("ghost", 2);
    assert!(matches!(told, Err(CommitError::Fenced { .. })), "{told:?}");
    assert!(w.member.poll(Duration::ZERO).is_err(), "told that another runs under its name");
    // Out of its session, and nobody came: it joins again and goes on from what is committed.
    let mut w = World::new(None);
    w.commit("one", 1).unwrap();
    w.script.calm.clock.advance_to(w.script.now_ns() + 40 * S);
    assert_eq!(w.member.poll(Duration::ZERO).unwrap(), Some(vec![]));
    let told = w.commit("ghost", 2);
    assert!(matches!(told, Err(CommitError::Fenced { .. })), "{told:?}");
    assert_eq!(w.member.poll(Duration::from_secs(1)).unwrap(), Some(vec![at()]));
    let mut writer = w.member.writer("w").unwrap();
    writer.commit(&[append("two")], &[(at(), Committed { offset: 2, metadata: String::new() })]).unwrap();
    assert_eq!(w.outcome(), (vec!["one".to_owned(), "two".to_owned()], Some(2)));
}

#[test]
fn planted_mistakes_show() {
    // Offsets that went ahead of their records: the record is lost.
    let mut w = World::new(Some(Bug::OffsetsOutside));
    w.script.plan(Step::EpochEnd, 0, 1, Turn::CrashBefore);
    let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| w.commit("lost", 1)));
    assert!(cut.is_err());
    assert_eq!(w.outcome(), (vec![], Some(1)));

    // An unclear commit that is taken for aborted and repeated: twice.
    let mut w = World::new(Some(Bug::AbortUnclear));
    w.script.plan(Step::EpochEnd, 0, 1, Turn::LoseReply);
    w.commit("twice", 1).unwrap();
    assert_eq!(w.outcome().0, ["twice", "twice"]);

    // A restart that fences nobody: its former self goes on, and sets the group back.
    let mut w = World::new(Some(Bug::NoFencing));
    w.commit("one", 1).unwrap();
    let (_log, _member, mut writer) = w.restart(2, Some(Bug::NoFencing));
    for (value, offset) in [("two", 2), ("three", 3)] {
        writer.commit(&[append(value)], &[(at(), Committed { offset, metadata: String::new() })]).unwrap();
    }
    w.commit("two", 2).unwrap();
    assert_eq!(w.outcome(), (["one", "two", "three", "two"].map(str::to_owned).to_vec(), Some(2)));
    assert!(w.log.topics().is_ok());
}
