//! The `tidewatch-bench` command: makes traffic, ranks what was found in it, and measures what it costs to analyse it.
//!
//! Exit codes: 0 good; 2 usage, or something that cannot be read or written.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod allocations;
mod cost;
mod dns;
mod generate;
mod judge;
mod merge;
mod quality;
mod rank;
mod restart;
mod train_names;
mod zeek_files;

/// Traffic and measurements for tidewatch.
#[derive(Parser)]
#[command(name = "tidewatch-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    // The help text stands at the arguments.
    Generate(generate::Args),
    Merge(merge::Args),
    Rank(rank::Args),
    Judge(judge::Args),
    Cost(cost::Args),
    Dns(dns::Args),
    Quality(quality::Args),
    Restart(restart::Args),
    TrainNames(train_names::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Generate(args) => generate::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Rank(args) => rank::run(&args),
        Command::Judge(args) => judge::run(&args),
        Command::Cost(args) => cost::run(&args),
        Command::Dns(args) => dns::run(&args),
        Command::Quality(args) => quality::run(&args),
        Command::Restart(args) => restart::run(&args),
        Command::TrainNames(args) => train_names::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
