//! `tidewatch rules reload`: tells a running process to read its rules again, as SIGHUP does.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Exit, Failure, Output};
use crate::command::processes;
use crate::log::socket::ask_to_reload;
use crate::topology::Topology;

/// Let a running process read its rules again and record them for all
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch rules reload topologies/quickstart.yaml\n\n\
                        The process reads the directory that it was started with. Sound rules are recorded as a version that every \
                        task of every process takes up at one event time, which is told. Rules with a mistake change nothing: every \
                        mistake is told, and the exit code is 2. SIGHUP does the same and tells it in the log.")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// The process that was started with this --ordinal (default: the first that answers)
    #[arg(long, value_name = "N")]
    ordinal: Option<u32>,
    /// One JSON object, for machines
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let topology = Topology::read(&args.topology)?;
    let running = processes::running(&topology);
    let chosen = running.iter().find(|p| args.ordinal.is_none_or(|ordinal| ordinal == p.status.ordinal));
    let Some(process) = chosen else {
        return Err(Failure::Usage(
            "no such process runs this topology on this machine; rules are read at the next start".to_owned(),
        ));
    };
    match ask_to_reload(&process.socket)? {
        Ok(done) => {
            let done: Value = serde_json::from_str(&done).unwrap_or_default();
            if args.json {
                out.json(&json!({"reloaded": done, "pid": process.status.pid}))?;
                return Ok(Exit::Good);
            }
            let text = |name: &str| done[name].as_str().unwrap_or_default().to_owned();
            for warning in done["warnings"].as_array().into_iter().flatten() {
                out.line(format_args!("warning: {}", warning.as_str().unwrap_or_default()))?;
            }
            let set: String = text("rule_set").chars().take(16).collect();
            let holds = match done["from"].as_str() {
                Some(from) => format!("; it holds for rows from {from} on"),
                None => String::new(),
            };
            out.line(format_args!("rule set {set}, {} rules: {}{holds}", done["rules"], text("outcome")))?;
            Ok(Exit::Good)
        }
        Err(reason) if args.json => {
            out.json(&json!({"reloaded": null, "pid": process.status.pid, "reason": reason}))?;
            Ok(Exit::Mistakes)
        }
        Err(reason) => Err(Failure::Usage(format!("the rules stay as they are:\n{reason}"))),
    }
}
