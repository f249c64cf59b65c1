//! One epoch: what a task wants to write before its offsets move. Collects appends and counts, carries the running hash
//! of the task's outputs, and stays silent while a restarted task re-processes what was committed before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidewatch_schemas::trace::TRACEPARENT;

use crate::log::Append;

/// What happened to rows, by input topic and tenant. For every stage of rows: `rows_in` = the sum of the others but `copies`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows (and whole records that could not be taken apart) that came in.
    pub rows_in: u64,
    /// Rows written to obs under their first key.
    pub normalized: u64,
    /// Rows, or whole records, kept in the rejected topic.
    pub rejected: u64,
    /// Rows older than their watermark, kept in the late topic.
    pub late: u64,
    /// Rows that told an event a second time (recognised at the door of detect, out of `normalized`).
    pub duplicate: u64,
    /// Rows copied to a second internal host: counted apart.
    pub copies: u64,
    /// Elements that are no rows of ours (headers, control records, other logs): counted apart.
    pub skipped: u64,
}

impl Counts {
    /// Adds another's figures.
    pub fn add(&mut self, other: &Self) {
        self.rows_in += other.rows_in;
        self.normalized += other.normalized;
        self.rejected += other.rejected;
        self.late += other.late;
        self.duplicate += other.duplicate;
        self.copies += other.copies;
        self.skipped += other.skipped;
    }
}

/// Counts by (input topic, tenant). Tenants beyond [`TENANTS_COUNTED_MAX`] share the name `(others)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(pub BTreeMap<(String, String), Counts>);

/// Tenants with a line of their own in a ledger.
pub const TENANTS_COUNTED_MAX: usize = 10_000;

impl Ledger {
    /// The line of a topic and tenant.
    pub fn line(&mut self, topic: &str, tenant: &str) -> &mut Counts {
        let full = self.0.len() >= TENANTS_COUNTED_MAX;
        let key = (topic.to_owned(), tenant.to_owned());
        let key = if full && !self.0.contains_key(&key) { (topic.to_owned(), "(others)".to_owned()) } else { key };
        self.0.entry(key).or_default()
    }

    /// Adds another's lines.
    pub fn add(&mut self, other: &Self) {
        for ((topic, tenant), counts) in &other.0 {
            self.line(topic, tenant).add(counts);
        }
    }

    /// All lines together.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.0.values().for_each(|c| total.add(c));
        total
    }
}

/// The running hash of a task's outputs: BLAKE3 over the previous hash and each hashed append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputHash(pub [u8; 32]);

impl OutputHash {
    fn absorb(&mut self, append: &Append) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(append.topic.as_bytes());
        field(&append.partition.to_le_bytes());
        field(append.key.as_deref().unwrap_or_default());
        field(append.value.as_deref().unwrap_or_default());
        // Made of the id, which is absorbed: it says nothing of its own, and outputs of before it was written still compare.
        for (name, value) in append.headers.iter().filter(|(name, _)| name != TRACEPARENT) {
            field(name.as_bytes());
            field(value);
        }
        self.0 = *hasher.finalize().as_bytes();
    }

    /// Lower hex.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// From lower hex.
    pub fn parse(text: &str) -> Option<Self> {
        hex::decode(text).ok()?.try_into().ok().map(Self)
    }
}

/// What a task writes in the running epoch.
#[derive(Debug, Default)]
pub struct Outputs {
    appends: Vec<Append>,
    bytes: usize,
    hash: OutputHash,
    muted: bool,
    /// Counts of this epoch; taken over when it commits.
    pub ledger: Ledger,
    /// A slice closed: the epoch should end now.
    pub urgent: bool,
}

impl Outputs {
    /// Writes a record that is an answer: it takes part in the hash that a restart must reproduce.
    pub fn answer(&mut self, append: Append) {
        self.hash.absorb(&append);
        self.note(append);
    }

    /// Writes a record that may differ between two runs of the same log (time marks, batches cut by size).
    pub fn note(&mut self, append: Append) {
        if !self.muted {
            self.bytes += append.value.as_ref().map_or(0, bytes::Bytes::len);
            self.appends.push(append);
        }
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records waiting.
    pub fn appends(&self) -> &[Append] {
        &self.appends
    }

    /// Hash after everything so far.
    pub fn hash(&self) -> OutputHash {
        self.hash
    }

    /// Continues from a known hash.
    pub fn resume(&mut self, hash: OutputHash) {
        self.hash = hash;
    }

    /// Silent while true: the hash goes on, records and counts are dropped.
    pub fn mute(&mut self, muted: bool) {
        self.muted = muted;
        // What was counted while silent was counted when it was committed.
        self.ledger = Ledger::default();
        self.urgent = false;
    }

    /// Whether it is silent.
    pub fn muted(&self) -> bool {
        self.muted
    }

    /// The epoch has committed: forget its records, hand out its counts.
    pub fn committed(&mut self) -> Ledger {
        self.appends.clear();
        self.bytes = 0;
        self.urgent = false;
        std::mem::take(&mut self.ledger)
    }
}
