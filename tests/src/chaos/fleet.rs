//! The worker processes: started, killed, frozen, drained, missed.
//!
//! Each is the `tidewatch` program of this build, all stages in one process, with a directory of its own. What always
//! holds: a worker that ends without having been told to is started again, as a supervisor would, and counted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::PLANTED;
use crate::program::Process;

/// Longest wait for a process to end after SIGTERM.
const STOP_WAIT: Duration = Duration::from_secs(60);

/// The workers of a deployment.
pub struct Fleet {
    dir: PathBuf,
    topology: PathBuf,
    workers: Vec<Option<Process>>,
    frozen: Vec<bool>,
    /// A fault that every worker has, by its name in [`super::PLANTED`].
    planted: Option<String>,
    /// What workers said that ended by themselves.
    pub ended: Vec<String>,
}

impl Fleet {
    /// So many workers of a topology, none running yet.
    pub fn new(dir: &Path, topology: &Path, size: usize) -> Self {
        let workers = (0..size).map(|_| None).collect();
        Self {
            dir: dir.to_owned(),
            topology: topology.to_owned(),
            workers,
            frozen: vec![false; size],
            planted: None,
            ended: Vec::new(),
        }
    }

    /// Workers started from now on have a fault.
    pub fn plant(&mut self, name: Option<&str>) {
        self.planted = name.map(str::to_owned);
    }

    /// Number of workers, running or not.
    pub fn size(&self) -> usize {
        self.workers.len()
    }

    /// Starts a worker; returns the one that ran in its place, still running.
    pub fn start(&mut self, i: usize) -> Result<Option<Process>> {
        let dir = self.dir.join(format!("worker-{i}"));
        std::fs::create_dir_all(&dir)?;
        let topology = self.topology.to_string_lossy();
        let ordinal = i.to_string();
        let args = ["--log-level", "info", "--color", "never", "run", &topology, "--ordinal", &ordinal];
        let process = Process::start_self_with("worker", &dir, &args, self.planted.as_deref().map(|name| (PLANTED, name)))?;
        self.frozen[i] = false;
        Ok(self.workers[i].replace(process))
    }

    /// Kills a worker with SIGKILL.
    pub fn kill(&mut self, i: usize) -> Result<()> {
        self.take(i)?.kill()
    }

    /// SIGTERM; returns how long it took to end.
    pub fn stop(&mut self, i: usize) -> Result<Duration> {
        self.take(i)?.stop(STOP_WAIT)
    }

    /// SIGSTOP.
    pub fn freeze(&mut self, i: usize) -> Result<()> {
        self.frozen[i] = true;
        self.workers[i].as_ref().context("it does not run")?.signal("STOP")
    }

    /// SIGCONT.
    pub fn thaw(&mut self, i: usize) -> Result<()> {
        self.frozen[i] = false;
        self.workers[i].as_ref().context("it does not run")?.signal("CONT")
    }

    /// Workers that run and are not frozen.
    pub fn running(&self) -> Vec<u32> {
        (0..self.size()).filter(|i| self.workers[*i].is_some() && !self.frozen[*i]).map(|i| i as u32).collect()
    }

    /// Starts again what ended by itself.
    pub fn tend(&mut self) -> Result<()> {
        for i in 0..self.size() {
            let Some(process) = &mut self.workers[i] else { continue };
            if let Err(why) = process.check() {
                self.ended.push(format!("worker {i}: {why}"));
                self.workers[i] = None;
                drop(self.start(i)?);
            }
        }
        Ok(())
    }

    fn take(&mut self, i: usize) -> Result<Process> {
        self.frozen[i] = false;
        self.workers[i].take().with_context(|| format!("worker {i} does not run"))
    }
}
