//! The traffic as probectl's collectors put it on the bus: `probectl.flow.events` as an IPFIX exporter reports (each
//! direction a record of its own, long connections in parts, nobody knows who called), and `probectl.ebpf.flows` with the
//! DNS calls an agent saw. One collector for each office; a batch holds one tenant's records.

use std::collections::{BTreeMap, VecDeque};

use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::event::Event;
use crate::plan::Plan;
use crate::protobuf::bytes;
use crate::traffic::Traffic;

mod rows;

pub(crate) use rows::Row;
use rows::{dns_call, flow_record};

/// Topic of flow batches.
pub const FLOW_TOPIC: &str = "probectl.flow.events";
/// Topic of eBPF batches.
pub const EBPF_TOPIC: &str = "probectl.ebpf.flows";
/// Records (or calls) of a batch at most; probectl's own limit is 1 000.
pub const BATCH_ROWS_MAX: usize = 500;
/// A batch that is not full goes out after this long.
pub const BATCH_AGE_S: i64 = 5;
/// The exporter reports long connections this often.
pub const ACTIVE_TIMEOUT_S: u32 = 60;
/// From the last packet to the collector.
const EXPORT_DELAY_NS: i64 = SECOND_NS;

/// One record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Topic it belongs to.
    pub topic: &'static str,
    /// Partitioning key.
    pub key: Vec<u8>,
    /// When it was produced; never goes back within a plan.
    pub timestamp: EventTime,
    /// Protobuf.
    pub value: Vec<u8>,
}

/// The key of a tenant's record: the tenant, and one of 16 letters by FNV-1a-32 of the entropy; without entropy the tenant
/// alone (probectl's TenantKey).
pub fn tenant_key(tenant: &str, entropy: &str) -> String {
    if entropy.is_empty() {
        return tenant.to_owned();
    }
    let hash = entropy.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    format!("{tenant}|b{}", char::from(b'a' + (hash % 16) as u8))
}

/// The records of a plan, by timestamp.
pub fn probectl_records(plan: &Plan) -> ProbectlRecords<'_> {
    ProbectlRecords {
        plan,
        traffic: Traffic::new(plan, ACTIVE_TIMEOUT_S),
        open: BTreeMap::new(),
        by_age: VecDeque::new(),
        ready: VecDeque::new(),
        scratch: Vec::new(),
        serial: 0,
        rows: 0,
        reached: plan.start,
    }
}

/// Iterator over [`Record`]s. Open batches: at most two for each office.
pub struct ProbectlRecords<'p> {
    plan: &'p Plan,
    traffic: Traffic<'p>,
    open: BTreeMap<Lane, Batch>,
    /// Lanes by the age of their batch; an entry whose batch has gone meanwhile is passed over.
    by_age: VecDeque<(EventTime, Lane, u64)>,
    ready: VecDeque<Record>,
    scratch: Vec<u8>,
    serial: u64,
    rows: u64,
    reached: EventTime,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    topic: &'static str,
    tenant: u16,
    office: u16,
}

struct Batch {
    serial: u64,
    rows: usize,
    value: Vec<u8>,
}

impl ProbectlRecords<'_> {
    /// Flow records and calls written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Event time of the last event taken in; the plan's start before the first.
    pub fn reached(&self) -> EventTime {
        self.reached
    }

    fn take(&mut self, event: &Event) {
        let at = event.at();
        self.reached = at;
        let lane = |topic| Lane { topic, tenant: event.connection().tenant, office: event.connection().office };
        match event {
            Event::Flow(flow) => {
                self.add(lane(FLOW_TOPIC), at, |plan, row| flow_record(row, plan, flow, false));
                if flow.packets_received > 0 {
                    self.add(lane(FLOW_TOPIC), at, |plan, row| flow_record(row, plan, flow, true));
                }
            }
            Event::Dns(dns) => self.add(lane(EBPF_TOPIC), at, |plan, row| dns_call(row, plan, dns)),
            // The flow exporter does not look inside, and the agent has no message for these.
            Event::Tls(_) | Event::Http(_) => {}
        }
    }

    fn add(&mut self, lane: Lane, at: EventTime, write: impl FnOnce(&Plan, &mut Vec<u8>)) {
        let (serial, by_age) = (&mut self.serial, &mut self.by_age);
        let batch = self.open.entry(lane).or_insert_with(|| {
            *serial += 1;
            by_age.push_back((at, lane, *serial));
            Batch { serial: *serial, rows: 0, value: Vec::new() }
        });
        self.scratch.clear();
        write(self.plan, &mut self.scratch);
        bytes(&mut batch.value, if lane.topic == FLOW_TOPIC { 1 } else { 3 }, &self.scratch);
        batch.rows += 1;
        self.rows += 1;
        if batch.rows >= BATCH_ROWS_MAX {
            self.close(lane, at);
        }
    }

    fn close(&mut self, lane: Lane, at: EventTime) {
        if let Some(batch) = self.open.remove(&lane) {
            let tenant = self.plan.tenant(lane.tenant);
            // A batch of calls has no flow whose agent could be the entropy.
            let entropy = if lane.topic == FLOW_TOPIC { collector(lane.office) } else { String::new() };
            let key = tenant_key(tenant, &entropy).into_bytes();
            self.ready.push_back(Record { topic: lane.topic, key, timestamp: at.plus(EXPORT_DELAY_NS), value: batch.value });
        }
    }

    /// Closes batches that began `BATCH_AGE_S` before `now`, oldest first.
    fn close_aged(&mut self, now: EventTime) {
        while let Some(&(began, lane, serial)) = self.by_age.front() {
            let due = began.plus(BATCH_AGE_S * SECOND_NS);
            if due > now {
                break;
            }
            self.by_age.pop_front();
            if self.open.get(&lane).is_some_and(|batch| batch.serial == serial) {
                self.close(lane, due);
            }
        }
    }
}

impl Iterator for ProbectlRecords<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(record);
            }
            match self.traffic.next() {
                Some(event) => {
                    self.close_aged(event.at());
                    self.take(&event);
                }
                None if self.open.is_empty() => return None,
                None => self.close_aged(EventTime::MAX),
            }
        }
    }
}

/// Name of an office's collector.
pub fn collector(office: u16) -> String {
    format!("collector-{office}")
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use expect_test::expect;
    use prost::Message;

    use super::*;

    /// What the tests read of a flow, through an independent decoder.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct Flow {
        #[prost(string, tag = "1")]
        pub tenant_id: String,
        #[prost(string, tag = "2")]
        pub agent_id: String,
        #[prost(string, tag = "5")]
        pub flow_protocol: String,
        #[prost(int64, tag = "6")]
        pub observed_at_unix_nano: i64,
        #[prost(int64, tag = "7")]
        pub start_unix_nano: i64,
        #[prost(int64, tag = "8")]
        pub end_unix_nano: i64,
        #[prost(string, tag = "9")]
        pub source_address: String,
        #[prost(uint32, tag = "10")]
        pub source_port: u32,
        #[prost(string, tag = "11")]
        pub destination_address: String,
        #[prost(uint32, tag = "12")]
        pub destination_port: u32,
        #[prost(string, tag = "13")]
        pub network_transport: String,
        #[prost(uint32, tag = "19")]
        pub tcp_flags: u32,
        #[prost(uint64, tag = "21")]
        pub bytes: u64,
        #[prost(uint64, tag = "22")]
        pub packets: u64,
        #[prost(uint64, tag = "23")]
        pub sampling_rate: u64,
        #[prost(uint64, tag = "24")]
        pub bytes_scaled: u64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct FlowBatch {
        #[prost(message, repeated, tag = "1")]
        pub flows: Vec<Flow>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Call {
        #[prost(string, tag = "1")]
        tenant_id: String,
        #[prost(string, tag = "3")]
        source: String,
        #[prost(string, tag = "6")]
        protocol: String,
        #[prost(string, tag = "7")]
        method: String,
        #[prost(string, tag = "8")]
        resource: String,
        #[prost(string, tag = "9")]
        status: String,
        #[prost(int64, tag = "12")]
        start_unix_nano: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    struct EbpfBatch {
        #[prost(message, repeated, tag = "3")]
        l7_calls: Vec<Call>,
    }

    pub(crate) fn decode<M: Message + Default>(value: &[u8]) -> M {
        M::decode(value).unwrap()
    }

    fn digest(plan: &Plan) -> String {
        let mut hash = blake3::Hasher::new();
        let (mut records, mut bytes) = (0, 0);
        let mut all = probectl_records(plan);
        for record in all.by_ref() {
            hash.update(record.topic.as_bytes()).update(&record.key);
            hash.update(&record.timestamp.0.to_be_bytes()).update(&record.value);
            records += 1;
            bytes += record.value.len();
        }
        format!("{} rows, {records} records, {bytes} bytes, {}", all.rows(), &hash.finalize().to_hex()[..16])
    }

    #[test]
    fn a_seed_gives_the_same_bytes_for_ever() {
        expect!["58580 rows, 4868 records, 8117488 bytes, 92c1b4a5d977cc9f"].assert_eq(&digest(&Plan::small(1)));
        assert_ne!(digest(&Plan::small(1)), digest(&Plan::small(2)));
    }

    #[test]
    fn a_batch_holds_one_tenant_and_one_collector_and_comes_in_time() {
        let plan = Plan::small(4);
        let (mut last, mut tenants, mut calls) = (plan.start, BTreeSet::new(), 0);
        for record in probectl_records(&plan) {
            assert!(record.timestamp >= last);
            last = record.timestamp;
            if record.topic == EBPF_TOPIC {
                let batch: EbpfBatch = decode(&record.value);
                assert!(!batch.l7_calls.is_empty() && batch.l7_calls.len() <= BATCH_ROWS_MAX);
                for call in batch.l7_calls {
                    calls += 1;
                    assert_eq!(call.tenant_id.as_bytes(), record.key);
                    assert!(call.resource.ends_with('.') && call.protocol == "dns" && call.start_unix_nano > 0);
                    assert!(matches!(call.status.as_str(), "NOERROR" | "NXDOMAIN"));
                }
                continue;
            }
            let batch: FlowBatch = decode(&record.value);
            assert!(!batch.flows.is_empty() && batch.flows.len() <= BATCH_ROWS_MAX);
            for flow in batch.flows {
                assert_eq!(tenant_key(&flow.tenant_id, &flow.agent_id).as_bytes(), record.key);
                assert!(flow.end_unix_nano >= flow.start_unix_nano && flow.observed_at_unix_nano <= last.0);
                assert!(flow.packets > 0 && flow.bytes >= 28 && flow.bytes == flow.bytes_scaled && flow.sampling_rate == 1);
                tenants.insert(flow.tenant_id);
            }
        }
        assert_eq!(tenants.into_iter().collect::<Vec<_>>(), plan.tenants);
        assert!(calls > 1_000, "{calls}");
    }

    #[test]
    fn what_is_said_is_the_traffic_both_ways() {
        let plan = Plan { attacks: Plan::small(1).attacks[..1].to_vec(), flows_max: Some(20_000), ..Plan::small(1) };
        let label = crate::truths(&plan).remove(0);
        let (mut calls, mut replies) = (0, 0);
        for record in probectl_records(&plan).filter(|r| r.topic == FLOW_TOPIC) {
            for flow in decode::<FlowBatch>(&record.value).flows {
                let home = label.destination.as_deref();
                calls += u64::from(home == Some(flow.destination_address.as_str()) && flow.destination_port == 443);
                replies += u64::from(home == Some(flow.source_address.as_str()) && flow.source_port == 443);
            }
        }
        assert!(calls >= 80 && calls <= label.contacts && calls == replies, "{calls} {replies} of {}", label.contacts);
    }

    #[test]
    fn keys_are_probectls() {
        // FNV-1a-32 of "a" is 0xe40c292c, of "foobar" 0xbf9cf968 (the algorithm's published vectors).
        assert_eq!(tenant_key("t1", "a"), "t1|bm");
        assert_eq!(tenant_key("t1", "foobar"), "t1|bi");
        assert_eq!(tenant_key("t1", ""), "t1");
    }
}
