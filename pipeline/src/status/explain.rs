//! Why slices do not close: from what processes say of themselves and what the log says of the inputs, to the partition,
//! process or condition that holds them up, and what to do.
//!
//! Pure: facts in, explanation out. It names everything that holds something up, the most certain first; with nothing to
//! name it says so.

use serde::Serialize;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::{Cause, ProcessState, ProcessStatus, TaskPhase, TaskStatus};

/// An input partition as the log knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputFacts {
    /// Tenant whose own lane it is.
    pub lane: Option<String>,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Watermark by its newest mark; `None` = it has never told one.
    pub watermark: Option<EventTime>,
    /// Next offset by what is committed.
    pub committed: Option<i64>,
    /// Last stable offset.
    pub stable_end: i64,
    /// End, open transactions included.
    pub end: i64,
    /// Something that can be read lies before the end: not only markers.
    pub records_wait: bool,
}

/// What an explanation is made from.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The clock.
    pub now: EventTime,
    /// Processes that could be asked.
    pub processes: Vec<ProcessStatus>,
    /// The inputs on the roster; empty = nobody has told one yet.
    pub inputs: Vec<InputFacts>,
    /// Length of a slice, nanoseconds.
    pub slice_ns: i64,
    /// `time.idle_after`, nanoseconds.
    pub idle_after_ns: i64,
    /// Every other process runs somewhere else and cannot be asked from here.
    pub others_elsewhere: bool,
}

/// Something that holds slices, or what comes after them, up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// What kind: a cause's name, or `lagging`, `silent_soon`, `not_heard`, `open_transaction`, `restoring`, `stopped`,
    /// `nobody_runs`, `nobody_reads`, `behind`.
    pub by: String,
    /// Partition, task, process or destination.
    pub about: String,
    /// In words.
    pub reason: String,
    /// What to do.
    pub advice: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What holds things up; empty = nothing does.
    pub held: Vec<Held>,
}

impl Explanation {
    fn push(&mut self, by: &str, about: impl Into<String>, reason: impl Into<String>, advice: impl Into<String>) {
        self.held.push(Held { by: by.to_owned(), about: about.into(), reason: reason.into(), advice: advice.into() });
    }
}

/// Explains.
pub fn explain(facts: &Facts) -> Explanation {
    let mut out = Explanation::default();
    if facts.processes.is_empty() {
        let (reason, advice) = if facts.others_elsewhere {
            ("no process of this topology answers on this machine", "ask on the machines where it runs, or start it here")
        } else {
            ("no process runs this topology", "start it: tidewatch run TOPOLOGY")
        };
        out.push("nobody_runs", "process", reason, advice);
    }
    for process in &facts.processes {
        of_process(process, &mut out);
    }
    for lane in lanes(facts) {
        of_lane(facts, &lane, &mut out);
    }
    for process in &facts.processes {
        behind(facts, process, &mut out);
        for d in process.destinations.iter().filter(|d| matches!(d.is.as_str(), "retrying" | "stopped")) {
            let reason = format!("{}: {}; {} records wait", d.is, d.reason.as_deref().unwrap_or("no reason given"), d.backlog);
            out.push(Cause::Destination.name(), format!("destination {}", d.name), reason, Cause::Destination.advice());
        }
    }
    out
}

fn of_process(process: &ProcessStatus, out: &mut Explanation) {
    if process.state == ProcessState::Draining {
        out.push(
            "draining",
            format!("process {} (ordinal {})", process.pid, process.ordinal),
            "told to stop",
            "wait for it to leave, then start it again",
        );
    }
    for c in process.conditions.iter().filter(|c| !c.cause.is_ready()) {
        out.push(c.cause.name(), &*c.about, format!("{}, since {}", c.reason, c.since), c.cause.advice());
    }
    for task in &process.tasks {
        let about = format!("{} {}", task.stage, task.at());
        match &task.phase {
            TaskPhase::Live | TaskPhase::Finished => {}
            TaskPhase::Stopped { reason } => out.push("stopped", about, reason, Cause::TaskStopped.advice()),
            TaskPhase::Waiting { reason } => out.push("waiting", about, reason, Cause::Memory.advice()),
            phase => out.push("restoring", about, phase.words(process.now), "wait until it is live"),
        }
    }
}

fn lanes(facts: &Facts) -> Vec<Option<String>> {
    let mut lanes: Vec<Option<String>> = facts.inputs.iter().map(|i| i.lane.clone()).collect();
    lanes.sort();
    lanes.dedup();
    lanes
}

/// The partition of a lane whose watermark is the lowest, when it is far enough behind to be noticed.
fn of_lane(facts: &Facts, lane: &Option<String>, out: &mut Explanation) {
    let of_lane: Vec<&InputFacts> = facts.inputs.iter().filter(|i| i.lane == *lane).collect();
    for input in of_lane.iter().filter(|i| i.watermark.is_none()) {
        of_input(facts, input, out);
    }
    // A partition whose readers wait behind an open transaction is at its end and yet never silent, so it holds the slices.
    for input in of_lane.iter().filter(|i| i.watermark.is_some() && i.end > i.stable_end && !i.records_wait) {
        let reader = reader(facts, input);
        if reader.is_some_and(|t| t.last_record.is_none_or(|last| facts.now.since(last) > facts.idle_after_ns)) {
            of_input(facts, input, out);
        }
    }
    let known = || of_lane.iter().filter(|i| i.watermark.is_some());
    let (Some(lowest), Some(highest)) = (known().min_by_key(|i| i.watermark), known().filter_map(|i| i.watermark).max()) else {
        return;
    };
    let behind_ns = highest.since(lowest.watermark.unwrap_or(highest));
    let about = format!("{}/{}", lowest.topic, lowest.partition);
    let told = out.held.iter().any(|h| h.about == about);
    // Within a slice of each other nobody holds anybody; what waits then waits for the clock.
    if !told && (behind_ns > facts.slice_ns || lowest.records_wait) {
        of_input(facts, lowest, out);
    }
}

fn reader<'f>(facts: &'f Facts, input: &InputFacts) -> Option<&'f TaskStatus> {
    let tasks = facts.processes.iter().flat_map(|p| &p.tasks);
    tasks.filter(|t| t.stage == "normalize").find(|t| t.topic == input.topic && t.partition == input.partition)
}

/// Why this partition is behind.
fn of_input(facts: &Facts, input: &InputFacts, out: &mut Explanation) {
    let at = format!("{}/{}", input.topic, input.partition);
    let whose = input.lane.as_ref().map_or_else(String::new, |lane| format!(" of lane {lane}"));
    let stands = match input.watermark {
        Some(watermark) => format!("the slices{whose} wait for it at {watermark}"),
        None => format!("it is on the roster and has told no time yet, so every slice{whose} waits for it"),
    };
    let reader = reader(facts, input);
    // Its process has said why already; here the slices are named that wait.
    if out.held.iter().any(|h| h.about == format!("normalize {at}")) {
        let by = out.held.iter().find(|h| h.about == format!("normalize {at}")).map(|h| h.by.clone()).unwrap_or_default();
        return out.push(&by, at, stands, "see the reason above");
    }
    let (stable, end) = (
        reader.and_then(|t| t.stable_end).unwrap_or(input.stable_end).max(input.stable_end),
        reader.and_then(|t| t.end).unwrap_or(input.end).max(input.end),
    );
    if input.records_wait && reader.is_none_or(|t| !t.at_end && !t.paced) {
        let lag = (stable - input.committed.unwrap_or(0)).max(0);
        if let Some(task) = reader {
            return lagging(task, lag, at, stands, out);
        }
        let reason = format!("{lag} records wait and no process asked reads it; {stands}");
        let advice = "start a process with --stage normalize, or ask on the machine where one runs";
        return out.push("nobody_reads", at, reason, advice);
    }
    if end > stable {
        let reason =
            format!("a transaction holds the last stable offset at {stable}, {} offsets before the end; {stands}", end - stable);
        let advice = "find its producer (kafka-transactions.sh find-hanging) and let it end or abort it; readers wait until then";
        return out.push("open_transaction", at, reason, advice);
    }
    match reader {
        // The last of all and yet held back: its process believes others to be further behind.
        Some(task) if task.paced => {
            let reason = format!("its process holds it back for others that it has not heard of (time.max_skew); {stands}");
            out.push("paced", at, reason, "look whether that process can read the control topic: `tidewatch tap` it there");
        }
        Some(task) if task.at_end => {
            let quiet_s = task.last_record.map(|t| facts.now.since(t).max(0) / SECOND_NS);
            let quiet = quiet_s.map_or("nothing came since the start".to_owned(), |s| format!("its last record came {s} s ago"));
            let reason = format!("it is at its end and not silent yet: {quiet}; {stands}");
            let wait_s = facts.idle_after_ns / SECOND_NS;
            out.push(
                "silent_soon",
                at,
                reason,
                format!("wait: {wait_s} s at its end (time.idle_after) make it silent, then it holds nobody"),
            );
        }
        Some(task) => lagging(task, (stable - task.position).max(0), at, stands, out),
        None => {
            let reason = format!("no process asked reads it; {stands}");
            out.push("not_heard", at, reason, "start a process with --stage normalize, or ask on the machine where one runs");
        }
    }
}

fn lagging(task: &TaskStatus, lag: i64, at: String, stands: String, out: &mut Explanation) {
    let rate = task.records_per_s;
    let left = if rate >= 1.0 { format!(", about {:.0} s at {rate:.0} a second", lag as f64 / rate) } else { String::new() };
    let reason = format!("it is {lag} records behind{left}; {stands}");
    out.push("lagging", at, reason, "wait while the rate is above what comes in; else give normalize more threads or processes");
}

/// Tasks further down that have not read what is there.
fn behind(facts: &Facts, process: &ProcessStatus, out: &mut Explanation) {
    for task in process.tasks.iter().filter(|t| t.stage != "normalize" && t.phase == TaskPhase::Live && !t.at_end) {
        let old = task.last_record.is_some_and(|t| facts.now.since(t) > facts.slice_ns.max(facts.idle_after_ns));
        let lag = task.stable_end.map_or(0, |end| end - task.position);
        if lag <= 0 || !old {
            if task.unstable() > 0 && old {
                let reason = format!("a transaction holds the last stable offset, {} offsets before the end", task.unstable());
                let about = format!("{} {}", task.stage, task.at());
                out.push(
                    "open_transaction",
                    about,
                    reason,
                    "an epoch of the stage before it is open: look at that stage's process",
                );
            }
            continue;
        }
        let about = format!("{} {}", task.stage, task.at());
        let reason = format!("{lag} records behind, {:.0} a second", task.records_per_s);
        out.push("behind", about, reason, "wait while it catches up; else give the stage more threads or processes");
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
