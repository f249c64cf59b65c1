//! A real Kafka cluster for tests: combined KRaft nodes on loopback, all topics with three replicas of which two must be in
//! sync, each broker behind a proxy that can lose answers.
//!
//! What always holds: clients of [`Cluster::brokers`] come through the proxies, [`Cluster::direct`] and the nodes among
//! themselves do not; at most the nodes that a test killed are away; nothing outlives the process that started it. Broker
//! numbers count from 0.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::Metadata;
use tidewatch::log::kafka::{KafkaConfig, KafkaLog};
use tidewatch::log::{Log, TopicPartition};

use crate::node::{self, Node};
use crate::proxy::{Proxy, Trap};

/// Longest start of all nodes on a busy machine.
const START_WAIT: Duration = Duration::from_secs(120);
/// Longest wait for one answer of the cluster.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Partitions of each of Kafka's own topics.
const INTERNAL_PARTITIONS: u32 = 6;

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Nodes; replicas and the least number in sync follow.
    pub nodes: usize,
    /// Where everything lies, kept afterwards and found again by the next start; `None` = a place of its own, removed.
    pub dir: Option<PathBuf>,
    /// Java heap of a node.
    pub heap_mib: u32,
    /// Security of the listener that clients use, as in `listener.security.protocol.map`.
    pub protocol: String,
    /// Further lines for every node's `server.properties`; they win over those written here.
    pub extra: Vec<String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { nodes: 3, dir: None, heap_mib: 256, protocol: "PLAINTEXT".to_owned(), extra: Vec::new() }
    }
}

/// A running cluster. Dropping it kills it.
pub struct Cluster {
    nodes: Vec<Node>,
    ports: Vec<Ports>,
    proxies: Vec<Proxy>,
    trap: Trap,
    tools: BaseConsumer,
    brokers: String,
    direct: String,
    /// Removed when the cluster is dropped.
    own_dir: Option<PathBuf>,
    /// From the first process to the first transaction.
    pub start_time: Duration,
}

/// The ports of one node.
#[derive(Clone, Copy)]
struct Ports {
    /// Where clients come in, behind the proxy.
    clients: u16,
    /// The proxy's own.
    proxy: u16,
    /// For the nodes among themselves and for whoever watches.
    inside: u16,
    controller: u16,
}

impl Cluster {
    /// Starts all nodes and waits until a transaction can begin.
    pub fn start(options: &ClusterOptions) -> Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let (dir, own_dir) = match &options.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let dir = node::place(&format!("cluster-{}", RUNS.fetch_add(1, Ordering::Relaxed)))?;
                (dir.clone(), Some(dir))
            }
        };
        fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        let ports = ports(&dir, options.nodes)?;
        let list = |port: fn(&Ports) -> u16| ports.iter().map(|p| format!("127.0.0.1:{}", port(p))).collect::<Vec<_>>().join(",");
        let (brokers, direct) = (list(if is_readable(options) { |p| p.proxy } else { |p| p.clients }), list(|p| p.inside));
        let trap = Trap::default();
        let proxies = ports.iter().map(|p| Proxy::start(p.proxy, p.clients, &trap)).collect::<Result<Vec<_>>>()?;
        let nodes = (1..=options.nodes)
            .map(|n| Node::new(dir.join(format!("node-{n}")), options.heap_mib, options.dir.is_some()))
            .collect();
        let tools = ClientConfig::new().set("bootstrap.servers", &direct).set("log_level", "0").create()?;
        let began = Instant::now();
        let mut cluster = Self { nodes, ports, proxies, trap, tools, brokers, direct, own_dir, start_time: Duration::ZERO };
        // Java takes its time to start: all at once.
        std::thread::scope(|scope| {
            let format = |i: usize| {
                let (node, properties) = (&cluster.nodes[i], properties(&cluster.nodes[i].dir, i, &cluster.ports, options));
                scope.spawn(move || node.format(&properties))
            };
            let running: Vec<_> = (0..options.nodes).map(format).collect();
            running.into_iter().try_for_each(|r| r.join().unwrap_or_else(|_| Err(anyhow!("formatting panicked"))))
        })?;
        for node in &mut cluster.nodes {
            node.spawn()?;
        }
        cluster.wait_until_ready()?;
        cluster.start_time = began.elapsed();
        Ok(cluster)
    }

    /// `host:port`s that clients use; they lead through the proxies.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// `host:port`s beside the proxies, always without encryption or login.
    pub fn direct(&self) -> &str {
        &self.direct
    }

    /// How a log reaches it directly.
    pub fn config(&self) -> KafkaConfig {
        KafkaConfig { replicas: u16::try_from(self.nodes.len()).ok(), ..KafkaConfig::new(&self.direct) }
    }

    /// A log on it, not through the proxies.
    pub fn log(&self) -> Result<KafkaLog> {
        Ok(KafkaLog::connect(self.config())?)
    }

    /// What can be lost on the way between clients and brokers.
    pub fn trap(&self) -> &Trap {
        &self.trap
    }

    /// Number of nodes.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Kills a broker with SIGKILL; its data stay.
    pub fn kill(&mut self, broker: usize) -> Result<()> {
        self.nodes[broker].kill()?;
        self.proxies[broker].drop_connections();
        Ok(())
    }

    /// Starts a killed broker again, without waiting for it; [`Cluster::wait_until_in_sync`] does.
    pub fn launch(&mut self, broker: usize) -> Result<()> {
        self.nodes[broker].spawn()
    }

    /// Stops a broker's process in place (SIGSTOP).
    pub fn freeze(&self, broker: usize) -> Result<()> {
        self.nodes[broker].signal("STOP")
    }

    /// Lets a frozen broker go on.
    pub fn thaw(&self, broker: usize) -> Result<()> {
        self.nodes[broker].signal("CONT")
    }

    /// The broker that coordinates the transactions of an id. An error when nobody does at the moment.
    pub fn transaction_coordinator(&self, id: &str) -> Result<usize> {
        self.coordinator("__transaction_state", id)
    }

    /// The broker that coordinates a consumer group.
    pub fn group_coordinator(&self, group: &str) -> Result<usize> {
        self.coordinator("__consumer_offsets", group)
    }

    /// The broker that leads a partition.
    pub fn leader(&self, at: &TopicPartition) -> Result<usize> {
        let metadata = self.metadata(Some(&at.topic))?;
        let topic = metadata.topics().iter().find(|t| t.name() == at.topic).context("no such topic")?;
        let partition = topic.partitions().iter().find(|p| p.id() == at.partition as i32).context("no such partition")?;
        usize::try_from(partition.leader() - 1).with_context(|| format!("{at} has no leader"))
    }

    /// Adds partitions to a topic, up to `partitions` in all.
    pub fn grow(&self, topic: &str, partitions: u32) -> Result<()> {
        use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
        use rdkafka::client::DefaultClientContext;
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.direct).set("log_level", "0").create()?;
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_WAIT)).request_timeout(Some(ANSWER_WAIT));
        let new = [NewPartitions::new(topic, partitions as usize)];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let done = runtime.block_on(admin.create_partitions(&new, &options))?;
        for one in done {
            one.map_err(|(topic, code)| anyhow!("adding partitions to {topic}: {code}"))?;
        }
        Ok(())
    }

    /// Waits until every broker is there and every replica of every partition is in sync.
    pub fn wait_until_in_sync(&mut self, longest: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let missing = match self.metadata(None) {
                Ok(metadata) => self.missing(&metadata),
                Err(error) => Some(error.to_string()),
            };
            let Some(missing) = missing else { return Ok(began.elapsed()) };
            self.check()?;
            if began.elapsed() > longest {
                bail!("not in sync after {longest:?}: {missing}");
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// An error when a broker has ended that nobody killed.
    pub fn check(&mut self) -> Result<()> {
        for (i, node) in self.nodes.iter_mut().enumerate() {
            if let Some(status) = node.ended()? {
                bail!("broker {i} ended by itself, {status}: {}", node.told());
            }
        }
        Ok(())
    }

    /// See [`node::console_consume`].
    pub fn console_consume(&self, topic: &str, records: Option<usize>, idle: Duration) -> Result<Vec<(String, String)>> {
        node::console_consume(&self.direct, topic, records, idle)
    }

    /// What is not in sync yet.
    fn missing(&self, metadata: &Metadata) -> Option<String> {
        if metadata.brokers().len() < self.nodes.len() {
            return Some(format!("{} brokers", metadata.brokers().len()));
        }
        metadata.topics().iter().find_map(|topic| {
            let lacking = topic.partitions().iter().find(|p| p.leader() < 0 || p.isr().len() < p.replicas().len())?;
            Some(format!("{} ({}), in sync {:?}", topic.name(), lacking.id(), lacking.isr()))
        })
    }

    fn metadata(&self, topic: Option<&str>) -> Result<Metadata> {
        Ok(self.tools.fetch_metadata(topic, ANSWER_WAIT)?)
    }

    /// Kafka places an id on a partition of its own topic by the id's hash.
    fn coordinator(&self, topic: &str, id: &str) -> Result<usize> {
        let metadata = self.metadata(Some(topic))?;
        let found = metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len());
        let partitions = i32::try_from(found).ok().filter(|n| *n > 0).with_context(|| format!("{topic} is not there yet"))?;
        let partition = (java_hash(id).checked_abs().unwrap_or(0) % partitions) as u32;
        self.leader(&TopicPartition::new(topic, partition))
    }

    /// Ready: every node is in the metadata, and a first transactional producer gets its id.
    fn wait_until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        let mut config = self.config();
        config.times.reach = Duration::from_secs(5);
        loop {
            let all = self.metadata(None).map(|m| m.brokers().len() == self.nodes.len());
            let error = match all {
                Ok(true) => match KafkaLog::connect(config.clone()).and_then(|log| log.writer("ready").map(drop)) {
                    Ok(()) => break,
                    Err(error) => error.to_string(),
                },
                Ok(false) => "brokers are missing".to_owned(),
                Err(error) => error.to_string(),
            };
            self.check()?;
            if began.elapsed() > START_WAIT {
                bail!("the cluster did not start ({error}): {}", self.nodes[0].told());
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        self.wait_until_in_sync(START_WAIT).map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        if let Some(dir) = &self.own_dir {
            drop(fs::remove_dir_all(dir));
        }
    }
}

/// The ports of a cluster: those of its earlier life, else free ones.
fn ports(dir: &Path, nodes: usize) -> Result<Vec<Ports>> {
    let file = dir.join("ports");
    let numbers: Vec<u16> = match fs::read_to_string(&file) {
        Ok(text) => text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?,
        Err(_) => {
            let free = node::free_ports(nodes * 4)?;
            fs::write(&file, free.iter().map(u16::to_string).collect::<Vec<_>>().join(" "))?;
            free
        }
    };
    if numbers.len() != nodes * 4 {
        bail!("{} is of another cluster", file.display());
    }
    let of = |p: &[u16]| Ports { clients: p[0], proxy: p[1], inside: p[2], controller: p[3] };
    Ok(numbers.chunks(4).map(of).collect())
}

/// `String.hashCode` of Java, for ASCII.
fn java_hash(text: &str) -> i32 {
    text.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)))
}

/// One combined node; little memory, quick to notice the dead.
fn properties(dir: &Path, index: usize, ports: &[Ports], options: &ClusterOptions) -> String {
    let own = &ports[index];
    let replicas = ports.len();
    let in_sync = replicas.div_ceil(2).min(2);
    let voters: Vec<String> = ports.iter().zip(1..).map(|(p, id)| format!("{id}@127.0.0.1:{}", p.controller)).collect();
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| lines.push((name.to_owned(), value));
    set("process.roles", "broker,controller".into());
    set("node.id", (index + 1).to_string());
    set("controller.quorum.voters", voters.join(","));
    let (clients, inside, controller) = (own.clients, own.inside, own.controller);
    let listeners = format!("CLIENTS://127.0.0.1:{clients},INSIDE://127.0.0.1:{inside},CONTROLLER://127.0.0.1:{controller}");
    set("listeners", listeners);
    let advertised = if is_readable(options) { own.proxy } else { clients };
    set("advertised.listeners", format!("CLIENTS://127.0.0.1:{advertised},INSIDE://127.0.0.1:{inside}"));
    set("inter.broker.listener.name", "INSIDE".into());
    set("controller.listener.names", "CONTROLLER".into());
    let protocols = format!("CONTROLLER:PLAINTEXT,INSIDE:PLAINTEXT,CLIENTS:{}", options.protocol);
    set("listener.security.protocol.map", protocols);
    set("log.dirs", dir.join("data").display().to_string());
    set("auto.create.topics.enable", "false".into());
    set("default.replication.factor", replicas.to_string());
    set("min.insync.replicas", in_sync.to_string());
    for topic in ["offsets.topic", "transaction.state.log"] {
        set(&format!("{topic}.replication.factor"), replicas.to_string());
        set(&format!("{topic}.num.partitions"), INTERNAL_PARTITIONS.to_string());
    }
    set("transaction.state.log.min.isr", in_sync.to_string());
    set("share.coordinator.state.topic.replication.factor", replicas.to_string());
    set("share.coordinator.state.topic.min.isr", in_sync.to_string());
    set("group.initial.rebalance.delay.ms", "0".into());
    set("group.min.session.timeout.ms", "1000".into());
    set("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000".into());
    // A dead broker is noticed within seconds; less, and a busy machine makes dead brokers of living ones.
    set("broker.heartbeat.interval.ms", "500".into());
    set("broker.session.timeout.ms", "4000".into());
    set("leader.imbalance.check.interval.seconds", "30".into());
    set("num.network.threads", "2".into());
    set("num.io.threads", "4".into());
    set("background.threads", "2".into());
    set("log.cleaner.dedupe.buffer.size", "4194304".into());
    let mut named: BTreeMap<String, String> = lines.into_iter().collect();
    named.extend(options.extra.iter().filter_map(|l| l.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())));
    named.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// A proxy reads requests, so it cannot stand before an encrypted listener: clients go there directly.
fn is_readable(options: &ClusterOptions) -> bool {
    options.protocol == "PLAINTEXT"
}

#[cfg(test)]
mod tests {
    use super::java_hash;

    #[test]
    fn ids_are_hashed_as_java_does() {
        // Values of Java's own String.hashCode.
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("hello"), 99_162_322);
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
    }
}
