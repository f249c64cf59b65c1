//! Deliver: the last stage. Takes signals from the signals topic to where people work: a file, a webhook, a SIEM.
//!
//! One thread, one group and one position per destination, all apart from each other: a destination that is down delays
//! only itself, and nothing upstream. At least once: a position passes a signal only after the other side has taken it
//! or it was set aside with its reason in the undelivered topic; the signal id tells repetitions. Per tenant, signals
//! arrive in the order in which they were published. A new destination begins with what comes from now on unless told
//! otherwise; replays (`tw-run-id`) are passed over unless told otherwise. A signals topic that was deleted and made again is
//! not the one in which a position lies, and is touched only where that is meant. Faults of credentials or configuration stop
//! the destination, raise an alarm and hold its signals until it is resumed or the process restarts.
//!
//! A new kind of destination is one file here that implements [`Destination`].

mod destination;
mod event;
pub mod http;
pub mod ndjson;
pub mod retry;
pub mod secret;
pub(crate) mod sources;
pub mod splunk_hec;
mod stats;
pub mod target;
pub mod undelivered;
pub mod webhook;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::log::{Log, LogError, Member};

pub use destination::{Destination, DestinationError, Opener, Outcome};
pub use event::Event;
pub use retry::RetryPolicy;
pub use sources::{KnownTopic, Start};
pub use stats::{DestinationStats, Status};
pub use worker::BatchLimits;

use stats::Shared;
use undelivered::Undelivered;
use worker::Worker;

/// Destinations of one stage, at most: each is a thread.
pub const DESTINATIONS_MAX: usize = 64;

/// What the stage delivers, and where to.
#[derive(Clone, Debug)]
pub struct DeliverConfig {
    /// Topic with the deployment's prefix.
    pub signals_topic: String,
    /// Which topic of that name it is.
    pub topic: KnownTopic,
    /// Groups are `<group_prefix><destination name>`, for example `tidewatch-prod-deliver-siem`.
    pub group_prefix: String,
    /// Topic of what no destination will take; it should allow 64 KiB more than the signals topic.
    pub undelivered_topic: String,
    /// This process among those that deliver for the same groups.
    pub member: Member,
    /// Where to.
    pub destinations: Vec<DestinationConfig>,
}

/// One destination.
#[derive(Clone)]
pub struct DestinationConfig {
    /// Unique: letters, digits, `-`, `_`, `.`. A new name is a new destination with its own position.
    pub name: String,
    /// Opens it: [`ndjson::NdjsonConfig::opener`], [`webhook::WebhookConfig::opener`], ...
    pub open: Opener,
    /// Where it begins when it has no position yet.
    pub start: Start,
    /// Deliver records of replays too.
    pub replays: bool,
    /// Only these tenants; `None` = all.
    pub tenants: Option<BTreeSet<String>>,
    /// When a batch is sent.
    pub batch: BatchLimits,
    /// Pauses between attempts.
    pub retry: RetryPolicy,
}

impl DestinationConfig {
    /// With the defaults.
    pub fn new(name: impl Into<String>, open: Opener) -> Self {
        Self {
            name: name.into(),
            open,
            start: Start::Now,
            replays: false,
            tenants: None,
            batch: BatchLimits::default(),
            retry: RetryPolicy::default(),
        }
    }
}

impl std::fmt::Debug for DestinationConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DestinationConfig").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why the stage cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// A name that cannot be part of a group's.
    #[error("destination name {name:?}: expected 1 to 100 letters, digits, '-', '_' or '.'")]
    Name {
        /// As given.
        name: String,
    },
    /// Two destinations of one name would share a position.
    #[error("two destinations are named {name}")]
    Twice {
        /// The name.
        name: String,
    },
    /// Too many.
    #[error("{got} destinations, at most {DESTINATIONS_MAX}")]
    TooMany {
        /// How many.
        got: usize,
    },
    /// A topic is missing, or the log cannot be reached.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The system gives no thread.
    #[error("no thread for destination {name}: {reason}")]
    Thread {
        /// Whose.
        name: String,
        /// The system's words.
        reason: String,
    },
}

/// The stage.
#[derive(Debug)]
pub struct Deliver;

impl Deliver {
    /// Starts every destination. Both topics must exist. What is wrong with a single destination (a missing secret, a
    /// server that is down) shows in its [`Status`], not here.
    pub fn start(log: Arc<dyn Log>, config: DeliverConfig) -> Result<DeliverHandle, DeliverError> {
        check_names(&config.destinations)?;
        log.partitions(&config.signals_topic)?;
        let partitions = log.partitions(&config.undelivered_topic)?;
        let mut handle = DeliverHandle { destinations: Vec::new() };
        for destination in config.destinations {
            let shared = Arc::new(Shared::new(destination.name.clone()));
            let worker = Worker {
                log: Arc::clone(&log),
                shared: Arc::clone(&shared),
                group: format!("{}{}", config.group_prefix, destination.name),
                member: config.member.clone(),
                undelivered: Undelivered {
                    destination: destination.name.clone(),
                    signals_topic: config.signals_topic.clone(),
                    topic: config.undelivered_topic.clone(),
                    partitions,
                },
                open: destination.open,
                start: destination.start,
                topic: config.topic.clone(),
                replays: destination.replays,
                tenants: destination.tenants,
                limits: destination.batch,
                retry: destination.retry,
            };
            let thread = std::thread::Builder::new()
                .name(format!("deliver-{}", destination.name))
                .spawn(move || worker.run())
                .map_err(|e| DeliverError::Thread { name: destination.name, reason: e.to_string() })?;
            handle.destinations.push((shared, Some(thread)));
        }
        Ok(handle)
    }
}

/// The running stage. Dropping it stops it.
#[derive(Debug)]
pub struct DeliverHandle {
    destinations: Vec<(Arc<Shared>, Option<JoinHandle<()>>)>,
}

/// Reads destinations' figures; outlives the stage.
#[derive(Clone, Debug, Default)]
pub struct Watch(Vec<Arc<Shared>>);

impl Watch {
    /// Figures of every destination, in the configured order.
    pub fn stats(&self) -> Vec<DestinationStats> {
        self.0.iter().map(|shared| shared.stats()).collect()
    }
}

impl DeliverHandle {
    /// Figures of every destination, in the configured order.
    pub fn stats(&self) -> Vec<DestinationStats> {
        self.destinations.iter().map(|(shared, _)| shared.stats()).collect()
    }

    /// The figures without the handle, for whoever tells them.
    pub fn watch(&self) -> Watch {
        Watch(self.destinations.iter().map(|(shared, _)| Arc::clone(shared)).collect())
    }

    /// Lets a stopped destination try again: its secrets are read anew. False when there is none of that name.
    pub fn resume(&self, name: &str) -> bool {
        let found = self.destinations.iter().find(|(shared, _)| shared.name == name);
        found.is_some_and(|(shared, _)| {
            shared.ask_resume();
            true
        })
    }

    /// Waits until every destination that is not stopped has delivered all there is. False when `timeout` came first.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let looks: Vec<_> = self.destinations.iter().map(|(shared, _)| shared.looks()).collect();
        loop {
            let mut each = self.destinations.iter().zip(&looks);
            if each.all(|((shared, _), looks)| shared.is_idle_since(*looks) || shared.is_stopped()) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the stage: every destination finishes the call it is in, commits its position and leaves. What is pending
    /// is delivered after the next start.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.destinations.iter().for_each(|(shared, _)| shared.ask_stop());
        for (shared, thread) in &mut self.destinations {
            if thread.take().is_some_and(|thread| thread.join().is_err()) {
                tracing::error!(destination = %shared.name, "the destination's thread has panicked");
            }
        }
    }
}

impl Drop for DeliverHandle {
    fn drop(&mut self) {
        self.end();
    }
}

fn check_names(destinations: &[DestinationConfig]) -> Result<(), DeliverError> {
    if destinations.len() > DESTINATIONS_MAX {
        return Err(DeliverError::TooMany { got: destinations.len() });
    }
    let mut names = BTreeSet::new();
    for DestinationConfig { name, .. } in destinations {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 100 || !name.bytes().all(is_plain) {
            return Err(DeliverError::Name { name: name.clone() });
        }
        if !names.insert(name) {
            return Err(DeliverError::Twice { name: name.clone() });
        }
    }
    Ok(())
}
