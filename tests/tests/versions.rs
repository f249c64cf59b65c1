//! Versions of rules: proposing records them once in every partition that must know, and they act at the event time that
//! they name, at the same row for every task, live and in a backtest over the topics.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidewatch::log::memory::MemoryLog;
use tidewatch::log::{Log, PollLimit, TopicPartition};
use tidewatch::run::Run;
use tidewatch::versions::{self, Proposed};
use tidewatch_operators::rule::{Rule, RuleSet};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::signal::from_json;
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::scenario::{Layout, Scenario, fixed_clock, published};
use tidewatch_tests::traffic;

/// The scenario's run, judged by rules that change with time.
fn with_versions(scenario: &Scenario, obs: u32, rules: BTreeMap<EventTime, Vec<Rule>>) -> Vec<String> {
    let layout = Layout { obs, findings: 1, ..Layout::default() };
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    scenario.load(&layout, &log).unwrap();
    let mut run = scenario.bounded(&layout, &log).unwrap();
    run.versions = rules;
    run.create_topics().unwrap();
    run.lockstep(&run.shared(), || Ok(())).unwrap();
    published(&log, &run.topology.names.signals()).unwrap().into_values().flatten().collect()
}

#[test]
fn a_version_acts_from_its_event_time_on_whatever_the_partitions() {
    let scenario = traffic::office(5);
    let all = with_versions(&scenario, 1, BTreeMap::new());
    let mut times: Vec<EventTime> = all.iter().map(|s| from_json(s).unwrap().detected_at).collect();
    times.sort_unstable();
    let middle = times[times.len() / 2];
    assert!(times[0] < middle && middle < times[times.len() - 1], "signals on both sides: {times:?}");

    let expected = times.iter().filter(|t| **t <= middle).count();
    for obs in [1, 5] {
        let rules = BTreeMap::from([(EventTime::MIN, scenario.rules.clone()), (middle, Vec::new())]);
        let got = with_versions(&scenario, obs, rules);
        assert_eq!(got.len(), expected, "{obs} partitions of obs");
        assert!(got.iter().all(|s| from_json(s).unwrap().detected_at <= middle));
    }
}

#[test]
fn a_proposal_is_recorded_once_and_holds_only_from_what_nobody_has_closed() {
    let scenario = traffic::by_hand();
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let run = Run::new(scenario.topology(&Layout { obs: 3, ..Layout::default() }), Vec::new(), log.clone(), fixed_clock());
    run.create_topics().unwrap();
    let now = EventTime::from_secs(1_000_003);
    let set = |rules: &[Rule]| RuleSet::of(rules.iter().cloned());
    let propose = |rules: &RuleSet| versions::propose(&*log, &run.topology, rules, now).unwrap();

    assert_eq!(propose(&set(&scenario.rules)), Proposed::First);
    assert_eq!(propose(&set(&scenario.rules)), Proposed::Unchanged);
    let Proposed::From(from) = propose(&set(&scenario.rules[..1])) else { unreachable!("another content") };
    let wait = run.topology.time.slice + run.topology.time.max_future;
    assert!(from.since(now) >= wait.as_nanos() as i64 && from.since(now) <= (wait + run.topology.time.slice).as_nanos() as i64);

    let by_time = versions::by_time(&*log, &run.topology).unwrap();
    assert_eq!(by_time.len(), 2);
    assert_eq!(by_time[&from].len(), 1);
    let names = &run.topology.names;
    for (topic, partitions) in [(names.obs(), 3), (names.findings(), run.topology.findings.partitions), (names.control(), 1)] {
        for partition in 0..partitions {
            let mut reader = log.reader(&TopicPartition::new(topic.clone(), partition), 0).unwrap();
            let records = reader.poll(PollLimit::default(), Duration::ZERO).unwrap();
            let is_version = |r: &&tidewatch::log::Record| {
                r.header(header::RECORD).and_then(|h| RecordType::parse(h)) == Some(RecordType::Version)
            };
            assert_eq!(records.iter().filter(is_version).count(), 2, "{topic}/{partition}");
        }
    }
}

#[test]
fn processes_that_propose_together_record_one_version() {
    let scenario = traffic::office(1);
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let layout = Layout::default();
    scenario.load(&layout, &log).unwrap();
    let run = scenario.bounded(&layout, &log).unwrap();
    run.create_topics().unwrap();
    let rules = RuleSet::of(scenario.rules.iter().cloned());
    let began = std::sync::Barrier::new(4);
    let propose = || {
        began.wait();
        versions::propose(&*log, &run.topology, &rules, EventTime::from_secs(0)).unwrap()
    };
    let proposed: Vec<Proposed> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(propose)).collect();
        all.into_iter().map(|p| p.join().unwrap()).collect()
    });
    assert_eq!(proposed.iter().filter(|p| **p == Proposed::First).count(), 1, "{proposed:?}");
    assert_eq!(versions::recorded(&*log, &run.topology.names.control()).unwrap().len(), 1);
}
