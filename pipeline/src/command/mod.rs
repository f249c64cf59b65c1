//! The command line. One subcommand per file, each with its `Args` and `pub fn run(&Args, &mut Output) -> Result<Exit,
//! Failure>`; adding one is its file, its `mod` line, its variant of `Command` and its line in `dispatch`.
//!
//! What always holds: results go to standard output, everything else to standard error; one clear message per failure;
//! exit code 0, 1 or 2 as `--help` says; secrets are never arguments.

pub mod failure;
pub mod output;

mod marks;
mod open;
mod place;
mod processes;
mod serving;
mod shown;

mod backtest;
mod completion;
mod decode;
mod demo;
mod dlq;
mod drain;
mod explain_stall;
mod gather;
mod graph;
mod lag;
mod produce;
mod rules;
mod run;
mod score;
mod tap;
mod top;
mod validate;
mod version;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

pub use failure::{Exit, Failure};
pub use output::Output;

/// Shown at the end of every `--help`.
const EXIT_CODES: &str = "Exit codes: 0 good; 1 findings or failed checks, where finding them is the command's purpose, or work \
                          that failed midway; 2 usage or configuration (nothing was done).";

/// One poll of a partition that has something to give; a broker far away needs a moment.
const POLL_WAIT: Duration = Duration::from_secs(1);

/// Network telemetry in, security signals out.
#[derive(Debug, Parser)]
#[command(name = "tidewatch", version, after_help = EXIT_CODES, arg_required_else_help = true, propagate_version = true)]
pub struct Cli {
    /// Colours: auto (a terminal, and NO_COLOR not set), always, never
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN", hide_possible_values = true)]
    color: Color,

    /// What is logged to standard error: error, warn, info, debug, trace (default: info for `run`, warn for the others)
    #[arg(long, global = true, value_enum, env = "TIDEWATCH_LOG", value_name = "LEVEL", hide_possible_values = true)]
    log_level: Option<Level>,

    /// How it is logged: human, or json (one object a line)
    #[arg(long, global = true, value_enum, env = "TIDEWATCH_LOG_FORMAT", default_value_t = LogFormat::Human, value_name = "FORMAT",
          hide_possible_values = true)]
    log_format: LogFormat,

    #[command(subcommand)]
    command: Command,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// What stopped.
    Error,
    /// What should not be.
    Warn,
    /// What happens.
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

/// The subcommands, in the order of the manual.
#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Run(run::Args),
    Backtest(backtest::Args),
    Produce(produce::Args),
    Validate(validate::Args),
    Rules(rules::Args),
    Graph(graph::Args),
    Tap(tap::Args),
    Decode(decode::Args),
    Score(score::Args),
    Lag(lag::Args),
    Top(top::Args),
    ExplainStall(explain_stall::Args),
    Drain(drain::Args),
    Dlq(dlq::Args),
    Gather(gather::Args),
    Completion(completion::Args),
    Version(version::Args),
}

fn dispatch(command: &Command, out: &mut Output) -> Result<Exit, Failure> {
    match command {
        Command::Demo(args) => demo::run(args, out),
        Command::Run(args) => run::run(args, out),
        Command::Backtest(args) => backtest::run(args, out),
        Command::Produce(args) => produce::run(args, out),
        Command::Validate(args) => validate::run(args, out),
        Command::Rules(args) => rules::run(args, out),
        Command::Graph(args) => graph::run(args, out),
        Command::Tap(args) => tap::run(args, out),
        Command::Decode(args) => decode::run(args, out),
        Command::Score(args) => score::run(args, out),
        Command::Lag(args) => lag::run(args, out),
        Command::Top(args) => top::run(args, out),
        Command::ExplainStall(args) => explain_stall::run(args, out),
        Command::Drain(args) => drain::run(args, out),
        Command::Dlq(args) => dlq::run(args, out),
        Command::Gather(args) => gather::run(args, out),
        Command::Completion(args) => completion::run(args, out),
        Command::Version(args) => version::run(args, out),
    }
}

/// The whole command: arguments, logging, the subcommand, its failure in words.
pub fn main() -> ExitCode {
    // Usage errors and help end the process inside `parse`, with 2 and 0.
    let cli = Cli::parse();
    let quiet = !matches!(cli.command, Command::Run(_));
    log_to_stderr(cli.log_level.unwrap_or(if quiet { Level::Warn } else { Level::Info }), cli.log_format, cli.color);
    let mut out = Output::stdout(cli.color);
    let result = dispatch(&cli.command, &mut out).and_then(|exit| out.flush().map(|()| exit));
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.tell(output::colored_stderr(cli.color));
            failure.exit_code()
        }
    }
}

fn log_to_stderr(level: Level, format: LogFormat, color: Color) {
    let level = match level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    };
    // Modules are named where somebody looks for a cause; machines get them always.
    let to_stderr = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => {
            to_stderr.with_ansi(output::colored_stderr(color)).with_target(level >= tracing::Level::DEBUG).init();
        }
        LogFormat::Json => to_stderr.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_an_example_and_a_sentence() {
        for sub in Cli::command().get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", sub.get_name());
            assert!(sub.get_about().is_some(), "{} has no sentence", sub.get_name());
        }
    }
}
