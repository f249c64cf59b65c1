//! Explanations of made-up situations: each names the right holder and nobody else.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::log::TopicPartition;
use crate::status::Condition;

const S: i64 = SECOND_NS;

fn task(stage: &str, topic: &str, partition: u32) -> TaskStatus {
    let mut task = TaskStatus::new(stage, &TopicPartition::new(topic, partition));
    task.phase = TaskPhase::Live;
    task.at_end = true;
    task
}

fn process(tasks: Vec<TaskStatus>) -> ProcessStatus {
    ProcessStatus {
        version: "0".into(),
        pid: 7,
        ordinal: 0,
        stages: vec!["normalize".into(), "detect".into()],
        state: ProcessState::Running,
        started: EventTime(0),
        now: EventTime::from_secs(1000),
        drain_within_s: 30,
        control: Default::default(),
        settled: Default::default(),
        tasks,
        conditions: Vec::new(),
        conditions_left_out: 0,
        destinations: Vec::new(),
    }
}

fn input(partition: u32, watermark_s: Option<i64>) -> InputFacts {
    InputFacts { topic: "flow".into(), partition, watermark: watermark_s.map(EventTime::from_secs), ..InputFacts::default() }
}

/// Two partitions, both read and at their end, one a minute behind.
fn facts() -> Facts {
    Facts {
        now: EventTime::from_secs(1000),
        processes: vec![process(vec![task("normalize", "flow", 0), task("normalize", "flow", 1), task("detect", "obs", 0)])],
        inputs: vec![input(0, Some(900)), input(1, Some(840))],
        slice_ns: 10 * S,
        idle_after_ns: 30 * S,
        others_elsewhere: false,
    }
}

fn told(facts: &Facts) -> Vec<(String, String)> {
    explain(facts).held.into_iter().map(|h| (h.by, h.about)).collect()
}

fn one(by: &str, about: &str) -> Vec<(String, String)> {
    vec![(by.to_owned(), about.to_owned())]
}

#[test]
fn nothing_is_held_when_all_are_together() {
    let mut facts = facts();
    facts.inputs[1].watermark = Some(EventTime::from_secs(895));
    assert_eq!(told(&facts), []);
}

#[test]
fn a_partition_at_its_end_that_is_not_silent_yet() {
    let mut facts = facts();
    facts.processes[0].tasks[1].last_record = Some(EventTime::from_secs(980));
    let held = explain(&facts).held;
    assert_eq!(told(&facts), one("silent_soon", "flow/1"));
    assert!(held[0].reason.contains("20 s ago") && held[0].advice.contains("30 s"), "{held:?}");
}

#[test]
fn a_partition_that_lags() {
    let mut facts = facts();
    let slow = &mut facts.processes[0].tasks[1];
    (slow.at_end, slow.records_per_s, slow.stable_end) = (false, 50.0, Some(1500));
    (facts.inputs[1].committed, facts.inputs[1].stable_end, facts.inputs[1].records_wait) = (Some(500), 1500, true);
    let held = explain(&facts).held;
    assert_eq!(told(&facts), one("lagging", "flow/1"));
    assert!(held[0].reason.contains("1000 records behind, about 20 s"), "{held:?}");
}

#[test]
fn a_partition_that_is_the_last_and_held_back() {
    let mut facts = facts();
    let paced = &mut facts.processes[0].tasks[1];
    (paced.at_end, paced.paced, paced.stable_end) = (false, true, Some(1500));
    (facts.inputs[1].committed, facts.inputs[1].stable_end, facts.inputs[1].records_wait) = (Some(500), 1500, true);
    assert_eq!(told(&facts), one("paced", "flow/1"));
}

#[test]
fn an_open_transaction() {
    let mut facts = facts();
    let waits = &mut facts.processes[0].tasks[1];
    (waits.stable_end, waits.end) = (Some(500), Some(520));
    (facts.inputs[1].committed, facts.inputs[1].stable_end, facts.inputs[1].end) = (Some(500), 500, 520);
    assert_eq!(told(&facts), one("open_transaction", "flow/1"));
}

#[test]
fn a_partition_on_the_roster_that_never_spoke_and_that_nobody_reads() {
    let mut facts = facts();
    facts.inputs[1].watermark = Some(EventTime::from_secs(900));
    facts.inputs.push(input(2, None));
    assert_eq!(told(&facts), one("not_heard", "flow/2"));
}

#[test]
fn an_unreachable_partition_is_named_with_its_condition() {
    let mut facts = facts();
    facts.processes[0].tasks[1].at_end = false;
    let about = "normalize flow/1".to_owned();
    let condition = Condition { cause: Cause::Unreachable, about, reason: "no answer".into(), since: EventTime::from_secs(990) };
    facts.processes[0].conditions.push(condition);
    let told = told(&facts);
    assert_eq!(told, [("unreachable".into(), "normalize flow/1".into()), ("unreachable".into(), "flow/1".into())]);
}

#[test]
fn tasks_that_restore_or_stopped() {
    let mut facts = facts();
    facts.inputs[1].watermark = Some(EventTime::from_secs(900));
    facts.processes[0].tasks[2].phase = TaskPhase::Stopped { reason: "diverged".into() };
    assert_eq!(told(&facts), one("stopped", "detect obs/0"));
    facts.processes[0].tasks[2].phase =
        TaskPhase::Restoring { step: crate::status::RestoreStep::Muted, done: 30, of: 100, since: EventTime::from_secs(997) };
    let held = explain(&facts).held;
    assert_eq!(held[0].by, "restoring");
    assert!(held[0].reason.contains("30 %, about 7 s left"), "{held:?}");
}

#[test]
fn nobody_runs_and_a_destination_that_is_away() {
    let mut facts = facts();
    facts.inputs.clear();
    facts.processes[0].destinations.push(crate::status::DestinationStatus {
        name: "siem".into(),
        is: "retrying".into(),
        reason: Some("503".into()),
        backlog: 9,
        ..Default::default()
    });
    assert_eq!(told(&facts), one("destination", "destination siem"));
    facts.processes.clear();
    assert_eq!(told(&facts), one("nobody_runs", "process"));
}
