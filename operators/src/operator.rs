//! The contract of an operator: pure and synchronous, one key's rows of one slice in, `&mut` that key's state, findings
//! out. It owns no state, no clock and no I/O, and it cannot fail. The runtime ([`crate::runtime`]) owns state, wake-ups,
//! expiry, byte budgets and snapshots.
//!
//! The key is always a tenant's host. What a detector keeps per pair or per name lives inside its host's state, under a
//! limit of its own: two hosts never share state, and a host's state moves as one piece.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{DnsRow, EdgeRow, FlowRow, HttpRow, Kind, ResultRow, TlsRow};
use tidewatch_schemas::signal::{Endpoint, Entity, Evidence, RawRange, RuleRef, Severity};
use tidewatch_schemas::time::EventTime;

use crate::ahead::Round;
use crate::detection::HostRows;
use crate::key::{Host, HostKey};
use crate::limit::Limit;
use crate::rule::Rule;
use crate::why::{About, Case};

/// An interval of event time, `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// First moment inside.
    pub start: EventTime,
    /// First moment after.
    pub end: EventTime,
}

/// Where a row lies in the inputs: index of the input partition in the task's list, offset, row in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Index into the task's list of input partitions.
    pub input: u16,
    /// Offset.
    pub offset: i64,
    /// Row inside the record.
    pub row: u32,
}

/// Who opened a connection, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// The host whose rows these are.
    Host,
    /// The other end: the host answers.
    Peer,
}

/// The other end of a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peer<'a> {
    /// Address, where known.
    pub address: Option<Address>,
    /// Workload name, where known.
    pub name: Option<&'a str>,
    /// Address class, see `tidewatch_schemas::address::AddressClass`.
    pub class: u8,
}

/// A flow as every detector sees it: after initiator inference, active-timeout merge and removal of duplicates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow<'a> {
    /// The record as exported.
    pub row: &'a FlowRow<'a>,
    /// First record of its connection: exactly one flow of a connection has it, however often it is re-exported.
    pub opens: bool,
    /// Who opened it.
    pub initiator: Initiator,
    /// The other end.
    pub peer: Peer<'a>,
    /// The host's own port.
    pub host_port: Option<u16>,
    /// The peer's port: the service when the host is the initiator.
    pub peer_port: Option<u16>,
    /// Start of this record (of the connection, when it opens); event time where the source has no start.
    pub start: EventTime,
    /// Octets host to peer, scaled; `None` = not known by this row, or already counted through another exporter.
    pub bytes_out: Option<u64>,
    /// Octets peer to host.
    pub bytes_in: Option<u64>,
    /// The connection was refused or never answered, as far as this record tells.
    pub failed: bool,
}

/// One row, as the door of detect hands it on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observation<'a> {
    /// A flow.
    Flow(Flow<'a>),
    /// A look-up by this host.
    Dns(&'a DnsRow<'a>),
    /// A handshake by this host.
    Tls(&'a TlsRow<'a>),
    /// A request by this host.
    Http(&'a HttpRow<'a>),
    /// An edge of the service map.
    Edge(&'a EdgeRow<'a>),
    /// A synthetic result.
    Result(&'a ResultRow<'a>),
}

impl Observation<'_> {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Flow(_) => Kind::Flow,
            Self::Dns(_) => Kind::Dns,
            Self::Tls(_) => Kind::Tls,
            Self::Http(_) => Kind::Http,
            Self::Edge(_) => Kind::Edge,
            Self::Result(_) => Kind::Result,
        }
    }
}

/// A row with its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen<'a> {
    /// What was seen.
    pub what: Observation<'a>,
    /// Event time.
    pub at: EventTime,
    /// Where it lies.
    pub position: Position,
}

/// Heap and inline bytes of a state, counted, not guessed. Cheap: called after every slice that touched the key.
pub trait Footprint {
    /// Bytes held beyond `size_of::<Self>()`.
    fn heap_bytes(&self) -> usize;
}

/// Bytes of a vector of so many elements, as doubling growth rounds them. By length, not by capacity: a state restored
/// from a snapshot must weigh what the written one did, or a task at its limit would evict differently after a restart.
pub(crate) fn vec_bytes<T>(len: usize) -> usize {
    if len == 0 { 0 } else { len.next_power_of_two() * size_of::<T>() }
}

/// A detector's logic for one rule.
pub trait Operator: Send + 'static {
    /// What is kept per host. Encoded with postcard in snapshots, so its layout is versioned with the binary's output.
    type State: Default + Serialize + DeserializeOwned + Footprint + Send;

    /// Whether these rows can mean anything to a key of which nothing is kept. Where they cannot, nothing is made that
    /// would be forgotten again: [`Operator::rows`] on a new state would emit nothing, wish nothing and call
    /// [`Context::forget`].
    fn concerns(&self, key: &HostKey, rows: &[Seen<'_>]) -> bool {
        let _ = (key, rows);
        true
    }

    /// Asks for what these rows will need of a state, see [`crate::ahead`]. Worth it for states of which there are many.
    fn ahead(state: &Self::State, host: &HostRows<'_>, round: Round) {
        let _ = (state, host, round);
    }

    /// One key's rows of one slice, ordered by (event time, kind, content).
    fn rows(&self, rows: &[Seen<'_>], state: &mut Self::State, ctx: &mut Context<'_>);

    /// A wake-up asked for with [`Context::wake_at`] has come; `at` is the time asked for, not later than the slice's end.
    fn wake(&self, at: EventTime, state: &mut Self::State, ctx: &mut Context<'_>) {
        let _ = (at, state, ctx);
    }

    /// What a host's state says of each condition, see [`crate::why`]; `None` = this detector cannot tell.
    fn conditions(&self, state: &Self::State, about: &About<'_>) -> Option<Vec<Case>> {
        let _ = (state, about);
        None
    }
}

/// What an operator can do besides changing its state.
pub struct Context<'a> {
    /// Whose rows.
    pub key: &'a HostKey,
    /// The slice.
    pub slice: Slice,
    /// The rule.
    pub rule: &'a Rule,
    pub(crate) detector: &'a Detector,
    pub(crate) inputs: &'a [(String, u32)],
    pub(crate) findings: &'a mut Vec<Finding>,
    pub(crate) wake: &'a mut Option<EventTime>,
    pub(crate) forget: &'a mut bool,
}

/// What a detector says; the context adds tenant, rule, slice, kind, title, ATT&CK.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The sentence an analyst reads first.
    pub why: String,
    /// 0 to 100.
    pub confidence: u8,
    /// Lower than the rule's severity, where the consequence is small; `None` = the rule's.
    pub severity: Option<Severity>,
    /// Canonical key of what was found (peer, name, port).
    pub subject: String,
    /// Destination whose prevalence matters.
    pub contact: Option<String>,
    /// Destination end.
    pub destination: Option<Endpoint>,
    /// First row.
    pub first_seen: EventTime,
    /// Last row.
    pub last_seen: EventTime,
    /// Row that decided.
    pub decided_at: EventTime,
    /// Fields.
    pub evidence: Evidence,
    /// ATT&CK ids beyond the detector's own.
    pub attack: Vec<&'static str>,
    /// Where the rows lie.
    pub raw: RawRows,
}

impl Context<'_> {
    /// Emits a candidate.
    pub fn emit(&mut self, draft: Draft) {
        let id = self.key.host.to_string();
        let (entity, source) = match &self.key.host {
            Host::Address(_) => ("host", Endpoint { ip: Some(id.clone()), ..Endpoint::default() }),
            Host::Name(_) => ("workload", Endpoint { name: Some(id.clone()), ..Endpoint::default() }),
        };
        let mut attack: Vec<String> = self.detector.attack.iter().chain(&draft.attack).map(|t| (*t).to_owned()).collect();
        attack.sort();
        attack.dedup();
        self.findings.push(Finding {
            tenant: self.key.tenant.to_string(),
            plane: "threat".to_owned(),
            kind: self.detector.kind.to_owned(),
            title: self.detector.title.to_owned(),
            why: draft.why,
            severity: draft.severity.map_or(self.rule.severity, |s| s.min(self.rule.severity)),
            confidence: draft.confidence.min(100),
            rule: RuleRef { id: self.rule.id.clone(), version: self.rule.version },
            entity: Entity { kind: entity.to_owned(), id },
            source: Some(source),
            destination: draft.destination,
            first_seen: draft.first_seen,
            last_seen: draft.last_seen,
            decided_at: draft.decided_at,
            slice_start: self.slice.start,
            slice_end: self.slice.end,
            evidence: draft.evidence,
            attack,
            raw: draft.raw.ranges(self.inputs),
            subject: draft.subject,
            contact: draft.contact,
            suppress_ns: self.rule.suppress_ns,
            held_up_to: None,
            shadow: self.rule.shadow(),
        });
    }

    /// Asks to be woken when event time has reached `at`, even without rows. The earliest wish of a call wins; a call
    /// without a wish leaves an earlier wish standing.
    pub fn wake_at(&mut self, at: EventTime) {
        *self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    /// Drops the key's state after this call.
    pub fn forget(&mut self) {
        *self.forget = true;
    }
}

/// Where the rows of a finding lie, in bounded space: one range per input partition, at most four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct RawRows(Vec<(u16, i64, i64, u32)>);

/// Ranges kept per key.
pub const RAW_ROWS_MAX: usize = 4;

impl RawRows {
    /// Adds a row. Beyond [`RAW_ROWS_MAX`] input partitions a row is counted nowhere: the list is a pointer, not a ledger.
    pub fn add(&mut self, at: Position) {
        if let Some(range) = self.0.iter_mut().find(|r| r.0 == at.input) {
            range.1 = range.1.min(at.offset);
            range.2 = range.2.max(at.offset);
            range.3 = range.3.saturating_add(1);
        } else if self.0.len() < RAW_ROWS_MAX {
            self.0.push((at.input, at.offset, at.offset, 1));
        }
    }

    /// As published, sorted.
    pub fn ranges(&self, inputs: &[(String, u32)]) -> Vec<RawRange> {
        let mut out: Vec<RawRange> = self
            .0
            .iter()
            .filter_map(|&(input, from, to, rows)| {
                let (topic, partition) = inputs.get(usize::from(input))?;
                Some(RawRange { topic: topic.clone(), partition: *partition, from, to, rows: u64::from(rows) })
            })
            .collect();
        out.sort();
        out
    }

    /// Heap bytes.
    pub fn heap_bytes(&self) -> usize {
        // By length: a state restored from a snapshot must count as many bytes as the one that was written.
        self.0.len() * size_of::<(u16, i64, i64, u32)>()
    }
}

/// A threshold that a rule may set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Name in the rule file; the unit comes last.
    pub name: &'static str,
    /// Used when the rule does not set it.
    pub default: f64,
    /// Smallest value accepted.
    pub min: f64,
    /// Largest value accepted.
    pub max: f64,
    /// What it means and why the default.
    pub meaning: &'static str,
}

/// A list that a rule may set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ListField {
    /// Name in the rule file.
    pub name: &'static str,
    /// Used when the rule does not set it.
    pub default: &'static [&'static str],
    /// What one entry must be.
    pub entry: ListEntry,
    /// What it means.
    pub meaning: &'static str,
}

/// What a list holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListEntry {
    /// A port number 0..=65535.
    Port,
    /// The same, of those that the detector looks at: with none of them it sees nothing, so there is one at least.
    WatchedPort,
    /// Any text.
    Text,
}

/// What a field of a detector's evidence holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Whole number.
    Long,
    /// Number.
    Double,
    /// Text.
    Text,
    /// Truth value.
    Flag,
    /// Several of the above.
    List,
}

/// What correlate knows of a destination when a finding is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TenantFacts {
    /// Hosts of the tenant heard of this week or the last.
    pub hosts: u64,
    /// Of these, hosts that met the destination in that time.
    pub knowing: u64,
    /// First contact of anybody with it, if known.
    pub known_since: Option<EventTime>,
    /// When the latest of those hosts met it for the first time, if known.
    pub joined_at: Option<EventTime>,
    /// Our own synthetic tests went there this week or the last, from wherever.
    pub probed: bool,
    /// The tenant's first slice, if known: on its first day everything is new.
    pub watched_since: Option<EventTime>,
}

/// A detector: its line in [`crate::detectors::ALL`].
pub struct Detector {
    /// Kind of its signals: `ndr.<rule kind>`.
    pub kind: &'static str,
    /// Kind in rule files.
    pub rule_kind: &'static str,
    /// Title of its signals.
    pub title: &'static str,
    /// The detector's page, its file's doc comment.
    pub page: &'static str,
    /// Kinds of rows it reads.
    pub reads: &'static [Kind],
    /// ATT&CK ids of every signal.
    pub attack: &'static [&'static str],
    /// Thresholds.
    pub thresholds: &'static [Threshold],
    /// Lists.
    pub lists: &'static [ListField],
    /// Fields of its findings' evidence, before the tenant's view adds to them.
    pub evidence: &'static [(&'static str, Field)],
    /// Limits within a host's state at which something is forgotten.
    pub limits: &'static [&'static Limit],
    /// An instance for a rule; config is typed here, once.
    pub build: fn(&Rule) -> Box<dyn crate::runtime::Instance>,
    /// The tenant's view: may raise or lower confidence, complete `why` and evidence, or drop the candidate (`None`).
    pub judge: fn(Finding, &TenantFacts) -> Option<Finding>,
}

impl std::fmt::Debug for Detector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind)
    }
}

/// Names and values of a rule's thresholds, defaults filled in.
pub type Thresholds = BTreeMap<&'static str, f64>;
