//! `tidewatch version`: what this binary is and what it can read and find.

use serde::Serialize;
use tidewatch_operators::detectors;
use tidewatch_schemas::wire;

use super::{Exit, Failure, Output};

/// Print the version, the input formats and the detectors of this binary
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch version --json")]
pub struct Args {
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    formats: Vec<&'static str>,
    detectors: Vec<&'static str>,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        formats: wire::FORMATS.iter().map(|f| f.name).collect(),
        detectors: detectors::ALL.iter().map(|d| d.kind).collect(),
    };
    if args.json {
        out.json(&version)?;
    } else {
        out.line(format_args!("tidewatch {}", version.version))?;
        out.line(format_args!("formats: {}", version.formats.join(", ")))?;
        out.line(format_args!("detectors: {}", version.detectors.join(", ")))?;
    }
    Ok(Exit::Good)
}
