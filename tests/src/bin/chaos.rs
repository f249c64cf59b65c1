//! `cargo run --release -p tidewatch-tests --bin chaos -- --rotations 12 --seed 1 --json chaos.json`
//!
//! Exactly once under kills on a real cluster: see [`tidewatch_tests::chaos`]. Exit code 0 only when nothing was lost,
//! duplicated or altered. Under the name `tidewatch` this program is the worker that it starts.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tidewatch_operators::planted::{self, Bug};
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::chaos::{self, Options, kinds::Kind, report::Report};
use tidewatch_tests::program::SELF_NAME;

/// Kills workers and brokers of a real deployment while rows come, and compares what it published with an undisturbed run.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Args {
    /// Rotations: things done to the deployment, all kinds equally often
    #[arg(long, default_value_t = 12)]
    rotations: u32,
    /// Seed of traffic and rotations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the report goes
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where everything lies while it runs; removed when all is good (default: beside the program)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Go on with the run in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["rotations", "seed", "dir"])]
    resume: Option<PathBuf>,
    /// Only these kinds of rotation
    #[arg(long, value_delimiter = ',', conflicts_with = "resume")]
    only: Vec<Kind>,
    /// After a rotation that went wrong leave everything running for so long, to look into
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    hold: u64,
    /// Every worker has a fault, which the run must find: then its exit code is not 0
    #[arg(long, value_enum)]
    planted: Option<Planted>,
}

/// Faults of workers.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Planted {
    /// What is processed again after a restart is written again
    Unmuted,
}

impl Planted {
    fn bug(self) -> Bug {
        match self {
            Self::Unmuted => Bug::Unmuted,
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    if arguments.next().is_some_and(|name| name == SELF_NAME) {
        end_with_parent();
        #[allow(clippy::disallowed_methods, reason = "a fault planted by the harness; no product build has any")]
        let planted = std::env::var(chaos::PLANTED).ok().and_then(|name| Planted::from_str(&name, false).ok());
        planted.map(Planted::bug).into_iter().for_each(planted::plant_everywhere);
        return tidewatch::command::main();
    }
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("chaos: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    let place = || Some(std::env::current_exe().ok()?.parent()?.join(format!("chaos-seed-{}", args.seed)));
    let dir = args.resume.clone().or_else(|| args.dir.clone()).or_else(place).unwrap_or_else(|| "chaos".into());
    if args.resume.is_none() {
        chaos::clear(&dir)?;
    }
    let options = Options {
        rotations: args.rotations,
        seed: args.seed,
        dir,
        resume: args.resume.is_some(),
        only: args.only.clone(),
        planted: args.planted.map(Planted::name),
        hold: Duration::from_secs(args.hold),
    };
    let report = match chaos::run(&options, &say) {
        Ok(report) => report,
        Err(error) => {
            say(&format!("what there is lies in {0}; to go on: chaos --resume {0}", options.dir.display()));
            return Err(error);
        }
    };
    tell(args, &report)?;
    if report.is_good() {
        std::fs::remove_dir_all(&options.dir)?;
    }
    Ok(report.is_good())
}

fn tell(args: &Args, report: &Report) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(report.table().as_bytes())?;
    if let Some(file) = &args.json {
        let command = format!(
            "cargo run --release -p tidewatch-tests --bin chaos -- --rotations {} --seed {}{}{} --json {}",
            report.rotations,
            report.seed,
            match report.only.iter().filter_map(|kind| Some(kind.to_possible_value()?.get_name().to_owned())).collect::<Vec<_>>()
            {
                kinds if kinds.is_empty() => String::new(),
                kinds => format!(" --only {}", kinds.join(",")),
            },
            report.planted.as_ref().map_or_else(String::new, |name| format!(" --planted {name}")),
            file.display()
        );
        let now: EventTime = (tidewatch::worker::system_clock())();
        std::fs::write(file, serde_json::to_string_pretty(&report.json(&command, &now.to_rfc3339()))? + "\n")?;
    }
    Ok(())
}

fn say(line: &str) {
    // Nobody may be reading.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// A worker whose harness is gone has nobody who would ever stop it.
fn end_with_parent() {
    let wait = || {
        let mut nothing = Vec::new();
        drop(std::io::stdin().read_to_end(&mut nothing));
        std::process::abort();
    };
    drop(std::thread::Builder::new().name("parent".into()).spawn(wait));
}
