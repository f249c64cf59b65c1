//! A real Apache Kafka broker for tests: one KRaft node on loopback, from jars that Maven brings once.
//!
//! Not a mock: exactly-once is claimed only against this. What always holds: no broker outlives the process that started
//! it (a shell around Java kills it when its standard input closes); its data go with it; what is missing on the machine
//! is named with the command that installs it.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tidewatch::log::Log;
use tidewatch::log::kafka::{KafkaConfig, KafkaLog};

/// What a bare Debian machine needs.
const INSTALL: &str = "apt-get install openjdk-17-jre-headless maven";
/// The pom with the broker's version.
const POM: &str = include_str!("../kafka/pom.xml");
/// Longest start of a broker on a busy machine.
const START_WAIT: Duration = Duration::from_secs(90);
/// Java heap of the broker.
const HEAP: &str = "-Xmx384m";
/// Serial collector and first compiler tier: quick start, few threads.
const JAVA: [&str; 3] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"];

/// Runs `"$@"` until it ends or our standard input closes; then kills it and removes `$0`, unless told to keep it.
const WATCHDOG: &str = r#"
exec 3<&0
"$@" </dev/null >>"$0/broker.log" 2>&1 3<&- &
pid=$!
echo $pid >"$0/pid"
( word=$(cat <&3); kill -9 $pid 2>/dev/null; [ "$word" = keep ] || rm -rf "$0" ) >/dev/null 2>&1 &
wait $pid
"#;

/// A running broker. Dropping it kills it.
pub struct Broker {
    dir: PathBuf,
    lib: PathBuf,
    brokers: String,
    watchdog: Option<Child>,
    /// From the first process to the first transaction.
    pub start_time: Duration,
}

static TOPICS: AtomicU32 = AtomicU32::new(0);

impl Broker {
    /// The broker of this test binary, started by the first test that asks.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Self::start().expect("a Kafka broker is needed for this test"))
    }

    /// Starts a broker of its own, for tests that kill it.
    pub fn start() -> Result<Self> {
        Self::start_behind(None)
    }

    /// Starts a broker whose clients come through a proxy: `proxy` is given the broker's port and returns its own.
    pub fn start_behind(proxy: Option<&dyn Fn(u16) -> u16>) -> Result<Self> {
        let cache = cache_dir();
        let lib = bring_jars(&cache)?;
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let dir = lib.with_file_name(format!("run-{}-{run}", std::process::id()));
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let (port, controller) = free_ports()?;
        let advertised = proxy.map_or(port, |proxy| proxy(port));
        fs::write(dir.join("server.properties"), properties(&dir, port, advertised, controller))?;
        let brokers = format!("127.0.0.1:{advertised}");
        let mut broker = Self { dir, lib, brokers, watchdog: None, start_time: Duration::ZERO };
        let began = Instant::now();
        broker.format()?;
        broker.launch()?;
        broker.start_time = began.elapsed();
        Ok(broker)
    }

    /// `host:port` that clients use.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// How a log reaches it.
    pub fn config(&self) -> KafkaConfig {
        KafkaConfig { replicas: Some(1), ..KafkaConfig::new(&self.brokers) }
    }

    /// A log on it.
    pub fn log(&self) -> KafkaLog {
        KafkaLog::connect(self.config()).expect("the broker was ready")
    }

    /// A name that no other test uses.
    pub fn name(&self, what: &str) -> String {
        format!("{what}-{}", TOPICS.fetch_add(1, Ordering::Relaxed))
    }

    /// Kills it with SIGKILL; data stay.
    pub fn kill(&mut self) -> Result<()> {
        self.signal("KILL")?;
        if let Some(mut watchdog) = self.watchdog.take() {
            release(&mut watchdog, b"keep");
        }
        Ok(())
    }

    /// Starts it again on the same port with the same data and waits until it is ready.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(WATCHDOG).arg(&self.dir).arg("java").arg(HEAP).args(JAVA);
        command.arg("-cp").arg(self.classpath()).arg("kafka.Kafka").arg(self.dir.join("server.properties"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.watchdog = Some(command.spawn().context("starting sh")?);
        self.wait_until_ready()
    }

    /// Stops its process in place (SIGSTOP): it answers nobody until [`Broker::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// Lets a frozen broker go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal("CONT")
    }

    /// Resident memory, bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Reads a topic from its beginning with Kafka's own Java console consumer, read_committed: key and value of each
    /// record, in the order printed. Ends after `records`, or when nothing came for `idle`. Keys and values must be UTF-8
    /// without line ends, keys without tabs; a missing key reads "null".
    pub fn console_consume(&self, topic: &str, records: Option<usize>, idle: Duration) -> Result<Vec<(String, String)>> {
        let mut command = Command::new("java");
        command.args(["-Xmx256m"]).args(JAVA).arg("-cp").arg(self.classpath());
        command.arg("org.apache.kafka.tools.consumer.ConsoleConsumer");
        command.args(["--bootstrap-server", &self.brokers, "--topic", topic, "--from-beginning"]);
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

    fn classpath(&self) -> String {
        format!("{}/*", self.lib.display())
    }

    fn pid(&self) -> Result<u32> {
        Ok(fs::read_to_string(self.dir.join("pid"))?.trim().parse()?)
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.pid()?.to_string();
        let status = Command::new("sh").args(["-c", r#"kill "-$0" "$1""#, signal, &pid]).status()?;
        if status.success() { Ok(()) } else { bail!("kill -{signal} {pid}: {status}") }
    }

    fn format(&self) -> Result<()> {
        let mut command = Command::new("java");
        command.args(JAVA).arg("-cp").arg(self.classpath()).args(["kafka.tools.StorageTool", "format"]);
        // Any 16 bytes in URL-safe base64 make a cluster id.
        command.args(["-t", "dGlkZXdhdGNoLXRlc3RzIQ", "-c"]).arg(self.dir.join("server.properties"));
        let output = command.output().with_context(|| format!("java is missing: {INSTALL}"))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("formatting the broker's storage failed (Java 17 or later is needed; {INSTALL}): {words}");
        }
        Ok(())
    }

    /// Ready: a metadata request answers and a first transactional producer gets its id.
    fn wait_until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        let mut config = self.config();
        config.times.reach = Duration::from_millis(1000);
        loop {
            let ready = KafkaLog::connect(config.clone()).and_then(|log| log.writer("ready").map(drop));
            let Err(error) = ready else { return Ok(()) };
            let ended = self.watchdog.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || began.elapsed() > START_WAIT {
                let log = fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                bail!("the broker did not start ({ended:?}, {error}): {}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            release(&mut watchdog, b"");
        } else {
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

/// Where jars and data live: under the target directory, kept between runs.
fn cache_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
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

/// Two ports nobody listens on.
fn free_ports() -> Result<(u16, u16)> {
    let (a, b) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((a.local_addr()?.port(), b.local_addr()?.port()))
}

/// One combined node; internal topics with one replica, no waiting before a first rebalance, little memory.
fn properties(dir: &Path, port: u16, advertised: u16, controller: u16) -> String {
    let lines = [
        "process.roles=broker,controller".to_owned(),
        "node.id=1".to_owned(),
        format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
        format!("listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"),
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}"),
        "inter.broker.listener.name=PLAINTEXT".to_owned(),
        "controller.listener.names=CONTROLLER".to_owned(),
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned(),
        format!("log.dirs={}", dir.join("data").display()),
        "auto.create.topics.enable=false".to_owned(),
        "offsets.topic.replication.factor=1".to_owned(),
        "offsets.topic.num.partitions=4".to_owned(),
        "transaction.state.log.replication.factor=1".to_owned(),
        "transaction.state.log.min.isr=1".to_owned(),
        "transaction.state.log.num.partitions=4".to_owned(),
        "share.coordinator.state.topic.replication.factor=1".to_owned(),
        "share.coordinator.state.topic.min.isr=1".to_owned(),
        "group.initial.rebalance.delay.ms=0".to_owned(),
        "log.cleaner.dedupe.buffer.size=4194304".to_owned(),
        "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000".to_owned(),
    ];
    lines.join("\n") + "\n"
}
