//! Instructions per row of single stages, counted by valgrind's callgrind, against a file that is committed. A time moves with
//! the machine and what else runs on it; a count does not, so a regression is certain.
//!
//! What is counted is a test of the bench crate (`the_stages_that_are_counted`, bench/src/stages.rs), in the program that
//! `cargo test` builds of it anyway; this one knows its name and no stage. A count depends on the compiler, on the C library
//! and on what the processor can do: the baseline's head says with which it was written, and a failure says what differs.
//!
//! Run by `.ci/run instructions`, which finds the program. Exit code 1 when a stage takes over 5 % more than the baseline says,
//! 2 when that cannot be found out.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Parser;

/// More than this fails.
const GROWTH_MAX: f64 = 0.05;

/// What runs the stages.
const TEST: &str = "stages::tests::the_stages_that_are_counted";

/// What each of them is run in, twice in other words: of two options with one pattern valgrind 3.19 hears the first.
const COLLECTED: &str = "*stages*one_counted_run*";
const DUMPED: &str = "*one_counted_run*";

/// What the test says before it runs a stage: this, its name, its rows, parted by tabs.
const SAID: &str = "counted\t";

const ACCEPT: &str = "ACCEPT=1 .ci/run instructions";

/// Count instructions per row of single stages, and compare them with the baseline.
#[derive(Parser)]
struct Args {
    /// The bench crate's tests, as `cargo test` has built them.
    program: PathBuf,
    /// Writes what was counted as the new baseline.
    #[arg(long)]
    accept: bool,
    /// The baseline.
    #[arg(long, value_name = "FILE", default_value = "bench/instructions.tsv")]
    baseline: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(grown) if grown.is_empty() => ExitCode::SUCCESS,
        Ok(grown) => {
            eprintln!("over {:.0} % more instructions: {}; if that is meant: {ACCEPT}", GROWTH_MAX * 100.0, grown.join(", "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Stages that have grown.
fn run(args: &Args) -> anyhow::Result<Vec<String>> {
    let made_with = made_with();
    let before = if args.accept { Baseline::default() } else { Baseline::read(&args.baseline)? };
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (mut lines, mut grown, mut out) = (String::new(), Vec::new(), std::io::stdout().lock());
    for (name, per_row) in count(&args.program, dir.path())? {
        lines += &format!("{name}\t{per_row:.1}\n");
        let was = before.per_row.get(&name).copied();
        let change = was.map_or_else(String::new, |was| format!("{:+.1} %", (per_row / was - 1.0) * 100.0));
        writeln!(out, "{per_row:>10.1} instructions per row  {change:>9}  {name}")?;
        match was {
            Some(was) if per_row > was * (1.0 + GROWTH_MAX) => grown.push(name),
            None if !args.accept => grown.push(format!("{name} (not in the baseline)")),
            _ => {}
        }
    }
    if args.accept {
        let text = format!("# Instructions per row of each stage. Written by `{ACCEPT}`.\n{MADE_WITH}{made_with}\n{lines}");
        std::fs::write(&args.baseline, text).with_context(|| format!("cannot write {}", args.baseline.display()))?;
    } else if made_with != before.made_with {
        writeln!(out, "the baseline was counted with {}; this is {made_with}: counts depend on it", before.made_with)?;
    }
    Ok(grown)
}

const MADE_WITH: &str = "# Counted with ";

/// What counts depend on beside the code.
fn made_with() -> String {
    let says = |program: &str, args: &[&str]| {
        let said = Command::new(program).args(args).output().ok().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        said.filter(|said| !said.is_empty()).unwrap_or_else(|| format!("{program} that says nothing"))
    };
    let compiler = says("rustc", &["--version"]);
    let compiler = compiler.split(" (").next().unwrap_or_default();
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processor.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    // Those that libraries ask for at run time and that valgrind knows.
    let has: Vec<&str> = ["sse4_2", "avx2", "bmi2"].into_iter().filter(|f| flags.split(' ').any(|flag| flag == *f)).collect();
    let (valgrind, library) = (says("valgrind", &["--version"]), says("getconf", &["GNU_LIBC_VERSION"]));
    format!("{compiler}, {valgrind}, {library}, {} with {}", std::env::consts::ARCH, has.join(" "))
}

/// Instructions per row by stage, in the order in which they ran.
fn count(program: &Path, dir: &Path) -> anyhow::Result<Vec<(String, f64)>> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no"]);
    // One file for every run, of its instructions alone.
    command.arg(format!("--toggle-collect={COLLECTED}")).arg(format!("--dump-after={DUMPED}"));
    command.arg(format!("--callgrind-out-file={}", dir.join("counted").display()));
    command.arg(program).args(["--exact", TEST, "--nocapture", "--test-threads=1"]);
    let done = command.output().context("cannot run valgrind: apt-get install valgrind")?;
    let said = String::from_utf8_lossy(&done.stdout);
    if !done.status.success() {
        bail!("{} under valgrind: {said}\n{}", program.display(), String::from_utf8_lossy(&done.stderr));
    }
    let mut counts = Vec::new();
    for line in said.lines().filter_map(|line| line.split_once(SAID).map(|(_, rest)| rest)) {
        let (name, rows) = line.split_once('\t').context("no rows")?;
        let rows: f64 = rows.parse().with_context(|| format!("rows of {name}"))?;
        let path = dir.join(format!("counted.{}", counts.len() + 1));
        let text = std::fs::read_to_string(&path).with_context(|| format!("{name}: valgrind has counted nothing"))?;
        match summary(&text) {
            Some(instructions) if instructions > 0 => counts.push((name.to_owned(), instructions as f64 / rows)),
            _ => bail!("{name}: valgrind has counted nothing; was the program built without symbols?"),
        }
    }
    if counts.is_empty() {
        bail!("{} has no test {TEST}", program.display());
    }
    Ok(counts)
}

/// The sum of a callgrind file.
fn summary(text: &str) -> Option<u64> {
    let sums = |prefix: &str| text.lines().rev().find_map(|l| l.strip_prefix(prefix)?.trim().parse().ok());
    sums("totals:").or_else(|| sums("summary:"))
}

/// A committed count.
#[derive(Default)]
struct Baseline {
    made_with: String,
    /// Name to instructions per row.
    per_row: BTreeMap<String, f64>,
}

impl Baseline {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}: run from the project's root, or write it: {ACCEPT}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no baseline", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let made_with = text.lines().find_map(|line| line.strip_prefix(MADE_WITH)).unwrap_or("something unknown").to_owned();
        let lines = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
        let per_row = lines.map(|line| line.rsplit_once('\t').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?))));
        Some(Self { made_with, per_row: per_row.collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_baseline_and_a_count_are_read_as_they_are_written() {
        let of = Baseline::parse("# remark\n# Counted with a, b\nobs: a batch encoded\t12.5\n\ndecode: x\t7\n").unwrap();
        assert_eq!((of.per_row["obs: a batch encoded"], of.per_row["decode: x"]), (12.5, 7.0));
        assert_eq!(of.made_with, "a, b");
        assert!(Baseline::parse("no tab\n").is_none());
        assert_eq!(summary("summary: 5\nfn=(1)\ntotals: 1234\n"), Some(1234));
        assert_eq!(summary("fn=(1)\n"), None);
    }
}
