//! Where measurements happen: a directory that goes away, and a Kafka of its own or somebody else's. Knows nothing of what
//! is measured.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tidewatch_broker::kafka::Broker;

use super::LogKind;
use super::job::Source;
use super::machine::Cpu;

/// The place.
pub(super) struct Place {
    dir: PathBuf,
    /// Removed with it.
    _own: tempfile::TempDir,
    brokers: Option<String>,
    broker: Option<Broker>,
    names: u32,
}

impl Place {
    /// In a directory, or a temporary one. A broker is started when the first topic needs one.
    pub(super) fn new(dir: Option<&Path>, brokers: Option<String>) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("tidewatch-cost");
        let own = match dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
                builder.tempdir_in(dir)
            }
            None => builder.tempdir(),
        };
        let own = own.context("cannot make a temporary directory")?;
        Ok(Self { dir: own.path().to_path_buf(), _own: own, brokers, broker: None, names: 0 })
    }

    /// A name that nobody has used, for topics and deployments.
    pub(super) fn name(&mut self) -> String {
        self.names += 1;
        format!("cost-{}-{}", std::process::id(), self.names)
    }

    /// A path in the directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where a log's topics, or a file called `name`, lie.
    pub(super) fn source(&mut self, log: LogKind, name: &str) -> anyhow::Result<Source> {
        Ok(match log {
            LogKind::File => Source::File(self.file(name)),
            LogKind::Embedded => Source::Embedded(self.file("log")),
            LogKind::Kafka => match (&self.brokers, &self.broker) {
                (Some(brokers), _) => Source::Kafka(brokers.clone()),
                (None, Some(broker)) => Source::Kafka(broker.brokers().to_owned()),
                (None, None) => {
                    let broker = self.broker.insert(Broker::start()?);
                    eprintln!("a Kafka broker of its own at {}", broker.brokers());
                    Source::Kafka(broker.brokers().to_owned())
                }
            },
        })
    }

    /// Processor time of our own broker so far; `None` = it is somebody else's, or there is none.
    pub(super) fn broker_cpu(&self) -> Option<Cpu> {
        Cpu::of(Some(self.broker.as_ref()?.pid().ok()?)).ok()
    }

    /// Ends our broker and removes all that lies here; the next topic gets a new one. Somebody else's keeps its topics.
    pub(super) fn clear(&mut self) -> anyhow::Result<()> {
        self.broker = None;
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
        }
        Ok(())
    }
}
