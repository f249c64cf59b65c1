//! `tidewatch completion`: what a shell needs to complete this command.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Exit, Failure, Output};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch completion bash > ~/.local/share/bash-completion/completions/tidewatch")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tidewatch", &mut script);
    out.bytes(&script)?;
    Ok(Exit::Good)
}
