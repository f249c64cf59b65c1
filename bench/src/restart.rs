//! `restart`: how long a job with much state needs from `kill -9` to its next committed epoch. A child process of this
//! program runs the whole way over Kafka (as the same static member before and after) or over an embedded log, while rows keep
//! coming; once it has caught up and every snapshot is of a time since then, it is killed when they are as old as they get, started
//! again at once in the same place, and timed from the kill. The figures are of this machine; the bounds beside them are the
//! project's.

mod child;
mod feed;
mod report;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tidewatch::log::Log;
use tidewatch::log::kafka::{KafkaConfig, KafkaLog};
use tidewatch::status::RestoreTimes;
use tidewatch_broker::kafka::Broker;

use self::feed::Feed;
use crate::cost::machine::{Machine, load};

/// The child says something at least this often, or hangs.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Measure a restart after kill -9 with much state.
///
/// Build with --release; the figures are of this machine and of what else runs on it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo run --release -p tidewatch-bench -- restart --log kafka --pairs 1000000 --rounds 3
  cargo run --release -p tidewatch-bench -- restart --pairs 10000000 --json restart.json --page restart.md

A file that is there keeps what it holds of other logs and numbers of pairs.")]
pub struct Args {
    /// Distinct pairs of host and destination, all live: each called at least three times, every tenth ten times.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// Flow records before the first kill [default: as many as make every pair live]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    flows: Option<u64>,
    /// Where the records are.
    #[arg(long, value_enum, default_value_t = LogKind::Embedded)]
    log: LogKind,
    /// With `--log kafka`: brokers to use instead of one that is started; they keep the topics `restart-*`.
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
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
    /// Where the figures go as JSON, besides standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where they go as a page; needs --json, which keeps those of other runs.
    #[arg(long, value_name = "FILE", requires = "json")]
    page: Option<PathBuf>,
    /// This process is the job.
    #[arg(long, hide = true)]
    child: bool,
    /// The job has run here before.
    #[arg(long, hide = true)]
    again: bool,
    /// Names topics, groups and writers of the job.
    #[arg(long, hide = true, default_value = "restart")]
    deployment: String,
}

/// Which log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LogKind {
    /// A directory.
    Embedded,
    /// A broker.
    Kafka,
}

impl LogKind {
    fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Kafka => "kafka",
        }
    }
}

impl Args {
    /// Calls until every pair is live, and those of the slices that are still open then.
    fn first_part(&self) -> u64 {
        self.flows.unwrap_or(self.pairs * 37 / 10 + self.rate * OPEN_S)
    }
}

/// Slices of so many seconds, at most, are open: lateness, a slice, and what is on the way.
const OPEN_S: u64 = 120;

/// How a measurement reaches brokers: whoever names them means them, encrypted or not.
fn kafka(brokers: &str) -> anyhow::Result<KafkaLog> {
    Ok(KafkaLog::connect(KafkaConfig { replicas: Some(1), allow_plaintext: true, ..KafkaConfig::new(brokers) })?)
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
    /// Topics and rules are looked at, workers begin.
    Begun {
        /// Seconds since the log was open.
        took_s: f64,
    },
    /// All rows of the first part are committed on the whole way.
    CaughtUp,
    /// How old the oldest current snapshot of a task with state is; absent while one has none.
    Age {
        /// Seconds.
        age_s: Option<f64>,
        /// Resident memory of the process, bytes.
        rss_bytes: u64,
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
    /// And all tasks of the other stages.
    Every,
}

/// One kill and restart. Seconds are counted from the kill where nothing else is said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Round {
    /// Age of the oldest snapshot at the kill.
    snapshot_age_s: f64,
    /// Until the killed process was gone and its memory free.
    gone_s: f64,
    /// Opening the log, of itself.
    open_s: f64,
    /// Looking at topics and rules, of itself.
    begin_s: f64,
    /// To the first epoch that a detect task committed.
    first_commit_s: f64,
    /// To the moment when every detect task has committed one.
    all_commit_s: f64,
    /// To the moment when every task of every stage has.
    every_commit_s: f64,
    /// The slowest detect task, part by part.
    slowest: RestoreTimes,
    /// Bytes of snapshots loaded.
    snapshot_bytes: u64,
    keys: u64,
    state_bytes: u64,
    evicted: u64,
    /// Resident memory before the kill, bytes.
    rss_bytes: u64,
    /// Processes that wanted a core over the minute before the kill.
    #[serde(default)]
    load: f64,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figures {
    machine: Machine,
    log: LogKind,
    pairs: u64,
    flows: u64,
    rate: u64,
    every_s: u64,
    workers: u32,
    partitions: u32,
    /// Until the first part was worked off, seconds.
    loaded_s: f64,
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
    let broker = match (args.log, &args.brokers) {
        (LogKind::Kafka, None) => Some(Broker::start()?),
        _ => None,
    };
    let brokers = args.brokers.clone().or_else(|| broker.as_ref().map(|b| b.brokers().to_owned()));
    let deployment = format!("restart-{}", std::process::id());
    let args = &Args { brokers: brokers.filter(|_| args.log == LogKind::Kafka), deployment, ..args.clone() };
    let figures = match &args.brokers {
        Some(brokers) => {
            // Rows keep coming while the job is down, as they do.
            let feed = Feed::new(args, Box::new(kafka(brokers)?) as Box<dyn Log>);
            feed.make_topic()?;
            std::thread::scope(|scope| {
                let feeding = scope.spawn(|| feed.run());
                let figures = measure(args, &dir, Some(&feed));
                feed.stop();
                feeding.join().map_err(|_| anyhow::anyhow!("the producer panicked"))??;
                figures
            })?
        }
        None => measure(args, &dir, None)?,
    };
    if let Some(path) = &args.json {
        report::write(path, args.page.as_deref(), figures)?;
    }
    Ok(())
}

fn measure(args: &Args, dir: &Path, feed: Option<&Feed<'_>>) -> anyhow::Result<Figures> {
    let began = Instant::now();
    let mut job = Job::start(args, dir, false, feed)?;
    job.wait(|said| matches!(said, Said::CaughtUp))?;
    let loaded_s = began.elapsed().as_secs_f64();
    feed.into_iter().for_each(Feed::caught_up);
    eprintln!("{} pairs are there after {loaded_s:.0} s", args.pairs);
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let (next, round) = job.kill_and_restart(args, dir)?;
        std::io::stdout().lock().write_all(report::round(&round).as_bytes()).context("cannot write to the standard output")?;
        job = next;
        rounds.push(round);
    }
    job.process.kill().context("cannot kill the job")?;
    job.process.wait().context("cannot wait for the job")?;
    Ok(Figures {
        machine: Machine::here()?,
        log: args.log,
        pairs: args.pairs,
        flows: args.first_part(),
        rate: args.rate,
        every_s: args.every,
        workers: args.workers,
        partitions: args.partitions,
        loaded_s,
        rounds,
    })
}

/// The job as a process.
struct Job<'a> {
    process: Child,
    said: Receiver<Said>,
    /// Where its rows come from, when it does not write them itself.
    feed: Option<&'a Feed<'a>>,
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        // One that has ended already is no concern.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl<'a> Job<'a> {
    fn start(args: &Args, dir: &Path, again: bool, feed: Option<&'a Feed<'a>>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("restart").arg("--child").arg("--dir").arg(dir);
        for (name, value) in [
            ("--pairs", args.pairs),
            ("--flows", args.first_part()),
            ("--rate", args.rate),
            ("--every", args.every),
            ("--workers", args.workers.into()),
            ("--partitions", args.partitions.into()),
            ("--seed", args.seed),
        ] {
            command.arg(name).arg(value.to_string());
        }
        command.args(["--log", args.log.name(), "--deployment", &args.deployment]);
        command.args(args.brokers.iter().flat_map(|brokers| ["--brokers", brokers.as_str()]));
        command.args(again.then_some("--again"));
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
        Ok(Self { process, said, feed })
    }

    /// Waits for what is wanted.
    fn wait(&mut self, mut wanted: impl FnMut(&Said) -> bool) -> anyhow::Result<Said> {
        loop {
            match self.said.recv_timeout(SILENCE_MAX) {
                Ok(_) if self.feed.is_some_and(Feed::has_failed) => bail!("no more rows come"),
                Ok(said) if wanted(&said) => return Ok(said),
                Ok(_) => {}
                Err(_) => bail!("the job ended or hangs: {:?}", self.process.try_wait()),
            }
        }
    }

    fn kill_and_restart(mut self, args: &Args, dir: &Path) -> anyhow::Result<(Self, Round)> {
        // As old as they get: the next ones would be written in a moment.
        let old_s = args.every as f64 * 0.95;
        let said = self.wait(|said| matches!(said, Said::Age { age_s: Some(age_s), .. } if *age_s >= old_s))?;
        let Said::Age { age_s: Some(snapshot_age_s), rss_bytes } = said else { bail!("no age") };
        let load = load().unwrap_or(0.0);
        let killed = Instant::now();
        self.process.kill().context("cannot kill the job")?;
        self.process.wait().context("cannot wait for the job")?;
        let gone_s = killed.elapsed().as_secs_f64();
        let mut round = Round { snapshot_age_s, rss_bytes, gone_s, load, ..Round::default() };
        let mut next = Self::start(args, dir, true, self.feed)?;
        loop {
            let said = next.wait(|_| true)?;
            let since_s = killed.elapsed().as_secs_f64();
            match said {
                Said::Opened { took_s } => round.open_s = took_s,
                Said::Begun { took_s } => round.begin_s = took_s,
                Said::First => round.first_commit_s = since_s,
                Said::All { slowest, bytes, keys, state_bytes, evicted } => {
                    round = Round { all_commit_s: since_s, slowest, snapshot_bytes: bytes, keys, state_bytes, evicted, ..round };
                }
                Said::Every => {
                    round.every_commit_s = since_s;
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
        let said = serde_json::to_string(&Said::Age { age_s: Some(1.5), rss_bytes: 7 }).expect("plain data");
        assert_eq!(said, r#"{"event":"age","age_s":1.5,"rss_bytes":7}"#);
        assert!(matches!(serde_json::from_str(&said), Ok(Said::Age { age_s: Some(_), .. })));
    }
}
