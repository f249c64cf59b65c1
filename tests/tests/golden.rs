//! Golden vectors of the wire contract, end to end: records as probectl writes them in, signals out.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use prost::Message as _;
use tidewatch::topology::{Registry, Tenancy};
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::proto::flow::FlowBatch;
use tidewatch_tests::scenario::{self, Layout, Message, Scenario, default_rules, input, open_input};
use tidewatch_tests::traffic::{self, Contact, FLOW, flow_message, flow_record, noon};

fn scenario(contacts: &[Contact<'_>]) -> Scenario {
    let mut messages: Vec<Message> = contacts.iter().map(flow_message).collect();
    messages.sort_by_key(|m| m.at);
    Scenario::new("golden", vec![open_input(FLOW, "probectl-flow")], messages)
}

fn contact(at_s: f64, to: &'static str) -> Contact<'static> {
    Contact { tenant: "t1", at_s, from: "10.0.0.5", to, port: 443, bytes: 512 }
}

#[test]
fn v6_a_beacon_every_thirty_seconds() {
    let contacts: Vec<_> = (0..12).map(|n| contact(f64::from(n) * 30.0, "203.0.113.66")).collect();
    let outcome = scenario(&contacts).run(&Layout::default()).unwrap();
    let all: Vec<_> = outcome.published.values().flatten().collect();
    assert_eq!(all.len(), 1, "{all:#?}");
    let signal = outcome.of_kind("ndr.beaconing").pop().expect("a beacon");
    assert_eq!((signal.entity.kind.as_str(), signal.entity.id.as_str()), ("host", "10.0.0.5"));
    let to = signal.destination.unwrap();
    assert_eq!((to.ip.as_deref(), to.port), (Some("203.0.113.66"), Some(443)));
    assert!(signal.confidence >= 65, "confidence {}", signal.confidence);
    assert_eq!(signal.evidence.get("interval_s"), Some(&tidewatch_schemas::signal::Value::Double(30.0)));
}

#[test]
fn v7_gaps_without_a_rhythm() {
    let gaps = [5, 180, 11, 2400, 90, 7, 1500, 2, 840, 33, 2880, 6];
    let mut at_s = 0.0;
    let mut contacts = vec![contact(0.0, "198.51.100.10")];
    for gap in gaps {
        at_s += f64::from(gap);
        contacts.push(contact(at_s, "198.51.100.10"));
    }
    let outcome = scenario(&contacts).run(&Layout::default()).unwrap();
    assert!(outcome.of_kind("ndr.beaconing").is_empty());
    assert_eq!(outcome.ledger.total().normalized, 13);
}

/// Twenty internal destinations on a web port and twenty external ones on the file sharing port: no lateral movement.
#[test]
fn v14_what_is_no_lateral_movement() {
    let inside: Vec<String> = (1..=20).map(|n| format!("10.0.1.{n}")).collect();
    let outside: Vec<String> = (1..=20).map(|n| format!("198.51.100.{n}")).collect();
    let to = |at_s: f64, to, port| Contact { tenant: "t1", at_s, from: "10.0.0.66", to, port, bytes: 512 };
    let mut contacts: Vec<_> = (0_i32..).zip(&inside).map(|(n, a)| to(f64::from(n), a, 80)).collect();
    contacts.extend((30_i32..).zip(&outside).map(|(n, a)| to(f64::from(n), a, 445)));
    let outcome = scenario(&contacts).run(&Layout::default()).unwrap();
    assert!(outcome.of_kind("ndr.lateral").is_empty());
    let scans = outcome.of_kind("ndr.scan");
    assert!(scans.iter().all(|s| s.evidence.get("side") == Some(&tidewatch_schemas::signal::Value::Text("external".to_owned()))));
}

/// A batch of one record of a tenant and agent, and of another when there is one.
fn claim(n: u32, claims: &[(&str, &str)]) -> Message {
    let flows = claims.iter().map(|(tenant, agent)| {
        let mut record = flow_record(&contact(f64::from(n), "203.0.113.66"));
        record.tenant_id = (*tenant).to_owned();
        record.agent_id = (*agent).to_owned();
        record
    });
    let flows: Vec<_> = flows.collect();
    Message::new(FLOW, "k", noon(f64::from(n) + 1.0), FlowBatch { flows }.encode_to_vec())
}

fn counts(registry: Registry, strict: bool, lane: Option<&str>, claims: &[&[(&str, &str)]]) -> (u64, u64, Vec<String>) {
    let tenancy = Tenancy::Verified { registry, strict };
    let mut flow = input(FLOW, "probectl-flow", tenancy);
    flow.lane = lane.map(|tenant| tidewatch::topology::Lane { namespace: tenant.to_owned(), tenant: tenant.to_owned() });
    let messages = claims.iter().enumerate().map(|(n, claims)| claim(n as u32, claims)).collect();
    let outcome = Scenario::new("v32", vec![flow], messages).run(&Layout::default()).unwrap();
    let total = outcome.ledger.total();
    let rejected = scenario::read_all(&outcome.log, &outcome.topology.names.rejected()).unwrap();
    let reasons = rejected.iter().map(|r| String::from_utf8_lossy(r.header("tw-reason").unwrap()).into_owned()).collect();
    let tenants = outcome.ledger.0.iter().filter(|(_, c)| c.normalized > 0).map(|((_, tenant), _)| tenant.clone());
    let tenants: Vec<String> = tenants.collect();
    assert!(tenants.iter().all(|t| t == "a"), "{tenants:?}");
    (total.normalized, total.rejected, reasons)
}

#[test]
fn v32_whose_rows_these_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry");
    std::fs::write(&path, "a agent-1\n").unwrap();
    let registry = || Registry::File(path.clone());
    let both: &[(&str, &str)] = &[("a", "agent-1"), ("b", "agent-1")];
    let shared: &[&[(&str, &str)]] = &[&[("a", "agent-1")], &[("b", "agent-1")], &[("a", "ghost")], both];
    let (normalized, rejected, reasons) = counts(registry(), false, None, shared);
    assert_eq!((normalized, rejected), (1, 3));
    assert_eq!(
        reasons,
        [
            "tenant: agent is not registered for the tenant",
            "tenant: agent is not registered for the tenant",
            "tenant: more than one tenant or agent in one record",
        ]
    );
    // On a lane the lane's tenant counts, whatever the payload claims.
    assert_eq!(counts(registry(), false, Some("a"), &[&[("b", "agent-1")]]).0, 1);
    assert_eq!(counts(registry(), false, Some("z"), &[&[("z", "agent-1")]]).1, 1);
    assert_eq!(counts(registry(), true, None, &[&[("a", "agent-1")]]).1, 1);
}

fn stricter(rule: &Rule) -> Rule {
    let mut other = Rule { id: "second".to_owned(), base_confidence: rule.base_confidence / 2, ..rule.clone() };
    for name in ["fanout", "min_samples"] {
        if let Some(value) = other.thresholds.get_mut(name) {
            *value *= 1.5;
        }
    }
    other.suppress_ns /= 4;
    other
}

/// D2: rules of one kind share nothing.
#[test]
fn two_rules_of_one_kind_give_what_each_gives_alone() {
    let both: Vec<Rule> = default_rules()
        .iter()
        .flat_map(|r| [r.clone(), stricter(r)].into_iter().enumerate())
        .map(|(n, r)| Rule { id: format!("{}-{n}", r.kind), ..r })
        .collect();
    let base = traffic::by_hand();
    let signals = |rules: Vec<Rule>| {
        let outcome = Scenario { rules, ..base.clone() }.run(&Layout::default()).unwrap();
        let mut all: Vec<String> = outcome.signals.into_values().flatten().collect();
        all.sort();
        all
    };
    let together = signals(both.clone());
    let mut alone: Vec<String> = both.iter().flat_map(|rule| signals(vec![rule.clone()])).collect();
    alone.sort();
    assert!(alone.iter().any(|s| s.contains("beaconing-1")) && alone.iter().any(|s| s.contains("beaconing-0")));
    assert_eq!(together, alone);
}

/// CPU time of this thread so far.
fn cpu() -> Duration {
    // Field 1 of schedstat: nanoseconds on the CPU.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells the CPU time of a thread");
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

const SCAN_ROWS: u32 = 100_000;

/// State of one host, bytes, as the detectors' pages say: a thousand busy pairs of the 13 MB that four thousand may take;
/// for the wide scan 0.9 MB of beaconing and a little of the others.
const STATE_BYTES_MAX: [u64; 2] = [8 << 20, 2 << 20];

/// One host calls `destinations` others, each equally often, in batches of 500.
fn scan(destinations: u32) -> Scenario {
    let mut messages = Vec::new();
    let names: Vec<String> = (0..destinations).map(|n| format!("20.{}.{}.{}", 70 + (n >> 16), (n >> 8) & 255, n & 255)).collect();
    for first in (0..SCAN_ROWS).step_by(500) {
        let flows: Vec<_> = (first..first + 500)
            .map(|n| {
                let at_s = f64::from(n) * 0.01;
                let to = &names[(n % destinations) as usize];
                let mut record = flow_record(&Contact { tenant: "t1", at_s, from: "10.0.0.5", to, port: 443, bytes: 60 });
                record.tcp_flags = 2;
                record.source_port = 32_768 + n % 28_000;
                record
            })
            .collect();
        let at = noon(f64::from(first + 500) * 0.01 + 1.0);
        messages.push(Message::new(FLOW, "k", at, FlowBatch { flows }.encode_to_vec()));
    }
    Scenario::new("scan", vec![open_input(FLOW, "probectl-flow")], messages)
}

/// D6: what a scan costs does not grow with its width, and its state stays under its limit.
#[test]
fn a_wide_scan_costs_no_more_a_row_than_a_narrow_one() {
    // The best of several turns each, taken in turn: what else runs on the machine only adds.
    let mut best = [Duration::MAX; 2];
    let scenarios = [scan(1_000), scan(100_000)];
    for _ in 0..4 {
        for ((best, scenario), state_bytes_max) in best.iter_mut().zip(&scenarios).zip(STATE_BYTES_MAX) {
            let log = scenario::open(scenario::LogKind::Memory).unwrap().0;
            scenario.load(&Layout::default(), &log).unwrap();
            let run = scenario.bounded(&Layout::default(), &log).unwrap();
            run.create_topics().unwrap();
            let shared = run.shared();
            let before = cpu();
            run.lockstep(&shared, || Ok(())).unwrap();
            *best = (*best).min(cpu() - before);
            let total = shared.ledger.lock().unwrap().total();
            assert_eq!(total.normalized, u64::from(SCAN_ROWS));
            let board = shared.board.progress();
            let detect: u64 = board.iter().filter(|(k, _)| k.starts_with("detect")).map(|(_, p)| p.state_bytes).sum();
            assert!(detect < state_bytes_max, "{detect} bytes of state for one host, at most {state_bytes_max}");
        }
        if best[1].as_secs_f64() / best[0].as_secs_f64() <= 1.3 {
            return;
        }
    }
    let ratio = best[1].as_secs_f64() / best[0].as_secs_f64();
    let row = |d: Duration| d.as_secs_f64() * 1e9 / f64::from(SCAN_ROWS);
    panic!("{ratio:.2} times: {:.0} ns a row for 100,000 destinations, {:.0} for 1,000", row(best[1]), row(best[0]));
}
