//! `tidewatch rules lint`: mistakes, which would stop a start, and warnings, which stop nothing.

use serde_json::json;
use tidewatch_operators::detectors;
use tidewatch_operators::rule::lint;

use super::{Exit, Failure, Output, Which, told, told_all};
use crate::rules;
use crate::worker::system_clock;

/// Check rules: every mistake at once, and what should be looked at
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch rules lint --rules my-rules --strict\n\n\
                        Mistakes (exit code 2) stop a start; warnings stop nothing, and with --strict give exit code 1: exceptions \
                        that ended or never do, rules without tests, overlays whose version was not raised.")]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Exit code 1 when there are warnings
    #[arg(long)]
    strict: bool,
    /// One JSON object, for machines
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let set = match rules::load(args.which.dir()?.as_deref(), detectors::ALL) {
        Ok(set) => set,
        Err(mistakes) if args.json => {
            out.json(&json!({"good": false, "mistakes": told_all(&mistakes), "warnings": []}))?;
            return Ok(Exit::Mistakes);
        }
        Err(mistakes) => return Err(mistakes.into()),
    };
    // Ends of exceptions are moments of event time; where rows come live that is about now.
    let warnings = lint(&set, system_clock()());
    if args.json {
        let warnings: Vec<_> = warnings.iter().map(told).collect();
        out.json(&json!({"good": true, "mistakes": [], "warnings": warnings}))?;
    } else {
        for warning in &warnings {
            out.line(format_args!("{warning}"))?;
        }
        let (on, off) = (set.rules.len(), set.off.len());
        out.line(format_args!("{on} rules on, {off} off: no mistakes, {} warnings", warnings.len()))?;
    }
    Ok(if args.strict && !warnings.is_empty() { Exit::Findings } else { Exit::Good })
}
