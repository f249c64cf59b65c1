//! Every touch of the outside by a simulated process, as a named step, and who decides what becomes of it.
//!
//! Not the scheduler: that is behind [`Fate`]. What always holds: a process touches brokers, object store and clock only
//! inside [`perform`] or [`Fate::wait`]; no lock is held while fate is asked, so that a process can be stopped there for as
//! long as the scheduler likes; nothing here knows real time or chance.
//!
//! A process is one incarnation: who comes back after a crash, or beside a zombie, is another [`ProcessId`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tidewatch::worker::Clock;
use tidewatch_schemas::time::EventTime;

/// One incarnation of one simulated process; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u32);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// What happens at a step. Steps at which nothing is sent take [`Turn::Go`] and the crashes only ([`Step::sends`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As planned.
    Go,
    /// The process dies; nothing was done.
    CrashBefore,
    /// It is done, and the process dies before it hears of it.
    CrashAfter,
    /// The request never arrives; the process waits for its answer until its time-out.
    LoseRequest,
    /// It is done, and the answer never arrives; the process waits for it until its time-out.
    LoseReply,
    /// The request arrives so many ns later, whatever becomes of its sender; who waits less long gives up before.
    Delay(i64),
}

/// Who decides. Implemented by the scheduler; every call may block for as long as it likes, and may also unwind with
/// [`crash`] by itself.
pub trait Fate: Send + Sync {
    /// A process stands before a step.
    fn at(&self, process: ProcessId, step: Step) -> Turn;

    /// The step is done, and the process has not yet seen what came of it. `true` = it never will: it dies here.
    fn after(&self, process: ProcessId, step: Step) -> bool;

    /// The process has nothing to do before `until_ns` of simulated time. May return earlier; the caller looks again.
    fn wait(&self, process: ProcessId, until_ns: i64);

    /// Whether what a process sends in the background (heartbeats) arrives now.
    fn reaches(&self, process: ProcessId) -> bool {
        let _ = process;
        true
    }

    /// Simulated time, ns. Never goes back.
    fn now_ns(&self) -> i64;
}

/// What a crash unwinds with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash;

/// Ends the simulated process here: everything above is cut. No panic hook runs.
pub fn crash() -> ! {
    std::panic::resume_unwind(Box::new(Crash))
}

/// What came of a step, as far as its process can know... and as far as the simulation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Performed<T> {
    /// Done, and answered.
    Done(T),
    /// Not done and not answered: wait until the time-out.
    Lost,
    /// Done and not answered: wait until the time-out.
    Unheard(T),
    /// Not done yet: it must be done so many ns later by whoever received it.
    Late(i64),
}

/// One step: asks fate before and after. `act` is what the other side does.
pub fn perform<T>(fate: &dyn Fate, process: ProcessId, step: Step, act: impl FnOnce() -> T) -> Performed<T> {
    let turn = fate.at(process, step);
    let (done, heard) = match turn {
        Turn::CrashBefore => crash(),
        Turn::LoseRequest if step.sends() => (None, false),
        Turn::Delay(ns) if step.sends() && ns > 0 => {
            if fate.after(process, step) {
                crash();
            }
            return Performed::Late(ns);
        }
        Turn::LoseReply if step.sends() => (Some(act()), false),
        _ => (Some(act()), true),
    };
    if fate.after(process, step) || turn == Turn::CrashAfter {
        crash();
    }
    match done {
        None => Performed::Lost,
        Some(value) if heard => Performed::Done(value),
        Some(value) => Performed::Unheard(value),
    }
}

/// The clock of a simulation. Only the scheduler moves it.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<AtomicI64>);

impl SimClock {
    /// A clock that shows `now_ns`.
    pub fn at(now_ns: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now_ns)))
    }

    /// Now, ns.
    pub fn now_ns(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Moves on to a moment; never back.
    pub fn advance_to(&self, now_ns: i64) {
        self.0.fetch_max(now_ns, Ordering::SeqCst);
    }

    /// As the pipeline wants it.
    pub fn clock(&self) -> Clock {
        let clock = self.clone();
        Arc::new(move || EventTime(clock.now_ns()))
    }
}

/// A fate without accidents, for tests: everything goes, and waiting moves the clock.
#[derive(Clone, Debug, Default)]
pub struct Calm {
    /// Its clock.
    pub clock: SimClock,
}

impl Fate for Calm {
    fn at(&self, _: ProcessId, _: Step) -> Turn {
        Turn::Go
    }

    fn after(&self, _: ProcessId, _: Step) -> bool {
        false
    }

    fn wait(&self, _: ProcessId, until_ns: i64) {
        self.clock.advance_to(until_ns);
    }

    fn now_ns(&self) -> i64 {
        self.clock.now_ns()
    }
}

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal $sends:literal,)+) => {
        /// Every way in which a simulated process touches the outside.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Step {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Step {
            /// All of them, in the order of a process's life: a report shows that each was hit.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Name in reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// A request leaves the process, so that it can be lost or late.
            pub fn sends(self) -> bool {
                match self { $(Self::$variant => $sends,)+ }
            }
        }
    };
}

steps! {
    /// Joins its group.
    RestartJoin = "restart.join" true,
    /// Opens a writer: init of the transactional id, which ends what an earlier producer left and fences it.
    RestartInitProducer = "restart.init_producer" true,
    /// Asks what its group has committed for a partition.
    RestartCommitted = "restart.committed" true,
    /// Asks for the bounds of a partition.
    RestartOffsets = "restart.offsets" true,
    /// Opens a reader.
    RestartReader = "restart.reader" true,
    /// Reads below a snapshot's position.
    RestartRefillPoll = "restart.refill.poll" true,
    /// Reads below the committed offset, outputs muted.
    RestartMutedPoll = "restart.muted.poll" true,
    /// Reads.
    LivePoll = "live.poll" true,
    /// Serves the group.
    GroupPoll = "group.poll" true,
    /// Leaves the group for good.
    GroupLeave = "group.leave" true,
    /// Reads the committed offsets before the first epoch on partitions that were just given to it.
    EpochStarts = "epoch.starts" true,
    /// Begins a transaction: nothing is sent.
    EpochBegin = "epoch.begin" false,
    /// Adds the partitions of the epoch's records to the transaction.
    EpochPartitions = "epoch.partitions" true,
    /// Sends the records of one partition.
    EpochAppend = "epoch.append" true,
    /// Adds the group to the transaction.
    EpochGroup = "epoch.group" true,
    /// Sends the offsets.
    EpochOffsets = "epoch.offsets" true,
    /// Asks for the end of the transaction: the commit.
    EpochEnd = "epoch.end" true,
    /// Looks whether the epoch can be read.
    EpochVisible = "epoch.visible" true,
    /// Asks for an abort.
    EpochAbort = "epoch.abort" true,
    /// Opens a producer after an abort.
    EpochReopen = "epoch.reopen" true,
    /// Opens a producer of the same id after an unclear commit.
    SettleInit = "settle.init" true,
    /// Reads the committed offsets after an unclear commit.
    SettleCommitted = "settle.committed" true,
    /// Reads a stored record back after an unclear commit.
    SettleReadBack = "settle.read_back" true,
    /// Asks for topics or partition counts.
    LogMetadata = "log.metadata" true,
    /// Makes a topic.
    LogCreate = "log.create" true,
    /// Finds an offset by time.
    LogByTime = "log.by_time" true,
    /// Removes records.
    LogDelete = "log.delete" true,
    /// Writes an object.
    SnapshotPut = "snapshot.put" true,
    /// Reads an object.
    SnapshotGet = "snapshot.get" true,
    /// Asks for an object's size and time.
    SnapshotHead = "snapshot.head" true,
    /// Lists objects.
    SnapshotList = "snapshot.list" true,
    /// Removes an object.
    SnapshotDelete = "snapshot.delete" true,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use super::*;

    /// Gives the turns it was told, then lets everything go.
    #[derive(Default)]
    struct Told(Mutex<Vec<Turn>>);

    impl Fate for Told {
        fn at(&self, _: ProcessId, _: Step) -> Turn {
            self.0.lock().unwrap().pop().unwrap_or(Turn::Go)
        }
        fn after(&self, _: ProcessId, _: Step) -> bool {
            false
        }
        fn wait(&self, _: ProcessId, _: i64) {}
        fn now_ns(&self) -> i64 {
            0
        }
    }

    /// How often it was done, and what came of it; `None` = the process died.
    fn done(turn: Turn, step: Step) -> (u32, Option<Performed<()>>) {
        let fate = Told(Mutex::new(vec![turn]));
        let mut times = 0;
        let act = std::panic::AssertUnwindSafe(|| perform(&fate, ProcessId(1), step, || times += 1));
        let came = std::panic::catch_unwind(act).map_err(|e| assert!(e.is::<Crash>())).ok();
        (times, came)
    }

    #[test]
    fn a_step_is_done_or_not_as_fate_says() {
        let step = Step::EpochEnd;
        assert_eq!(done(Turn::Go, step), (1, Some(Performed::Done(()))));
        assert_eq!(done(Turn::CrashBefore, step), (0, None));
        assert_eq!(done(Turn::CrashAfter, step), (1, None));
        assert_eq!(done(Turn::LoseRequest, step), (0, Some(Performed::Lost)));
        assert_eq!(done(Turn::LoseReply, step), (1, Some(Performed::Unheard(()))));
        assert_eq!(done(Turn::Delay(5), step), (0, Some(Performed::Late(5))));
        assert_eq!(done(Turn::LoseRequest, Step::EpochBegin), (1, Some(Performed::Done(()))), "nothing is sent");
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<&str> = Step::ALL.iter().map(|s| s.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
    }
}
