//! `tidewatch rules`: what is judged by, whether it is sound, whether it says what its tests want. One subcommand a file.

use std::path::PathBuf;

use serde_json::{Value, json};
use tidewatch_operators::detectors;
use tidewatch_operators::rule::{Rule, RuleSet};
use tidewatch_schemas::document::{Mistake, Mistakes};

use super::{Exit, Failure, Output};
use crate::rules;
use crate::topology::Topology;

mod acknowledge;
mod exception;
mod explain;
mod lint;
mod list;
mod mute;
mod new;
mod reload;
mod test;
mod why_not;

/// List, check, test, explain, begin and reload rules; mute, acknowledge; tell why one says nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch rules list --rules my-rules\n  \
                        tidewatch rules lint --topology topologies/kafka.yaml\n  \
                        tidewatch rules test --rules my-rules --only my-rule\n  \
                        tidewatch rules explain my-rule --rules my-rules\n  \
                        tidewatch rules new KIND --id my-rule > my-rules/my-rule.yaml\n  \
                        tidewatch rules reload topologies/quickstart.yaml\n  \
                        tidewatch rules mute --rules my-rules --source 10.0.0.5 --for 8h --owner ann --reason 'ticket 4711'\n  \
                        tidewatch rules acknowledge signal.json --rules my-rules --for 30d --owner ann --reason 'ticket 4711'\n  \
                        tidewatch rules why-not 10.0.0.5 --tenant acme --input zeek:/logs/2026-03-11\n\n\
                        How rules are written: docs/rules.md. What a detector sees and does not see: docs/detectors.md.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
enum Command {
    List(list::Args),
    Lint(lint::Args),
    Test(test::Args),
    Explain(explain::Args),
    New(new::Args),
    Reload(reload::Args),
    Mute(Box<mute::Args>),
    Acknowledge(Box<acknowledge::Args>),
    WhyNot(Box<why_not::Args>),
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    match &args.command {
        Command::List(args) => list::run(args, out),
        Command::Lint(args) => lint::run(args, out),
        Command::Test(args) => test::run(args, out),
        Command::Explain(args) => explain::run(args, out),
        Command::New(args) => new::run(args, out),
        Command::Reload(args) => reload::run(args, out),
        Command::Mute(args) => mute::run(args, out),
        Command::Acknowledge(args) => acknowledge::run(args, out),
        Command::WhyNot(args) => why_not::run(args, out),
    }
}

/// Which rules.
#[derive(Debug, clap::Args)]
struct Which {
    /// Directory with rules to lay over the built-in ones
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Topology whose rules directory is meant
    #[arg(long, value_name = "FILE", conflicts_with = "rules")]
    topology: Option<PathBuf>,
}

impl Which {
    fn dir(&self) -> Result<Option<PathBuf>, Failure> {
        match &self.topology {
            Some(topology) => Ok(Topology::read(topology)?.rules),
            None => Ok(self.rules.clone()),
        }
    }

    fn load(&self) -> Result<RuleSet, Failure> {
        Ok(rules::load(self.dir()?.as_deref(), detectors::ALL)?)
    }
}

/// The rules that an id names: everybody's and tenants'.
fn of_id<'s>(set: &'s RuleSet, id: &str) -> Result<Vec<&'s Rule>, Failure> {
    let found: Vec<&Rule> = set.all().map(|(rule, _)| rule).filter(|r| r.id == id).collect();
    if found.is_empty() {
        let known: Vec<&str> = set.all().map(|(rule, _)| rule.id.as_str()).collect();
        return Err(Failure::Usage(format!("there is no rule {id}; there are {}", known.join(", "))));
    }
    Ok(found)
}

fn tenant(rule: &Rule) -> String {
    rule.tenant.clone().unwrap_or_else(|| "all".to_owned())
}

/// Whether it speaks.
fn state(rule: &Rule) -> &'static str {
    match (rule.enabled, rule.shadow()) {
        (false, _) => "off",
        (true, true) => "shadow",
        (true, false) => "on",
    }
}

/// A mistake or warning for machines.
fn told(m: &Mistake) -> Value {
    json!({"file": m.file, "line": m.line, "column": m.column, "message": m.what, "suggestion": m.suggestion})
}

fn told_all(mistakes: &Mistakes) -> Vec<Value> {
    mistakes.sorted().into_iter().map(told).collect()
}
