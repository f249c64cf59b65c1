//! What must hold at every step of a world, seen from outside: the committed records alone, and the digests that tasks
//! report. Compared with an undisturbed run of the same records.
//!
//! What always holds: it reads with an eye of its own, which no accident touches, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tidewatch::epoch::OutputHash;
use tidewatch::log::{Committed, PollLimit, Record, TopicPartition};
use tidewatch::normalize::reject;
use tidewatch::task::Digest;
use tidewatch::topology::{Stage, Topology};
use tidewatch_schemas::header::{self, RecordType, parse_input_header};
use tidewatch_schemas::observation;
use tidewatch_schemas::signal;
use tidewatch_schemas::time::EventTime;

use super::broker::{Broker, Moved};
use super::office::RowsBelow;
use super::store::SimStore;
use crate::scenario::Signals;

/// A task by stage and partition.
pub type TaskName = (&'static str, TopicPartition);

/// What an undisturbed run gives.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// Signals by tenant, byte for byte.
    pub signals: Signals,
    /// State and output hash of each task at each closed slice.
    pub digests: BTreeMap<(TaskName, EventTime), ([u8; 32], OutputHash)>,
    /// Rows kept in the late topic, and records in the rejected one.
    pub aside: (u64, u64),
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

/// A digest that a task reported.
#[derive(Clone, Debug)]
pub struct Reported {
    /// Task.
    pub task: TaskName,
    /// State at a closed slice.
    pub digest: Digest,
    /// Hash of all outputs so far.
    pub hash: OutputHash,
}

/// A group's stage, name and partitions.
type Group = (Stage, String, Vec<TopicPartition>);

/// The eye.
pub struct Checker {
    broker: Arc<Mutex<Broker>>,
    store: SimStore,
    reference: Option<Arc<Reference>>,
    /// How far each partition has been looked at.
    seen: BTreeMap<TopicPartition, i64>,
    groups: Vec<Group>,
    committed: BTreeMap<(Stage, TopicPartition), Committed>,
    /// Changes of committed offsets that were looked at.
    moved: usize,
    /// Who has held each partition since its offset last moved, by group.
    held: BTreeMap<(String, TopicPartition), BTreeSet<String>>,
    /// Rows by input record that have come out: in `obs`, late, rejected.
    out: BTreeMap<TopicPartition, BTreeMap<i64, u64>>,
    found: Reference,
    topics: [String; 4],
    /// Digests compared with the reference.
    pub compared: u64,
    /// Signals so far.
    pub signals: u64,
    /// Partitions that went from one member to another.
    pub rebalances: u64,
}

impl Checker {
    /// Nothing was committed yet. Without a reference it only notes what it finds.
    pub fn new(broker: Arc<Mutex<Broker>>, store: SimStore, topology: &Topology, reference: Option<Arc<Reference>>) -> Self {
        let names = &topology.names;
        let of = |topic: String, count: u32| -> Vec<TopicPartition> {
            (0..count).map(|p| TopicPartition::new(topic.clone(), p)).collect()
        };
        let (obs, findings) = (of(names.obs(), topology.obs.partitions), of(names.findings(), topology.findings.partitions));
        let signals = of(names.signals(), topology.signals.partitions);
        let aside = [TopicPartition::new(names.late(), 0), TopicPartition::new(names.rejected(), 0)];
        let inputs = topology.inputs.iter().flat_map(|i| of(i.topic.clone(), i.partitions.unwrap_or(1))).collect();
        let seen = obs.iter().chain(&signals).chain(&aside).map(|at| (at.clone(), 0)).collect();
        let group = |stage: Stage, partitions| (stage, names.group(stage), partitions);
        let groups = vec![group(Stage::Normalize, inputs), group(Stage::Detect, obs), group(Stage::Correlate, findings)];
        Self {
            broker,
            store,
            reference,
            seen,
            groups,
            committed: BTreeMap::new(),
            moved: 0,
            held: BTreeMap::new(),
            out: BTreeMap::new(),
            found: Reference::default(),
            topics: [names.signals(), names.obs(), names.late(), names.rejected()],
            compared: 0,
            signals: 0,
            rebalances: 0,
        }
    }

    /// Looks at everything that became visible since the last look.
    pub fn look(&mut self, written: &RowsBelow) -> Result<(), Broken> {
        let broker = self.broker.clone();
        let broker = broker.lock().unwrap_or_else(PoisonError::into_inner);
        let all = PollLimit { records: usize::MAX, bytes: usize::MAX };
        for (at, from) in self.seen.clone() {
            let batch = broker.read(&at, from, all).ok_or_else(|| Broken(format!("{at} is gone")))?;
            self.seen.insert(at.clone(), batch.next);
            for record in &batch.records {
                self.record(&at, record)?;
            }
        }
        self.owners(&broker)?;
        // Otherwise something that is committed cannot be seen yet.
        let settled = !broker.is_settling() && !self.seen.keys().any(|at| broker.is_held(at));
        for (stage, group, _) in self.groups.clone() {
            for (at, now) in broker.committed(&group) {
                self.committed(stage, at, now, settled, written)?;
            }
        }
        Ok(())
    }

    /// Who moved an offset must have held its partition; nobody moves one back.
    fn owners(&mut self, broker: &Broker) -> Result<(), Broken> {
        for (_, group, _) in &self.groups {
            for (at, holder) in broker.holders(group) {
                let held = self.held.entry((group.clone(), at)).or_default();
                self.rebalances += u64::from(!held.is_empty() && !held.contains(&holder));
                held.insert(holder);
            }
        }
        for moved in &broker.moved()[self.moved..] {
            let Moved { group, partition, before, after, by, .. } = moved;
            if before.is_some_and(|before| *after < before) {
                return Err(Broken(format!("group {group} {partition}: committed {after} after {before:?}")));
            }
            let held = self.held.entry((group.clone(), partition.clone())).or_default();
            // A client that fences nobody has another id each time, which begins with its member's name.
            let is_of =
                |name: &str, by: &str| by.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("-p"));
            if let Some(by) = by
                && !held.iter().any(|name| is_of(name, by))
            {
                return Err(Broken(format!("group {group} {partition}: {by} committed {after}; held by {held:?}")));
            }
            // From now on only who holds it now, or is given it.
            let now = broker.holders(group).remove(partition);
            *held = now.into_iter().collect();
        }
        self.moved = broker.moved().len();
        Ok(())
    }

    fn committed(
        &mut self,
        stage: Stage,
        at: TopicPartition,
        now: Committed,
        settled: bool,
        written: &RowsBelow,
    ) -> Result<(), Broken> {
        if stage == Stage::Normalize && settled {
            let none = BTreeMap::new();
            let out = self.out.get(&at).unwrap_or(&none);
            let (came, went) = (written.below(&at, now.offset), out.values().sum::<u64>());
            if came != went {
                let offset = now.offset;
                let differs = written.differs(&at, offset, out);
                return Err(Broken(format!(
                    "{at}: {came} rows lie below the committed offset {offset}, {went} have come out; {differs}"
                )));
            }
        }
        let key = (stage, at);
        if self.committed.get(&key) != Some(&now) {
            if let Some(id) = snapshot_of(&now) {
                let path = format!("{}-{}/{id}.snap", stage.name(), key.1.partition);
                if !self.store.holds(&path) {
                    return Err(Broken(format!("{path} is named by a committed offset and not there")));
                }
            }
            self.committed.insert(key, now);
        }
        Ok(())
    }

    /// Committed snapshots must stay, not only be there when they are named. (While a decided epoch is being written, the
    /// one that it replaces may go already: whoever comes waits for the new one.)
    pub fn snapshots(&self) -> Result<(), Broken> {
        if self.broker.lock().unwrap_or_else(PoisonError::into_inner).is_settling() {
            return Ok(());
        }
        for ((stage, at), committed) in &self.committed {
            let Some(id) = snapshot_of(committed) else { continue };
            let path = format!("{}-{}/{id}.snap", stage.name(), at.partition);
            if !self.store.holds(&path) {
                return Err(Broken(format!("{path} is named by a committed offset and was removed")));
            }
        }
        Ok(())
    }

    fn record(&mut self, at: &TopicPartition, record: &Record) -> Result<(), Broken> {
        let [signals, obs, late, rejected] = &self.topics;
        if at.topic == *signals {
            return self.signal(at, record);
        }
        let input = if at.topic == *rejected {
            self.found.aside.1 += 1;
            let text = |name: &str| record.header(name).and_then(|h| std::str::from_utf8(h).ok());
            let number = |name: &str| text(name).and_then(|n| n.parse().ok());
            let offset = number(reject::OFFSET).unwrap_or_default();
            let place = text(reject::TOPIC).zip(number(reject::PARTITION).and_then(|p| u32::try_from(p).ok()));
            place.map(|(topic, partition)| (topic, partition, vec![offset]))
        } else {
            let Some(RecordType::Observations(kind, _)) = record.header(header::RECORD).and_then(|h| RecordType::parse(h)) else {
                return Ok(());
            };
            let value = record.value.as_deref().unwrap_or_default();
            let batch = observation::decode(kind, value).map_err(|e| Broken(format!("{at} offset {}: {e}", record.offset)))?;
            let primary = (0..batch.len()).filter(|i| batch.routing(*i).primary);
            let rows: Vec<i64> = primary.map(|i| batch.position(i).0).collect();
            if at.topic == *late {
                self.found.aside.0 += rows.len() as u64;
                if record.header("tw-late-at").is_some_and(|h| &h[..] == b"detect") {
                    return Err(Broken(format!("{} rows came to detect after their slice had closed", rows.len())));
                }
            }
            debug_assert!(at.topic == *obs || at.topic == *late);
            record.header(header::INPUT).and_then(|h| parse_input_header(h)).map(|(topic, p)| (topic, p, rows))
        };
        let Some((topic, partition, rows)) = input else {
            return Err(Broken(format!("{at} offset {}: nobody knows where it comes from", record.offset)));
        };
        let out = self.out.entry(TopicPartition::new(topic, partition)).or_default();
        for offset in rows {
            *out.entry(offset).or_default() += 1;
        }
        Ok(())
    }

    fn signal(&mut self, at: &TopicPartition, record: &Record) -> Result<(), Broken> {
        let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        let parsed = signal::from_json(&text).map_err(|e| Broken(format!("{at} offset {}: {e}", record.offset)))?;
        self.signals += 1;
        let so_far = self.found.signals.entry(parsed.tenant.clone()).or_default();
        if let Some(reference) = &self.reference {
            let all = reference.signals.get(&parsed.tenant).map_or(&[][..], Vec::as_slice);
            let wanted = all.get(so_far.len());
            if wanted != Some(&text) {
                let n = so_far.len();
                let before = all.iter().position(|s| *s == text);
                let what = match before {
                    Some(i) if i < n => format!("it was there before, as number {i}"),
                    Some(i) => format!("it is number {i} there"),
                    None => "it is nowhere there".to_owned(),
                };
                return Err(Broken(format!(
                    "signal {n} of tenant {} differs from the undisturbed run ({what}):\n  got    {text}\n  wanted {}",
                    parsed.tenant,
                    wanted.map_or("(nothing)", String::as_str)
                )));
            }
        }
        so_far.push(text);
        Ok(())
    }

    /// A task's own word about a closed slice.
    pub fn reported(&mut self, reported: Reported) -> Result<(), Broken> {
        let Reported { task, digest, hash } = reported;
        let Some(reference) = &self.reference else {
            self.found.digests.insert((task, digest.closed), (digest.state, hash));
            return Ok(());
        };
        let key = (task, digest.closed);
        let Some((state, wanted)) = reference.digests.get(&key) else { return Ok(()) };
        self.compared += 1;
        let ((stage, at), closed) = key;
        if *state != digest.state {
            return Err(Broken(format!("{stage} {at}: state at {closed} differs from the undisturbed run's")));
        }
        if *wanted != hash {
            return Err(Broken(format!("{stage} {at}: outputs up to {closed} differ from the undisturbed run's")));
        }
        Ok(())
    }

    /// The end: nothing lost, nothing left.
    pub fn finish(&mut self, written: &RowsBelow) -> Result<Reference, Broken> {
        self.look(written)?;
        let out: u64 = self.out.values().flat_map(BTreeMap::values).sum();
        if out != written.total() {
            return Err(Broken(format!("{} rows came in and {out} came out", written.total())));
        }
        if let Some(reference) = &self.reference {
            for (tenant, wanted) in &reference.signals {
                let got = self.found.signals.get(tenant).map_or(0, Vec::len);
                if got != wanted.len() {
                    return Err(Broken(format!("tenant {tenant}: {got} signals for {}", wanted.len())));
                }
            }
            if self.found.aside != reference.aside {
                let (got, wanted) = (self.found.aside, reference.aside);
                return Err(Broken(format!("late and rejected rows: {got:?} for {wanted:?}")));
            }
        }
        Ok(std::mem::take(&mut self.found))
    }

    /// Offsets committed, for a report of what is stuck.
    pub fn positions(&self) -> String {
        let all = self.committed.iter().map(|((stage, at), c)| format!("{} {at} at {}", stage.name(), c.offset));
        all.collect::<Vec<_>>().join(", ")
    }

    /// Whether all that the undisturbed run gave is there (of an undisturbed run itself nobody knows).
    pub fn is_complete(&self) -> bool {
        let Some(reference) = &self.reference else { return true };
        reference.signals.iter().all(|(tenant, all)| self.found.signals.get(tenant).map_or(0, Vec::len) >= all.len())
    }
}

/// The snapshot that a committed offset names.
fn snapshot_of(committed: &Committed) -> Option<String> {
    let meta: serde_json::Value = serde_json::from_str(&committed.metadata).ok()?;
    meta.get("snapshot")?.as_str().map(str::to_owned)
}
