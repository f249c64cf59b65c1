//! Opens the log that a topology names: shared by every command that needs one. A run owns its directory ([`log`]); a
//! tool reaches it through the control socket of the run that owns it, or opens it while nobody does ([`reading`],
//! [`writing`]).

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use crate::log::embedded::{EmbeddedLog, LOCK_FILE};
use crate::log::kafka::{self, KafkaConfig};
use crate::log::memory::MemoryLog;
use crate::log::socket::SocketLog;
use crate::log::{Log, LogError};
use crate::topology::{LogChoice, Secret, Topology};

/// How often a tool tries a directory that is owned by a process whose socket does not answer: it may be starting, or be
/// another tool that is done in a moment.
const TRIES: u32 = 20;

/// Between two such tries.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// A log as a tool sees it.
#[derive(Debug)]
pub struct Reached {
    /// The log.
    pub log: Arc<dyn Log>,
    /// This process holds the directory: nobody else can write while it does.
    pub alone: bool,
}

/// For a tool that only reads: an embedded log that is not there yet is not made.
pub fn reading(topology: &Topology) -> Result<Reached, Failure> {
    if let LogChoice::Embedded(choice) = &topology.log {
        let path = choice.dir.join(LOCK_FILE);
        if let Err(e) = std::fs::metadata(&path) {
            return Err(match e.kind() {
                ErrorKind::NotFound => Failure::Usage(format!(
                    "there is no log in {} yet: `tidewatch run` or `tidewatch produce` with this topology makes it",
                    choice.dir.display()
                )),
                _ => Failure::File { verb: "open", path: choice.dir.display().to_string(), reason: e.to_string() },
            });
        }
    }
    writing(topology)
}

/// For a tool that appends, too: an embedded log that is not there is made.
pub fn writing(topology: &Topology) -> Result<Reached, Failure> {
    match &topology.log {
        LogChoice::Memory => Err(Failure::Usage(
            "the topology's log is memory: it lives and ends inside `tidewatch run`, no other command can reach it; \
             use an embedded or a kafka log"
                .to_owned(),
        )),
        LogChoice::Kafka(_) => Ok(Reached { log: log(topology)?, alone: false }),
        LogChoice::Embedded(choice) => {
            let mut left = TRIES;
            loop {
                // The directory first: a socket that answers might belong to the log of another topology.
                let (dir, pid) = match open_embedded(choice) {
                    Ok(log) => return Ok(Reached { log: Arc::new(log), alone: true }),
                    Err(LogError::Locked { path, pid }) => (path, pid),
                    Err(e) => return Err(e.into()),
                };
                let refused = match SocketLog::connect(&topology.control) {
                    Ok(log) => return Ok(Reached { log: Arc::new(log), alone: false }),
                    Err(e) => e,
                };
                left -= 1;
                if left == 0 {
                    return Err(Failure::Usage(format!(
                        "{dir} is in use by process {pid}, which is not to be reached: {refused}; a run that was started with \
                         another `control` than this topology names cannot be found"
                    )));
                }
                std::thread::sleep(TRY_AGAIN);
            }
        }
    }
}

/// Opens the topology's log. An embedded log that another process owns is an error that says so.
pub fn log(topology: &Topology) -> Result<Arc<dyn Log>, Failure> {
    Ok(match &topology.log {
        LogChoice::Memory => Arc::new(MemoryLog::new()),
        LogChoice::Embedded(embedded) => Arc::new(open_embedded(embedded)?),
        LogChoice::Kafka(choice) => Arc::new(kafka::KafkaLog::connect(kafka_config(choice))?),
    })
}

fn open_embedded(choice: &crate::topology::EmbeddedLog) -> Result<EmbeddedLog, LogError> {
    let settings = crate::log::embedded::Settings { partition_bytes_max: choice.limit_bytes, ..Default::default() };
    let options = crate::log::embedded::Options { settings, ..Default::default() };
    EmbeddedLog::open(&choice.dir, options)
}

pub(super) fn kafka_config(choice: &crate::topology::KafkaLog) -> KafkaConfig {
    let secret = |secret: &Secret| match secret {
        Secret::File(path) => kafka::SecretSource::File(path.clone()),
        Secret::Env(name) => kafka::SecretSource::Env(name.clone()),
    };
    KafkaConfig {
        tls: choice.tls.as_ref().map(|tls| kafka::KafkaTls {
            ca_file: tls.ca_file.clone(),
            cert_file: tls.cert_file.clone(),
            key_file: tls.key_file.clone(),
        }),
        sasl: choice.sasl.as_ref().map(|sasl| kafka::KafkaSasl {
            mechanism: sasl.mechanism,
            user: sasl.user.clone(),
            password: secret(&sasl.password),
        }),
        allow_plaintext: choice.allow_plaintext,
        replicas: u16::try_from(choice.replication).ok(),
        group_protocol: choice.group_protocol,
        times: kafka::KafkaTimes {
            commit_budget: choice.timeouts.commit,
            transaction: choice.timeouts.transaction,
            session: choice.timeouts.session,
            ..kafka::KafkaTimes::default()
        },
        ..KafkaConfig::new(choice.brokers.join(","))
    }
}
