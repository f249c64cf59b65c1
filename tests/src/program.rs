//! The `tidewatch` program as processes of its own: started, signalled, waited for.
//!
//! Which program is the caller's to say: `env!("CARGO_BIN_EXE_tidewatch_program")` is of the same build as the test.
//! What always holds: no process outlives its handle; a process that ends
//! otherwise than expected is reported with the end of what it said.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The name under which a program of this package runs as `tidewatch` (see [`Process::start_self`]).
pub const SELF_NAME: &str = "tidewatch";
/// Lines of a process's standard error that a report shows.
const TOLD_LINES: usize = 30;
/// Pause between looks at a process.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Waits until something is so. An error names it when that was not within `longest`.
pub fn until(what: &str, longest: Duration, mut good: impl FnMut() -> bool) -> Result<Duration> {
    let began = Instant::now();
    while !good() {
        if began.elapsed() > longest {
            bail!("{what}: not within {longest:?}");
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    Ok(began.elapsed())
}

/// A running program. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    said: PathBuf,
}

impl Process {
    /// Starts `PROGRAM ARGS` in a directory; what it says goes to `NAME.err` and `NAME.out` there, after what an earlier
    /// process of that name said.
    pub fn start(program: &str, name: &str, dir: &Path, args: &[&str]) -> Result<Self> {
        Self::spawn(Command::new(program).args(args).stdin(Stdio::null()), name, dir)
    }

    /// Starts the running program once more under the name [`SELF_NAME`], for a harness that is its own `tidewatch`. Its
    /// standard input closes when this process ends, however it ends.
    pub fn start_self(name: &str, dir: &Path, args: &[&str]) -> Result<Self> {
        Self::start_self_with(name, dir, args, None)
    }

    /// The same with a variable in its environment.
    pub fn start_self_with(name: &str, dir: &Path, args: &[&str], variable: Option<(&str, &str)>) -> Result<Self> {
        let program = std::env::current_exe()?;
        Self::spawn(Command::new(program).arg0(SELF_NAME).args(args).envs(variable).stdin(Stdio::piped()), name, dir)
    }

    fn spawn(command: &mut Command, name: &str, dir: &Path) -> Result<Self> {
        let open = |ending: &str| File::options().create(true).append(true).open(dir.join(format!("{name}.{ending}")));
        let child = command
            .current_dir(dir)
            .stdout(open("out")?)
            .stderr(open("err")?)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, said: dir.join(format!("{name}.err")) })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `KILL`).
    pub fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", r#"kill "-$0" "$1""#, signal, &pid]).status()?;
        if status.success() { Ok(()) } else { bail!("kill -{signal} {}: {status}\n{}", self.name, self.told()) }
    }

    /// True while it runs; a report when it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself, {status}:\n{}", self.name, self.told()),
        }
    }

    /// Waits for the end.
    pub fn wait(mut self, longest: Duration) -> Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if began.elapsed() > longest {
                bail!("{} has not ended after {longest:?}:\n{}", self.name, self.told());
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// SIGTERM, and a good end. Returns how long it took.
    pub fn stop(self, longest: Duration) -> Result<Duration> {
        let began = Instant::now();
        self.signal("TERM")?;
        let told = format!("{}", self.said.display());
        let name = self.name.clone();
        let status = self.wait(longest)?;
        if status.success() { Ok(began.elapsed()) } else { bail!("{name} after SIGTERM: {status}; see {told}") }
    }

    /// SIGKILL.
    pub fn kill(self) -> Result<()> {
        self.signal("KILL")?;
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// The last lines of its standard error.
    pub fn told(&self) -> String {
        let said = std::fs::read_to_string(&self.said).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(TOLD_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
