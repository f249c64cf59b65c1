//! `restart`: how long a job with much state needs from `kill -9` to its next committed epoch. A child process of this
//! program runs the whole way over an embedded log while rows keep coming; it is killed when its snapshots are as old as
//! they get, started again at once in the same place, and timed from the start of the process. Judges nothing; the figures
//! are of this machine.

mod child;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tidewatch::status::RestoreTimes;

/// The child says something at least this often, or hangs.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Measure a restart after kill -9 with much state.
///
/// Build with --release; the figures are of this machine and of what else runs on it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  cargo run --release -p tidewatch-bench -- restart --pairs 1000000 --json restart.json")]
pub struct Args {
    /// Distinct pairs of host and destination.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// Flow records before the first kill.
    #[arg(long, value_name = "N", default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    flows: u64,
    /// Flow records a second from then on: the load during which the job is killed.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Time between snapshots, seconds.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Kills in a row.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Worker threads of each stage.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// Partitions of obs: tasks that hold the state.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Seed of all random numbers.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Where log and snapshots go; a temporary directory when not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the figures go as one JSON object, besides standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// This process is the job.
    #[arg(long, hide = true)]
    child: bool,
}

/// What the child says, one line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Said {
    /// Its log is open.
    Opened {
        /// Seconds it took.
        took_s: f64,
    },
    /// All rows of the first part are committed on the whole way.
    CaughtUp,
    /// How old the oldest current snapshot of a task with state is; absent while one has none.
    Age {
        /// Seconds.
        age_s: Option<f64>,
    },
    /// Some detect task has committed its first epoch.
    First,
    /// All detect tasks have.
    All {
        /// The slowest task's, part by part.
        slowest: RestoreTimes,
        /// Of all tasks together.
        bytes: u64,
        /// Keys (hosts) with state.
        keys: u64,
        /// Bytes of state by the detectors' own count.
        state_bytes: u64,
        /// Keys dropped at a limit.
        evicted: u64,
    },
}

/// One kill and restart.
#[derive(Debug, Default, Serialize)]
struct Round {
    /// Age of the oldest snapshot at the kill, seconds.
    snapshot_age_s: f64,
    /// Opening the log, seconds.
    open_s: f64,
    /// From the process's start to the first epoch that a detect task committed, seconds.
    first_commit_s: f64,
    /// To the moment when every detect task has committed one.
    all_commit_s: f64,
    /// The slowest task, part by part.
    slowest: RestoreTimes,
    /// Bytes of snapshots loaded.
    snapshot_bytes: u64,
    keys: u64,
    state_bytes: u64,
    evicted: u64,
}

/// What a run came to.
#[derive(Debug, Serialize)]
struct Figures {
    pairs: u64,
    flows: u64,
    rate: u64,
    every_s: u64,
    workers: u32,
    partitions: u32,
    rounds: Vec<Round>,
}

/// Runs the command.
///
/// # Errors
/// Says what cannot be written, read or measured.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.child {
        let dir = args.dir.as_deref().context("a child needs its directory")?;
        return child::run(args, dir);
    }
    let own = tempfile::Builder::new().prefix("tidewatch-restart").tempdir().context("cannot make a temporary directory")?;
    let dir = args.dir.clone().unwrap_or_else(|| own.path().to_path_buf());
    let mut job = Job::start(args, &dir)?;
    job.wait(|said| matches!(said, Said::CaughtUp))?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let (next, round) = job.kill_and_restart(args, &dir)?;
        tell(&round)?;
        job = next;
        rounds.push(round);
    }
    job.process.kill().context("cannot kill the job")?;
    job.process.wait().context("cannot wait for the job")?;
    if let Some(path) = &args.json {
        let figures = Figures {
            pairs: args.pairs,
            flows: args.flows,
            rate: args.rate,
            every_s: args.every,
            workers: args.workers,
            partitions: args.partitions,
            rounds,
        };
        let json = serde_json::to_string(&figures)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn tell(round: &Round) -> anyhow::Result<()> {
    let t = &round.slowest;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let text = format!(
        "kill -9 with snapshots {:.0} s old\n\
         first epoch   {:>6.2} s after the process started; of every detect task {:.2} s\n\
         open log      {:>6.2} s\n\
         slowest task  {:>6.2} s: committed {:.3}, load {:.3} (read {:.3}, verify {:.3}, decode {:.3}), open {:.3}, refill {:.3}, muted {:.3}, commit {:.3}\n\
         state         {} keys, {:.0} MiB counted, {:.0} MiB in snapshots, {} evicted\n",
        round.snapshot_age_s,
        round.first_commit_s,
        round.all_commit_s,
        round.open_s,
        t.total_s,
        t.committed_s,
        t.load_s,
        t.read_s,
        t.verify_s,
        t.decode_s,
        t.open_s,
        t.refill_s,
        t.muted_s,
        t.commit_s,
        round.keys,
        mib(round.state_bytes),
        mib(round.snapshot_bytes),
        round.evicted,
    );
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to the standard output")
}

/// The job as a process.
struct Job {
    process: Child,
    began: Instant,
    said: Receiver<Said>,
}

impl Drop for Job {
    fn drop(&mut self) {
        // One that has ended already is no concern.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Job {
    fn start(args: &Args, dir: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("restart").arg("--child").arg("--dir").arg(dir);
        for (name, value) in [
            ("--pairs", args.pairs),
            ("--flows", args.flows),
            ("--rate", args.rate),
            ("--every", args.every),
            ("--workers", args.workers.into()),
            ("--partitions", args.partitions.into()),
            ("--seed", args.seed),
        ] {
            command.arg(name).arg(value.to_string());
        }
        let began = Instant::now();
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the job")?;
        let out = process.stdout.take().context("the job has no standard output")?;
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else { continue };
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, began, said })
    }

    /// Waits for what is wanted.
    fn wait(&mut self, mut wanted: impl FnMut(&Said) -> bool) -> anyhow::Result<Said> {
        loop {
            match self.said.recv_timeout(SILENCE_MAX) {
                Ok(said) if wanted(&said) => return Ok(said),
                Ok(_) => {}
                Err(_) => bail!("the job ended or hangs: {:?}", self.process.try_wait()),
            }
        }
    }

    fn kill_and_restart(mut self, args: &Args, dir: &Path) -> anyhow::Result<(Self, Round)> {
        // As old as they get: the next ones would be written in a moment.
        let old_s = args.every as f64 * 0.95;
        let said = self.wait(|said| matches!(said, Said::Age { age_s: Some(age_s) } if *age_s >= old_s))?;
        let Said::Age { age_s: Some(snapshot_age_s) } = said else { bail!("no age") };
        self.process.kill().context("cannot kill the job")?;
        self.process.wait().context("cannot wait for the job")?;
        let mut round = Round { snapshot_age_s, ..Round::default() };
        let mut next = Self::start(args, dir)?;
        loop {
            let said = next.wait(|_| true)?;
            let since_s = next.began.elapsed().as_secs_f64();
            match said {
                Said::Opened { took_s } => round.open_s = took_s,
                Said::First => round.first_commit_s = since_s,
                Said::All { slowest, bytes, keys, state_bytes, evicted } => {
                    round = Round { all_commit_s: since_s, slowest, snapshot_bytes: bytes, keys, state_bytes, evicted, ..round };
                    return Ok((next, round));
                }
                Said::CaughtUp | Said::Age { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_child_says_is_understood() {
        let said = serde_json::to_string(&Said::Age { age_s: Some(1.5) }).expect("plain data");
        assert_eq!(said, r#"{"event":"age","age_s":1.5}"#);
        assert!(matches!(serde_json::from_str(&said), Ok(Said::Age { age_s: Some(_) })));
    }
}
