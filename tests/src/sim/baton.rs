//! The baton: simulated threads (strands) of which one runs at a time, and the moment at which each goes on. Every step
//! of a process ([`Fate::at`]) hands the baton back; whose moment is next has it. Strands are coroutines, so a world needs
//! one thread of the machine and costs no context switch of it.
//!
//! Knows processes and steps; not what a broker is, nor which accident is planned: that is [`Accidents`].
//!
//! What always holds: everything is decided by the seed, so that one seed is one run; time only moves when nobody can go
//! on; a dead process never runs again: its strands are cut where they stand; a paused one stands still, all of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use generator::{Generator, Gn};

use super::fate::{Crash, Fate, ProcessId, SimClock, Step, Turn, crash};
use super::plan::Accidents;

/// Words of a strand's stack: 1 MiB, of which the machine gives only what is used.
const STACK_WORDS: usize = (1 << 20) / size_of::<usize>();

/// Lines of history kept for a report.
const HISTORY_LINES_MAX: usize = 4_000;

/// A millisecond.
pub const MS: i64 = 1_000_000;

/// How a strand ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Returned,
    /// Its process died.
    Crashed,
    /// A bug: the panic's words.
    Panicked(String),
}

/// A simulated thread's number.
pub type StrandId = usize;

struct Strand {
    process: ProcessId,
    wake_ns: i64,
    random: Random,
}

#[derive(Default)]
struct Process {
    host: u32,
    dead: bool,
    /// Stands still until then.
    paused_ns: i64,
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, ns.
    pub at_ns: i64,
    /// What.
    pub what: String,
}

/// What happened, for reports: coverage and the last lines.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// How often each step was come to.
    pub steps: BTreeMap<Step, u64>,
    /// Crashes at a step, in order; true = after it.
    pub crashes: Vec<(Step, bool)>,
    /// The last lines.
    pub lines: std::collections::VecDeque<Line>,
    /// Digest of every step and turn: equal histories have the same.
    pub digest: u64,
    /// Steps so far.
    pub count: u64,
}

struct State {
    strands: Vec<Option<Strand>>,
    processes: BTreeMap<ProcessId, Process>,
    current: Option<StrandId>,
    accidents: Accidents,
    history: History,
    /// Slow answers of the object store, which cannot hand the baton on: spent at the strand's next step.
    owed_ns: i64,
}

/// The scheduler.
pub struct Baton {
    clock: SimClock,
    seed: u64,
    state: Mutex<State>,
}

impl std::fmt::Debug for Baton {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Baton({})", self.seed)
    }
}

/// A strand that can run.
pub struct Coroutine {
    id: StrandId,
    body: Generator<'static, (), Option<End>>,
}

/// SplitMix64: a stream of its own for every strand, so that leaving out one accident changes nothing elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream named by parts.
    pub fn of(parts: &[u64]) -> Self {
        let mut random = Self(0x7477_5369_6d75_6c61);
        for part in parts {
            random.0 ^= part.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            random.0 = random.bits();
        }
        random
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..n`; 0 for 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.bits() % n }
    }

    /// In `from..to`.
    pub fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below(u64::try_from(to - from).unwrap_or(0)) as i64
    }

    /// With a chance of so many in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

/// Hands the baton back to the scheduler.
#[allow(deprecated, reason = "the scoped form needs the scope at every depth; a step is asked for deep inside the pipeline")]
fn hand_back() {
    generator::yield_with(None::<End>);
}

impl Baton {
    /// Nobody runs yet.
    pub fn new(seed: u64, clock: SimClock, accidents: Accidents) -> Arc<Self> {
        let state = State {
            strands: Vec::new(),
            processes: BTreeMap::new(),
            current: None,
            accidents,
            history: History::default(),
            owed_ns: 0,
        };
        Arc::new(Self { clock, seed, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process on a host; it has no strand yet.
    pub fn add_process(&self, process: ProcessId, host: u32) {
        self.state().processes.insert(process, Process { host, ..Process::default() });
    }

    /// A strand of a process; it runs first at the next moment.
    pub fn spawn(self: &Arc<Self>, process: ProcessId, name: u64, body: impl FnOnce() + Send + 'static) -> Coroutine {
        let now = self.clock.now_ns();
        let mut state = self.state();
        let id = state.strands.len();
        let mut random = Random::of(&[self.seed, u64::from(process.0), name]);
        let wake_ns = now + random.between(0, MS);
        state.strands.push(Some(Strand { process, wake_ns, random }));
        drop(state);
        let job = move || {
            let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            Some(match end {
                Ok(()) => End::Returned,
                Err(cause) if cause.is::<Crash>() => End::Crashed,
                Err(cause) => End::Panicked(words(&*cause)),
            })
        };
        Coroutine { id, body: Gn::new_opt(STACK_WORDS, job) }
    }

    /// Who goes on first, and when. Of equal moments the one that was spawned first.
    pub fn earliest(&self, of: &[(Coroutine, ProcessId)]) -> Option<(i64, usize)> {
        let state = self.state();
        let moment = |index: usize, coroutine: &Coroutine| {
            let strand = state.strands[coroutine.id].as_ref()?;
            let process = state.processes.get(&strand.process)?;
            // Strands of a dead process are cut at once.
            let wakes = if process.dead { i64::MIN } else { strand.wake_ns.max(process.paused_ns) };
            Some((wakes, coroutine.id, index))
        };
        let first = of.iter().enumerate().filter_map(|(index, (coroutine, _))| moment(index, coroutine)).min()?;
        Some((first.0, first.2))
    }

    /// Everybody who stands still goes on.
    pub fn wake_all(&self) {
        self.state().processes.values_mut().for_each(|p| p.paused_ns = 0);
    }

    /// Lets a strand run to its next step. `Some` when it has ended.
    pub fn resume(&self, coroutine: &mut Coroutine) -> Option<End> {
        {
            let mut state = self.state();
            state.current = Some(coroutine.id);
            state.owed_ns = 0;
        }
        let end = coroutine.body.resume().flatten();
        let mut state = self.state();
        state.current = None;
        if end.is_some() {
            state.strands[coroutine.id] = None;
        }
        end
    }

    /// The running strand has nothing to do for so long.
    pub fn rest(&self, ns: i64) {
        self.until(self.clock.now_ns() + ns.max(0));
    }

    fn until(&self, wake_ns: i64) {
        if std::thread::panicking() {
            return;
        }
        {
            let mut state = self.state();
            let Some(id) = state.current else { return };
            let owed_ns = std::mem::take(&mut state.owed_ns);
            if let Some(strand) = &mut state.strands[id] {
                strand.wake_ns = wake_ns + owed_ns;
            }
        }
        hand_back();
        if self.is_dead() {
            crash();
        }
    }

    fn is_dead(&self) -> bool {
        let state = self.state();
        let strand = state.current.and_then(|id| state.strands[id].as_ref());
        strand.is_some_and(|s| state.processes.get(&s.process).is_none_or(|p| p.dead))
    }

    /// The process is gone: its strands are cut at their next moment.
    pub fn kill(&self, process: ProcessId) {
        if let Some(p) = self.state().processes.get_mut(&process) {
            p.dead = true;
        }
    }

    /// The process stands still until then.
    pub fn pause(&self, process: ProcessId, until_ns: i64) {
        if let Some(p) = self.state().processes.get_mut(&process) {
            p.paused_ns = p.paused_ns.max(until_ns);
        }
    }

    /// Whether it still stands still.
    pub fn is_paused(&self, process: ProcessId) -> bool {
        let now = self.clock.now_ns();
        self.state().processes.get(&process).is_some_and(|p| p.paused_ns > now)
    }

    /// What is planned, to arm or end it.
    pub fn with_accidents<T>(&self, act: impl FnOnce(&mut Accidents) -> T) -> T {
        act(&mut self.state().accidents)
    }

    /// Writes a line of history.
    pub fn say(&self, what: String) {
        let at_ns = self.clock.now_ns();
        self.state().history.line(at_ns, what);
    }

    /// What happened so far.
    pub fn history(&self) -> History {
        self.state().history.clone()
    }

    /// Steps so far.
    pub fn count(&self) -> u64 {
        self.state().history.count
    }

    /// A step that cannot hand the baton on (the object store's, inside a runtime). `delay` is what the strand owes.
    pub fn at_once(&self, step: Step) -> (Turn, Option<ProcessId>) {
        if std::thread::panicking() {
            return (Turn::Go, None);
        }
        let process = {
            let mut state = self.state();
            let Some(id) = state.current else { return (Turn::Go, None) };
            let Some(strand) = &mut state.strands[id] else { return (Turn::Go, None) };
            let (process, ns) = (strand.process, latency(&mut strand.random));
            state.owed_ns += ns;
            process
        };
        (self.decide(process, step), Some(process))
    }

    /// The running strand loses so much time before its next step.
    pub fn owe(&self, ns: i64) {
        self.state().owed_ns += ns;
    }

    fn decide(&self, process: ProcessId, step: Step) -> Turn {
        let now = self.clock.now_ns();
        let mut state = self.state();
        let State { processes, accidents, history, strands, current, .. } = &mut *state;
        let host = processes.get(&process).map_or(u32::MAX, |p| p.host);
        let Some(strand) = current.and_then(|id| strands[id].as_mut()) else { return Turn::Go };
        let (turn, stands_ns) = accidents.turn(now, host, step, &mut strand.random);
        if let Some(until_ns) = stands_ns
            && let Some(p) = processes.get_mut(&process)
        {
            p.paused_ns = p.paused_ns.max(until_ns);
            history.line(now, format!("{process} host {host} stands still before {step} until {}", seconds(until_ns)));
        }
        *history.steps.entry(step).or_default() += 1;
        history.absorb(now, process, step, turn);
        if turn != Turn::Go {
            history.line(now, format!("{process} host {host} {step}: {turn:?}"));
        }
        match turn {
            Turn::CrashBefore => history.crashes.push((step, false)),
            Turn::CrashAfter => history.crashes.push((step, true)),
            _ => {}
        }
        turn
    }
}

/// How long a request takes: mostly a fraction of a millisecond, now and then much longer.
fn latency(random: &mut Random) -> i64 {
    match random.below(100) {
        0 => random.between(20 * MS, 400 * MS),
        1..6 => random.between(2 * MS, 20 * MS),
        _ => random.between(MS / 10, MS),
    }
}

impl Fate for Baton {
    fn at(&self, process: ProcessId, step: Step) -> Turn {
        if std::thread::panicking() {
            return Turn::Go;
        }
        let wait_ns = {
            let mut state = self.state();
            let Some(id) = state.current else { return Turn::Go };
            let Some(strand) = &mut state.strands[id] else { return Turn::Go };
            latency(&mut strand.random)
        };
        self.rest(wait_ns);
        let turn = self.decide(process, step);
        // A pause that begins here: the process stands at this step, and what it was about to do it does when it wakes.
        if self.is_paused(process) {
            self.rest(0);
        }
        turn
    }

    fn after(&self, process: ProcessId, step: Step) -> bool {
        if std::thread::panicking() {
            return false;
        }
        let waits_ns = {
            let now = self.clock.now_ns();
            let mut state = self.state();
            let State { processes, accidents, history, strands, current, .. } = &mut *state;
            let Some(id) = *current else { return false };
            let Some(strand) = &mut strands[id] else { return false };
            let host = processes.get(&process).map_or(u32::MAX, |p| p.host);
            if let Some(until_ns) = accidents.stands_after(now, host, step)
                && let Some(p) = processes.get_mut(&process)
            {
                p.paused_ns = p.paused_ns.max(until_ns);
                history.line(now, format!("{process} host {host} stands still after {step} until {}", seconds(until_ns)));
            }
            let paused = processes.get(&process).is_some_and(|p| p.paused_ns > now);
            // Answers are mostly heard at once; now and then others act between a deed and its answer.
            if paused || strand.random.chance(60) { Some(latency(&mut strand.random)) } else { None }
        };
        if let Some(ns) = waits_ns {
            self.rest(ns);
        }
        false
    }

    fn reaches(&self, process: ProcessId) -> bool {
        let now = self.clock.now_ns();
        let state = self.state();
        state.processes.get(&process).is_none_or(|p| !state.accidents.is_cut(now, p.host))
    }

    fn wait(&self, _: ProcessId, until_ns: i64) {
        self.until(until_ns.max(self.clock.now_ns() + 1));
    }

    fn now_ns(&self) -> i64 {
        self.clock.now_ns()
    }
}

impl History {
    fn absorb(&mut self, now_ns: i64, process: ProcessId, step: Step, turn: Turn) {
        self.count += 1;
        let turn = match turn {
            Turn::Go => 0,
            Turn::CrashBefore => 1,
            Turn::CrashAfter => 2,
            Turn::LoseRequest => 3,
            Turn::LoseReply => 4,
            Turn::Delay(ns) => 5 + ns as u64,
        };
        self.digest = Random::of(&[self.digest, now_ns as u64, u64::from(process.0), step as u64, turn]).bits();
    }

    fn line(&mut self, at_ns: i64, what: String) {
        if self.lines.len() >= HISTORY_LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { at_ns, what });
    }
}

/// Seconds since the world began, for people.
pub fn seconds(at_ns: i64) -> String {
    let since = at_ns - super::office::BEGAN.0;
    format!("{:.3} s", since as f64 / 1e9)
}

fn words(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().cloned();
    text.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_else(|| "a panic without words".to_owned())
}
