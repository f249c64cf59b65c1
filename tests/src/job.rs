//! One running job to which things happen: the whole `tidewatch run` as a process, rounds of rows with one scan each, and
//! the signals that must come of them.
//!
//! What always holds: rounds are produced once, with fixed bytes and places, and the job's silence is longer than any test,
//! so a backtest over the same topic is what an undisturbed run would have said.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tidewatch::log::{Append, Log, PollLimit, TopicPartition};

use crate::node::free_ports;
use crate::program::Process;
use crate::scenario::Message;
use crate::traffic::{Contact, flow_message};

/// Longest wait for anything that a machine at work must do by itself.
pub const WAIT: Duration = Duration::from_secs(90);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Partitions of the input.
pub const INPUTS: u32 = 2;
/// Event time of a round, seconds: its last rows close the slices of its scan.
const ROUND_S: f64 = 60.0;
/// Hosts that a scan reaches.
const SCANNED: u32 = 25;

/// A job.
pub struct Job {
    /// Its directory.
    pub dir: PathBuf,
    program: String,
    process: Option<Process>,
    produced: u32,
    ahead: Option<Range<u32>>,
    deployment: &'static str,
    /// Input topic, of this job alone.
    pub topic: String,
    /// Port of its HTTP server.
    http: u16,
}

impl Job {
    /// A job that does not run yet: `log` is the topology's `log` section, `more` further sections.
    pub fn new(program: &str, dir: &Path, deployment: &'static str, log: &str, more: &str) -> Result<Self> {
        let topic = format!("{deployment}.flows");
        let http = free_ports(1)?[0];
        let text = format!(
            "deployment: {deployment}\n\
             log: {log}\n\
             time: {{slice: 10s, max_future: 5s, idle_after: 1h}}\n\
             inputs:\n  - {{topic: {topic}, format: probectl-flow, tenant: {{verified: {{open: true}}}}, lateness: 20s, \
             partitions: {INPUTS}}}\n\
             obs: {{partitions: 2}}\n\
             findings: {{partitions: 1}}\n\
             signals: {{partitions: 1}}\n\
             control: {}\n\
             http: {{listen: \"127.0.0.1:{http}\"}}\n\
             {more}\n",
            dir.join("control.sock").display(),
        );
        std::fs::write(dir.join("topology.yaml"), text)?;
        Ok(Self {
            dir: dir.to_owned(),
            program: program.to_owned(),
            process: None,
            produced: 0,
            ahead: None,
            deployment,
            topic,
            http,
        })
    }

    /// Starts the process.
    pub fn start(&mut self, args: &[&str]) -> Result<()> {
        let all: Vec<&str> = ["run", "topology.yaml"].iter().chain(args).copied().collect();
        self.process = Some(Process::start(&self.program, "job", &self.dir, &all)?);
        Ok(())
    }

    /// SIGTERM, and a good end.
    pub fn stop(&mut self) -> Result<Duration> {
        self.process.take().context("the job does not run")?.stop(WAIT)
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the job does not run")?.kill()
    }

    /// Waits until the process has ended by itself.
    pub fn ended(&mut self) -> Result<std::process::ExitStatus> {
        self.process.take().context("the job does not run")?.wait(WAIT)
    }

    /// An error when the process has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        self.process.as_mut().context("the job does not run")?.check()
    }

    /// Threads of the process.
    pub fn threads(&self) -> Result<usize> {
        let process = self.process.as_ref().context("the job does not run")?;
        Ok(std::fs::read_dir(format!("/proc/{}/task", process.id()))?.count())
    }

    /// Id of the process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the job does not run")?.id())
    }

    /// A metric without labels, as `/metrics` says it now.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = get(self.http, "/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// Waits until `/readyz` refuses, and gives these words as a reason.
    pub fn until_not_ready(&mut self, words: &str) -> Result<String> {
        let http = self.http;
        until(&format!("not ready for {words}"), || ready(http).filter(|(code, body)| *code == 503 && body.contains(words)))
            .map(|(_, body)| body)
    }

    /// Waits until `/readyz` says yes.
    pub fn until_ready(&mut self) -> Result<()> {
        let (http, mut last) = (self.http, String::new());
        let found = until("ready", || {
            let (code, body) = ready(http)?;
            last = body;
            (code == 200).then_some(())
        });
        found.with_context(|| last)
    }

    /// Everything it said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.dir.join("job.err")).unwrap_or_default()
    }

    /// Waits until it says all of these words in one line, after the first `after` bytes of what it said.
    pub fn until_said(&mut self, after: usize, words: &[&str]) -> Result<String> {
        let began = Instant::now();
        loop {
            let said = self.said();
            let found = said.get(after..).unwrap_or("").lines().find(|line| words.iter().all(|w| line.contains(w)));
            if let Some(line) = found {
                return Ok(line.to_owned());
            }
            self.check()?;
            ensure!(began.elapsed() < WAIT, "{words:?} was not said within {WAIT:?}:\n{said}");
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Produces so many further rounds.
    pub fn produce(&mut self, log: &dyn Log, rounds: u32) -> Result<()> {
        let range = self.produced..self.produced + rounds;
        self.produced = range.end;
        let mut writer = log.writer(&format!("rounds-{}", self.deployment))?;
        for round in range {
            writer.commit(&rows(&self.topic, round..round + 1), &[])?;
        }
        Ok(())
    }

    /// Produces the rows of further rounds into partition 0 alone: their slices stay open until [`Job::produce_rest`]. Each row
    /// is told so many times: that says nothing more, but takes room as long as its slice is open.
    pub fn produce_ahead(&mut self, log: &dyn Log, rounds: u32, times: usize) -> Result<()> {
        let range = self.produced..self.produced + rounds;
        self.ahead = Some(range.clone());
        self.produced = range.end;
        let mut writer = log.writer(&format!("rounds-{}", self.deployment))?;
        let rows = rows(&self.topic, range).into_iter().filter(|row| row.partition == 0);
        let rows: Vec<Append> = rows.flat_map(|row| std::iter::repeat_n(row, times)).collect();
        for rows in rows.chunks(1000) {
            writer.commit(rows, &[])?;
        }
        Ok(())
    }

    /// Produces what [`Job::produce_ahead`] left out.
    pub fn produce_rest(&mut self, log: &dyn Log) -> Result<()> {
        let range = self.ahead.take().context("nothing is ahead")?;
        let rows: Vec<Append> = rows(&self.topic, range).into_iter().filter(|row| row.partition != 0).collect();
        let mut writer = log.writer(&format!("rounds-{}", self.deployment))?;
        for rows in rows.chunks(1000) {
            writer.commit(rows, &[])?;
        }
        Ok(())
    }

    /// Waits until the signals of all rounds produced are there.
    pub fn until_signals(&mut self, log: &dyn Log) -> Result<Vec<String>> {
        let began = Instant::now();
        loop {
            if let Ok(signals) = signals(log, self.deployment)
                && signals.len() >= self.produced as usize
            {
                return Ok(signals);
            }
            self.check()?;
            if began.elapsed() > WAIT {
                let got = signals(log, self.deployment).map(|s| s.len());
                bail!("{got:?} signals of {} within {WAIT:?}:\n{}", self.produced, self.said());
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// What an undisturbed run over the same input says.
    pub fn backtest(&self) -> Result<Vec<String>> {
        let args =
            ["backtest", "--topology", "topology.yaml", "--input", &format!("kafka:{}@..", self.topic), "--out", "again.ndjson"];
        let process = Process::start(&self.program, "backtest", &self.dir, &args)?;
        let status = process.wait(WAIT)?;
        let told = std::fs::read_to_string(self.dir.join("backtest.err")).unwrap_or_default();
        ensure!(status.success(), "backtest: {status}\n{told}");
        Ok(std::fs::read_to_string(self.dir.join("again.ndjson"))?.lines().map(str::to_owned).collect())
    }

    /// All signals are there once, as an undisturbed run says them. The job must have stopped where its log is a directory.
    pub fn assert_nothing_lost(&self, got: &[String]) -> Result<()> {
        let expected = self.backtest()?;
        ensure!(expected.len() == self.produced as usize, "a backtest finds {} of {} scans", expected.len(), self.produced);
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            ensure!(got == expected, "signal {i}\n     got {got}\nexpected {expected}");
        }
        ensure!(got.len() == expected.len(), "{} signals, expected {}", got.len(), expected.len());
        Ok(())
    }
}

/// Code and body of `/readyz`; `None` while nobody listens.
fn ready(port: u16) -> Option<(u16, String)> {
    get(port, "/readyz")
}

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Asks until there is an answer.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(began.elapsed() < WAIT, "{what}: not within {WAIT:?}");
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// Committed signals, in order.
pub fn signals(log: &dyn Log, deployment: &str) -> Result<Vec<String>> {
    let at = TopicPartition::new(format!("{deployment}.tidewatch.signals"), 0);
    let range = log.offsets(&at)?;
    let mut reader = log.reader(&at, range.start)?;
    let mut found = Vec::new();
    while reader.position() < range.end && !reader.at_end() {
        for record in reader.poll(PollLimit::default(), Duration::from_secs(1))? {
            if let Some(value) = record.value.filter(|v| v.starts_with(b"{")) {
                found.push(String::from_utf8(value.to_vec())?);
            }
        }
    }
    Ok(found)
}

/// A row that belongs to no round.
pub fn any_row(topic: &str) -> Append {
    rows(topic, 0..1).remove(0)
}

/// The rows of rounds: in each a host that scans, and at its end a row in every partition.
fn rows(topic: &str, rounds: Range<u32>) -> Vec<Append> {
    let mut all = Vec::new();
    for round in rounds {
        let base_s = f64::from(round) * ROUND_S;
        // A host that has scanned before and comes back to the same targets would be told once.
        let from = format!("10.0.{}.{}", 10 + round / 200, 10 + round % 200);
        for n in 0..SCANNED {
            let to = format!("10.0.1.{}", n + 1);
            let at_s = base_s + f64::from(n) * 0.2;
            all.push((n % INPUTS, flow_message(&Contact { tenant: "a", at_s, from: &from, to: &to, port: 445, bytes: 80 })));
        }
        for partition in 0..INPUTS {
            let from = format!("10.0.3.{partition}");
            // Never twice the same: that would be a beacon.
            let to = format!("203.0.{}.{}", 100 + round / 250, round % 250);
            let contact = Contact { tenant: "a", at_s: base_s + ROUND_S - 1.0, from: &from, to: &to, port: 443, bytes: 900 };
            all.push((partition, flow_message(&contact)));
        }
    }
    all.into_iter().map(|(partition, message)| append(topic, partition, message)).collect()
}

fn append(topic: &str, partition: u32, message: Message) -> Append {
    Append {
        topic: topic.to_owned(),
        partition,
        timestamp: Some(message.at),
        key: Some(message.key.into()),
        value: Some(message.value.into()),
        headers: Vec::new(),
    }
}
