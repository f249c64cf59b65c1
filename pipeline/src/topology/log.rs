//! Where topics live: a directory, a Kafka cluster, or memory. Only the wish; `crate::log` is the thing.

use std::path::PathBuf;
use std::time::Duration;

use tidewatch_schemas::document::{Map, Mistakes, show_duration};

use super::section::Section;
use super::{Secret, destination};
pub use crate::log::kafka::{GroupProtocol, SaslMechanism};

/// Bytes kept per partition of the embedded log when the topology does not say.
pub const EMBEDDED_RETENTION_BYTES_DEFAULT: u64 = 1 << 30;
/// Age kept by the embedded log when the topology does not say.
pub const EMBEDDED_RETENTION_AGE_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes that one partition of the embedded log may hold when the topology does not say; beyond it writers wait.
pub const EMBEDDED_LIMIT_BYTES_DEFAULT: u64 = crate::log::local::PARTITION_BYTES_MAX;
/// Directory of the embedded log when the topology does not say.
const EMBEDDED_DIR_DEFAULT: &str = "tidewatch-data/log";
/// Replicas of the topics that tidewatch makes, when the topology does not say.
pub const REPLICATION_DEFAULT: u32 = 3;
/// Brokers named, at most.
const BROKERS_MAX: usize = 100;
/// Shortest and longest of each of Kafka's time-outs: below, a busy machine looks dead; above, brokers refuse by default.
const TIMEOUT_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(900));

/// Longest retention that can be asked for: 10 years.
pub(super) const RETENTION_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Shortest retention that can be asked for: a restart must find its rows.
pub(super) const RETENTION_MIN: Duration = Duration::from_secs(60);

/// Where topics live.
#[derive(Clone, Debug, PartialEq)]
pub enum LogChoice {
    /// A directory on this machine (`embedded`).
    Embedded(EmbeddedLog),
    /// A Kafka cluster (`kafka`).
    Kafka(KafkaLog),
    /// This process's memory; gone at its end (`memory`).
    Memory,
}

impl LogChoice {
    /// Name as in topologies.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::Kafka(_) => "kafka",
            Self::Memory => "memory",
        }
    }
}

/// The embedded log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedLog {
    /// Directory; one process owns it.
    pub dir: PathBuf,
    /// Bytes kept per partition.
    pub retention_bytes: u64,
    /// Age kept.
    pub retention_age: Duration,
    /// Bytes that one partition may hold; beyond it writers wait. At least `retention_bytes`.
    pub limit_bytes: u64,
}

/// A Kafka cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaLog {
    /// `host:port` of some brokers, at least one.
    pub brokers: Vec<String>,
    /// TLS; `None` only with `allow_plaintext`.
    pub tls: Option<Tls>,
    /// SASL.
    pub sasl: Option<Sasl>,
    /// The user has said that unencrypted connections are meant.
    pub allow_plaintext: bool,
    /// Replicas of the topics that tidewatch makes.
    pub replication: u32,
    /// How groups share out partitions.
    pub group_protocol: GroupProtocol,
    /// Time-outs; always commit < transaction < session.
    pub timeouts: Timeouts,
}

/// How long a silence may last before somebody acts on it. The order commit < transaction < session always holds: a member
/// whose commit hangs is aborted by the broker before its partitions are given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A commit that has not ended by then is settled by a new producer.
    pub commit: Duration,
    /// The broker aborts a transaction older than this.
    pub transaction: Duration,
    /// A process silent for this long loses its partitions to others (group protocol `classic`).
    pub session: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let times = crate::log::kafka::KafkaTimes::default();
        Self { commit: times.commit_budget, transaction: times.transaction, session: times.session }
    }
}

/// TLS towards brokers. All files PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities; `None` = the system's.
    pub ca_file: Option<PathBuf>,
    /// Own certificate, with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// Own key.
    pub key_file: Option<PathBuf>,
}

/// SASL towards brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sasl {
    /// Mechanism.
    pub mechanism: SaslMechanism,
    /// User.
    pub user: String,
    /// Where the password is.
    pub password: Secret,
}

/// Words for SASL mechanisms, as probectl writes them.
const MECHANISMS: &[(&str, SaslMechanism)] = &[
    ("plain", SaslMechanism::Plain),
    ("scram-sha-256", SaslMechanism::ScramSha256),
    ("scram-sha-512", SaslMechanism::ScramSha512),
];

/// Reads `log`. The memory log stands in where there is a mistake.
pub(super) fn read(root: &Map<'_>, mistakes: &mut Mistakes) -> LogChoice {
    const CHOICES: &[&str] = &["embedded", "kafka", "memory"];
    let Some(map) = root.require("log", mistakes).and_then(|n| n.map(mistakes)) else { return LogChoice::Memory };
    map.expect_keys(CHOICES, mistakes);
    let chosen: Vec<&str> = map.entries().map(|(name, ..)| name).filter(|name| CHOICES.contains(name)).collect();
    match chosen.as_slice() {
        ["embedded"] => LogChoice::Embedded(embedded(&map, mistakes)),
        ["kafka"] => LogChoice::Kafka(kafka(&map, mistakes)),
        ["memory"] => LogChoice::Memory,
        _ => {
            mistakes.push(map.node().mistake(format!("log is exactly one of {}", CHOICES.join(", "))));
            LogChoice::Memory
        }
    }
}

fn embedded(outer: &Map<'_>, mistakes: &mut Mistakes) -> EmbeddedLog {
    let mut s = Section::of(outer, "embedded", &["dir", "retention_bytes", "retention_age", "limit"], mistakes);
    let read = EmbeddedLog {
        dir: s.path("dir").unwrap_or_else(|| EMBEDDED_DIR_DEFAULT.into()),
        retention_bytes: s.bytes("retention_bytes", EMBEDDED_RETENTION_BYTES_DEFAULT, 1 << 20),
        retention_age: s.duration("retention_age", EMBEDDED_RETENTION_AGE_DEFAULT, RETENTION_MIN, RETENTION_MAX),
        limit_bytes: s.bytes("limit", EMBEDDED_LIMIT_BYTES_DEFAULT, 16 << 20),
    };
    if read.limit_bytes < read.retention_bytes {
        s.mistake("limit", "limit is below retention_bytes: the log would be full before anything is dropped".into());
    }
    read
}

fn kafka(outer: &Map<'_>, mistakes: &mut Mistakes) -> KafkaLog {
    const KNOWN: &[&str] = &[
        "brokers",
        "tls",
        "sasl",
        "allow_plaintext",
        "replication",
        "group_protocol",
        "commit_timeout",
        "transaction_timeout",
        "session_timeout",
    ];
    let mut s = Section::of(outer, "kafka", KNOWN, mistakes);
    let brokers = brokers(&mut s);
    let allow_plaintext = s.flag("allow_plaintext", false);
    let replication = s.count("replication", REPLICATION_DEFAULT, 32);
    let group_protocol = match s.get("group_protocol").and_then(|n| n.one_of(&["classic", "consumer"], s.mistakes)) {
        Some(1) => GroupProtocol::Consumer,
        _ => GroupProtocol::Classic,
    };
    let timeouts = timeouts(&mut s);
    let tls = s.get("tls").and_then(|n| n.map(s.mistakes)).map(|map| tls(map, s.mistakes));
    let sasl = s.get("sasl").and_then(|n| n.map(s.mistakes)).and_then(|map| sasl(map, s.mistakes));
    if tls.is_none() && s.get("tls").is_none() && !allow_plaintext {
        let what = "kafka without tls sends everything readable; give tls (tls: {} uses the system's authorities), or \
                    allow_plaintext: true if that is meant";
        s.mistake("", what.into());
    }
    KafkaLog { brokers, tls, sasl, allow_plaintext, replication, group_protocol, timeouts }
}

fn timeouts(s: &mut Section<'_, '_>) -> Timeouts {
    let default = Timeouts::default();
    let (min, max) = TIMEOUT_RANGE;
    let read = Timeouts {
        commit: s.duration("commit_timeout", default.commit, min, max),
        transaction: s.duration("transaction_timeout", default.transaction, min, max),
        session: s.duration("session_timeout", default.session, min, max),
    };
    let order = [("commit_timeout", read.commit), ("transaction_timeout", read.transaction), ("session_timeout", read.session)];
    for pair in order.windows(2) {
        let ((shorter, a), (longer, b)) = (pair[0], pair[1]);
        if a >= b {
            let at = if s.get(shorter).is_some() { shorter } else { longer };
            s.mistake(at, format!("{shorter} of {} must be below {longer} of {}", show_duration(a), show_duration(b)));
        }
    }
    read
}

fn brokers(s: &mut Section<'_, '_>) -> Vec<String> {
    let Some(node) = s.get("brokers") else {
        s.mistake("", "brokers is missing: a list of host:port".into());
        return Vec::new();
    };
    let nodes = node.list(s.mistakes).unwrap_or_default();
    if nodes.is_empty() || nodes.len() > BROKERS_MAX {
        s.mistake("brokers", format!("brokers is a list of 1 to {BROKERS_MAX} host:port"));
    }
    let mut brokers = Vec::new();
    for node in nodes.into_iter().take(BROKERS_MAX) {
        let Some(text) = node.str(s.mistakes) else { continue };
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() || text.contains([',', ' ', '/']) {
            s.mistakes.push(node.mistake(format!("expected host:port, got {}", tidewatch_schemas::document::shown(text))));
        }
        brokers.push(text.to_owned());
    }
    brokers
}

fn tls(map: Map<'_>, mistakes: &mut Mistakes) -> Tls {
    let mut s = Section::new(map, &["ca_file", "cert_file", "key_file"], mistakes);
    let tls = Tls { ca_file: s.path("ca_file"), cert_file: s.path("cert_file"), key_file: s.path("key_file") };
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        s.mistake("", "cert_file and key_file come together".into());
    }
    tls
}

fn sasl(map: Map<'_>, mistakes: &mut Mistakes) -> Option<Sasl> {
    let mut s = Section::new(map, &["mechanism", "user", "password_file", "password_env"], mistakes);
    let words: Vec<&str> = MECHANISMS.iter().map(|(word, _)| *word).collect();
    let mechanism = map.require("mechanism", s.mistakes).and_then(|n| n.one_of(&words, s.mistakes));
    let user = s.require("user");
    let password = destination::secret(&mut s, "password");
    if password.is_none() {
        s.mistake("", "a password is named by exactly one of password_file and password_env".into());
    }
    Some(Sasl { mechanism: MECHANISMS[mechanism?].1, user: user?.to_owned(), password: password? })
}
