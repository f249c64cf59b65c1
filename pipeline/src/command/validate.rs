//! `tidewatch validate`: a topology and its rules, checked without touching a log or a network; with `--online` against the
//! brokers, object store and disk that it names, without changing them.

mod judge;
mod online;

use std::path::{Path, PathBuf};

use serde::Serialize;
use tidewatch_operators::detectors;
use tidewatch_operators::rule::{RuleSet, lint};
use tidewatch_schemas::document::{Mistake, Mistakes, show_duration};

use self::judge::{Finding, Level};
use super::{Exit, Failure, Output};
use crate::rules;
use crate::topology::{INPUT_PARTITIONS_DEFAULT, Need, ReadError, Stage, Tenancy, Topology};
use crate::worker::system_clock;

/// Check a topology and its rules, and report every mistake at once
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch validate topologies/quickstart.yaml --rules my-rules\n\
                        Nothing is connected to, unless with --online, and nothing is changed. With a mistake the exit code is 2, \
                        with a problem found online 1.")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// A directory of rules over the built-in ones, instead of the topology's own
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Ask brokers, object store and disk, too: is everything there, does it fit, may this login use it
    #[arg(long)]
    online: bool,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let checked = check(&args.topology, args.rules.as_deref());
    let found: Option<Vec<Finding>> = checked.as_ref().ok().filter(|_| args.online).map(|(topology, _)| online::look(topology));
    let problems = found.iter().flatten().filter(|f| f.level == Level::Problem).count();
    let exit = if problems > 0 { Exit::Findings } else { Exit::Good };
    if args.json {
        out.json(&Report { found: found.as_deref(), good: checked.is_ok() && problems == 0, ..Report::of(&checked) })?;
        return Ok(if checked.is_ok() { exit } else { Exit::Mistakes });
    }
    let (topology, rules) = checked?;
    tell(&args.topology, &topology, &rules, out)?;
    let mut warnings: Vec<String> = lint(&rules, system_clock()()).iter().map(ToString::to_string).collect();
    warnings.extend(memory(&topology));
    if !warnings.is_empty() {
        out.line("")?;
        warnings.iter().try_for_each(|warning| out.line(format_args!("warning: {warning}")))?;
    }
    if let Some(found) = found {
        tell_found(&found, problems, out)?;
    }
    Ok(exit)
}

/// A budget that the limits do not keep to, with the partitions that the topology knows of; `run` asks the log.
fn memory(topology: &Topology) -> Option<String> {
    let partitions = |input: &crate::topology::Input| u64::from(input.partitions.unwrap_or(INPUT_PARTITIONS_DEFAULT));
    let need = Need::of(topology, Stage::ALL, topology.inputs.iter().map(partitions).sum());
    need.within(topology).err().map(|exceeded| exceeded.to_string())
}

fn tell_found(found: &[Finding], problems: usize, out: &mut Output) -> Result<(), Failure> {
    out.line("")?;
    let row = |f: &Finding| vec![f.level.name().to_owned(), f.about.clone(), f.found.clone(), f.to_do.clone()];
    out.table(&["online", "about", "found", "what to do"], &found.iter().map(row).collect::<Vec<_>>())?;
    let warnings = found.iter().filter(|f| f.level == Level::Warning).count();
    out.line("")?;
    out.line(format_args!("{problems} problems, {warnings} warnings; nothing was changed"))
}

/// Both, so that the mistakes of one do not hide those of the other.
fn check(path: &Path, rules_dir: Option<&Path>) -> Result<(Topology, RuleSet), Mistakes> {
    let mut mistakes = Mistakes::default();
    let topology = Topology::read(path).map_err(|error| match error {
        ReadError::Mistakes(found) => mistakes.extend(found),
        ReadError::File { path, reason } => mistakes.push(Mistake::of_file(path, format!("cannot be read: {reason}"))),
    });
    let dir = rules_dir.or(topology.as_ref().ok().and_then(|t| t.rules.as_deref()));
    let rules = rules::load(dir, detectors::ALL).map_err(|found| mistakes.extend(found));
    match (topology, rules) {
        (Ok(topology), Ok(rules)) => Ok((topology, rules)),
        _ => Err(mistakes),
    }
}

fn tell(path: &Path, topology: &Topology, rules: &RuleSet, out: &mut Output) -> Result<(), Failure> {
    out.line(format_args!("{} is good", path.display()))?;
    out.line("")?;
    let inputs: Vec<Vec<String>> = topology
        .inputs
        .iter()
        .map(|i| {
            let tenant = match (&i.lane, &i.tenancy) {
                (Some(lane), _) => format!("{} (lane)", lane.tenant),
                (None, Tenancy::Static(tenant)) => tenant.clone(),
                (None, Tenancy::Verified { .. }) => "verified".to_owned(),
            };
            vec![i.topic.clone(), i.format.name.to_owned(), show_duration(i.lateness), tenant]
        })
        .collect();
    out.table(&["input", "format", "lateness", "tenant"], &inputs)?;
    out.line("")?;
    let known: Vec<Vec<String>> = rules
        .rules
        .iter()
        .map(|r| (r, "on"))
        .chain(rules.off.iter().map(|r| (r, "off")))
        .map(|(r, state)| {
            vec![
                r.id.clone(),
                r.version.to_string(),
                r.kind.clone(),
                format!("{:?}", r.severity).to_lowercase(),
                state.to_owned(),
            ]
        })
        .collect();
    out.table(&["rule", "version", "kind", "severity", "state"], &known)?;
    if !topology.destinations.is_empty() {
        out.line("")?;
        let to: Vec<Vec<String>> = topology.destinations.iter().map(|d| vec![d.name.clone(), d.kind.name().to_owned()]).collect();
        out.table(&["destination", "kind"], &to)?;
    }
    out.line("")?;
    out.line(format_args!(
        "log {}, slice {}, rule set {}",
        topology.log.name(),
        show_duration(topology.time.slice),
        &rules.version_hash[..16]
    ))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    good: bool,
    mistakes: Vec<ReportedMistake<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary<'a>>,
    /// With `--online`.
    #[serde(rename = "online", skip_serializing_if = "Option::is_none")]
    found: Option<&'a [Finding]>,
}

#[derive(Serialize)]
struct ReportedMistake<'a> {
    file: &'a str,
    /// 0 = the file as a whole.
    line: u32,
    column: u32,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    suggestion: Option<&'a str>,
}

#[derive(Serialize)]
struct Summary<'a> {
    log: &'static str,
    inputs: Vec<&'a str>,
    rules: Vec<&'a str>,
    rules_off: Vec<&'a str>,
    rule_set: &'a str,
    destinations: Vec<&'a str>,
}

impl<'a> Report<'a> {
    fn of(checked: &'a Result<(Topology, RuleSet), Mistakes>) -> Self {
        match checked {
            Ok((topology, rules)) => Self {
                good: true,
                mistakes: Vec::new(),
                summary: Some(Summary {
                    log: topology.log.name(),
                    inputs: topology.inputs.iter().map(|i| i.topic.as_str()).collect(),
                    rules: rules.rules.iter().map(|r| r.id.as_str()).collect(),
                    rules_off: rules.off.iter().map(|r| r.id.as_str()).collect(),
                    rule_set: &rules.version_hash,
                    destinations: topology.destinations.iter().map(|d| d.name.as_str()).collect(),
                }),
                found: None,
            },
            Err(mistakes) => Self {
                good: false,
                mistakes: mistakes.sorted().into_iter().map(ReportedMistake::of).collect(),
                summary: None,
                found: None,
            },
        }
    }
}

impl<'a> ReportedMistake<'a> {
    fn of(m: &'a Mistake) -> Self {
        Self { file: &m.file, line: m.line, column: m.column, message: &m.what, suggestion: m.suggestion.as_deref() }
    }
}
