//! `tidewatch drain`: tells running processes to stop as SIGTERM does, and shows how far they are.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::processes::{self, Process};
use super::{Exit, Failure, Output};
use crate::log::socket::ask_to_drain;
use crate::topology::Topology;

/// The process is asked this often how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A process whose budget is spent leaves at once; so long is waited beyond it.
const GRACE: Duration = Duration::from_secs(5);

/// Stop a running process: end its epoch, take a last snapshot, leave
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch drain topologies/quickstart.yaml\n  \
                        tidewatch drain topologies/kafka.yaml --ordinal 2 --for-good\n\n\
                        Without --for-good the process keeps its place in the consumer groups: started again within the session \
                        time-out it has the same tasks, and nothing is moved. With it the tasks go to the others at once. \
                        Exit code 1 when a process had to give up what it had not finished within `drain_within`; nothing is \
                        lost then, the next start does it again.")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// Only the processes that were started with this --ordinal
    #[arg(long, value_name = "N")]
    ordinal: Option<u32>,
    /// All processes of this machine, where there are several
    #[arg(long, conflicts_with = "ordinal")]
    all: bool,
    /// Give the places in the consumer groups up: for a scale-down
    #[arg(long)]
    for_good: bool,
    /// One JSON object, for machines
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let topology = Topology::read(&args.topology)?;
    let chosen = choose(processes::running(&topology), args)?;
    let began = Instant::now();
    for process in &chosen {
        ask_to_drain(&process.socket, args.for_good)?;
        if !args.json {
            let (pid, tasks) = (process.status.pid, process.status.tasks.len());
            out.line(format_args!("process {pid} (ordinal {}): told to stop, {tasks} tasks", process.status.ordinal))?;
            out.flush()?;
        }
    }
    let mut left = chosen.clone();
    let mut given_up: Vec<u32> = Vec::new();
    while !left.is_empty() {
        std::thread::sleep(LOOK_EVERY);
        let mut still = Vec::new();
        for mut process in left {
            let within = Duration::from_secs(process.status.drain_within_s);
            match processes::ask(&process.socket) {
                Ok(status) if status.pid == process.status.pid && began.elapsed() < within + GRACE => {
                    if !args.json && status.tasks.len() != process.status.tasks.len() {
                        out.line(format_args!("process {}: {} tasks left", status.pid, status.tasks.len()))?;
                        out.flush()?;
                    }
                    process.status = status;
                    still.push(process);
                }
                // Gone, or another process stands there by now. Who went at the end of its budget had not finished.
                _ => {
                    if began.elapsed() >= within {
                        given_up.push(process.status.pid);
                    } else if !args.json {
                        out.line(format_args!(
                            "process {}: gone after {:.1} s",
                            process.status.pid,
                            began.elapsed().as_secs_f64()
                        ))?;
                    }
                }
            }
        }
        left = still;
    }
    if args.json {
        let pids: Vec<u32> = chosen.iter().map(|p| p.status.pid).collect();
        out.json(
            &json!({"processes": pids, "given_up": given_up, "for_good": args.for_good, "took_s": began.elapsed().as_secs_f64()}),
        )?;
    } else if !given_up.is_empty() {
        out.line(format_args!(
            "given up at the end of drain_within: processes {given_up:?}; the next start does the rest again"
        ))?;
    }
    Ok(if given_up.is_empty() { Exit::Good } else { Exit::Findings })
}

fn choose(running: Vec<Process>, args: &Args) -> Result<Vec<Process>, Failure> {
    let list = running.iter().map(|p| format!("ordinal {}: {}", p.status.ordinal, p.status.stages.join("+"))).collect::<Vec<_>>();
    let many = running.len() > 1;
    let chosen: Vec<Process> =
        running.into_iter().filter(|p| args.ordinal.is_none_or(|ordinal| ordinal == p.status.ordinal)).collect();
    if chosen.is_empty() {
        let there = if list.is_empty() { "none answers".to_owned() } else { format!("there are {}", list.join("; ")) };
        return Err(Failure::Usage(format!("no such process runs this topology on this machine: {there}")));
    }
    if many && args.ordinal.is_none() && !args.all {
        let list = list.join("; ");
        return Err(Failure::Usage(format!("several processes run this topology here ({list}): give --ordinal N, or --all")));
    }
    Ok(chosen)
}
