//! `tidewatch rules why-not`: each condition's value against its threshold, for a host and a span of time, from rows or from
//! the state that a running deployment has snapshotted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};
use tidewatch_operators::detectors;
use tidewatch_operators::key::{Host, HostKey};
use tidewatch_operators::why::{Answer, Case, Condition, Needs};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::signal::Signal;
use tidewatch_schemas::time::EventTime;

use super::{Exit, Failure, Output};
use crate::backtest::{self, BacktestConfig};
use crate::command::{backtest as backtests, open, output};
use crate::detect::DetectTask;
use crate::input::InputSpec;
use crate::log::{LogError, TopicPartition};
use crate::rules::watch::{OfRule, Watch, Watched};
use crate::run::Run;
use crate::snapshot::{LoadProgress, SnapshotStore};
use crate::task::Task;
use crate::topology::{Stage, Topology};
use crate::worker::meta::Meta;
use crate::worker::system_clock;

/// Cases of one rule that are shown unless all are asked for.
const SHOWN: usize = 3;

/// Tell why nothing is said of a host: each condition's value against its threshold
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch rules why-not 10.0.0.5 --tenant acme --input zeek:/logs/2026-03-11\n  \
                        tidewatch rules why-not 10.0.0.5 --tenant acme --input zeek:/logs/2026-03-11 --only my-rule \
                        --about 203.0.113.66 --from 2026-03-11T09:00:00Z --to 2026-03-11T12:00:00Z\n  \
                        tidewatch rules why-not 10.0.0.5 --tenant acme --topology topologies/kafka.yaml --input \
                        kafka:probectl.flow.events@2026-03-11T00:00:00Z..2026-03-12T00:00:00Z\n  \
                        tidewatch rules why-not web-1 --tenant acme --topology topologies/quickstart.yaml --live\n\n\
                        With --input the rows take the whole way, from what lies before the span too, so that the state is what it \
                        was; for every peer, domain, port or window the moment within the span is told at which it came nearest. \
                        With --live it is the newest snapshot of every detect task of the topology, as it stands. A case in which \
                        every condition is met was told of, or was kept back by what is said below it: an exception, where, \
                        suppression, or the tenant's view.")]
pub struct Args {
    /// The host: its address, or its workload name where it has none
    host: String,
    /// Its tenant
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// FORMAT:PATH or kafka:TOPIC@FROM..TO, as of backtest; may be given several times
    #[arg(long = "input", value_name = "INPUT", required_unless_present = "live", conflicts_with = "live")]
    inputs: Vec<String>,
    /// Ask the newest snapshots of a deployment instead of rows
    #[arg(long, requires = "topology")]
    live: bool,
    /// Topology: times and limits; formats, tenants and brokers of topics; where snapshots lie
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
    /// Directory with rules to lay over the built-in ones; topics are then judged by these, not by the recorded ones
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Only this rule or this kind
    #[arg(long, value_name = "ID|KIND")]
    only: Option<String>,
    /// Only peers, domains, ports or windows with this text in them
    #[arg(long, value_name = "TEXT")]
    about: Option<String>,
    /// Begin of the span, in event time
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "live")]
    from: Option<EventTime>,
    /// End of the span, in event time
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "live")]
    to: Option<EventTime>,
    /// Networks that count as internal besides the private ranges, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    internal: Vec<IpNet>,
    /// Every case, not the nearest of each rule alone
    #[arg(long)]
    all: bool,
    /// One JSON object a rule
    #[arg(long)]
    json: bool,
}

fn moment(text: &str) -> Result<EventTime, String> {
    EventTime::parse_rfc3339(text).ok_or_else(|| "expected a moment as 2026-03-11T09:00:00Z".to_owned())
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let host = match Address::parse(args.host.as_bytes()) {
        Some(address) => Host::Address(address),
        None => Host::Name(args.host.as_str().into()),
    };
    let key = HostKey { tenant: args.tenant.as_str().into(), host };
    let (from, to) = (args.from.unwrap_or(EventTime::MIN), args.to.unwrap_or(EventTime(i64::MAX)));
    let watch = Arc::new(Watch::new(key, args.about.clone(), from, to));
    let topology = args.topology.as_deref().map(Topology::read).transpose()?;
    let signals = match topology.as_ref().filter(|_| args.live) {
        Some(topology) => {
            live(topology, &watch)?;
            None
        }
        None => Some(over_rows(args, topology, &watch)?),
    };
    let seen = watch.seen();
    if let Some(only) = &args.only
        && !seen.rules.iter().any(|(id, of)| id == only || of.kind == *only)
        && !seen.rules.is_empty()
    {
        let known: Vec<&str> = seen.rules.keys().map(String::as_str).collect();
        return Err(Failure::Usage(format!("there is no rule or kind {only}; there are {}", known.join(", "))));
    }
    let told = |id: &str| {
        let of = |all: &[Signal]| all.iter().filter(|s| s.rule.id == id).count() as u64;
        signals.as_ref().map(|(live, shadow)| Told { signals: of(live), shadow: of(shadow) })
    };
    let wanted = |id: &str, of: &OfRule| args.only.as_ref().is_none_or(|only| only == id || *only == of.kind);
    let rules = seen.rules.iter().filter(|(id, of)| wanted(id, of));
    if args.json {
        for (id, of) in rules {
            out.json(&machine(args, id, of, told(id), &seen))?;
        }
        return Ok(Exit::Good);
    }
    head(args, &seen, out)?;
    for (id, of) in rules {
        tell(args, id, of, told(id), out)?;
    }
    Ok(Exit::Good)
}

/// What a rule said of the host.
#[derive(Clone, Copy)]
struct Told {
    signals: u64,
    /// In shadow.
    shadow: u64,
}

/// Over rows, as a backtest; the host's signals, and what would be some but for rules in shadow.
fn over_rows(args: &Args, topology: Option<Topology>, watch: &Arc<Watch>) -> Result<(Vec<Signal>, Vec<Signal>), Failure> {
    let inputs: Result<Vec<InputSpec>, _> = args.inputs.iter().map(|i| i.parse::<InputSpec>()).collect();
    let inputs = inputs.map_err(|e| Failure::Usage(e.to_string()))?;
    let rules_dir = args.rules.clone().or_else(|| topology.as_ref().and_then(|t| t.rules.clone()));
    let rules = crate::rules::load(rules_dir.as_deref(), detectors::ALL).map_err(Failure::Config)?;
    let log = match (&topology, inputs.iter().any(|i| matches!(i, InputSpec::Topic(_)))) {
        (Some(topology), true) => Some(open::log(topology)?),
        (None, true) => {
            let what = "kafka: inputs need --topology FILE, which names brokers, formats and tenants";
            return Err(Failure::Usage(what.to_owned()));
        }
        _ => None,
    };
    let config = BacktestConfig {
        inputs,
        topology,
        tenant: Some(args.tenant.clone()),
        internal: args.internal.clone(),
        rules: rules.rules,
        own_rules: args.rules.is_some(),
        flush: None,
        log,
        poll_records: 4096,
        partitions: None,
    };
    let bar = output::progress(0, "why-not");
    let outcome = backtest::run_watched(&config, system_clock(), Some(watch.clone()), |done| {
        bar.set_length(done.bytes_total);
        bar.set_position(done.bytes_read);
    });
    bar.finish_and_clear();
    let outcome = outcome.map_err(backtests::failure)?;
    let host = watch.key.host.to_string();
    let within = |s: &Signal| s.detected_at > watch.from && s.decided_at < watch.to;
    let of_host = |s: &Signal| *s.tenant == *watch.key.tenant && s.entity.id == host && within(s);
    let of_host = |all: Vec<(String, Signal)>| all.into_iter().map(|(_, signal)| signal).filter(of_host).collect();
    Ok((of_host(outcome.signals), of_host(outcome.shadow)))
}

/// From the newest committed snapshot of every detect task.
fn live(topology: &Topology, watch: &Arc<Watch>) -> Result<(), Failure> {
    let reached = open::reading(topology)?;
    let log = reached.log.clone();
    let store = SnapshotStore::open(&topology.snapshots.url).map_err(|e| Failure::Usage(e.to_string()))?;
    let store = match topology.names.deployment() {
        Some(deployment) => store.of(deployment),
        None => store,
    };
    let versions = crate::versions::by_time(&*log, topology).map_err(|e| Failure::Failed(e.to_string()))?;
    let run = Run { versions, ..Run::new(topology.clone(), Vec::new(), log.clone(), system_clock()) };
    let (config, obs) = (run.detect_config(), topology.names.obs());
    let mut loaded = 0;
    let partitions = match log.partitions(&obs) {
        // Nothing has run yet.
        Err(LogError::UnknownTopic { .. }) => 0,
        partitions => partitions?,
    };
    for partition in 0..partitions {
        let at = TopicPartition::new(obs.clone(), partition);
        let committed = log.committed(&topology.names.group(Stage::Detect), std::slice::from_ref(&at))?.pop().flatten();
        let Some(id) = committed.and_then(|c| Meta::decode(&c.metadata)).and_then(|meta| meta.snapshot) else { continue };
        let of_task = store.of(&format!("{}-{partition}", Stage::Detect.name()));
        let snapshot =
            of_task.load(&id, &LoadProgress::default(), &*system_clock()).map_err(|e| Failure::Failed(e.to_string()))?;
        let mut task = DetectTask::new(at, config.clone());
        task.restore(&snapshot.state, &|_| ()).map_err(|e| Failure::Failed(e.to_string()))?;
        let (detection, closed) = task.operators();
        watch.now(detection, closed);
        loaded += 1;
    }
    if loaded == 0 {
        return Err(Failure::Usage(
            "no detect task of this deployment has a snapshot yet; with --input the rows are asked instead".to_owned(),
        ));
    }
    Ok(())
}

fn head(args: &Args, seen: &Watched, out: &mut Output) -> Result<(), Failure> {
    if args.live {
        return out.line(format_args!("{} of {}, as in the newest snapshots", args.host, args.tenant));
    }
    let rows: Vec<String> = seen.rows.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    match seen.span {
        Some((first, last)) => {
            let (first, last) = (first.to_rfc3339(), last.to_rfc3339());
            out.line(format_args!("{} of {}: rows {} from {first} to {last}", args.host, args.tenant, rows.join(", ")))
        }
        None => out.line(format_args!(
            "{} of {}: no row is filed under this host in this span; is it the internal end, and is that its tenant?",
            args.host, args.tenant
        )),
    }
}

/// The cases of a rule, nearest first.
fn nearest(of: &OfRule) -> Vec<&(EventTime, Case)> {
    let mut cases: Vec<_> = of.nearest.values().collect();
    cases.sort_by(|a, b| a.1.distance().total_cmp(&b.1.distance()));
    cases
}

/// What became of it, in words.
fn fate(of: &OfRule, told: Option<Told>) -> String {
    let Some(Told { signals, shadow }) = told else { return String::new() };
    let kept = of.kept_back;
    let held = of.findings.saturating_sub(signals + shadow);
    let parts = [
        (signals, "signals"),
        (shadow, "would be signals, but the rule runs in shadow"),
        (held, "findings held back by suppression or the tenant's view"),
        (kept.findings, "findings not let through by where"),
        (kept.allowed, "findings covered by an exception"),
        (kept.rows, "rows not seen because of where"),
    ];
    let parts: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if parts.is_empty() { "no signal".to_owned() } else { parts.join(", ") }
}

fn tell(args: &Args, id: &str, of: &OfRule, told: Option<Told>, out: &mut Output) -> Result<(), Failure> {
    out.line("")?;
    let colon = if args.live { "" } else { ": " };
    out.line(format_args!("{id} version {} ({}){colon}{}", of.version, of.kind, fate(of, told)))?;
    let cases = nearest(of);
    if cases.is_empty() {
        return out.line(match &of.answer {
            Answer::Off => "  is off for this tenant",
            Answer::NothingKept => "  nothing is kept of the host: none of its rows meant anything to the detector",
            Answer::CannotTell => "  this detector cannot tell",
            Answer::Cases(_) => "  nothing is kept of what is asked for",
        });
    }
    let shown = if args.all { cases.len() } else { SHOWN };
    let mut rows = Vec::new();
    for (at, case) in cases.iter().take(shown) {
        for condition in &case.conditions {
            rows.push(vec![
                case.subject.clone(),
                case.way.to_owned(),
                condition.name.to_owned(),
                value(condition),
                needs(condition),
                if condition.met() { "yes" } else { "NO" }.to_owned(),
                at.to_rfc3339(),
            ]);
        }
    }
    out.table(&["of", "way", "condition", "value", "needs", "met", "at"], &rows)?;
    if cases.len() > shown {
        out.line(format_args!("{} more, farther away: --all, or --about TEXT", cases.len() - shown))?;
    }
    Ok(())
}

fn number(value: f64) -> String {
    let rounded = (value * 1000.0).round() / 1000.0;
    rounded.to_string()
}

fn truth(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn value(condition: &Condition) -> String {
    match condition.needs {
        Needs::Is(_) => truth(condition.value > 0.0),
        _ => number(condition.value),
    }
}

fn needs(condition: &Condition) -> String {
    match condition.needs {
        Needs::AtLeast(threshold) => format!(">= {}", number(threshold)),
        Needs::AtMost(threshold) => format!("<= {}", number(threshold)),
        Needs::Is(wanted) => truth(wanted),
    }
}

fn machine(args: &Args, id: &str, of: &OfRule, told: Option<Told>, seen: &Watched) -> Value {
    let condition = |c: &Condition| {
        let (needs, threshold) = match c.needs {
            Needs::AtLeast(threshold) => (">=", json!(threshold)),
            Needs::AtMost(threshold) => ("<=", json!(threshold)),
            Needs::Is(wanted) => ("is", json!(wanted)),
        };
        let value = if matches!(c.needs, Needs::Is(_)) { json!(c.value > 0.0) } else { json!(c.value) };
        json!({"name": c.name, "value": value, "needs": needs, "threshold": threshold, "met": c.met()})
    };
    let case = |(at, case): &&(EventTime, Case)| {
        json!({
            "of": case.subject, "way": case.way, "at": at.to_rfc3339(), "met": case.met(), "distance": case.distance(),
            "conditions": case.conditions.iter().map(condition).collect::<Vec<_>>(),
        })
    };
    let state = match &of.answer {
        _ if !of.nearest.is_empty() => "cases",
        Answer::Off => "off",
        Answer::NothingKept => "nothing_kept",
        Answer::CannotTell => "cannot_tell",
        Answer::Cases(_) => "cases",
    };
    let rows: BTreeMap<&str, u64> = seen.rows.clone();
    json!({
        "host": args.host, "tenant": args.tenant, "rows": rows, "rule": id, "version": of.version, "kind": of.kind, "state": state,
        "signals": told.map(|t| t.signals), "shadow": told.map(|t| t.shadow), "findings": of.findings, "allowed": of.kept_back.allowed, "where_findings": of.kept_back.findings,
        "where_rows": of.kept_back.rows, "cases": nearest(of).iter().map(case).collect::<Vec<_>>(),
    })
}
