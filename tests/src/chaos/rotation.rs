//! One rotation: the state of things is looked at, something is done to it, and everything must go on.
//!
//! What always holds: a rotation begins with every broker in sync, every worker owning tasks, and every stage committing;
//! it counts only if, at the very moment, the last commit of each stage was seconds ago, slices were open and records in
//! flight. Times run from the deed to the first commit of each task after what was committed then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tidewatch::log::TopicPartition;
use tidewatch::topology::Stage;

use super::feed::{Feed, Partitions};
use super::fleet::Fleet;
use super::kinds::Kind;
use super::scene::{COMMIT_S, SESSION_S, Scene};
use super::watch::{Moment, Positions, STAGES, Task, Watch};
use crate::cluster::Cluster;
use crate::proxy::Lose;

/// Longest wait for tasks to commit again.
const RECOVERY_WAIT: Duration = Duration::from_secs(120);
/// Longest wait for a steady state before a rotation.
const STEADY_WAIT: Duration = Duration::from_secs(120);
/// A stage that has not committed for longer was not at work.
const QUIET_S_MAX: f64 = 3.0;
/// What was under way at the deed is told apart from what comes after it.
const ECHO: Duration = Duration::from_millis(250);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two questions about who owns what.
const OWNERS_PAUSE: Duration = Duration::from_millis(300);
/// How often that is asked.
const OWNERS_TRIES: u32 = 30;
/// Longest wait for a commit to run into the trap.
const TRAP_WAIT: Duration = Duration::from_secs(20);

/// What became of a rotation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rotation {
    /// What was done.
    pub kind: Kind,
    /// To whom, and what happened.
    pub what: String,
    /// Slices open at the moment.
    pub open_slices: i64,
    /// Records in flight at the moment.
    pub in_flight: i64,
    /// Seconds to the next commit of the tasks concerned: on another worker, or in place.
    pub recovery_s: Option<f64>,
    /// Seconds to the next commit of all tasks.
    pub all_s: f64,
    /// Seconds in all, with the wait for a steady state.
    pub took_s: f64,
    /// Why it does not count.
    pub not_counted: Option<String>,
}

/// Everything a rotation touches.
pub struct Stand<'a> {
    /// Brokers.
    pub cluster: &'a mut Cluster,
    /// Workers.
    pub fleet: Fleet,
    /// Input.
    pub feed: Feed,
    /// Committed positions.
    pub watch: Watch,
    /// Partitions of the inputs.
    pub partitions: Partitions,
    /// Scene.
    pub scene: Scene,
}

/// What was done, before it is known how it ended.
struct Deed {
    what: String,
    recovery_s: Option<f64>,
    at: Instant,
    base: Positions,
}

impl Stand<'_> {
    /// One rotation.
    pub fn rotate(&mut self, kind: Kind, random: &mut ChaCha8Rng) -> Result<Rotation> {
        let began = Instant::now();
        self.wait_until_steady()?;
        // Anywhere between two epochs.
        self.pause(Duration::from_millis(random.random_range(0..1_000)))?;
        let victim = random.random_range(0..self.fleet.size() as u32);
        let moment = self.watch.moment(&self.feed.fed);
        let deed = match kind {
            Kind::KillInPlace => self.kill_in_place(victim),
            Kind::KillAndLeave => self.kill_and_leave(victim),
            Kind::KillBroker => {
                let broker = random.random_range(0..self.cluster.size());
                self.kill_broker(broker, "any", random)
            }
            Kind::KillCoordinator => {
                let stage = STAGES[random.random_range(0..STAGES.len())];
                let id = self.writer_id(stage, victim);
                let broker = self.cluster.transaction_coordinator(&id)?;
                self.kill_broker(broker, &format!("coordinator of {id}"), random)
            }
            Kind::Freeze => self.freeze(victim, false),
            Kind::FreezeAndReplace => self.freeze(victim, true),
            Kind::Drain => self.drain(victim),
            Kind::Scale => self.scale(victim),
            Kind::CutOnce | Kind::CutUntilSettled => {
                let stage = STAGES[random.random_range(0..STAGES.len())];
                self.cut(stage, victim, kind == Kind::CutUntilSettled)
            }
            Kind::AddPartition => {
                let source = self.scene.sources[random.random_range(0..self.scene.sources.len())];
                self.add_partition(source.topic)
            }
        }?;
        let all = self.watch.all();
        let all_s = self.until_committed(&all, &deed.base, deed.at)?;
        self.cluster.wait_until_in_sync(RECOVERY_WAIT)?;
        let Moment { open_slices, in_flight, .. } = moment;
        Ok(Rotation {
            kind,
            what: deed.what,
            open_slices,
            in_flight,
            recovery_s: deed.recovery_s,
            all_s,
            took_s: began.elapsed().as_secs_f64(),
            not_counted: self.why_not(moment),
        })
    }

    /// Waits until everybody is there, owns something and commits.
    pub fn wait_until_steady(&mut self) -> Result<()> {
        let began = Instant::now();
        self.cluster.wait_until_in_sync(STEADY_WAIT)?;
        let mut lacking = String::new();
        while began.elapsed() < STEADY_WAIT {
            self.tend()?;
            lacking = match self.lacking() {
                Ok(None) => return Ok(()),
                Ok(Some(what)) => what,
                Err(error) => error.to_string(),
            };
            std::thread::sleep(OWNERS_PAUSE);
        }
        bail!("no steady state within {STEADY_WAIT:?}: {lacking}")
    }

    /// Why a moment proves nothing.
    fn why_not(&self, moment: Moment) -> Option<String> {
        // Where rows pause, a stage may have nothing to commit.
        let paused = self.scene.pauses.is_some();
        if moment.quiet_s > QUIET_S_MAX && !paused {
            return Some(format!("a stage had not committed for {:.1} s", moment.quiet_s));
        }
        if moment.open_slices < 1 {
            return Some("no slice was open".to_owned());
        }
        (moment.in_flight < 1 && !paused).then(|| "nothing was in flight".to_owned())
    }

    /// What a steady state lacks.
    fn lacking(&self) -> Result<Option<String>> {
        let running = self.fleet.running();
        if running.len() < self.fleet.size() {
            return Ok(Some(format!("only workers {running:?} run")));
        }
        let mut owned: BTreeSet<Task> = BTreeSet::new();
        for worker in running {
            let tasks = self.watch.tasks_of(worker)?;
            if let Some(stage) = STAGES.into_iter().find(|s| !tasks.iter().any(|(of, _)| of == s)) {
                return Ok(Some(format!("worker {worker} has no {} task", stage.name())));
            }
            owned.extend(tasks);
        }
        if let Some((stage, at)) = self.watch.all().difference(&owned).next() {
            return Ok(Some(format!("nobody owns {at} of {}", stage.name())));
        }
        if let Some((stage, at)) = self.watch.positions().into_iter().find(|(_, o)| *o == 0).map(|(t, _)| t) {
            return Ok(Some(format!("{at} of {} has committed nothing", stage.name())));
        }
        let moment = self.watch.moment(&self.feed.fed);
        Ok(self.why_not(moment))
    }

    fn kill_in_place(&mut self, victim: u32) -> Result<Deed> {
        let tasks = self.owned_by(victim)?;
        let at = Instant::now();
        self.fleet.kill(victim as usize)?;
        self.fleet.start(victim as usize)?;
        self.echo(at)?;
        let base = self.watch.positions();
        let recovery_s = self.until_committed(&tasks, &base, at)?;
        Ok(Deed { what: format!("worker {victim}, {} tasks", tasks.len()), recovery_s: Some(recovery_s), at, base })
    }

    fn kill_and_leave(&mut self, victim: u32) -> Result<Deed> {
        let tasks = self.owned_by(victim)?;
        let at = Instant::now();
        self.fleet.kill(victim as usize)?;
        self.echo(at)?;
        let base = self.watch.positions();
        let recovery_s = self.until_committed(&tasks, &base, at)?;
        self.fleet.start(victim as usize)?;
        Ok(Deed { what: format!("worker {victim}, {} tasks", tasks.len()), recovery_s: Some(recovery_s), at, base })
    }

    fn kill_broker(&mut self, broker: usize, which: &str, random: &mut ChaCha8Rng) -> Result<Deed> {
        let at = Instant::now();
        self.cluster.kill(broker)?;
        self.echo(at)?;
        let base = self.watch.positions();
        let all = self.watch.all();
        let recovery_s = self.until_committed(&all, &base, at)?;
        self.pause(Duration::from_millis(random.random_range(0..2_000)))?;
        self.cluster.launch(broker)?;
        Ok(Deed { what: format!("broker {broker} ({which})"), recovery_s: Some(recovery_s), at, base })
    }

    fn freeze(&mut self, victim: u32, replaced: bool) -> Result<Deed> {
        let tasks = self.owned_by(victim)?;
        let at = Instant::now();
        self.fleet.freeze(victim as usize)?;
        // Its successor runs beside it; the zombie is let go on its own.
        let zombie = if replaced { self.fleet.start(victim as usize)? } else { None };
        self.echo(at)?;
        let base = self.watch.positions();
        let recovery_s = self.until_committed(&tasks, &base, at)?;
        self.pause(Duration::from_secs(u64::from(SESSION_S) + 2).saturating_sub(at.elapsed()))?;
        let slept = at.elapsed().as_secs_f64();
        let mut what = format!("worker {victim}, {} tasks, stopped {slept:.1} s", tasks.len());
        if let Some(mut zombie) = zombie {
            zombie.signal("CONT")?;
            let woken = Instant::now();
            while zombie.check().is_ok() && woken.elapsed() < Duration::from_secs(8) {
                self.pause(OWNERS_PAUSE)?;
            }
            what += match zombie.check() {
                Ok(()) => ", then killed",
                Err(_) => ", then ended by itself",
            };
            // It may not have noticed yet; it is not needed any more.
            drop(zombie);
        } else {
            self.fleet.thaw(victim as usize)?;
        }
        Ok(Deed { what, recovery_s: Some(recovery_s), at, base })
    }

    fn drain(&mut self, victim: u32) -> Result<Deed> {
        let tasks = self.owned_by(victim)?;
        let at = Instant::now();
        let drained = self.fleet.stop(victim as usize)?;
        self.fleet.start(victim as usize)?;
        self.echo(at + drained)?;
        let base = self.watch.positions();
        let recovery_s = self.until_committed(&tasks, &base, at)?;
        let what = format!("worker {victim}, {} tasks, ended in {:.1} s", tasks.len(), drained.as_secs_f64());
        Ok(Deed { what, recovery_s: Some(recovery_s), at, base })
    }

    fn scale(&mut self, stays: u32) -> Result<Deed> {
        let others: Vec<usize> = (0..self.fleet.size()).filter(|i| *i != stays as usize).collect();
        let at = Instant::now();
        let mut base = self.watch.positions();
        for steps in [&others[..], &others[..1]] {
            for worker in steps {
                self.fleet.stop(*worker)?;
            }
            // Static members keep their places until their sessions end.
            self.echo(Instant::now())?;
            base = self.watch.positions();
            let all = self.watch.all();
            self.until_committed(&all, &base, at)?;
            for worker in steps {
                self.fleet.start(*worker)?;
            }
            self.wait_until_steady()?;
        }
        Ok(Deed { what: format!("down to worker {stays}, up, without worker {}, up", others[0]), recovery_s: None, at, base })
    }

    fn cut(&mut self, stage: Stage, victim: u32, until_settled: bool) -> Result<Deed> {
        let mut tasks = self.owned_by(victim)?;
        tasks.retain(|(of, _)| *of == stage);
        let id = self.writer_id(stage, victim);
        self.cluster.trap().arm(Lose::Connection, &id, if until_settled { None } else { Some(1) });
        let armed = Instant::now();
        while self.cluster.trap().caught() == 0 {
            if armed.elapsed() > TRAP_WAIT {
                self.cluster.trap().disarm();
                bail!("{id} ended no transaction within {TRAP_WAIT:?}");
            }
            self.pause(LOOK_PAUSE)?;
        }
        let at = Instant::now();
        if until_settled {
            self.pause(Duration::from_secs(2 * u64::from(COMMIT_S)))?;
        }
        self.cluster.trap().disarm();
        let caught = self.cluster.trap().caught();
        self.echo(Instant::now())?;
        let base = self.watch.positions();
        let recovery_s = self.until_committed(&tasks, &base, at)?;
        Ok(Deed { what: format!("{id}, {caught} answers"), recovery_s: Some(recovery_s), at, base })
    }

    fn add_partition(&mut self, topic: &str) -> Result<Deed> {
        let now = self.partitions.lock().map_or(0, |p| p.get(topic).copied().unwrap_or(0));
        let at = Instant::now();
        let base = self.watch.positions();
        self.cluster.grow(topic, now + 1)?;
        if let Ok(mut partitions) = self.partitions.lock() {
            partitions.insert(topic.to_owned(), now + 1);
        }
        let new: BTreeSet<Task> = [(Stage::Normalize, TopicPartition::new(topic, now))].into();
        let recovery_s = self.until_committed(&new, &base, at)?;
        Ok(Deed { what: format!("{topic} has {} now", now + 1), recovery_s: Some(recovery_s), at, base })
    }

    /// Waits until each of the tasks has committed more than it had. Seconds of the slowest since `at`, or, where nothing was
    /// there to commit then, since a record was: with many partitions that is seconds later.
    fn until_committed(&mut self, tasks: &BTreeSet<Task>, base: &Positions, at: Instant) -> Result<f64> {
        let began = Instant::now();
        let mut behind: BTreeMap<&Task, Option<Instant>> = tasks.iter().map(|task| (task, None)).collect();
        let mut slowest = Duration::ZERO;
        loop {
            let positions = self.watch.positions();
            let stands = |task: &Task, positions: &Positions| positions.get(task).copied().unwrap_or(0);
            let fed = &self.feed.fed;
            behind.retain(|task, came| {
                // What a stage further down reads comes all the time.
                let waits = task.0 != Stage::Normalize || fed.end(&task.1) > stands(task, base);
                if waits && came.is_none() {
                    *came = Some(if began.elapsed() < LOOK_PAUSE { at } else { Instant::now() });
                }
                let done = stands(task, &positions) > stands(task, base);
                if done {
                    slowest = slowest.max(came.unwrap_or(at).elapsed());
                }
                !done
            });
            if behind.is_empty() {
                return Ok(slowest.as_secs_f64());
            }
            if began.elapsed() > RECOVERY_WAIT {
                let behind: Vec<String> = behind.keys().map(|(s, at)| format!("{} of {at}", s.name())).collect();
                bail!("no commit within {RECOVERY_WAIT:?}: {}", behind.join(", "));
            }
            self.tend()?;
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Lets what was under way before a deed become visible.
    fn echo(&mut self, since: Instant) -> Result<()> {
        self.pause(ECHO.saturating_sub(since.elapsed()))
    }

    fn pause(&mut self, time: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.tend()?;
            std::thread::sleep(LOOK_PAUSE.min(time));
        }
        Ok(())
    }

    /// Sees to it that whoever ended by itself is started again.
    fn tend(&mut self) -> Result<()> {
        self.feed.fed.check()?;
        self.cluster.check()?;
        self.fleet.tend()
    }

    /// A worker's tasks. A coordinator that was just elected is asked again.
    fn owned_by(&mut self, worker: u32) -> Result<BTreeSet<Task>> {
        for _ in 0..OWNERS_TRIES {
            match self.watch.tasks_of(worker) {
                Ok(tasks) if !tasks.is_empty() => return Ok(tasks),
                _ => self.pause(OWNERS_PAUSE)?,
            }
        }
        bail!("nobody says what worker {worker} owns")
    }

    fn writer_id(&self, stage: Stage, worker: u32) -> String {
        self.scene.names(self.scene.deployment).writer_id(stage, worker, 0)
    }
}
