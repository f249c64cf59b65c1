//! What detect writes besides marks: a slice's contacts and findings, in which partition and under which headers; and the
//! headers of rows that came too late.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidewatch_operators::detection::SliceOutput;
use tidewatch_operators::operator::Slice;
use tidewatch_schemas::finding::{CONTACTS_BYTES_MAX, Contacts};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::observation::{self, Kind};

use super::DetectConfig;
use crate::epoch::Outputs;
use crate::log::{Append, TopicPartition};

/// Text of one contact, at most, bytes; a longer one (a workload name of many pages) is no name and counts for nothing.
const CONTACT_BYTES_MAX: usize = 16 << 10;

const _: () = assert!(CONTACT_BYTES_MAX < CONTACTS_BYTES_MAX / 2);

/// Partition of a tenant in `findings`.
pub fn findings_partition(tenant: &str, partitions: u32) -> u32 {
    (observation::route_key(tenant, None, None) % u64::from(partitions.max(1))) as u32
}

/// Writes what a slice gave, keyed by tenant.
pub(super) fn write_slice(config: &DetectConfig, at: &TopicPartition, slice: Slice, output: &SliceOutput, out: &mut Outputs) {
    let record = |tenant: &str, kind: RecordType, value: Vec<u8>| Append {
        topic: config.findings.0.clone(),
        partition: findings_partition(tenant, config.findings.1),
        timestamp: None,
        key: Some(Bytes::copy_from_slice(tenant.as_bytes())),
        value: Some(value.into()),
        headers: vec![
            (header::RECORD.to_owned(), kind.to_header().into()),
            (SLICE_END.to_owned(), slice.end.0.to_string().into()),
            (FROM_PARTITION.to_owned(), at.partition.to_string().into()),
        ],
    };
    let mut by_tenant: BTreeMap<&str, Contacts> = BTreeMap::new();
    for (tenant, host, destination, at) in output.contacts.rows() {
        if tenant.len() + host.len() + destination.len() <= CONTACT_BYTES_MAX {
            // A fair share for each tenant that comes; of a thousand, seven times what there is together.
            let share = output.contacts.len() / (by_tenant.len() + 1);
            let contacts = by_tenant.entry(tenant).or_insert_with(|| Contacts::with_capacity(share));
            contacts.push_texts(tenant, host, destination, at);
        }
    }
    for (tenant, batch) in &by_tenant {
        for value in batch.encode_records().expect("no row is longer than CONTACT_BYTES_MAX, which a record always takes") {
            out.answer(record(tenant, RecordType::Contacts, value));
        }
    }
    for finding in &output.findings {
        out.answer(record(&finding.tenant, RecordType::Finding, finding.encode()));
    }
}

/// Header: end of the slice, nanoseconds.
pub const SLICE_END: &str = "tw-slice-end";

/// Header: partition of `obs` that a finding comes from.
pub const FROM_PARTITION: &str = "tw-from";

/// Headers of a late batch.
pub fn late_headers(kind: Kind, input: Bytes, stage: &'static str) -> Vec<(String, Bytes)> {
    vec![
        (header::RECORD.to_owned(), RecordType::Observations(kind, kind.version()).to_header().into()),
        (header::INPUT.to_owned(), input),
        ("tw-late-at".to_owned(), stage.into()),
    ]
}
