//! What must hold at every step of a world, seen from outside: the committed records alone, and the digests that tasks
//! report. Compared with an undisturbed run of the same records.
//!
//! What always holds: it reads with an eye of its own, which no accident touches, and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidewatch::epoch::OutputHash;
use tidewatch::log::{Committed, Log, PollLimit, Reader, Record, TopicPartition};
use tidewatch::normalize::reject;
use tidewatch::task::Digest;
use tidewatch::topology::{Stage, Topology};
use tidewatch_schemas::header::{self, RecordType, parse_input_header};
use tidewatch_schemas::observation;
use tidewatch_schemas::signal;
use tidewatch_schemas::time::EventTime;

use super::office::RowsBelow;
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

/// The eye.
pub struct Checker {
    log: Arc<dyn Log>,
    reference: Option<Arc<Reference>>,
    readers: BTreeMap<TopicPartition, Box<dyn Reader>>,
    groups: Vec<(Stage, String, Vec<TopicPartition>)>,
    committed: BTreeMap<(Stage, TopicPartition), Committed>,
    /// Rows by input partition that have come out: in `obs`, late, rejected.
    out: BTreeMap<TopicPartition, u64>,
    found: Reference,
    topics: [String; 4],
    /// Digests compared with the reference.
    pub compared: u64,
    /// Signals so far.
    pub signals: u64,
}

impl Checker {
    /// Nothing was committed yet. Without a reference it only notes what it finds.
    pub fn new(log: Arc<dyn Log>, topology: &Topology, reference: Option<Arc<Reference>>) -> anyhow::Result<Self> {
        let names = &topology.names;
        let topics = [names.signals(), names.obs(), names.late(), names.rejected()];
        let partitions = |topic: &str| -> anyhow::Result<Vec<TopicPartition>> {
            Ok((0..log.partitions(topic)?).map(|p| TopicPartition::new(topic, p)).collect())
        };
        let mut readers = BTreeMap::new();
        for topic in &topics {
            for at in partitions(topic)? {
                let reader = log.reader(&at, 0)?;
                readers.insert(at, reader);
            }
        }
        let mut inputs = Vec::new();
        for input in &topology.inputs {
            inputs.extend(partitions(&input.topic)?);
        }
        let groups = vec![
            (Stage::Normalize, names.group(Stage::Normalize), inputs),
            (Stage::Detect, names.group(Stage::Detect), partitions(&names.obs())?),
            (Stage::Correlate, names.group(Stage::Correlate), partitions(&names.findings())?),
        ];
        Ok(Self {
            log,
            reference,
            readers,
            groups,
            committed: BTreeMap::new(),
            out: BTreeMap::new(),
            found: Reference::default(),
            topics,
            compared: 0,
            signals: 0,
        })
    }

    /// Looks at everything that was committed since the last look.
    pub fn look(&mut self, written: &RowsBelow) -> Result<(), Broken> {
        let wrong = |e: &dyn std::fmt::Display| Broken(format!("the eye itself cannot see: {e}"));
        let places: Vec<TopicPartition> = self.readers.keys().cloned().collect();
        for at in places {
            while let Some(reader) = self.readers.get_mut(&at) {
                let records = reader.poll(PollLimit::default(), Duration::ZERO).map_err(|e| wrong(&e))?;
                if records.is_empty() {
                    break;
                }
                for record in &records {
                    self.record(&at, record)?;
                }
            }
        }
        for (stage, group, partitions) in &self.groups {
            let now = self.log.committed(group, partitions).map_err(|e| wrong(&e))?;
            for (at, now) in partitions.iter().zip(now) {
                let Some(now) = now else { continue };
                let key = (*stage, at.clone());
                if let Some(before) = self.committed.get(&key)
                    && now.offset < before.offset
                {
                    return Err(Broken(format!("{} {at}: committed {} after {}", stage.name(), now.offset, before.offset)));
                }
                if *stage == Stage::Normalize {
                    let (came, out) = (written.below(at, now.offset), self.out.get(at).copied().unwrap_or(0));
                    if came != out {
                        return Err(Broken(format!(
                            "{at}: {came} rows lie below the committed offset {}, {out} have come out",
                            now.offset
                        )));
                    }
                }
                self.committed.insert(key, now);
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
            text(reject::TOPIC).zip(text(reject::PARTITION).and_then(|p| p.parse().ok())).map(|(topic, p)| (topic, p, 1))
        } else {
            let Some(RecordType::Observations(kind, _)) = record.header(header::RECORD).and_then(|h| RecordType::parse(h)) else {
                return Ok(());
            };
            let value = record.value.as_deref().unwrap_or_default();
            let batch = observation::decode(kind, value).map_err(|e| Broken(format!("{at} offset {}: {e}", record.offset)))?;
            let rows = (0..batch.len()).filter(|i| batch.routing(*i).primary).count() as u64;
            if at.topic == *late {
                self.found.aside.0 += rows;
                if record.header("tw-late-at").is_some_and(|h| &h[..] == b"detect") {
                    return Err(Broken(format!("{rows} rows came to detect after their slice had closed")));
                }
            }
            debug_assert!(at.topic == *obs || at.topic == *late);
            record.header(header::INPUT).and_then(|h| parse_input_header(h)).map(|(topic, p)| (topic, p, rows))
        };
        let Some((topic, partition, rows)) = input else {
            return Err(Broken(format!("{at} offset {}: nobody knows where it comes from", record.offset)));
        };
        *self.out.entry(TopicPartition::new(topic, partition)).or_default() += rows;
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
        let out: u64 = self.out.values().sum();
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
