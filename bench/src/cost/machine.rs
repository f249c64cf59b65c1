//! What the kernel says of processes and of the machine: processor time, memory, load. Linux only.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tidewatch::worker::system_clock;

/// `USER_HZ`: 100 on every Linux that this runs on (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_S: f64 = 100.0;

/// Processor time, seconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// In user mode.
    pub(crate) user_s: f64,
    /// In the kernel.
    pub(crate) system_s: f64,
}

impl Cpu {
    /// Of a process so far, all its threads; `None` = this one.
    pub(crate) fn of(pid: Option<u32>) -> anyhow::Result<Self> {
        let path = pid.map_or_else(|| "/proc/self/stat".to_owned(), |pid| format!("/proc/{pid}/stat"));
        parse_stat(&proc_file(&path)?).with_context(|| format!("{path} is not as proc(5) says"))
    }

    /// Both.
    pub(crate) fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }

    /// Since an earlier look.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { user_s: self.user_s - earlier.user_s, system_s: self.system_s - earlier.system_s }
    }
}

/// utime and stime: the 12th and 13th field after the command's name, which may hold anything but ends with the last `)`.
fn parse_stat(stat: &str) -> Option<Cpu> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || Some(fields.next()?.parse::<u64>().ok()? as f64 / TICKS_PER_S);
    Some(Cpu { user_s: next()?, system_s: next()? })
}

/// Processor time of this process's threads that run now, seconds, by what they do: a stage's workers, snapshots, the Kafka
/// client's own threads, the rest.
pub(crate) fn cpu_of_threads() -> anyhow::Result<BTreeMap<String, f64>> {
    let mut all = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").context("cannot list this process's threads")? {
        let dir = task?.path();
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
        // One that ended meanwhile says nothing.
        let Some((name, cpu)) = read("comm").zip(read("stat").and_then(|stat| parse_stat(&stat))) else { continue };
        *all.entry(work_of(name.trim()).to_owned()).or_insert(0.0) += cpu.total_s();
    }
    Ok(all)
}

/// What a thread of this name does.
fn work_of(thread: &str) -> &str {
    match thread.split_once('-').map_or(thread, |(stage, _)| stage) {
        stage @ ("normalize" | "detect" | "correlate") => stage,
        "snapshot" | "snapshots" => "snapshots",
        _ if thread.starts_with("rdk:") || thread.starts_with("kafka") => "kafka client",
        _ => "rest",
    }
}

/// Memory of this process, bytes: now, and at most so far.
pub(crate) fn resident_bytes() -> anyhow::Result<(u64, u64)> {
    let status = proc_file("/proc/self/status")?;
    let field = |name: &str| kib(&status, name).with_context(|| format!("/proc/self/status has no {name}"));
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Where and when something was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// RFC 3339.
    pub(crate) date: String,
    /// Of the sources; `None` = no git here. With `-dirty` when something was changed since.
    pub(crate) commit: Option<String>,
    /// The command line.
    pub(crate) command: String,
}

impl Machine {
    pub(crate) fn here() -> anyhow::Result<Self> {
        let cpuinfo = proc_file("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).map(|l| l.trim_start_matches([' ', '\t', ':']));
        let memory = kib(&proc_file("/proc/meminfo")?, "MemTotal:").context("/proc/meminfo has no MemTotal")?;
        let words: Vec<String> = std::env::args().skip(1).collect();
        Ok(Self {
            cpu: model.unwrap_or("not told").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (memory as f64 / f64::from(1 << 30) * 10.0).round() / 10.0,
            kernel: proc_file("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            date: system_clock()().to_string(),
            commit: commit(),
            command: format!("cargo run --release -p tidewatch-bench -- {}", words.join(" ")),
        })
    }
}

fn commit() -> Option<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--exclude=*"]).current_dir(dir).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Processes that wanted a core over the last minute: what else went on.
pub(crate) fn load() -> Option<f64> {
    proc_file("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

fn proc_file(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path}: cost is measured on Linux only"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn proc_is_read_as_it_is_written() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 700 55 1 1 20 0";
        let cpu = parse_stat(stat).unwrap();
        assert_eq!((cpu.user_s, cpu.system_s), (7.0, 0.55));
        assert!(parse_stat("42 (a S 1").is_none());
        assert_eq!(kib("VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\n", "VmHWM:"), Some(2 << 20));
        let works = ["detect-0", "rdk:broker1", "kafka-call", "snapshots", "tidewatch-bench"].map(work_of);
        assert_eq!(works, ["detect", "kafka client", "kafka client", "snapshots", "rest"]);
        assert!(cpu_of_threads().unwrap().contains_key("rest"));
        assert!(Cpu::of(None).is_ok() && resident_bytes().unwrap().1 > 1 << 20 && Machine::here().unwrap().cores > 0);
    }
}
