//! A Kafka node as a process: its jars, its storage, its life and death. What a single broker and a cluster share; knows
//! neither topics nor clients.
//!
//! What always holds: no node outlives the process that started it (a shell around Java kills it when its standard input
//! closes); its data go with it unless they are to be kept; what is missing on the machine is named with the command that
//! installs it.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

/// What a bare Debian machine needs.
const INSTALL: &str = "apt-get install openjdk-17-jre-headless maven";
/// The pom with the broker's version.
const POM: &str = include_str!("../../kafka/pom.xml");
/// Serial collector and first compiler tier: quick start, few threads.
const JAVA: [&str; 3] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"];
/// Settings of a node.
const PROPERTIES: &str = "server.properties";

/// Runs `"$@"` until it ends or our standard input closes; then kills it and removes `$0`, unless told to keep it.
const WATCHDOG: &str = r#"
exec 3<&0
"$@" </dev/null >>"$0/broker.log" 2>&1 3<&- &
pid=$!
echo $pid >"$0/pid"
( word=$(cat <&3); kill -9 $pid 2>/dev/null; [ -n "$word$KEPT" ] || rm -rf "$0" ) >/dev/null 2>&1 &
wait $pid
"#;

/// One node. Dropping it kills it.
pub struct Node {
    /// Its directory.
    pub dir: PathBuf,
    heap_mib: u32,
    kept: bool,
    watchdog: Option<Child>,
}

impl Node {
    /// A node that does not run yet. Its data are removed with it unless `kept`.
    pub fn new(dir: PathBuf, heap_mib: u32, kept: bool) -> Self {
        Self { dir, heap_mib, kept, watchdog: None }
    }

    /// Writes its settings; formats its storage where that has not been done. Every node of one cluster has the same id.
    pub fn format(&self, properties: &str) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        fs::write(self.dir.join(PROPERTIES), properties)?;
        // Any 16 bytes in URL-safe base64 make a cluster id.
        let output = java(JAVA)?
            .args(["kafka.tools.StorageTool", "format", "-g", "-t", "dGlkZXdhdGNoLXRlc3RzIQ", "-c"])
            .arg(self.dir.join(PROPERTIES))
            .output()
            .with_context(|| format!("java is missing: {INSTALL}"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("formatting the broker's storage failed (Java 17 or later is needed; {INSTALL}): {words}");
        }
        Ok(())
    }

    /// Starts its process, without waiting until it can do anything.
    pub fn spawn(&mut self) -> Result<()> {
        let heap = format!("-Xmx{}m", self.heap_mib);
        let mut command = Command::new("sh");
        command.arg("-c").arg(WATCHDOG).arg(&self.dir).arg("java").arg(heap).args(JAVA);
        command.arg("-cp").arg(classpath()?).arg("kafka.Kafka").arg(self.dir.join(PROPERTIES));
        command.env("KEPT", if self.kept { "kept" } else { "" });
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(fs::remove_file(self.dir.join("pid")));
        self.watchdog = Some(command.spawn().context("starting sh")?);
        Ok(())
    }

    /// True between [`Node::spawn`] and [`Node::kill`].
    pub fn is_started(&self) -> bool {
        self.watchdog.is_some()
    }

    /// Kills it with SIGKILL; data stay.
    pub fn kill(&mut self) -> Result<()> {
        self.signal("KILL")?;
        if let Some(mut watchdog) = self.watchdog.take() {
            release(&mut watchdog, b"keep");
        }
        Ok(())
    }

    /// Sends it a signal by name (`STOP`, `CONT`).
    pub fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.pid()?.to_string();
        let status = Command::new("sh").args(["-c", r#"kill "-$0" "$1""#, signal, &pid]).status()?;
        if status.success() { Ok(()) } else { bail!("kill -{signal} {pid}: {status}") }
    }

    /// How it ended, if it did so by itself.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.watchdog.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    /// The last lines of what it said.
    pub fn told(&self) -> String {
        let log = fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Resident memory, bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Result<u32> {
        Ok(fs::read_to_string(self.dir.join("pid")).context("the node is not running")?.trim().parse()?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            release(&mut watchdog, if self.kept { b"keep" } else { b"" });
        } else if !self.kept {
            drop(fs::remove_dir_all(&self.dir));
        }
    }
}

/// Closes the watchdog's standard input with a last word, and reaps it.
fn release(watchdog: &mut Child, word: &[u8]) {
    if let Some(mut stdin) = watchdog.stdin.take() {
        drop(stdin.write_all(word));
    }
    drop(watchdog.wait());
}

/// Reads a topic from its beginning with Kafka's own Java console consumer, read_committed: key and value of each record,
/// in the order printed. Ends after `records`, or when nothing came for `idle`. Keys and values must be UTF-8 without line
/// ends, keys without tabs; a missing key reads "null".
pub fn console_consume(brokers: &str, topic: &str, records: Option<usize>, idle: Duration) -> Result<Vec<(String, String)>> {
    let mut command = java(["-Xmx256m"].into_iter().chain(JAVA))?;
    command.arg("org.apache.kafka.tools.consumer.ConsoleConsumer");
    command.args(["--bootstrap-server", brokers, "--topic", topic, "--from-beginning"]);
    command.args(["--isolation-level", "read_committed", "--timeout-ms", &idle.as_millis().to_string()]);
    command.args(["--formatter-property", "print.key=true", "--formatter-property", "key.separator=\t"]);
    if let Some(records) = records {
        command.args(["--max-messages", &records.to_string()]);
    }
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("java; {INSTALL}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !stderr.contains("Processed a total of") {
        bail!("console consumer failed ({}): {stderr}", output.status);
    }
    String::from_utf8(output.stdout)?
        .lines()
        .map(|line| {
            let (key, value) = line.split_once('\t').ok_or_else(|| anyhow!("no key in line {line:?}"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Runs one of Kafka's own command-line tools by its class; what it printed.
pub fn tool(class: &str, args: &[&str]) -> Result<String> {
    let mut command = java(["-Xmx256m"].into_iter().chain(JAVA))?;
    let output = command.arg(class).args(args).stdin(Stdio::null()).output().with_context(|| format!("java; {INSTALL}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{class} {args:?}: {}\n{printed}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(printed)
}

/// So many ports that nobody listens on.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    // Held together, so that none comes twice.
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?)
}

/// A directory beside the jars for a node of this process.
pub fn place(name: &str) -> Result<PathBuf> {
    let dir = jars()?.with_file_name(format!("run-{}-{name}", std::process::id()));
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    Ok(dir)
}

/// Java with the jars on its class path.
fn java<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<Command> {
    let mut command = Command::new("java");
    command.args(options).arg("-cp").arg(classpath()?);
    Ok(command)
}

fn classpath() -> Result<String> {
    Ok(format!("{}/*", jars()?.display()))
}

/// Where the jars are; brought by the first who asks.
fn jars() -> Result<&'static Path> {
    static JARS: OnceLock<PathBuf> = OnceLock::new();
    if let Some(jars) = JARS.get() {
        return Ok(jars);
    }
    let brought = bring_jars(&cache_dir())?;
    Ok(JARS.get_or_init(|| brought))
}

/// Where jars and data live: under the target directory, kept between runs.
fn cache_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    target.join("kafka")
}

/// The jars, brought by Maven when they are not there; one process does it, the others wait.
fn bring_jars(cache: &Path) -> Result<PathBuf> {
    fs::create_dir_all(cache)?;
    let cache = cache.canonicalize()?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock()?;
    let lib = cache.join("lib");
    let brought = cache.join("brought.pom");
    if fs::read_to_string(&brought).is_ok_and(|pom| pom == POM) {
        return Ok(lib);
    }
    if lib.exists() {
        fs::remove_dir_all(&lib)?;
    }
    let pom = cache.join("pom.xml");
    fs::write(&pom, POM)?;
    let output = Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", lib.display()))
        .arg("-f")
        .arg(&pom)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("Maven is missing, it brings the Kafka jars: {INSTALL}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        bail!("Maven could not bring the Kafka jars (is a repository reachable? {INSTALL}): {words}");
    }
    fs::write(&brought, POM)?;
    Ok(lib)
}
