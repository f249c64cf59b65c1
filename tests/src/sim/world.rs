//! A world: hosts with processes, a cluster, an object store, a clock, and the accidents of a plan. Runs one seed to its
//! end and says whether every promise held.
//!
//! What always holds: who runs next, and when, follows from seed and plan alone; after the last accident everything is
//! started again and must come to rest by itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidewatch::log::{PollLimit, TopicSpec};
use tidewatch::run::Run;
use tidewatch::snapshot::SnapshotStore;
use tidewatch::topology::Topology;
use tidewatch::worker::Side;
use tidewatch_operators::planted::{self, Bug};

use super::baton::{Baton, Coroutine, End, History, MS, seconds};
use super::broker::Part;
use super::check::{Broken, Checker, Reference};
use super::cluster::Cluster;
use super::controls::Control;
use super::fate::{ProcessId, SimClock};
use super::office::{self, Arrangement, Arrival, BEGAN, LAST_S, RowsBelow};
use super::plan::{Accident, Accidents, HEAL_NS, HOSTS, Happened, What};
use super::process::{Process, STAGES, Stopped};
use super::store::SimStore;
use super::tally::{self, Fault};

/// A process that exited is started again after so long.
const RESTART_NS: i64 = 2_000 * MS;
/// An undisturbed run is over so long after the last row: silence has closed everything, all hosts were said to be quiet.
const OVER_NS: i64 = (LAST_S as i64 + 100) * 1_000 * MS;
/// How long a world goes on when it has given all that it should: whatever comes twice comes then.
const GRACE_NS: i64 = 30_000 * MS;
/// Longest time from the last accident to the end.
const REST_NS: i64 = 300_000 * MS;
/// Steps after which a world runs in circles.
const STEPS_MAX: u64 = 4_000_000;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed.
    pub seed: u64,
    /// What goes wrong.
    pub accidents: Vec<Accident>,
    /// A planted bug.
    pub control: Option<Control>,
    /// What must come out; `None` = whatever comes is the reference.
    pub reference: Option<Arc<Reference>>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Seed.
    pub seed: u64,
    /// What broke.
    pub broken: Option<String>,
    /// What it gave, when nothing broke.
    pub reference: Reference,
    /// What happened.
    pub history: History,
    /// Signals published.
    pub signals: u64,
    /// Partitions given to a member that did not hold them.
    pub rebalances: u64,
    /// Digests compared with those of the undisturbed run.
    pub compared: u64,
    /// Simulated time, ns.
    pub took_ns: i64,
}

#[derive(Clone, Debug)]
enum Due {
    Start { host: u32, workers: u32 },
    Successor { host: u32 },
    Stop { host: u32, for_good: bool, back_ms: i64, workers: u32 },
    Partition { topic: usize, partition: u32, away: bool },
    Brokers { part: Option<Part>, away: bool },
}

struct Running {
    host: u32,
    process: Process,
    /// Another has been started in its place.
    replaced: bool,
    strands: usize,
    /// Comes back after it was told to stop: when, with how many workers.
    back: Option<(i64, u32)>,
}

struct World {
    options: Options,
    topology: Topology,
    clock: SimClock,
    baton: Arc<Baton>,
    cluster: Cluster,
    snapshots: SnapshotStore,
    coroutines: Vec<(Coroutine, ProcessId)>,
    running: BTreeMap<ProcessId, Running>,
    next_process: u32,
    due: BTreeMap<(i64, u64), Due>,
    due_sequence: u64,
    arrivals: VecDeque<Arrival>,
    written: RowsBelow,
    checker: Checker,
    changes: u64,
    healed: bool,
    /// Since when all is there that should be.
    complete_ns: Option<i64>,
}

/// Runs a world to its end.
pub fn run(options: Options) -> anyhow::Result<Outcome> {
    planted::plant(options.control.and_then(|c| c.planted()));
    let result = World::new(options).map(World::live);
    planted::plant(None);
    result
}

/// The undisturbed run of an arrangement, with a bug or without.
pub fn undisturbed(arrangement: Arrangement, control: Option<Control>) -> anyhow::Result<Reference> {
    let options = Options { seed: arrangement.0, accidents: Vec::new(), control, reference: None };
    let outcome = run(options)?;
    match outcome.broken {
        None => Ok(outcome.reference),
        Some(broken) => {
            let history = told(&outcome.history, 40);
            anyhow::bail!("the undisturbed run of arrangement {} broke: {broken}\n{history}", arrangement.0)
        }
    }
}

impl World {
    fn new(options: Options) -> anyhow::Result<Self> {
        let arrangement = Arrangement::of(options.seed);
        let topology = office::topology(arrangement);
        let clock = SimClock::at(BEGAN.0);
        let baton = Baton::new(options.seed, clock.clone(), Accidents::new(&options.accidents));
        let cluster = Cluster::new(&baton, &clock, options.seed, options.control);
        for input in &topology.inputs {
            cluster.create(TopicSpec::new(input.topic.clone(), input.partitions.unwrap_or(1)));
        }
        topology.internal_topics().into_iter().for_each(|spec| cluster.create(spec));
        let store = SimStore::new(baton.clone());
        let checker = Checker::new(cluster.broker().clone(), store.clone(), &topology, options.reference.clone());
        let snapshots = SnapshotStore::over(Arc::new(store))?;
        let mut world = Self {
            topology,
            clock,
            baton,
            cluster,
            snapshots,
            coroutines: Vec::new(),
            running: BTreeMap::new(),
            next_process: 1,
            due: BTreeMap::new(),
            due_sequence: 0,
            arrivals: office::arrivals(arrangement).into(),
            written: RowsBelow::default(),
            checker,
            changes: 0,
            healed: false,
            complete_ns: None,
            options,
        };
        world.plan();
        Ok(world)
    }

    fn at(&mut self, at_ns: i64, due: Due) {
        self.due_sequence += 1;
        self.due.insert((at_ns, self.due_sequence), due);
    }

    /// Puts what goes by the clock into the calendar.
    fn plan(&mut self) {
        let mut absent = [false; HOSTS as usize];
        for accident in self.options.accidents.clone() {
            let at_ns = BEGAN.0 + accident.at_ms * MS;
            let host = accident.host;
            match accident.what {
                What::Join { workers } => {
                    absent[host as usize] = true;
                    self.at(at_ns, Due::Start { host, workers });
                }
                What::Stop { for_good, back_ms, workers } => self.at(at_ns, Due::Stop { host, for_good, back_ms, workers }),
                What::Brokers { part, for_ms } => {
                    self.at(at_ns, Due::Brokers { part, away: true });
                    self.at(at_ns + for_ms * MS, Due::Brokers { part, away: false });
                }
                What::Partition { topic, partition, for_ms } => {
                    self.at(at_ns, Due::Partition { topic, partition, away: true });
                    self.at(at_ns + for_ms * MS, Due::Partition { topic, partition, away: false });
                }
                _ => {}
            }
        }
        for host in (0..HOSTS).filter(|h| !absent[*h as usize]) {
            self.at(BEGAN.0 + i64::from(host) * MS, Due::Start { host, workers: 1 });
        }
    }

    fn live(mut self) -> Outcome {
        let broken = self.go().err().map(|Broken(what)| what);
        let reference = if broken.is_none() { self.checker.finish(&self.written) } else { Ok(Reference::default()) };
        let (broken, reference) = match reference {
            Ok(reference) => (broken, reference),
            Err(Broken(what)) => (Some(what), Reference::default()),
        };
        let history = self.baton.history();
        // What still runs is cut where it stands, so that nothing is left on this thread.
        for id in self.running.keys() {
            self.baton.kill(*id);
        }
        for (mut coroutine, _) in std::mem::take(&mut self.coroutines) {
            self.baton.resume(&mut coroutine);
        }
        Outcome {
            seed: self.options.seed,
            broken,
            reference,
            history,
            signals: self.checker.signals,
            rebalances: self.checker.rebalances,
            compared: self.checker.compared,
            took_ns: self.clock.now_ns() - BEGAN.0,
        }
    }

    fn go(&mut self) -> Result<(), Broken> {
        loop {
            let strand = self.baton.earliest(&self.coroutines);
            let due = self.due.first_key_value().map(|((at_ns, _), _)| *at_ns);
            let arrival = self.arrivals.front().map(|a| a.at.0);
            let heal = (!self.healed).then_some(BEGAN.0 + HEAL_NS);
            let next = [strand.map(|(at_ns, _)| at_ns), due, arrival, heal].into_iter().flatten().min();
            let Some(next) = next else { return Err(Broken("nobody runs any more".to_owned())) };
            self.clock.advance_to(next);
            let now = self.clock.now_ns();
            if heal.is_some_and(|at_ns| at_ns <= now) {
                self.heal();
            } else if arrival.is_some_and(|at_ns| at_ns <= now) {
                self.write();
            } else if due.is_some_and(|at_ns| at_ns <= now) {
                if let Some((_, due)) = self.due.pop_first() {
                    self.happens(due);
                }
            } else if let Some((_, index)) = strand {
                self.step(index)?;
            }
            if self.is_over(now) {
                return Ok(());
            }
            if now > BEGAN.0 + HEAL_NS + REST_NS || self.baton.count() > STEPS_MAX {
                let processes = self.running.iter().map(|(id, r)| format!("{id} on host {}\n{}", r.host, r.process.told()));
                let processes: String = processes.collect();
                return Err(Broken(format!("no rest after the last accident: {}\n{processes}", self.checker.positions())));
            }
        }
    }

    /// All that should come has come, and what should not had its time.
    fn is_over(&mut self, now: i64) -> bool {
        if now < BEGAN.0 + OVER_NS || !self.checker.is_complete() {
            self.complete_ns = None;
            return false;
        }
        now - *self.complete_ns.get_or_insert(now) > GRACE_NS
    }

    /// One strand runs to its next step; then everything is looked at.
    fn step(&mut self, index: usize) -> Result<(), Broken> {
        let now = self.clock.now_ns();
        let id = self.coroutines[index].1;
        tally::enter(id.0, now);
        // Only the control that asks for it pays for the sum.
        let sums = self.options.control == Some(Control::Planted(Bug::EvictByProcess));
        let bytes = self.running.get(&id).filter(|_| sums).map_or(0, |r| r.process.state_bytes());
        planted::enter(id.0, bytes);
        let end = self.baton.resume(&mut self.coroutines[index].0);
        let changes = self.cluster.changes();
        if changes != self.changes {
            self.changes = changes;
            self.checker.look(&self.written)?;
            self.checker.snapshots()?;
        }
        if let Some(running) = self.running.get(&id) {
            for reported in running.process.reports() {
                self.checker.reported(reported)?;
            }
        }
        for happened in self.baton.with_accidents(Accidents::happened) {
            self.accident(id, happened);
        }
        if let Some(end) = end {
            self.coroutines.swap_remove(index);
            self.ended(id, end)?;
        }
        Ok(())
    }

    fn write(&mut self) {
        let Some(arrival) = self.arrivals.pop_front() else { return };
        let (at, offset) = self.cluster.write(arrival.append);
        self.written.written(at, offset, arrival.rows);
    }

    fn accident(&mut self, id: ProcessId, happened: Happened) {
        let now = self.clock.now_ns();
        match happened {
            Happened::Crashed { host, back_ms, workers } => {
                self.baton.kill(id);
                if self.running.get(&id).is_some_and(|r| !r.replaced) {
                    self.at(now + back_ms * MS, Due::Start { host, workers });
                }
                if let Some(running) = self.running.get_mut(&id) {
                    running.replaced = true;
                }
            }
            Happened::Paused { host, successor_ms } => {
                if let Some(ms) = successor_ms {
                    self.at(now + ms * MS, Due::Successor { host });
                }
            }
        }
    }

    fn happens(&mut self, due: Due) {
        self.baton.say(format!("{due:?}"));
        match due {
            Due::Start { host, workers } => self.start(host, workers),
            Due::Successor { host } => {
                let paused: Vec<ProcessId> = self.current(host).filter(|id| self.baton.is_paused(*id)).collect();
                for id in paused {
                    if let Some(running) = self.running.get_mut(&id) {
                        running.replaced = true;
                    }
                    self.start(host, 1);
                }
            }
            Due::Stop { host, for_good, back_ms, workers } => {
                let back = self.clock.now_ns() + back_ms * MS;
                let ids: Vec<ProcessId> = self.current(host).collect();
                for id in ids {
                    if let Some(running) = self.running.get_mut(&id) {
                        running.process.stop(for_good);
                        running.back = Some((back, workers));
                    }
                }
            }
            Due::Brokers { part, away } => self.cluster.away(part, away),
            Due::Partition { topic, partition, away } => {
                if let Some(input) = self.topology.inputs.get(topic) {
                    self.cluster.partition_away(&input.topic, partition, away);
                }
            }
        }
    }

    fn current(&self, host: u32) -> impl Iterator<Item = ProcessId> {
        self.running.iter().filter(move |(_, r)| r.host == host && !r.replaced).map(|(id, _)| *id)
    }

    /// Starts the host's process, unless one runs there.
    fn start(&mut self, host: u32, workers: u32) {
        if self.current(host).next().is_some() {
            return;
        }
        let id = ProcessId(self.next_process);
        self.next_process += 1;
        let log = self.cluster.log(id);
        let mut run = Run::new(self.topology.clone(), office::rules(), log, self.clock.clock());
        let fault = self.options.control.map_or(Fault::None, Control::fault);
        run.detectors = tally::detectors(fault);
        run.snapshots = Some(self.snapshots.clone());
        run.side = Side::InPlace;
        run.ordinal = host;
        run.poll = PollLimit { records: 24, ..PollLimit::default() };
        let process = Process::new(&self.baton, run, workers);
        self.baton.add_process(id, host);
        let main = process.clone();
        self.spawn(id, 0, move || main.main());
        for (n, stage) in STAGES.into_iter().enumerate() {
            let strand = process.clone();
            self.spawn(id, 1 + n as u64, move || strand.stage(stage));
        }
        self.baton.say(format!("{id} starts on host {host}, {workers} workers a stage"));
        self.running.insert(id, Running { host, process, replaced: false, strands: 1 + STAGES.len(), back: None });
    }

    fn spawn(&mut self, id: ProcessId, name: u64, body: impl FnOnce() + Send + 'static) {
        let coroutine = self.baton.spawn(id, name, body);
        self.coroutines.push((coroutine, id));
    }

    fn ended(&mut self, id: ProcessId, end: End) -> Result<(), Broken> {
        if let End::Panicked(words) = end {
            return Err(Broken(format!("{id} panicked: {words}")));
        }
        let Some(running) = self.running.get_mut(&id) else { return Ok(()) };
        running.strands -= 1;
        let stopped = running.process.stopped();
        if let Some(Stopped::Broken(words)) = &stopped {
            return Err(Broken(format!("{id} on host {} cannot go on: {words}", running.host)));
        }
        if running.strands > 0 {
            return Ok(());
        }
        let (host, replaced, back) = (running.host, running.replaced, running.back);
        self.running.remove(&id);
        let why = match &stopped {
            Some(Stopped::Exit(words)) => words.clone(),
            _ => "told to, or dead".to_owned(),
        };
        self.baton.say(format!("{id} on host {host} ended: {why}"));
        if !replaced {
            let (at_ns, workers) = match (stopped, back) {
                (None, Some(back)) => back,
                _ => (self.clock.now_ns() + RESTART_NS, 1),
            };
            let at_ns = if self.healed { at_ns.min(self.clock.now_ns() + RESTART_NS) } else { at_ns };
            self.at(at_ns, Due::Start { host, workers });
        }
        Ok(())
    }

    /// No accident any more: everything is there again.
    fn heal(&mut self) {
        self.healed = true;
        self.baton.say("healed: nothing goes wrong from here on".to_owned());
        let told: Vec<String> =
            self.running.iter().map(|(id, r)| format!("{id} on host {}\n{}", r.host, r.process.told())).collect();
        told.into_iter().for_each(|t| self.baton.say(t));
        self.baton.with_accidents(Accidents::heal);
        self.baton.wake_all();
        let inputs: Vec<String> = self.topology.inputs.iter().map(|i| i.topic.clone()).collect();
        self.cluster.heal(&inputs);
        for host in 0..HOSTS {
            self.at(self.clock.now_ns() + RESTART_NS, Due::Start { host, workers: 1 });
        }
    }
}

/// The last lines of a history, for people.
pub fn told(history: &History, lines: usize) -> String {
    let skip = history.lines.len().saturating_sub(lines);
    let lines = history.lines.iter().skip(skip).map(|l| format!("  {:>10}  {}\n", seconds(l.at_ns), l.what));
    lines.collect()
}
