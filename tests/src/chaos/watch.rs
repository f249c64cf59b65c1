//! What has been committed, and by whom: committed offsets of every task, watched from beside the proxies on a thread for
//! each stage; watermarks from the control topic; who owns which task, from the group's own description.
//!
//! Only looks: no group is joined, nothing is committed. An offset counts as soon as its transaction has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tidewatch::log::kafka::KafkaLog;
use tidewatch::log::{Log, PollLimit, TopicPartition};
use tidewatch::topology::{Names, Stage};
use tidewatch_schemas::control::Mark;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::feed::{Fed, Partitions};
use super::scene::Scene;

/// Pause between two looks at a stage.
const LOOK_PAUSE: Duration = Duration::from_millis(60);
/// Longest single question.
const ASK_WAIT: Duration = Duration::from_secs(2);

/// The stages whose tasks are watched.
pub const STAGES: [Stage; 3] = [Stage::Normalize, Stage::Detect, Stage::Correlate];

/// A task: one partition of what its stage reads.
pub type Task = (Stage, TopicPartition);

/// Where every task stood.
pub type Positions = BTreeMap<Task, i64>;

#[derive(Default)]
struct Seen {
    committed: BTreeMap<Task, (i64, Instant)>,
    watermarks: BTreeMap<(String, u32), EventTime>,
}

/// The state of things at a moment, so that nobody can say that nothing was going on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Seconds since the last commit of the stage that has waited longest.
    pub quiet_s: f64,
    /// Slices whose rows have come and that are not closed.
    pub open_slices: i64,
    /// Records stored and not yet committed by normalize.
    pub in_flight: i64,
}

/// Watches a deployment.
pub struct Watch {
    scene: Scene,
    names: Names,
    partitions: Partitions,
    seen: Arc<Mutex<Seen>>,
    describing: BaseConsumer,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins to watch.
    pub fn start(brokers: &str, log: &KafkaLog, scene: Scene, deployment: &str, partitions: &Partitions) -> Result<Self> {
        let names = scene.names(deployment);
        let client = |group: &str| -> Result<BaseConsumer> {
            let mut settings = ClientConfig::new();
            settings.set("bootstrap.servers", brokers).set("log_level", "0").set("group.id", group);
            // What is pending is nobody's yet; an answer must not wait for it.
            settings.set("isolation.level", "read_uncommitted").set("enable.auto.commit", "false");
            Ok(settings.create()?)
        };
        let mut watch = Self {
            scene,
            names: names.clone(),
            partitions: Arc::clone(partitions),
            seen: Arc::default(),
            describing: client("watch")?,
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for stage in STAGES {
            let consumer = client(&names.group(stage))?;
            let (seen, stop) = (Arc::clone(&watch.seen), Arc::clone(&watch.stop));
            let (partitions, reads) = (Arc::clone(partitions), Scene::reads(&names, stage));
            watch.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let tasks = tasks(stage, &reads, &partitions);
                    look(&consumer, &tasks, &seen);
                    std::thread::sleep(LOOK_PAUSE);
                }
            })?;
        }
        let control = TopicPartition::new(names.control(), 0);
        let (log, seen, stop) = (log.clone(), Arc::clone(&watch.seen), Arc::clone(&watch.stop));
        watch.spawn(move || {
            let mut from = 0;
            // The topic is made by the first worker; and a broker may be away for a while.
            while !stop.load(Ordering::Relaxed) {
                drop(hear(&log, &control, &mut from, &seen, &stop));
                std::thread::sleep(ASK_WAIT / 4);
            }
        })?;
        Ok(watch)
    }

    /// Every task there is.
    pub fn all(&self) -> BTreeSet<Task> {
        STAGES.iter().flat_map(|s| tasks(*s, &Scene::reads(&self.names, *s), &self.partitions)).collect()
    }

    /// Where every task stands; 0 where nothing is committed.
    pub fn positions(&self) -> Positions {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.all().into_iter().map(|task| (seen.committed.get(&task).map_or(0, |(o, _)| *o), task)).map(|(o, t)| (t, o)).collect()
    }

    /// What is going on now.
    pub fn moment(&self, fed: &Fed) -> Moment {
        let tasks = self.all();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |stage: Stage| {
            let of = seen.committed.iter().filter(|((s, _), _)| *s == stage).map(|(_, (_, at))| at.elapsed());
            of.min().unwrap_or(Duration::MAX)
        };
        let quiet_s = STAGES.into_iter().map(quiet).max().unwrap_or(Duration::MAX).as_secs_f64();
        let in_flight = tasks
            .iter()
            .filter(|(stage, _)| *stage == Stage::Normalize)
            .map(|task| (fed.end(&task.1) - seen.committed.get(task).map_or(0, |(o, _)| *o)).max(0))
            .sum();
        let watermark = seen.watermarks.values().min().copied();
        let open = watermark.map_or(0, |w| fed.reached().since(w) / (i64::from(self.scene.slice_s) * SECOND_NS));
        Moment { quiet_s, open_slices: open, in_flight }
    }

    /// The tasks that a worker's threads own, as the groups' coordinators say.
    pub fn tasks_of(&self, ordinal: u32) -> Result<BTreeSet<Task>> {
        let mut found = BTreeSet::new();
        for stage in STAGES {
            let member = format!("{}-", self.names.writer_id(stage, ordinal, 0));
            let group = self.names.group(stage);
            let list = self.describing.fetch_group_list(Some(&group), ASK_WAIT)?;
            for info in list.groups().iter().flat_map(|g| g.members()).filter(|m| m.id().starts_with(&member)) {
                let held = assignment(info.assignment().unwrap_or_default()).context("an assignment that cannot be read")?;
                found.extend(held.into_iter().map(|at| (stage, at)));
            }
        }
        let watched = self.all();
        found.retain(|task| watched.contains(task));
        Ok(found)
    }

    fn spawn(&mut self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.threads.push(std::thread::Builder::new().name("watch".into()).spawn(work)?);
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// The tasks of a stage. Inputs may have grown.
fn tasks(stage: Stage, reads: &[(String, u32)], inputs: &Partitions) -> Vec<Task> {
    let of = |topic: &str, n: u32| (0..n).map(|p| (stage, TopicPartition::new(topic, p))).collect::<Vec<_>>();
    if stage != Stage::Normalize {
        return reads.iter().flat_map(|(topic, n)| of(topic, *n)).collect();
    }
    let inputs = inputs.lock().unwrap_or_else(PoisonError::into_inner);
    inputs.iter().flat_map(|(topic, n)| of(topic, *n)).collect()
}

/// One look at the committed offsets of a stage. A coordinator that is away is asked again later.
fn look(consumer: &BaseConsumer, tasks: &[Task], seen: &Mutex<Seen>) {
    let mut list = TopicPartitionList::with_capacity(tasks.len());
    for (_, at) in tasks {
        list.add_partition(&at.topic, at.partition as i32);
    }
    let Ok(list) = consumer.committed_offsets(list, ASK_WAIT) else { return };
    let now = Instant::now();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for task in tasks {
        let found = list.find_partition(&task.1.topic, task.1.partition as i32);
        let Some(Offset::Offset(offset)) = found.filter(|f| f.error().is_ok()).map(|f| f.offset()) else { continue };
        let known = seen.committed.entry(task.clone()).or_insert((-1, now));
        if known.0 != offset {
            *known = (offset, now);
        }
    }
}

/// Hears marks until something is wrong or it is told to stop.
fn hear(log: &KafkaLog, control: &TopicPartition, from: &mut i64, seen: &Mutex<Seen>, stop: &AtomicBool) -> Result<()> {
    let mut reader = log.reader(control, *from)?;
    while !stop.load(Ordering::Relaxed) {
        let records = reader.poll(PollLimit::default(), ASK_WAIT / 4)?;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for mark in records.iter().filter_map(|r| Mark::decode(r.value.as_deref()?).ok()) {
            let known = seen.watermarks.entry((mark.input.topic, mark.input.partition)).or_insert(mark.watermark);
            *known = mark.watermark.max(*known);
        }
        *from = reader.position();
    }
    Ok(())
}

/// What a consumer was given, in the consumer protocol's own bytes.
fn assignment(bytes: &[u8]) -> Option<Vec<TopicPartition>> {
    let mut rest = bytes;
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    take(2)?;
    let int = |bytes: &[u8]| Some(i32::from_be_bytes(bytes.try_into().ok()?));
    let mut found = Vec::new();
    for _ in 0..int(take(4)?)? {
        let length = u16::from_be_bytes(take(2)?.try_into().ok()?);
        let topic = std::str::from_utf8(take(length.into())?).ok()?.to_owned();
        for _ in 0..int(take(4)?)? {
            found.push(TopicPartition::new(topic.clone(), u32::try_from(int(take(4)?)?).ok()?));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read() {
        let bytes = b"\0\x01\0\0\0\x01\0\x03obs\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0";
        assert_eq!(assignment(bytes), Some(vec![TopicPartition::new("obs", 0), TopicPartition::new("obs", 3)]));
        assert_eq!(assignment(b""), Some(Vec::new()));
        assert_eq!(assignment(&bytes[..12]), None);
    }
}
