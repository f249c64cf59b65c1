//! How Kafka is reached: brokers, TLS, SASL, time-outs, and the client settings that follow from them.
//!
//! Not a file format: topologies parse into this. What always holds: without TLS only loopback brokers are spoken to
//! unless [`KafkaConfig::allow_plaintext`] says otherwise; secrets appear in no `Debug` output and in no error; commit
//! budget < transaction time-out < session time-out ≪ poll interval, so that a member whose commit hangs is aborted by
//! the broker before its partitions are given away.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::log::LogError;

/// Records waiting in one reader's client queue, KiB: two fetches ahead while a batch is decoded; a job that
/// catches up fills it for every partition that it reads. At the limit the client
/// stops fetching for [`FETCH_BACKOFF_MS`].
pub const READER_QUEUE_KIB_MAX: u32 = 4 * 1024;
/// Bytes of one partition in one fetch answer.
pub const FETCH_PARTITION_BYTES: u32 = 2 << 20;
/// Bytes of one fetch answer; a single larger record still comes through.
pub const FETCH_BYTES_MAX: u32 = 8 << 20;
/// Pause after a full queue, milliseconds. The client's 1000 stalls partitions for a second with small queues.
pub const FETCH_BACKOFF_MS: u32 = 10;
/// Longest wait of the broker for the first byte, milliseconds.
pub const FETCH_WAIT_MS: u32 = 50;
/// Heartbeats of a classic group member, milliseconds (the client's default is 3000).
pub const HEARTBEAT_MS: u32 = 1000;
/// A group member asks for the partition counts of its topics this often, milliseconds: a partition that was added holds
/// slices up until it is given to somebody (the client's default is 300000).
pub const MEMBER_METADATA_MS: u32 = 5000;
/// Records waiting in one writer's queue. At the limit the commit polls until there is room.
pub const WRITER_QUEUE_RECORDS_MAX: u32 = 500_000;
/// Kilobytes waiting in one writer's queue; the same behaviour at the limit.
pub const WRITER_QUEUE_KIB_MAX: u32 = 256 * 1024;
/// Largest record a writer takes, bytes, whatever the topic says.
pub const WRITE_RECORD_BYTES_MAX: usize = 32 << 20;
/// Most bytes the client packs into one batch; a topic must take batches of that size.
pub const BATCH_BYTES_MAX: usize = 1_000_000;

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// TLS, or plaintext when `None`.
    pub tls: Option<KafkaTls>,
    /// Login, if the cluster asks for one.
    pub sasl: Option<KafkaSasl>,
    /// Speak to brokers that are not on this machine without TLS.
    pub allow_plaintext: bool,
    /// `client.id`, and the prefix of the group name under which single readers appear in broker logs.
    pub client_id: String,
    /// Time-outs.
    pub times: KafkaTimes,
    /// Replicas of topics that tidewatch makes; `None` = the broker's default.
    pub replicas: Option<u16>,
    /// How groups share out partitions.
    pub group_protocol: GroupProtocol,
    /// Compression of produced batches.
    pub compression: Compression,
}

/// TLS to the brokers. Host names are always checked.
#[derive(Clone, Debug, Default)]
pub struct KafkaTls {
    /// Authorities to trust (PEM); `None` = the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate (PEM).
    pub cert_file: Option<PathBuf>,
    /// Its key (PEM, without a passphrase).
    pub key_file: Option<PathBuf>,
}

/// SASL login.
#[derive(Clone, Debug)]
pub struct KafkaSasl {
    /// Mechanism.
    pub mechanism: SaslMechanism,
    /// User name.
    pub user: String,
    /// Where the password comes from; read at connect.
    pub password: SecretSource,
}

/// A secret's place, never the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file; one trailing line end is cut.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

/// SASL mechanisms of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// PLAIN.
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512.
    ScramSha512,
}

/// Group protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// Classic with the cooperative-sticky assignor.
    Classic,
    /// KIP-848, brokers 4.0 and later; its time-outs live on the broker. Behind a switch: the bundled client can die with
    /// a fatal error after a poll overrun.
    Consumer,
}

/// Compression of produced batches. Observation batches come compressed, so nothing is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Time-outs, in the order that must hold.
#[derive(Clone, Copy, Debug)]
pub struct KafkaTimes {
    /// A commit that has not ended by then is settled by a new producer.
    pub commit_budget: Duration,
    /// The broker aborts a transaction older than this.
    pub transaction: Duration,
    /// A member silent for this long loses its partitions (classic protocol).
    pub session: Duration,
    /// A member that does not poll for this long loses its partitions.
    pub poll_interval_max: Duration,
    /// How long a call waits for a broker before it says so.
    pub reach: Duration,
}

impl Default for KafkaTimes {
    fn default() -> Self {
        Self {
            commit_budget: Duration::from_secs(8),
            transaction: Duration::from_secs(10),
            session: Duration::from_secs(30),
            poll_interval_max: Duration::from_secs(300),
            reach: Duration::from_secs(10),
        }
    }
}

impl KafkaConfig {
    /// Plaintext to these brokers with the defaults; good for loopback.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            tls: None,
            sasl: None,
            allow_plaintext: false,
            client_id: "tidewatch".into(),
            times: KafkaTimes::default(),
            replicas: None,
            group_protocol: GroupProtocol::Classic,
            compression: Compression::None,
        }
    }

    /// Who the brokers will see: for messages about missing rights.
    pub fn principal(&self) -> String {
        match (&self.sasl, &self.tls) {
            (Some(sasl), _) => format!("User:{}", sasl.user),
            (None, Some(KafkaTls { cert_file: Some(file), .. })) => format!("the certificate in {}", file.display()),
            _ => "User:ANONYMOUS".into(),
        }
    }

    /// Checks what can be checked without a broker: encryption and the order of the time-outs.
    pub fn check(&self) -> Result<(), LogError> {
        if self.brokers.split(',').all(|b| b.trim().is_empty()) {
            return Err(LogError::Denied { what: "Kafka without brokers".into() });
        }
        let exposed = |broker: &&str| !broker.is_empty() && !is_loopback(broker);
        if self.tls.is_none()
            && !self.allow_plaintext
            && let Some(broker) = self.brokers.split(',').map(str::trim).find(exposed)
        {
            return Err(LogError::Denied {
                what: format!("plaintext to {broker}; configure tls, or allow_plaintext where the network is trusted"),
            });
        }
        if self.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some() != tls.key_file.is_some()) {
            return Err(LogError::Denied { what: "a client certificate without its key, or the reverse".into() });
        }
        let t = &self.times;
        let order = [
            ("commit_budget", t.commit_budget),
            ("transaction", t.transaction),
            ("session", t.session),
            ("poll_interval_max", t.poll_interval_max),
        ];
        for pair in order.windows(2) {
            let ((shorter, a), (longer, b)) = (pair[0], pair[1]);
            if a >= b {
                return Err(LogError::Denied { what: format!("time-out {shorter} of {a:?} must be below {longer} of {b:?}") });
            }
        }
        Ok(())
    }

    /// Settings that every client shares. Reads the password.
    pub(super) fn client(&self) -> Result<ClientConfig, LogError> {
        self.check()?;
        // Readers are closed without being waited for, and a call may hang: clients speak TLS until the process is gone. At its end
        // OpenSSL would free under them what they work with, unless its first call says not to.
        openssl_sys::init();
        let mut c = ClientConfig::new();
        c.set_log_level(RDKafkaLogLevel::Notice);
        c.set("bootstrap.servers", &self.brokers);
        c.set("client.id", &self.client_id);
        c.set("socket.keepalive.enable", "true");
        c.set("allow.auto.create.topics", "false");
        c.set("reconnect.backoff.max.ms", "1000");
        // An idle connection closed by the broker is no news.
        c.set("log.connection.close", "false");
        c.set(
            "security.protocol",
            match (&self.tls, &self.sasl) {
                (None, None) => "plaintext",
                (Some(_), None) => "ssl",
                (None, Some(_)) => "sasl_plaintext",
                (Some(_), Some(_)) => "sasl_ssl",
            },
        );
        if let Some(tls) = &self.tls {
            c.set("ssl.endpoint.identification.algorithm", "https");
            for (key, file) in [
                ("ssl.ca.location", &tls.ca_file),
                ("ssl.certificate.location", &tls.cert_file),
                ("ssl.key.location", &tls.key_file),
            ] {
                if let Some(file) = file {
                    c.set(key, file.to_string_lossy());
                }
            }
        }
        if let Some(sasl) = &self.sasl {
            c.set("sasl.mechanisms", sasl.mechanism.name());
            c.set("sasl.username", &sasl.user);
            c.set("sasl.password", sasl.password.read()?);
        }
        Ok(c)
    }

    /// A consumer that reads committed records and commits nothing.
    pub(super) fn consumer(&self, group: &str) -> Result<ClientConfig, LogError> {
        let mut c = self.client()?;
        c.set("group.id", group);
        // Invariant: offsets are committed in transactions only.
        c.set("enable.auto.commit", "false");
        c.set("enable.auto.offset.store", "false");
        c.set("isolation.level", "read_committed");
        c.set("auto.offset.reset", "error");
        c.set("enable.partition.eof", "true");
        c.set("check.crcs", "true");
        // Shorter than the client's 60 s: a black hole is noticed, and closing is quick.
        c.set("socket.timeout.ms", "10000");
        c.set("queued.max.messages.kbytes", READER_QUEUE_KIB_MAX.to_string());
        c.set("fetch.queue.backoff.ms", FETCH_BACKOFF_MS.to_string());
        c.set("fetch.wait.max.ms", FETCH_WAIT_MS.to_string());
        c.set("fetch.message.max.bytes", FETCH_PARTITION_BYTES.to_string());
        c.set("fetch.max.bytes", FETCH_BYTES_MAX.to_string());
        Ok(c)
    }

    /// A group member that places tasks and heartbeats; it fetches nothing.
    pub(super) fn member(&self, group: &str, instance: &str) -> Result<ClientConfig, LogError> {
        let mut c = self.consumer(group)?;
        c.set("group.instance.id", instance);
        c.set("max.poll.interval.ms", self.times.poll_interval_max.as_millis().to_string());
        c.set("enable.partition.eof", "false");
        // Its partitions are paused and its positions never used; "error" would only make noise for a new group.
        c.set("auto.offset.reset", "earliest");
        c.set("queued.min.messages", "1");
        c.set("queued.max.messages.kbytes", "1024");
        c.set("topic.metadata.refresh.interval.ms", MEMBER_METADATA_MS.to_string());
        match self.group_protocol {
            GroupProtocol::Classic => {
                c.set("partition.assignment.strategy", "cooperative-sticky");
                c.set("session.timeout.ms", self.times.session.as_millis().to_string());
                // A member hears of a rebalance by its heartbeat, and a cooperative one takes two rounds of them.
                c.set("heartbeat.interval.ms", HEARTBEAT_MS.to_string());
            }
            GroupProtocol::Consumer => {
                c.set("group.protocol", "consumer");
            }
        }
        Ok(c)
    }

    /// A transactional producer. Message and socket time-outs follow the transaction time-out by themselves.
    pub(super) fn producer(&self, id: &str) -> Result<ClientConfig, LogError> {
        let mut c = self.client()?;
        c.set("transactional.id", id);
        // A connection that breaks between a request and its answer is repeated by the client and told in its log only.
        c.set_log_level(RDKafkaLogLevel::Info);
        c.set("log.connection.close", "true");
        c.set("transaction.timeout.ms", self.times.transaction.as_millis().to_string());
        // Invariant: an epoch is handed over at once; waiting for company only delays its last batch.
        c.set("linger.ms", "2");
        // The broker answers "not yet" while it still writes the markers of the epoch before.
        c.set("retry.backoff.ms", "20");
        c.set("batch.size", BATCH_BYTES_MAX.to_string());
        c.set("message.max.bytes", (WRITE_RECORD_BYTES_MAX + RECORD_OVERHEAD_BYTES).to_string());
        c.set("queue.buffering.max.messages", WRITER_QUEUE_RECORDS_MAX.to_string());
        c.set("queue.buffering.max.kbytes", WRITER_QUEUE_KIB_MAX.to_string());
        c.set(
            "compression.codec",
            match self.compression {
                Compression::None => "none",
                Compression::Lz4 => "lz4",
                Compression::Zstd => "zstd",
            },
        );
        Ok(c)
    }
}

/// What the batch and record frames may add to key, value and headers, bytes.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 4096;

impl SaslMechanism {
    /// Name on the wire.
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl SecretSource {
    /// The secret. Errors name its place only.
    #[allow(clippy::disallowed_methods)] // the one place of this log that reads files and the environment
    fn read(&self) -> Result<String, LogError> {
        match self {
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t)).to_owned()),
                Err(error) => Err(LogError::Storage { path: path.display().to_string(), reason: error.to_string() }),
            },
            Self::Env(name) => std::env::var(name).map_err(|_| LogError::Storage {
                path: format!("environment variable {name}"),
                reason: "not set, or not UTF-8".into(),
            }),
        }
    }
}

impl fmt::Display for GroupProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        })
    }
}

/// True when `host:port` is this machine by name or address.
fn is_loopback(broker: &str) -> bool {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    #[test]
    fn plaintext_stays_on_this_machine_unless_allowed() {
        for brokers in ["127.0.0.1:9092", "localhost:9092,[::1]:9093"] {
            assert!(KafkaConfig::new(brokers).check().is_ok(), "{brokers}");
        }
        for brokers in ["kafka:9092", "127.0.0.1:9092,10.0.0.1:9092", "localhost.example.org:9092", ""] {
            assert!(matches!(KafkaConfig::new(brokers).check(), Err(LogError::Denied { .. })), "{brokers}");
        }
        let mut config = KafkaConfig::new("kafka:9092");
        config.allow_plaintext = true;
        assert!(config.check().is_ok());
        config.allow_plaintext = false;
        config.tls = Some(KafkaTls::default());
        assert!(config.check().is_ok());
    }

    #[test]
    fn the_order_of_the_timeouts_is_enforced() {
        let mut config = KafkaConfig::new("localhost:9092");
        config.times.transaction = config.times.session;
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("transaction") && error.contains("session"), "{error}");
    }

    #[test]
    fn secrets_stay_out_of_debug_and_errors() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "hunter2\r\n").unwrap();
        let mut config = KafkaConfig::new("localhost:9092");
        config.sasl = Some(KafkaSasl {
            mechanism: SaslMechanism::ScramSha512,
            user: "tide".into(),
            password: SecretSource::File(file.clone()),
        });
        let client = config.client().unwrap();
        assert_eq!(client.get("sasl.password"), Some("hunter2"));
        assert_eq!(client.get("security.protocol"), Some("sasl_plaintext"));
        assert!(!format!("{config:?}").contains("hunter2"));
        std::fs::remove_file(&file).unwrap();
        let error = config.client().unwrap_err().to_string();
        assert!(error.contains("password") && !error.contains("hunter2"), "{error}");
    }

    /// Set in the process that [`openssl_is_not_cleaned_up_at_the_end_of_the_process`] starts.
    const ENDING: &str = "TIDEWATCH_TEST_ENDING";

    #[test]
    #[allow(unsafe_code, reason = "OpenSSL's own way to hear of its clean-up")]
    fn openssl_is_not_cleaned_up_at_the_end_of_the_process() {
        unsafe extern "C" {
            fn OPENSSL_atexit(handler: extern "C" fn()) -> std::ffi::c_int;
        }
        extern "C" fn cleaned_up() {
            eprintln!("cleaned up");
        }
        if std::env::var_os(ENDING).is_some() {
            let config = KafkaConfig { tls: Some(KafkaTls::default()), ..KafkaConfig::new("127.0.0.1:1") };
            let _client: BaseConsumer = config.client().unwrap().create().unwrap();
            // SAFETY: the function takes a handler of this signature and keeps it; the handler is a function of this program,
            // which neither unwinds nor ends before the process.
            assert_eq!(unsafe { OPENSSL_atexit(cleaned_up) }, 1);
            std::process::exit(0);
        }
        let this = std::env::current_exe().unwrap();
        let name = "log::kafka::config::tests::openssl_is_not_cleaned_up_at_the_end_of_the_process";
        let ended = std::process::Command::new(this).args([name, "--exact", "--nocapture"]).env(ENDING, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && String::from_utf8_lossy(&ended.stdout).contains("running 1 test"), "{said}");
        assert!(!said.contains("cleaned up"), "{said}");
    }
}
