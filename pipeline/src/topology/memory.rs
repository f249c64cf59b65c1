//! The memory that a process may need, by the limits of its topology: what its tasks can hold in client queues, rows, state
//! and snapshots, against the budget that the user gives. Arithmetic alone; who counts partitions is the caller.
//!
//! What always holds: every term is the limit of something that keeps to it; nothing here reads how much is in use.

use std::fmt;

use tidewatch_schemas::document::{Map, Mistakes};

use super::section::Section;
use super::{LogChoice, Stage, Topology};
use crate::log::PollLimit;
use crate::log::kafka::config::{FETCH_BYTES_MAX, READER_QUEUE_KIB_MAX};
use crate::worker::{EPOCH_BYTES_MAX, SNAPSHOTS_BYTES_MAX};

/// Processes that share the partitions, at most.
const PROCESSES_MAX: u32 = 1024;

/// Smallest budget that can be asked for, bytes: less does not hold one process.
const BUDGET_BYTES_MIN: u64 = 256 << 20;

/// Code, tables, runtime and threads of a process, bytes, measured at rest and rounded up.
const PROCESS_BYTES: u64 = 96 << 20;

/// A normalize task besides its queue, bytes: rows that wait for their record, learned headers and workload names at their
/// limits.
const NORMALIZE_BYTES: u64 = 24 << 20;

/// A destination, bytes: its reader, one batch, one request.
const DESTINATION_BYTES: u64 = 16 << 20;

/// The terms that `limits.state_bytes` and `limits.correlate_bytes` make.
const STATE: &str = "state of a detect task (limits.state_bytes)";
const CORRELATE_STATE: &str = "state of a correlate task (limits.correlate_bytes)";

/// The term of all snapshots: several small ones, or one of a whole task's state.
const SNAPSHOT: &str = "snapshots of state on their way, one task's or several small ones";

/// What one process may take (`memory`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of one process; `None` = nothing is checked.
    pub budget: Option<u64>,
    /// Processes that share the partitions of each stage, 1 to `PROCESSES_MAX`.
    pub processes: u32,
}

impl Default for Memory {
    fn default() -> Self {
        Self { budget: None, processes: 1 }
    }
}

pub(super) fn read(map: &Map<'_>, mistakes: &mut Mistakes) -> Memory {
    let mut s = Section::of(map, "memory", &["budget", "processes"], mistakes);
    let budget = s.get("budget").is_some().then(|| s.bytes("budget", BUDGET_BYTES_MIN, BUDGET_BYTES_MIN));
    Memory { budget, processes: s.count("processes", 1, PROCESSES_MAX) }
}

/// One term of what a process may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Of what.
    pub what: &'static str,
    /// How many.
    pub count: u64,
    /// Bytes of each.
    pub bytes: u64,
}

/// What a process may need at its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Terms, in the order of the way.
    pub terms: Vec<Term>,
}

impl Need {
    /// Of a process that runs `stages`; the inputs have `input_partitions` partitions together.
    pub fn of(topology: &Topology, stages: &[Stage], input_partitions: u64) -> Self {
        let share = |partitions: u64| partitions.div_ceil(u64::from(topology.memory.processes));
        // A poll's records besides the client's queue, which stops fetching when it is full: by then one answer more is in.
        let queue = match topology.log {
            LogChoice::Kafka(_) => u64::from(READER_QUEUE_KIB_MAX) * 1024 + u64::from(FETCH_BYTES_MAX),
            LogChoice::Embedded(_) | LogChoice::Memory => 0,
        };
        let reader = queue + PollLimit::default().bytes as u64;
        let epoch = 2 * EPOCH_BYTES_MAX as u64;
        let limits = &topology.limits;
        let mut terms = vec![Term { what: "the process itself", count: 1, bytes: PROCESS_BYTES }];
        let mut stage = |stage: Stage, threads: u32, tasks: u64, parts: &[(&'static str, u64)]| {
            if stages.contains(&stage) {
                // An epoch of each thread: with its worker, and with the client on its way to the brokers.
                terms.push(Term { what: "epochs of a thread", count: u64::from(threads), bytes: epoch });
                terms.extend(parts.iter().map(|&(what, bytes)| Term { what, count: tasks, bytes }));
            }
        };
        let workers = topology.workers;
        let inputs = [("queues of a normalize task", reader), ("rows and names of a normalize task", NORMALIZE_BYTES)];
        // One partition more: records that were replayed.
        stage(Stage::Normalize, workers.normalize, share(input_partitions + 1), &inputs);
        let detect = [
            ("queues of a detect task", reader),
            ("open slices of a detect task (limits.slice_bytes)", limits.slice_bytes),
            (STATE, limits.state_bytes),
        ];
        stage(Stage::Detect, workers.detect, share(u64::from(topology.obs.partitions)), &detect);
        let correlate = [
            ("queues of a correlate task", reader),
            ("open slices of a correlate task (limits.correlate_slice_bytes)", limits.correlate_slice_bytes),
            (CORRELATE_STATE, limits.correlate_bytes),
        ];
        stage(Stage::Correlate, workers.correlate, share(u64::from(topology.findings.partitions)), &correlate);
        let held = |what| terms.iter().find(|t| t.what == what).map(|t| t.bytes);
        if let Some(largest) = held(STATE).max(held(CORRELATE_STATE)) {
            terms.push(Term { what: SNAPSHOT, count: 1, bytes: largest.max(SNAPSHOTS_BYTES_MAX) });
        }
        if stages.contains(&Stage::Deliver) && !topology.destinations.is_empty() {
            terms.push(Term { what: "a destination", count: topology.destinations.len() as u64, bytes: DESTINATION_BYTES });
        }
        Self { terms }
    }

    /// All together, bytes.
    pub fn bytes(&self) -> u64 {
        self.terms.iter().fold(0, |sum, t| sum.saturating_add(t.count.saturating_mul(t.bytes)))
    }

    /// An error when it is more than the topology's budget.
    pub fn within(&self, topology: &Topology) -> Result<(), Exceeded> {
        let Some(budget) = topology.memory.budget.filter(|budget| self.bytes() > *budget) else { return Ok(()) };
        let (mut tasks, mut rest, mut others) = (0, 0_u64, SNAPSHOTS_BYTES_MAX);
        for term in &self.terms {
            match term.what {
                STATE => tasks = term.count,
                SNAPSHOT => {}
                what => {
                    rest = rest.saturating_add(term.count.saturating_mul(term.bytes));
                    others = others.max(if what == CORRELATE_STATE { term.bytes } else { 0 });
                }
            }
        }
        // A snapshot is as large as a task's state, unless something else needs more room for its own.
        let fits = budget.checked_sub(rest).and_then(|left| match left / (tasks + 1) {
            share if share >= others => Some(share),
            _ => left.checked_sub(others)?.checked_div(tasks),
        });
        let fits = fits.filter(|_| tasks > 0).map(|bytes| bytes >> 20 << 20);
        Err(Exceeded { budget, need: self.clone(), state_fits: fits.filter(|bytes| *bytes >= 1 << 20) })
    }
}

/// A budget that the limits do not keep to.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Exceeded {
    /// The budget, bytes.
    pub budget: u64,
    /// What may be needed.
    pub need: Need,
    /// `limits.state_bytes` that would fit, all else as it is; `None` = none would.
    pub state_fits: Option<u64>,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (need, budget) = (self.need.bytes(), self.budget);
        writeln!(
            f,
            "memory.budget is {}, but the limits allow this process {}: {} too much",
            size(budget),
            size(need),
            size(need - budget)
        )?;
        for term in &self.need.terms {
            let all = term.count.saturating_mul(term.bytes);
            writeln!(f, "  {:>10}  {} x {} {}", size(all), term.count, size(term.bytes), term.what)?;
        }
        match self.state_fits {
            Some(bytes) => write!(f, "limits.state_bytes of {} would fit; so would ", size(bytes))?,
            None => write!(f, "no limits.state_bytes fits; what does is ")?,
        }
        write!(f, "fewer partitions of obs, more processes (memory.processes), or a larger budget")
    }
}

/// For people: MiB, from ten GiB on GiB.
fn size(bytes: u64) -> String {
    if bytes >= 10 << 30 {
        format!("{:.1}GiB", bytes as f64 / f64::from(1 << 30))
    } else {
        format!("{}MiB", bytes.div_ceil(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use expect_test::expect;

    use super::super::tests::FORMATS;
    use super::*;

    fn topology(memory: &str) -> Topology {
        let text = format!(
            "log: {{kafka: {{brokers: [\"localhost:9092\"], allow_plaintext: true}}}}\nlimits: {{state_bytes: 100MiB, slice_bytes: 32MiB}}\n\
             {memory}inputs: [{{topic: conn, format: zeek.conn, tenant: {{static: t1}}}}]\n"
        );
        Topology::parse_with("t.yaml", &text, FORMATS).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_refused_with_how_much_it_lacks_and_what_would() {
        let of = topology("memory: {budget: 2176MiB}\n");
        let refused = Need::of(&of, Stage::ALL, 16).within(&of).unwrap_err();
        expect![[r#"
            memory.budget is 2176MiB, but the limits allow this process 2632MiB: 456MiB too much
                   96MiB  1 x 96MiB the process itself
                   32MiB  1 x 32MiB epochs of a thread
                  272MiB  17 x 16MiB queues of a normalize task
                  408MiB  17 x 24MiB rows and names of a normalize task
                   32MiB  1 x 32MiB epochs of a thread
                  128MiB  8 x 16MiB queues of a detect task
                  256MiB  8 x 32MiB open slices of a detect task (limits.slice_bytes)
                  800MiB  8 x 100MiB state of a detect task (limits.state_bytes)
                   32MiB  1 x 32MiB epochs of a thread
                   64MiB  4 x 16MiB queues of a correlate task
                  128MiB  4 x 32MiB open slices of a correlate task (limits.correlate_slice_bytes)
                  256MiB  4 x 64MiB state of a correlate task (limits.correlate_bytes)
                  128MiB  1 x 128MiB snapshots of state on their way, one task's or several small ones
            limits.state_bytes of 43MiB would fit; so would fewer partitions of obs, more processes (memory.processes), or a larger budget"#]].assert_eq(&refused.to_string());
        let mut fits = of.clone();
        fits.limits.state_bytes = refused.state_fits.unwrap();
        Need::of(&fits, Stage::ALL, 16).within(&fits).unwrap();
        fits.limits.state_bytes += 1 << 20;
        Need::of(&fits, Stage::ALL, 16).within(&fits).unwrap_err();
    }

    #[test]
    fn a_snapshot_needs_room_for_one_tasks_state_or_what_small_ones_share() {
        for budget in ["2GiB", "3GiB", "4GiB", "9GiB"] {
            let mut of = topology(&format!("memory: {{budget: {budget}}}\n"));
            of.limits.state_bytes = 4 << 30;
            let fits = Need::of(&of, Stage::ALL, 16).within(&of).unwrap_err().state_fits.unwrap();
            of.limits.state_bytes = fits;
            let need = Need::of(&of, Stage::ALL, 16);
            assert_eq!(need.terms.last().unwrap().bytes, fits.max(SNAPSHOTS_BYTES_MAX), "{budget}");
            need.within(&of).unwrap();
            of.limits.state_bytes += 1 << 20;
            Need::of(&of, Stage::ALL, 16).within(&of).unwrap_err();
        }
        let of = topology("");
        assert!(Need::of(&of, &[Stage::Normalize], 16).terms.iter().all(|t| t.what != SNAPSHOT));
        let correlate = Need::of(&of, &[Stage::Correlate], 16);
        assert_eq!(correlate.terms.iter().find(|t| t.what == SNAPSHOT).unwrap().bytes, SNAPSHOTS_BYTES_MAX);
    }

    #[test]
    fn more_processes_and_single_stages_need_less_and_without_a_budget_all_is_well() {
        let (one, four) = (topology("memory: {budget: 2GiB}\n"), topology("memory: {budget: 2GiB, processes: 4}\n"));
        let bytes = |topology: &Topology, stages: &[Stage]| Need::of(topology, stages, 16).bytes();
        assert!(bytes(&four, Stage::ALL) < bytes(&one, Stage::ALL) / 2);
        assert!(Need::of(&four, Stage::ALL, 16).within(&four).is_ok());
        assert!(bytes(&one, &[Stage::Normalize]) < bytes(&one, &[Stage::Detect]));
        let free = topology("");
        assert_eq!(free.memory, Memory::default());
        assert!(Need::of(&free, Stage::ALL, 10_000).within(&free).is_ok());
        let tiny = topology("memory: {budget: 300MiB}\n");
        assert_eq!(Need::of(&tiny, Stage::ALL, 16).within(&tiny).unwrap_err().state_fits, None);
    }
}
