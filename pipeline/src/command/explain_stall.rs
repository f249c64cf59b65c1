//! `tidewatch explain-stall`: why slices do not close. Asks the processes of this machine how they are and the log where the
//! inputs stand; [`crate::status::explain`] draws the conclusion.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::marks::Recorded;
use super::{Exit, Failure, Output, open, processes};
use crate::log::{Log, LogError, PollLimit, TopicPartition};
use crate::status::{Facts, InputFacts, explain};
use crate::topology::{LogChoice, Stage, Topology};
use crate::worker::system_clock;

/// How long a record before the end of a partition is waited for.
const RECORD_WAIT: Duration = Duration::from_millis(500);

/// Say what holds the slices up, and what to do about it
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch explain-stall topologies/kafka.yaml\n\n\
                        Names the input partition, task, process or destination that the others wait for: unreachable, lagging, at \
                        its end but not silent yet, on the roster and never heard of, behind an open transaction, restoring, \
                        stopped. Exit code 0: nothing holds anything up; 1: something does.")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// One JSON object, for machines
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let topology = Topology::read(&args.topology)?;
    let processes = processes::running(&topology).into_iter().map(|p| p.status).collect();
    let inputs = match open::reading(&topology) {
        Ok(reached) => inputs(reached.log.as_ref(), &topology),
        Err(failure) => Err(failure),
    };
    // Brokers that do not answer are an answer, as long as a process says so.
    let (inputs, unreachable) = match inputs {
        Ok(inputs) => (inputs, None),
        Err(Failure::Log(error @ LogError::Unreachable { .. })) => (Vec::new(), Some(error.to_string())),
        Err(failure) => return Err(failure),
    };
    let facts = Facts {
        now: system_clock()(),
        processes,
        inputs,
        slice_ns: topology.time.slice.as_nanos() as i64,
        idle_after_ns: topology.time.idle_after.as_nanos() as i64,
        others_elsewhere: matches!(topology.log, LogChoice::Kafka(_)),
    };
    let found = explain(&facts);
    let held = !found.held.is_empty() || unreachable.is_some();
    if args.json {
        out.json(&json!({"stalled": held, "held": found.held, "log_unreachable": unreachable}))?;
    } else if held {
        if let Some(words) = &unreachable {
            out.line(format_args!("the log: {words}"))?;
            out.line("    look whether the brokers are up and reachable from here")?;
        }
        for held in &found.held {
            out.line(format_args!("{} ({}): {}", held.about, held.by, held.reason))?;
            out.line(format_args!("    {}", held.advice))?;
        }
    } else {
        let tasks: usize = facts.processes.iter().map(|p| p.tasks.len()).sum();
        let (processes, inputs) = (facts.processes.len(), facts.inputs.len());
        out.line(format_args!("nothing holds anything up: {processes} processes, {tasks} tasks, {inputs} input partitions"))?;
    }
    Ok(if held { Exit::Findings } else { Exit::Good })
}

/// Where the inputs on the roster stand.
fn inputs(log: &dyn Log, topology: &Topology) -> Result<Vec<InputFacts>, Failure> {
    let group = topology.names.group(Stage::Normalize);
    let mut facts = Vec::new();
    for (input, lane, watermark) in Recorded::read(log, topology)?.inputs() {
        let at = TopicPartition::new(input.topic.clone(), input.partition);
        let kept = match log.offsets(&at) {
            // It was taken off the log and stands on the roster still: that it is not heard of is what matters.
            Err(LogError::UnknownTopic { .. } | LogError::UnknownPartition { .. }) => None,
            kept => Some(kept?),
        };
        let committed = log.committed(&group, std::slice::from_ref(&at))?.pop().flatten().map(|c| c.offset);
        let mut fact =
            InputFacts { lane, topic: input.topic, partition: input.partition, watermark, committed, ..Default::default() };
        if let Some(kept) = kept {
            fact.stable_end = kept.end;
            fact.end = log.high_watermark(&at)?.max(kept.end);
            fact.records_wait = waits(log, &at, committed.unwrap_or(kept.start).max(kept.start), kept.end)?;
        }
        facts.push(fact);
    }
    Ok(facts)
}

/// Whether a record lies there, and not only markers of transactions.
fn waits(log: &dyn Log, at: &TopicPartition, from: i64, end: i64) -> Result<bool, LogError> {
    if from >= end {
        return Ok(false);
    }
    let one = PollLimit { records: 1, ..PollLimit::default() };
    Ok(!log.reader(at, from)?.poll(one, RECORD_WAIT)?.is_empty())
}
