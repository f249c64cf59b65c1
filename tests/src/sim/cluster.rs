//! The brokers of a world: how they are set up, who is given which log on them, and what of them is away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidewatch::log::{Append, Log, TopicPartition, TopicSpec};

use super::baton::{Baton, MS, Random};
use super::broker::{self, Broker, Part, Request};
use super::controls::Control;
use super::fate::{ProcessId, SimClock};
use super::log::{Settings, SimLog};

/// A member unheard of for so long is expelled: longer than a transaction, shorter than most pauses.
const SESSION_NS: i64 = 20_000 * MS;

/// The brokers.
pub struct Cluster {
    baton: Arc<Baton>,
    clock: SimClock,
    broker: Arc<Mutex<Broker>>,
    settings: Settings,
}

impl Cluster {
    /// A cluster without topics. How fast it writes markers is the seed's.
    pub fn new(baton: &Arc<Baton>, clock: &SimClock, seed: u64, control: Option<Control>) -> Self {
        let marker_ns = *Random::of(&[seed, 3]).pick(&[MS / 5, MS, MS, 40 * MS]);
        let settings = broker::Settings { session_ns: SESSION_NS, marker_ns, ..broker::Settings::default() };
        let broker = Broker::new(settings, clock.now_ns());
        Self {
            baton: baton.clone(),
            clock: clock.clone(),
            broker: Arc::new(Mutex::new(broker)),
            settings: Settings { bug: control.and_then(Control::client), ..Settings::default() },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The brokers themselves, for whoever only looks.
    pub fn broker(&self) -> &Arc<Mutex<Broker>> {
        &self.broker
    }

    /// Makes a topic.
    pub fn create(&self, spec: TopicSpec) {
        let now = self.clock.now_ns();
        self.lock().handle(now, Request::CreateTopic(spec));
    }

    /// A process's log.
    pub fn log(&self, process: ProcessId) -> Arc<dyn Log> {
        Arc::new(SimLog::new(self.broker.clone(), self.baton.clone(), process, self.settings))
    }

    /// Writes an input record; where it lies.
    pub fn write(&self, append: Append) -> (TopicPartition, i64) {
        let now = self.clock.now_ns();
        let at = TopicPartition::new(append.topic.clone(), append.partition);
        let offset = self.lock().put(now, append).expect("the world made its input topics");
        (at, offset)
    }

    /// Lets the cluster come up to now; grows whenever something may have become visible.
    pub fn changes(&self) -> u64 {
        let now = self.clock.now_ns();
        let mut broker = self.lock();
        broker.advance(now);
        broker.changes()
    }

    /// A part goes or comes back; `None` = all of it.
    pub fn away(&self, part: Option<Part>, is_away: bool) {
        let parts: Vec<Part> = part.map_or(Part::ALL.to_vec(), |p| vec![p]);
        let now = self.clock.now_ns();
        let mut broker = self.lock();
        broker.advance(now);
        parts.into_iter().for_each(|p| broker.set_away(p, is_away));
    }

    /// One partition stops answering, or answers again.
    pub fn partition_away(&self, topic: &str, partition: u32, is_away: bool) {
        self.lock().set_silent(TopicPartition::new(topic, partition), is_away);
    }

    /// Everything is there.
    pub fn heal(&self, topics: &[String]) {
        self.away(None, false);
        for topic in topics {
            (0..4).for_each(|partition| self.partition_away(topic, partition, false));
        }
    }
}
