//! `tidewatch rules mute`: an exception with an end, written beside the rules for an analyst who has looked and knows enough.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tidewatch_operators::detectors;
use tidewatch_schemas::document::parse_duration;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::{Exit, Failure, Output, Which};
use crate::command::processes;
use crate::log::socket::ask_to_reload;
use crate::rules::{self, TENANTS_DIR};
use crate::topology::Topology;
use crate::worker::system_clock;

/// File beside the rules that holds what was muted.
const MUTED_FILE: &str = "muted.yaml";

/// Longest mute: what should be silent for longer is an exception that somebody writes and reviews.
const MUTE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Keep a host, a destination, a domain or a port silent for a while
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tidewatch rules mute --topology topologies/kafka.yaml --tenant acme --source 10.0.0.5 --rule my-rule \
                        --for 8h --owner ann --reason 'inventory, ticket 4711'\n  \
                        tidewatch rules mute --rules my-rules --destination 203.0.113.66 --port 443 --for 24h --owner ann --reason 'under investigation'\n\n\
                        It appends an exception (docs/rules.md#exceptions) to muted.yaml in the rules directory, or in the tenant's, and \
                        lets a process that runs the topology on this machine read its rules again. Elsewhere: tidewatch rules reload. \
                        It acts from the event time of that version to its end, and is counted like any exception. To end it sooner, \
                        take its line out and reload."
)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Only for this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Only findings of this rule
    #[arg(long, value_name = "ID")]
    rule: Option<String>,
    /// Only findings of this kind of rule
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// The host: address, network or workload name
    #[arg(long, value_name = "HOST")]
    source: Option<String>,
    /// The other end: address, network or workload name
    #[arg(long, value_name = "PEER")]
    destination: Option<String>,
    /// A name asked for, with everything below it
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Port of the other end
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// For how long, from now on: 30m, 8h; at most 720h
    #[arg(long = "for", value_name = "TIME", value_parser = length)]
    lasts: Duration,
    /// Who answers for it
    #[arg(long, value_name = "WHO")]
    owner: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// One JSON object, for machines
    #[arg(long)]
    json: bool,
}

fn length(text: &str) -> Result<Duration, String> {
    let lasts = parse_duration(text).map_err(str::to_owned)?;
    if lasts.is_zero() || lasts > MUTE_MAX {
        return Err(format!("more than nothing and at most {}h", MUTE_MAX.as_secs() / 3600));
    }
    Ok(lasts)
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let Some(dir) = args.which.dir()? else {
        return Err(Failure::Usage("give --rules DIR, or --topology FILE whose `rules` names a directory".to_owned()));
    };
    // Whole seconds: it is read by people.
    let until = EventTime::from_secs(system_clock()().plus(args.lasts.as_nanos() as i64).0 / SECOND_NS);
    let path = match &args.tenant {
        Some(tenant) if tenant.is_empty() || tenant.contains(['/', '\\']) || tenant.starts_with('.') => {
            return Err(Failure::Usage(format!("{tenant} is no tenant's id")));
        }
        Some(tenant) => dir.join(TENANTS_DIR).join(tenant).join(MUTED_FILE),
        None => dir.join(MUTED_FILE),
    };
    append(&dir, &path, &entry(args, until))?;
    let reloaded = args.which.topology.as_deref().map(reload).transpose()?.flatten();
    if args.json {
        out.json(&json!({"file": path, "until": until.to_rfc3339(), "reloaded": reloaded}))?;
        return Ok(Exit::Good);
    }
    out.line(format_args!("muted until {}, in {}", until.to_rfc3339(), path.display()))?;
    match reloaded {
        Some(done) => match done["from"].as_str() {
            Some(from) => out.line(format_args!("recorded; it acts for rows from {from} on"))?,
            None => out.line("recorded")?,
        },
        None => out.line("no process of this topology answers on this machine: tidewatch rules reload, where one runs")?,
    }
    Ok(Exit::Good)
}

/// The exception as a line of YAML: texts as JSON writes them, which YAML reads.
fn entry(args: &Args, until: EventTime) -> String {
    let text = |name: &str, value: Option<&String>| value.map(|v| format!("{name}: {}", Value::from(v.as_str())));
    let list = |name: &str, value: Option<&String>| value.map(|v| format!("{name}: [{}]", Value::from(v.as_str())));
    let parts = [
        list("kinds", args.kind.as_ref()),
        list("rules", args.rule.as_ref()),
        text("source", args.source.as_ref()),
        text("destination", args.destination.as_ref()),
        text("domain", args.domain.as_ref()),
        args.port.map(|port| format!("port: {port}")),
        text("owner", Some(&args.owner)),
        text("reason", Some(&args.reason)),
        Some(format!("expires: {}", Value::from(until.to_rfc3339()))),
    ];
    format!("  - {{{}}}\n", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// Appends it, unless the rules are then wrong: they stay as they were.
fn append(dir: &Path, path: &PathBuf, entry: &str) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::File { verb: "write", path: path.display().to_string(), reason: e.to_string() };
    let before = match std::fs::read(path) {
        Ok(before) => Some(before),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e)),
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file = std::fs::File::options().create(true).append(true).open(path).map_err(failed)?;
    if before.as_ref().is_none_or(Vec::is_empty) {
        file.write_all(b"# Written by `tidewatch rules mute`; each line ends by itself.\nallow:\n").map_err(failed)?;
    }
    file.write_all(entry.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    if let Err(mistakes) = rules::load(Some(dir), detectors::ALL) {
        match before {
            Some(before) => std::fs::write(path, before).map_err(failed)?,
            None => std::fs::remove_file(path).map_err(failed)?,
        }
        return Err(mistakes.into());
    }
    Ok(())
}

/// Lets a process of the topology read its rules; `None` = none answers here.
fn reload(path: &Path) -> Result<Option<Value>, Failure> {
    let topology = Topology::read(path)?;
    let running = processes::running(&topology);
    let Some(process) = running.first() else { return Ok(None) };
    match ask_to_reload(&process.socket)? {
        Ok(done) => Ok(serde_json::from_str(&done).ok()),
        Err(reason) => Err(Failure::Usage(format!("the rules stay as they are:\n{reason}"))),
    }
}
