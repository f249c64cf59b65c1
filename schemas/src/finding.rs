//! Findings: candidates on their way from detect to correlate. A finding is a signal that has not yet met what only the
//! tenant's view knows: prevalence, age, suppression.

mod codec;
mod contacts;
mod texts;

pub use codec::FINDING_SCHEMA;
pub use contacts::{CONTACTS_BYTES_MAX, CONTACTS_MAX, ContactsError};
pub use texts::Texts;

use crate::signal::{Endpoint, Entity, Evidence, RawRange, RuleRef, Severity};
use crate::time::EventTime;

/// A candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Tenant.
    pub tenant: String,
    /// Plane.
    pub plane: String,
    /// Kind.
    pub kind: String,
    /// Title.
    pub title: String,
    /// Sentence, without what correlate knows.
    pub why: String,
    /// The rule's ceiling.
    pub severity: Severity,
    /// 0 to 100, before prevalence.
    pub confidence: u8,
    /// Rule.
    pub rule: RuleRef,
    /// Whom it is about.
    pub entity: Entity,
    /// Source end.
    pub source: Option<Endpoint>,
    /// Destination end.
    pub destination: Option<Endpoint>,
    /// First row.
    pub first_seen: EventTime,
    /// Last row.
    pub last_seen: EventTime,
    /// Event time of the deciding row.
    pub decided_at: EventTime,
    /// Start of the slice in which it was decided.
    pub slice_start: EventTime,
    /// End of that slice.
    pub slice_end: EventTime,
    /// Detector's own fields.
    pub evidence: Evidence,
    /// ATT&CK technique ids.
    pub attack: Vec<String>,
    /// Where the rows lie.
    pub raw: Vec<RawRange>,
    /// The operator's canonical key of what was found about the entity (peer, name, port): part of the id, and what
    /// suppression goes by.
    pub subject: String,
    /// Destination whose prevalence in the tenant matters, as in the contact rows.
    pub contact: Option<String>,
    /// No second signal of this (rule, entity, subject) for so long, nanoseconds.
    pub suppress_ns: i64,
    /// An exception holds it back if the tenant's view leaves it no graver than this.
    pub held_up_to: Option<Severity>,
    /// Its rule runs in shadow: it is judged and suppressed like any other, but told beside the signals.
    pub shadow: bool,
}

/// First contacts of hosts with destinations, struct of columns: one entry per new (host, destination) pair and day.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Contacts {
    /// Tenant of each entry.
    pub tenant: Texts,
    /// Host of each entry.
    pub host: Texts,
    /// Destination: address or name. Empty = the host itself was seen (counts the tenant's hosts).
    pub destination: Texts,
    /// Event time of the first contact.
    pub at: Vec<EventTime>,
}

impl Contacts {
    /// Room for so many entries of ordinary lengths.
    pub fn with_capacity(entries: usize) -> Self {
        let texts = || Texts::with_capacity(entries);
        Self { tenant: texts(), host: texts(), destination: texts(), at: Vec::with_capacity(entries) }
    }

    /// Adds an entry whose texts are at hand.
    pub fn push_texts(&mut self, tenant: &str, host: &str, destination: &str, at: EventTime) {
        self.tenant.push(tenant);
        self.host.push(host);
        self.destination.push(destination);
        self.at.push(at);
    }

    /// Bytes of its texts and times.
    pub fn bytes(&self) -> usize {
        self.tenant.bytes() + self.host.bytes() + self.destination.bytes() + self.at.len() * size_of::<EventTime>()
    }

    /// Empties it; the room stays.
    pub fn clear(&mut self) {
        self.tenant.clear();
        self.host.clear();
        self.destination.clear();
        self.at.clear();
    }

    /// Adds an entry.
    pub fn push(&mut self, tenant: &str, host: &impl std::fmt::Display, destination: impl AsRef<str>, at: EventTime) {
        self.push_display(tenant, host, &destination.as_ref(), at);
    }

    /// Adds an entry whose destination is what a value is displayed as.
    pub fn push_display(
        &mut self,
        tenant: &str,
        host: &impl std::fmt::Display,
        destination: &impl std::fmt::Display,
        at: EventTime,
    ) {
        self.tenant.push(tenant);
        self.host.push_display(host);
        self.destination.push_display(destination);
        self.at.push(at);
    }

    /// Adds the entries of another.
    pub fn append(&mut self, other: &Self) {
        self.tenant.append(&other.tenant);
        self.host.append(&other.host);
        self.destination.append(&other.destination);
        self.at.extend_from_slice(&other.at);
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// No entries.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }
}
