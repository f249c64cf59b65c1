//! A real Apache Kafka broker for tests: one KRaft node on loopback, from jars that Maven brings once.
//!
//! Not a mock: exactly-once is claimed only against this. The process itself is a
//! [`crate::node`].

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tidewatch::log::Log;
use tidewatch::log::kafka::{KafkaConfig, KafkaLog};

use crate::node::{self, Node};

/// Longest start of a broker on a busy machine.
const START_WAIT: Duration = Duration::from_secs(90);
/// Java heap of the broker.
const HEAP_MIB: u32 = 384;

/// A running broker. Dropping it kills it.
pub struct Broker {
    node: Node,
    brokers: String,
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
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let dir = node::place(&RUNS.fetch_add(1, Ordering::Relaxed).to_string())?;
        let ports = node::free_ports(2)?;
        let (port, controller) = (ports[0], ports[1]);
        let advertised = proxy.map_or(port, |proxy| proxy(port));
        let began = Instant::now();
        let properties = properties(&dir, port, advertised, controller);
        let brokers = format!("127.0.0.1:{advertised}");
        let mut broker = Self { node: Node::new(dir, HEAP_MIB, false), brokers, start_time: Duration::ZERO };
        broker.node.format(&properties)?;
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
        self.node.kill()
    }

    /// Starts it again on the same port with the same data and waits until it is ready.
    pub fn launch(&mut self) -> Result<()> {
        self.node.spawn()?;
        self.wait_until_ready()
    }

    /// Stops its process in place (SIGSTOP): it answers nobody until [`Broker::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.node.signal("STOP")
    }

    /// Lets a frozen broker go on.
    pub fn thaw(&self) -> Result<()> {
        self.node.signal("CONT")
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        self.node.pid()
    }

    /// Resident memory, bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        self.node.memory_bytes()
    }

    /// See [`node::console_consume`].
    pub fn console_consume(&self, topic: &str, records: Option<usize>, idle: Duration) -> Result<Vec<(String, String)>> {
        node::console_consume(&self.brokers, topic, records, idle)
    }

    /// Ready: a metadata request answers and a first transactional producer gets its id.
    fn wait_until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        let mut config = self.config();
        config.times.reach = Duration::from_millis(1000);
        loop {
            let ready = KafkaLog::connect(config.clone()).and_then(|log| log.writer("ready").map(drop));
            let Err(error) = ready else { return Ok(()) };
            let ended = self.node.ended()?;
            if ended.is_some() || began.elapsed() > START_WAIT {
                bail!("the broker did not start ({ended:?}, {error}): {}", self.node.told());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
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
