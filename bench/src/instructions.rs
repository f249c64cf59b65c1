//! `instructions`: how many instructions a stage takes per row, counted by valgrind's callgrind, against a file that is
//! committed. A time moves with the machine and what else runs on it; a count does not, so a regression is certain.
//!
//! One process per stage: the input is made uncounted, counting begins and ends with one function ([`counted`]).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use tidewatch_bench::stages::{self, Left, Ready};

/// More than this fails.
const GROWTH_MAX: f64 = 0.05;

/// Count instructions per row of single stages, and compare them with the baseline.
///
/// Needs valgrind. Exit code 2 when a stage takes over 5 % more than the baseline says.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  .ci/run instructions
  ACCEPT=1 .ci/run instructions")]
pub struct Args {
    /// Writes what was counted as the new baseline.
    #[arg(long)]
    accept: bool,
    /// The baseline.
    #[arg(long, value_name = "FILE", default_value = "bench/instructions.tsv")]
    baseline: PathBuf,
    /// This process runs one stage, by its name.
    #[arg(long, hide = true, value_name = "NAME")]
    stage: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Says what cannot be run or read, and which stages have grown.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let stages = stages::all();
    if let Some(name) = &args.stage {
        let stage = stages.into_iter().find(|s| s.name == *name).with_context(|| format!("no stage {name}"))?;
        let prepare = stage.make().map_err(anyhow::Error::msg)?;
        drop(counted(prepare()));
        return Ok(());
    }
    let before = if args.accept { BTreeMap::new() } else { read(&args.baseline)? };
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (mut lines, mut grown, mut out) = (String::new(), Vec::new(), std::io::stdout().lock());
    for stage in stages.iter().filter(|s| s.counted) {
        let per_row = count(&stage.name, &dir.path().join("counted"))? / stage.rows as f64;
        lines += &format!("{}\t{per_row:.1}\n", stage.name);
        let was = before.get(&stage.name).copied();
        let change = was.map_or_else(String::new, |was| format!("{:+.1} %", (per_row / was - 1.0) * 100.0));
        writeln!(out, "{per_row:>10.1} instructions per row  {change:>9}  {}", stage.name)?;
        match was {
            Some(was) if per_row > was * (1.0 + GROWTH_MAX) => grown.push(stage.name.clone()),
            None if !args.accept => grown.push(format!("{} (not in the baseline)", stage.name)),
            _ => {}
        }
    }
    let accept = "ACCEPT=1 .ci/run instructions";
    if args.accept {
        let text = format!("# Instructions per row of each stage. Written by `{accept}`.\n{lines}");
        std::fs::write(&args.baseline, text).with_context(|| format!("cannot write {}", args.baseline.display()))?;
    } else if !grown.is_empty() {
        bail!("over {:.0} % more instructions: {}; if that is meant: {accept}", GROWTH_MAX * 100.0, grown.join(", "));
    }
    Ok(())
}

/// The function that callgrind watches: everything inside it counts.
#[inline(never)]
fn counted(ready: Ready) -> Left {
    std::hint::black_box(ready())
}

/// Instructions of a stage, by a process under valgrind.
fn count(name: &str, out: &Path) -> anyhow::Result<f64> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*instructions*counted*"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(program).args(["instructions", "--stage", name]);
    let done = command.output().context("cannot run valgrind: apt-get install valgrind")?;
    if !done.status.success() {
        bail!("{name} under valgrind: {}", String::from_utf8_lossy(&done.stderr));
    }
    let text = std::fs::read_to_string(out).with_context(|| format!("cannot read {}", out.display()))?;
    match summary(&text) {
        Some(instructions) if instructions > 0 => Ok(instructions as f64),
        _ => bail!("{name}: valgrind counted nothing; was the program built without symbols?"),
    }
}

/// The sum of a callgrind file.
fn summary(text: &str) -> Option<u64> {
    let sums = |prefix: &str| text.lines().rev().find_map(|l| l.strip_prefix(prefix)?.trim().parse().ok());
    sums("totals:").or_else(|| sums("summary:"))
}

/// The baseline: name, tab, instructions per row; `#` begins a remark.
fn read(path: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}: run from the project's root, or write it with --accept", path.display()))?;
    parse(&text).with_context(|| format!("{} is no baseline", path.display()))
}

fn parse(text: &str) -> Option<BTreeMap<String, f64>> {
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    lines.map(|line| line.rsplit_once('\t').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_baseline_and_a_count_are_read_as_they_are_written() {
        let of = parse("# remark\nobs: a batch encoded\t12.5\n\ndecode: x\t7\n").unwrap();
        assert_eq!((of["obs: a batch encoded"], of["decode: x"]), (12.5, 7.0));
        assert!(parse("no tab\n").is_none());
        assert_eq!(summary("summary: 5\nfn=(1)\ntotals: 1234\n"), Some(1234));
        assert_eq!(summary("fn=(1)\n"), None);
    }
}
