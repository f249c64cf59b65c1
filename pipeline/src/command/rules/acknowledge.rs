//! `tidewatch rules acknowledge`: an analyst has seen a signal. Its rule says nothing more of this entity and destination,
//! unless it becomes graver, until an end: an exception up to the signal's severity, written beside the tenant's rules.

use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value, json};
use tidewatch_schemas::signal::{Endpoint, Signal, from_json};

use super::exception::{self, Target};
use super::{Exit, Failure, Output, Which};
use crate::command::{POLL_WAIT, open, place};
use crate::log::{PollLimit, TopicPartition};
use crate::topology::Topology;

/// File beside the tenant's rules that holds what was acknowledged.
const ACKNOWLEDGED_FILE: &str = "acknowledged.yaml";

/// Longest acknowledgement: after a quarter of a year somebody looks again.
const ACKNOWLEDGE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

/// Bytes of a file or of standard input, at most: a signal with all that a record may hold around it.
const INPUT_BYTES_MAX: u64 = 4 << 20;

/// Say no more of a signal's entity and destination unless it becomes graver
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch tap topologies/kafka.yaml signals --grep 203.0.113.66 --limit 1 --json | \
                        tidewatch rules acknowledge - --topology topologies/kafka.yaml --for 30d --owner ann --reason 'partner, ticket 4711'\n  \
                        tidewatch rules acknowledge SIGNAL-ID --topology topologies/kafka.yaml --for 30d --owner ann --reason 'ticket 4711'\n\n\
                        It appends an exception with the signal's rule, entity, destination and, as `up_to`, its severity \
                        (docs/rules.md#exceptions) to acknowledged.yaml in the directory of the signal's tenant, and lets a process \
                        that runs the topology on this machine read its rules again. Elsewhere: tidewatch rules reload. What is graver \
                        is told all the same. It ends by itself, in event time; to end it sooner, take its line out and reload.")]
pub struct Args {
    /// The signal: a file with its JSON, as signals, `tap --json` and destinations have it; - for standard input; or, with
    /// --topology, its id
    signal: String,
    #[command(flatten)]
    which: Which,
    /// For how long, from now on: 8h, 30d; at most 2160h
    #[arg(long = "for", value_name = "TIME", value_parser = length)]
    lasts: Duration,
    /// Who has seen it
    #[arg(long, value_name = "WHO")]
    owner: String,
    /// What it is
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// One JSON object, for machines
    #[arg(long)]
    json: bool,
}

fn length(text: &str) -> Result<Duration, String> {
    exception::length(text, ACKNOWLEDGE_MAX)
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let signal = signal(args)?;
    let target = Target::of(&args.which, Some(&signal.tenant), ACKNOWLEDGED_FILE)?;
    let until = exception::until(args.lasts).to_rfc3339();
    let entry = entry(&signal, args, &until);
    target.append("Written by `tidewatch rules acknowledge`; each line ends by itself.", &entry)?;
    let reloaded = exception::reload(&args.which)?;
    let up_to = signal.severity.name();
    if args.json {
        out.json(&json!({
            "signal": signal.id, "tenant": signal.tenant, "rule": signal.rule.id, "up_to": up_to, "until": until,
            "file": target.path, "entry": entry.trim_end(), "reloaded": reloaded,
        }))?;
        return Ok(Exit::Good);
    }
    out.line(format_args!("acknowledged up to {up_to} until {until}, in {}:", target.path.display()))?;
    out.line(entry.trim_end())?;
    exception::tell_reload(&args.which, reloaded.as_ref(), out)?;
    Ok(Exit::Good)
}

/// What the exception is about: the rule, the entity, and the other end by its name, which outlives addresses.
fn entry(signal: &Signal, args: &Args, until: &str) -> String {
    let none = Endpoint::default();
    let to = signal.destination.as_ref().unwrap_or(&none);
    let domain = to.domain.as_deref().filter(|name| is_domain(name));
    let end = to.name.as_deref().or(to.ip.as_deref()).filter(|_| domain.is_none());
    exception::line([
        Some(("rules", json!([signal.rule.id]))),
        Some(("source", signal.entity.id.as_str().into())),
        domain.map(|name| ("domain", name.into())),
        end.map(|end| ("destination", end.into())),
        to.port.map(|port| ("port", port.into())),
        Some(("up_to", signal.severity.name().into())),
        Some(("owner", args.owner.as_str().into())),
        Some(("reason", args.reason.as_str().into())),
        Some(("expires", until.into())),
    ])
}

/// What an exception takes as a domain; other names stand for their address alone.
fn is_domain(name: &str) -> bool {
    let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    name.len() <= 253 && name.split('.').all(label) && name.parse::<std::net::IpAddr>().is_err()
}

fn signal(args: &Args) -> Result<Signal, Failure> {
    if args.signal == "-" {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|e| Failure::File { verb: "read", path: "standard input".to_owned(), reason: e.to_string() })?;
        return one(&text, "standard input");
    }
    let failed = |e: std::io::Error| Failure::File { verb: "read", path: args.signal.clone(), reason: e.to_string() };
    match std::fs::File::open(&args.signal) {
        Ok(file) => {
            let mut text = String::new();
            file.take(INPUT_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
            one(&text, &args.signal)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match &args.which.topology {
            Some(topology) => by_id(&Topology::read(topology)?, &args.signal),
            None => Err(Failure::Usage(format!("there is no file {}; to find a signal by its id: --topology FILE", args.signal))),
        },
        Err(e) => Err(failed(e)),
    }
}

/// The one signal in a text, bare or as `tap --json` wraps it.
fn one(text: &str, from: &str) -> Result<Signal, Failure> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let wrong = |what: String| Failure::Usage(format!("{from}: {what}"));
    let Some(line) = lines.next() else { return Err(wrong("there is no signal in it".to_owned())) };
    if lines.next().is_some() {
        return Err(wrong("more than one line; a signal is acknowledged by itself".to_owned()));
    }
    let mut value: Value = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
    if value["kind"] == "signal" && value["value"].is_object() {
        value = value["value"].take();
    }
    from_json(&value.to_string()).map_err(|e| wrong(e.to_string()))
}

/// A signal of the signals topic.
fn by_id(topology: &Topology, id: &str) -> Result<Signal, Failure> {
    let reached = open::reading(topology)?;
    let log = reached.log.as_ref();
    let (topic, partitions) = place::topic(topology, log, "signals")?;
    for partition in 0..partitions {
        let at = TopicPartition::new(topic.clone(), partition);
        let range = log.offsets(&at)?;
        let mut reader = log.reader(&at, range.start)?;
        let mut stalled = 0;
        while reader.position() < range.end && stalled < place::STALLED_POLLS {
            let records = reader.poll(PollLimit::default(), POLL_WAIT)?;
            if records.is_empty() && reader.at_end() {
                break;
            }
            stalled = if records.is_empty() { stalled + 1 } else { 0 };
            let texts = records.iter().filter_map(|r| std::str::from_utf8(r.value.as_deref()?).ok());
            if let Some(found) = texts.filter(|t| t.contains(id)).filter_map(|t| from_json(t).ok()).find(|s| s.id == id) {
                return Ok(found);
            }
        }
    }
    Err(Failure::Usage(format!("neither a file nor the id of a signal in {topic}: {id}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_signal_is_said() {
        for (text, told) in [
            ("\n", "in: there is no signal in it"),
            ("{}\n{}\n", "in: more than one line"),
            ("signal", "in: expected value"),
            ("{\"kind\": \"signal\", \"value\": {\"id\": \"a\"}}", "in: not a signal"),
        ] {
            let failure = one(text, "in").map_err(|f| f.to_string());
            assert!(failure.as_ref().is_err_and(|f| f.starts_with(told)), "{text}: {failure:?}");
        }
    }

    #[test]
    fn only_names_that_an_exception_takes_are_domains() {
        assert!(["a.example", "_x.a-b.example", "localhost"].iter().all(|n| is_domain(n)));
        assert!(!["", "a..example", "10.0.0.5", "bücher.example", "a b"].iter().any(|n| is_domain(n)));
    }
}
