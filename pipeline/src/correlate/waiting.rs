//! Findings and contacts that wait until their slice is complete, by slice and tenant, in the order in which they came. Beyond
//! a byte limit they spill to local disk, counted, never dropped, as rows do in detect.
//!
//! What always holds: whether a record waits in memory or on disk changes no output. A slice of a tenant that has begun to
//! spill goes on so, hence what lies in memory came before what lies on disk. The slice that closes is in memory as a whole,
//! one tenant at a time.

use std::collections::BTreeMap;
use std::io;

use tidewatch_schemas::finding::{Contacts, Finding};
use tidewatch_schemas::time::EventTime;

use crate::detect::slices::SliceLimits;
use crate::spill::{Piece, Spill};

/// A finding in memory against its datum on the topic, besides its own size, which is counted twice: reckoned, not measured. Its
/// texts are short, each an allocation of its own, and so are the entries of its evidence.
const FINDING_UNPACKED: usize = 4;

/// Bytes of a contact beyond its texts: three ends of texts and a time.
const CONTACT_BYTES: usize = 3 * size_of::<u32>() + size_of::<EventTime>();

/// What a record brings.
pub(super) enum Came {
    Finding(Box<Finding>),
    Contacts(Contacts),
}

impl Came {
    /// What it takes in memory, bytes, at most: columns that grow hold twice what they need.
    fn bytes(&self, encoded: &[u8]) -> usize {
        match self {
            Self::Finding(_) => 2 * size_of::<Finding>() + encoded.len() * FINDING_UNPACKED,
            Self::Contacts(c) => 2 * (c.tenant.bytes() + c.host.bytes() + c.destination.bytes() + c.len() * CONTACT_BYTES),
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Finding(_) => 1,
            Self::Contacts(contacts) => contacts.len(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Finding,
    Contacts,
}

/// A slice of one tenant.
#[derive(Debug, Default)]
struct Open {
    contacts: Contacts,
    findings: Vec<Finding>,
    /// What came after those.
    spilled: Vec<(Kind, Piece)>,
    spilled_findings: usize,
    first_offset: i64,
    /// In memory, [`Came::bytes`] and places on disk.
    bytes: usize,
}

/// What waits in a task.
#[derive(Debug)]
pub(super) struct Waiting {
    bytes_max: usize,
    /// By (slice end, tenant).
    slices: BTreeMap<(EventTime, String), Open>,
    memory_bytes: usize,
    spill: Spill,
    spilled_rows: u64,
}

impl Waiting {
    /// Nothing waits.
    pub(super) fn new(limits: SliceLimits) -> Self {
        let spill = Spill::new(limits.spill_dir);
        Self { bytes_max: limits.bytes_max, slices: BTreeMap::new(), memory_bytes: 0, spill, spilled_rows: 0 }
    }

    /// Keeps what a record brought, whose value is `encoded`.
    pub(super) fn add(&mut self, end: EventTime, tenant: String, came: Came, encoded: &[u8], offset: i64) -> io::Result<()> {
        let first = || Open { first_offset: offset, ..Open::default() };
        let open = self.slices.entry((end, tenant)).or_insert_with(first);
        let mut bytes = came.bytes(encoded);
        if !open.spilled.is_empty() || self.memory_bytes + bytes > self.bytes_max {
            let piece = self.spill.write(encoded)?;
            self.spilled_rows += came.rows() as u64;
            // A list that grows holds twice what it needs.
            bytes = 2 * size_of::<(Kind, Piece)>();
            let kind = match came {
                Came::Finding(_) => Kind::Finding,
                Came::Contacts(_) => Kind::Contacts,
            };
            open.spilled_findings += usize::from(matches!(kind, Kind::Finding));
            open.spilled.push((kind, piece));
        } else {
            match came {
                Came::Finding(finding) => open.findings.push(*finding),
                // Mostly there is one record of them, which then need not be copied.
                Came::Contacts(contacts) if open.contacts.is_empty() => open.contacts = contacts,
                Came::Contacts(contacts) => open.contacts.append(&contacts),
            }
        }
        open.bytes += bytes;
        self.memory_bytes += bytes;
        Ok(())
    }

    /// Slices that have ended by the time up to which their tenant's are closed, in order.
    pub(super) fn complete(&self, closed: impl Fn(&str) -> EventTime) -> Vec<(EventTime, String)> {
        self.slices.keys().filter(|(end, tenant)| *end <= closed(tenant)).cloned().collect()
    }

    /// Takes a slice out: everything that waited for it, in the order in which it came.
    pub(super) fn take(&mut self, slice: &(EventTime, String)) -> io::Result<(Contacts, Vec<Finding>)> {
        let Some(open) = self.slices.remove(slice) else { return Ok(Default::default()) };
        let Open { mut contacts, mut findings, spilled, bytes, .. } = open;
        self.memory_bytes -= bytes;
        for (kind, piece) in spilled {
            let datum = self.spill.read(piece)?;
            let unread = |e: &dyn std::fmt::Display| io::Error::other(format!("spilled record: {e}"));
            match kind {
                Kind::Finding => findings.push(Finding::decode(&datum).map_err(|e| unread(&e))?),
                Kind::Contacts => contacts.append(&Contacts::decode(&datum).map_err(|e| unread(&e))?),
            }
            self.spill.free(piece);
        }
        Ok((contacts, findings))
    }

    /// The lowest offset of a record that waits.
    pub(super) fn replay_offset(&self) -> Option<i64> {
        self.slices.values().map(|open| open.first_offset).min()
    }

    /// Slices of tenants.
    pub(super) fn slices(&self) -> usize {
        self.slices.len()
    }

    /// Findings, wherever they lie.
    pub(super) fn findings(&self) -> usize {
        self.slices.values().map(|open| open.findings.len() + open.spilled_findings).sum()
    }

    /// Bytes in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Most of them before records spill.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Findings and contacts spilled so far.
    pub(super) fn spilled_rows(&self) -> u64 {
        self.spilled_rows
    }
}
