//! `tidewatch rules mute`: an exception with an end, written beside the rules for an analyst who has looked and knows enough.

use std::time::Duration;

use serde_json::{Value, json};

use super::exception::{self, Target};
use super::{Exit, Failure, Output, Which};

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
    /// For how long, from now on: 30m, 8h, 2d; at most 720h
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
    exception::length(text, MUTE_MAX)
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let target = Target::of(&args.which, args.tenant.as_deref(), MUTED_FILE)?;
    let until = exception::until(args.lasts).to_rfc3339();
    target.append("Written by `tidewatch rules mute`; each line ends by itself.", &entry(args, &until))?;
    let reloaded = exception::reload(&args.which)?;
    if args.json {
        out.json(&json!({"file": target.path, "until": until, "reloaded": reloaded}))?;
        return Ok(Exit::Good);
    }
    out.line(format_args!("muted until {until}, in {}", target.path.display()))?;
    exception::tell_reload(&args.which, reloaded.as_ref(), out)?;
    Ok(Exit::Good)
}

fn entry(args: &Args, until: &str) -> String {
    let text = |name: &'static str, value: Option<&String>| value.map(|v| (name, Value::from(v.as_str())));
    let list = |name: &'static str, value: Option<&String>| value.map(|v| (name, json!([v])));
    exception::line([
        list("kinds", args.kind.as_ref()),
        list("rules", args.rule.as_ref()),
        text("source", args.source.as_ref()),
        text("destination", args.destination.as_ref()),
        text("domain", args.domain.as_ref()),
        args.port.map(|port| ("port", port.into())),
        text("owner", Some(&args.owner)),
        text("reason", Some(&args.reason)),
        Some(("expires", until.into())),
    ])
}
