//! What goes wrong in a world: an explicit list of accidents, drawn from the seed before the world begins. The same list
//! gives the same world, and a shorter list another one: that is how a failing history is made short.
//!
//! Knows steps and hosts; not processes, brokers or tasks.

use std::fmt;

use super::baton::{MS, Random};
use super::broker::Part;
use super::fate::{Step, Turn};
use super::office::{BEGAN, LAST_S};

/// Hosts of a world. Each holds one process, or a zombie and its successor.
pub const HOSTS: u32 = 3;

/// An accident that waits for one step longer than this takes the next best: a crash must come.
const OVERDUE_NS: i64 = 25_000 * MS;

/// Requests of one kind lost one after the other: more than a commit's budget has tries.
const IN_A_ROW: usize = 12;

/// Stages of a process: each ends epochs of its own.
const STAGES: usize = 3;

/// Nothing goes wrong any more from here on, ns after the beginning: what is left must heal.
pub const HEAL_NS: i64 = (LAST_S as i64 + 10) * 1_000 * MS;

/// Steps that no worker takes: tools take them, or a topology that removes what was read.
pub const NOT_TAKEN: &[Step] = &[Step::LogByTime, Step::LogDelete, Step::SnapshotHead];

/// Every point at which a process can crash: before and after (`true`) each step that a worker takes.
pub fn crash_points() -> impl Iterator<Item = (Step, bool)> {
    Step::ALL.iter().filter(|s| !NOT_TAKEN.contains(s)).flat_map(|s| [(*s, false), (*s, true)])
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "times in ms; the rest is said at each variant")]
pub enum What {
    /// The host's process dies at a step (`None` = the next), and comes back with so many workers a stage.
    Crash { step: Option<Step>, after: bool, back_ms: i64, workers: u32 },
    /// A request or its answer is lost or late at a step.
    Lose { step: Step, turn: Turn },
    /// The process stands still from a step on. A successor may be started meanwhile; then it comes back as a zombie.
    Pause { step: Option<Step>, after: bool, for_ms: i64, successor_ms: Option<i64> },
    /// The process is told to stop, and comes back later.
    Stop { for_good: bool, back_ms: i64, workers: u32 },
    /// The host is there from now on (before, it was not).
    Join { workers: u32 },
    /// A part of the cluster is away; `None` = all of it.
    Brokers { part: Option<Part>, for_ms: i64 },
    /// The host reaches no broker.
    Cut { for_ms: i64 },
    /// Nobody reaches one partition of an input: number of the topic, partition.
    Partition { topic: usize, partition: u32, for_ms: i64 },
    /// The object store is ill.
    Store { illness: Illness, for_ms: i64 },
    /// So many of a thousand requests or answers of the host get lost.
    Noise { per_mille: u64, for_ms: i64 },
}

/// How an object store can be ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illness {
    /// No answer.
    Away,
    /// Writes fail and are there later.
    Late,
    /// Writes fail and leave half an object.
    Torn,
    /// Lists show what was there a while ago.
    Stale,
    /// Every answer takes seconds.
    Slow,
}

/// An accident, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accident {
    /// From this moment on, ms after the beginning.
    pub at_ms: i64,
    /// Where.
    pub host: u32,
    /// What.
    pub what: What,
}

impl fmt::Display for Accident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.3} s  host {}  {:?}", self.at_ms as f64 / 1e3, self.host, self.what)
    }
}

/// The accidents of a seed.
pub fn plan(seed: u64) -> Vec<Accident> {
    let mut random = Random::of(&[seed, 1]);
    let points: Vec<(Step, bool)> = crash_points().collect();
    let mut all = Vec::new();
    let last_ms = i64::from(LAST_S) * 1000;
    let workers = |random: &mut Random| 1 + random.below(2) as u32;
    // Two hosts at the start mostly; who is not there joins.
    for host in 1..HOSTS {
        if random.chance(400) {
            all.push(Accident {
                at_ms: random.between(5_000, 200_000),
                host,
                what: What::Join { workers: workers(&mut random) },
            });
        }
    }
    if random.chance(150) {
        // Its first words come late: everybody has to wait for them.
        let (topic, partition) = (random.below(2) as usize, random.below(2) as u32);
        all.push(Accident {
            at_ms: 0,
            host: 0,
            what: What::Partition { topic, partition, for_ms: random.between(10_000, 60_000) },
        });
    }
    let crashes = 4 + random.below(3);
    for n in 0..crashes {
        // The points one after the other over the seeds, so that each is tried equally often; the rest is chance.
        let point = if n == 0 { points[seed as usize % points.len()] } else { *random.pick(&points) };
        let at_ms = random.between(8_000, last_ms - 20_000);
        let host = random.below(u64::from(HOSTS)) as u32;
        bring_about(&mut all, &mut random, at_ms, host, point.0);
        let what = What::Crash { step: Some(point.0), after: point.1, back_ms: back(&mut random), workers: workers(&mut random) };
        all.push(Accident { at_ms, host, what });
    }
    for _ in 0..1 + random.below(4) {
        let at_ms = random.between(5_000, last_ms);
        let host = random.below(u64::from(HOSTS)) as u32;
        let what = other(&mut random, &points);
        all.push(Accident { at_ms, host, what });
    }
    for _ in 0..random.below(5) {
        let step = *random.pick(&[Step::EpochEnd, Step::EpochEnd, Step::EpochOffsets, Step::EpochAppend, Step::LivePoll]);
        let turn = lost(&mut random);
        let host = random.below(u64::from(HOSTS)) as u32;
        all.push(Accident { at_ms: random.between(5_000, last_ms), host, what: What::Lose { step, turn } });
    }
    all.sort_by_key(|a| a.at_ms);
    all
}

fn back(random: &mut Random) -> i64 {
    // Mostly within the session, now and then long after it.
    if random.chance(750) { random.between(50, 5_000) } else { random.between(15_000, 60_000) }
}

fn lost(random: &mut Random) -> Turn {
    match random.below(4) {
        0 => Turn::LoseRequest,
        1 | 2 => Turn::LoseReply,
        _ => Turn::Delay(random.between(50 * MS, 12_000 * MS)),
    }
}

/// Some steps come only after something else.
fn bring_about(all: &mut Vec<Accident>, random: &mut Random, at_ms: i64, host: u32, step: Step) {
    let mut before = |what| all.push(Accident { at_ms: at_ms - 1, host, what });
    let name = step.name();
    if step == Step::SettleReadBack {
        // Asked only about an epoch that moves no offset: a process that starts while its inputs cannot be reached says
        // that it has joined, and hears nothing of the end.
        for (topic, partition) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            before(What::Partition { topic, partition, for_ms: 20_000 });
        }
        before(What::Crash { step: None, after: false, back_ms: random.between(50, 1_000), workers: 1 });
        for _ in 0..STAGES * IN_A_ROW {
            before(What::Lose { step: Step::EpochEnd, turn: Turn::LoseReply });
        }
    } else if name.starts_with("settle.") || step == Step::EpochVisible {
        let turn = if random.chance(600) { Turn::LoseReply } else { Turn::LoseRequest };
        for _ in 0..IN_A_ROW {
            before(What::Lose { step: Step::EpochEnd, turn });
        }
    } else if matches!(step, Step::EpochAbort | Step::EpochReopen) {
        for _ in 0..IN_A_ROW {
            before(What::Lose { step: Step::EpochAppend, turn: Turn::LoseRequest });
        }
    } else if matches!(step, Step::GroupLeave) {
        before(What::Stop { for_good: true, back_ms: back(random), workers: 1 });
    } else if name.starts_with("restart.") || matches!(step, Step::SnapshotGet | Step::LogCreate | Step::LogMetadata) {
        before(What::Crash { step: None, after: random.chance(500), back_ms: random.between(50, 3_000), workers: 1 });
    }
}

fn other(random: &mut Random, points: &[(Step, bool)]) -> What {
    match random.below(13) {
        0..3 => {
            let (step, after) = *random.pick(points);
            let step = random.chance(600).then_some(step);
            let for_ms = if random.chance(700) { random.between(10_000, 60_000) } else { random.between(500, 8_000) };
            What::Pause { step, after, for_ms, successor_ms: random.chance(400).then(|| random.between(500, for_ms)) }
        }
        3 | 4 => {
            let (for_good, back_ms) = (random.chance(400), back(random));
            What::Stop { for_good, back_ms, workers: 1 + random.below(2) as u32 }
        }
        5 => {
            let part = if random.chance(400) { None } else { Some(*random.pick(&Part::ALL)) };
            What::Brokers { part, for_ms: random.between(500, 25_000) }
        }
        6 => What::Cut { for_ms: random.between(500, 40_000) },
        7..10 => What::Partition {
            topic: usize::from(random.chance(200)),
            partition: random.below(2) as u32,
            for_ms: random.between(3_000, 70_000),
        },
        10 | 11 => {
            use Illness::{Away, Late, Slow, Stale, Torn};
            What::Store { illness: *random.pick(&[Away, Late, Torn, Stale, Slow]), for_ms: random.between(3_000, 60_000) }
        }
        _ => What::Noise { per_mille: 1 + random.below(40), for_ms: random.between(2_000, 40_000) },
    }
}

/// What the scheduler must do about an accident that has begun at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the accident")]
pub enum Happened {
    /// The host's process died and comes back so.
    Crashed { host: u32, back_ms: i64, workers: u32 },
    /// The host's process stands still; a successor is due then.
    Paused { host: u32, successor_ms: Option<i64> },
}

/// The list at work.
#[derive(Clone, Debug, Default)]
pub struct Accidents {
    list: Vec<(Accident, bool)>,
    happened: Vec<Happened>,
    healed: bool,
}

fn moment(ms: i64) -> i64 {
    BEGAN.0 + ms * MS
}

impl Accidents {
    /// A list that has not begun.
    pub fn new(list: &[Accident]) -> Self {
        Self { list: list.iter().map(|a| (*a, false)).collect(), ..Self::default() }
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.healed = true;
    }

    /// What has begun since the last look.
    pub fn happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    /// What becomes of a step of a host, and until when the process stands still before it.
    #[allow(clippy::collapsible_match, reason = "a guard would hide what becomes of the accident")]
    pub fn turn(&mut self, now_ns: i64, host: u32, step: Step, random: &mut Random) -> (Turn, Option<i64>) {
        if self.healed {
            return (Turn::Go, None);
        }
        let store = step.name().starts_with("snapshot.");
        let mut turn = Turn::Go;
        for (accident, done) in &mut self.list {
            let since_ns = now_ns - moment(accident.at_ms);
            if *done || since_ns < 0 {
                continue;
            }
            let overdue = since_ns > OVERDUE_NS;
            let here = accident.host == host;
            let lasts = |for_ms: i64| since_ns < for_ms * MS;
            match accident.what {
                What::Crash { step: wanted, after, back_ms, workers } => {
                    if (here && wanted.is_none_or(|s| s == step)) || overdue {
                        *done = true;
                        self.happened.push(Happened::Crashed { host, back_ms, workers });
                        return (if after { Turn::CrashAfter } else { Turn::CrashBefore }, None);
                    }
                }
                What::Lose { step: wanted, turn } => {
                    *done = overdue;
                    if here && wanted == step && step.sends() && !overdue {
                        *done = true;
                        return (turn, None);
                    }
                }
                What::Pause { step: wanted, after: false, for_ms, successor_ms } => {
                    if here && (wanted.is_none_or(|s| s == step) || overdue) {
                        *done = true;
                        self.happened.push(Happened::Paused { host, successor_ms });
                        return (Turn::Go, Some(now_ns + for_ms * MS));
                    }
                }
                What::Cut { for_ms } if !store => {
                    if here && lasts(for_ms) && step.sends() {
                        turn = if random.chance(100) { Turn::LoseReply } else { Turn::LoseRequest };
                    }
                }
                What::Noise { per_mille, for_ms } => {
                    if here && lasts(for_ms) && step.sends() && random.chance(per_mille) {
                        turn = lost(random);
                    }
                }
                _ => {}
            }
        }
        (turn, None)
    }

    /// Whether the host's process stands still after a step, and until when.
    pub fn stands_after(&mut self, now_ns: i64, host: u32, step: Step) -> Option<i64> {
        if self.healed {
            return None;
        }
        for (accident, done) in &mut self.list {
            let since_ns = now_ns - moment(accident.at_ms);
            if let What::Pause { step: wanted, after: true, for_ms, successor_ms } = accident.what
                && !*done
                && since_ns >= 0
                && accident.host == host
                && (wanted.is_none_or(|s| s == step) || since_ns > OVERDUE_NS)
            {
                *done = true;
                self.happened.push(Happened::Paused { host, successor_ms });
                return Some(now_ns + for_ms * MS);
            }
        }
        None
    }

    /// Whether the host reaches no broker.
    pub fn is_cut(&self, now_ns: i64, host: u32) -> bool {
        !self.healed
            && self.list.iter().any(|(accident, _)| match accident.what {
                What::Cut { for_ms } if accident.host == host => {
                    let since_ns = now_ns - moment(accident.at_ms);
                    since_ns >= 0 && since_ns < for_ms * MS
                }
                _ => false,
            })
    }

    /// How the object store is ill.
    pub fn illness(&self, now_ns: i64) -> Option<Illness> {
        if self.healed {
            return None;
        }
        self.list.iter().find_map(|(accident, _)| match accident.what {
            What::Store { illness, for_ms } => {
                let since_ns = now_ns - moment(accident.at_ms);
                (since_ns >= 0 && since_ns < for_ms * MS).then_some(illness)
            }
            _ => None,
        })
    }
}
