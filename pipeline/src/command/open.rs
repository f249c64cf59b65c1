//! Opens the log that a topology names: shared by every command that needs one.

use std::sync::Arc;

use super::Failure;
use crate::log::embedded::EmbeddedLog;
use crate::log::kafka::{self, KafkaConfig};
use crate::log::memory::MemoryLog;
use crate::log::{Log, LogError};
use crate::topology::{GroupProtocol, LogChoice, SaslMechanism, Secret, Topology};

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

fn kafka_config(choice: &crate::topology::KafkaLog) -> KafkaConfig {
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
            mechanism: match sasl.mechanism {
                SaslMechanism::Plain => SaslMechanism::Plain,
                SaslMechanism::ScramSha256 => SaslMechanism::ScramSha256,
                SaslMechanism::ScramSha512 => SaslMechanism::ScramSha512,
            },
            user: sasl.user.clone(),
            password: secret(&sasl.password),
        }),
        allow_plaintext: choice.allow_plaintext,
        replicas: u16::try_from(choice.replication).ok(),
        group_protocol: match choice.group_protocol {
            GroupProtocol::Classic => GroupProtocol::Classic,
            GroupProtocol::Consumer => GroupProtocol::Consumer,
        },
        ..KafkaConfig::new(choice.brokers.join(","))
    }
}
