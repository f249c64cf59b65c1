//! The traffic as probectl's collectors put it on the bus: `probectl.flow.events` as an IPFIX exporter reports (each
//! direction a record of its own, long connections in parts, nobody knows who called), and `probectl.ebpf.flows` with the
//! DNS calls an agent saw. One collector for each office; a batch holds one tenant's records.

use std::collections::{BTreeMap, VecDeque};

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::event::{Answer, DnsEvent, Event, FlowEvent, Outcome, Transport};
use crate::plan::Plan;
use crate::protobuf::{address, bytes, number, text};
use crate::traffic::Traffic;

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

    fn take(&mut self, event: &Event) {
        let at = event.at();
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

/// One direction of a flow as FlowRecord of probectl.flow.v1.
fn flow_record(out: &mut Vec<u8>, plan: &Plan, flow: &FlowEvent, reply: bool) {
    let c = &flow.connection;
    let (from, to) = ((c.initiator, c.initiator_port), (c.responder, c.responder_port));
    let (ip_sent, ip_received) = flow.ip_bytes();
    let row = Row {
        tenant: plan.tenant(c.tenant),
        agent: &collector(c.office),
        exporter: Address::v4([10, 0, c.office as u8, 1]),
        observed: flow.end.plus(EXPORT_DELAY_NS),
        start: flow.start,
        end: flow.end,
        from: if reply { to } else { from },
        to: if reply { from } else { to },
        transport: c.transport,
        tcp_flags: tcp_flags(flow, reply),
        bytes: if reply { ip_received } else { ip_sent },
        packets: if reply { flow.packets_received } else { flow.packets_sent },
        interfaces: if reply { (2, 1) } else { (1, 2) },
    };
    row.write(out);
}

/// A FlowRecord's varying fields.
pub(crate) struct Row<'a> {
    pub tenant: &'a str,
    pub agent: &'a str,
    pub exporter: Address,
    pub observed: EventTime,
    pub start: EventTime,
    pub end: EventTime,
    pub from: (Address, u16),
    pub to: (Address, u16),
    pub transport: Transport,
    pub tcp_flags: u8,
    pub bytes: u64,
    pub packets: u64,
    pub interfaces: (u32, u32),
}

impl Row<'_> {
    /// Field numbers of probectl.flow.v1.FlowRecord; sampling 1, so raw and scaled counts are equal.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        text(out, 1, self.tenant);
        text(out, 2, self.agent);
        address(out, 3, self.exporter);
        number(out, 4, 1);
        text(out, 5, "ipfix");
        number(out, 6, self.observed.0 as u64);
        number(out, 7, self.start.0 as u64);
        number(out, 8, self.end.0 as u64);
        address(out, 9, self.from.0);
        number(out, 10, u64::from(self.from.1));
        address(out, 11, self.to.0);
        number(out, 12, u64::from(self.to.1));
        text(out, 13, if self.transport == Transport::Tcp { "tcp" } else { "udp" });
        text(out, 14, "ipv4");
        number(out, 15, u64::from(self.interfaces.0));
        number(out, 16, u64::from(self.interfaces.1));
        number(out, 17, 20);
        number(out, 19, u64::from(self.tcp_flags));
        number(out, 21, self.bytes);
        number(out, 22, self.packets);
        number(out, 23, 1);
        number(out, 24, self.bytes);
        number(out, 25, self.packets);
    }
}

/// TCP flag bits (RFC 9293).
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// Flags that the exporter saw in this part and direction.
fn tcp_flags(flow: &FlowEvent, reply: bool) -> u8 {
    if flow.connection.transport != Transport::Tcp {
        return 0;
    }
    match (flow.outcome, reply) {
        (Outcome::NoReply, _) | (Outcome::Refused, false) => return SYN,
        (Outcome::Refused, true) => return RST | ACK,
        _ => {}
    }
    let begin = if flow.first { SYN } else { 0 };
    let close = match (flow.outcome, flow.last, reply) {
        (Outcome::Complete, true, _) => FIN,
        (Outcome::Reset, true, false) => RST,
        _ => 0,
    };
    begin | ACK | PSH | close
}

/// A DNS query as L7Call of probectl.ebpf.v1.
fn dns_call(out: &mut Vec<u8>, plan: &Plan, dns: &DnsEvent) {
    let c = &dns.connection;
    text(out, 1, plan.tenant(c.tenant));
    text(out, 2, &format!("agent-{}", c.office));
    address(out, 3, c.initiator);
    address(out, 4, c.responder);
    number(out, 5, u64::from(c.responder_port));
    text(out, 6, "dns");
    text(out, 7, dns.kind.code().1);
    text(out, 8, &format!("{}.", dns.name));
    let failed = dns.answer == Answer::NoName;
    text(out, 9, if failed { "NXDOMAIN" } else { "NOERROR" });
    number(out, 10, u64::from(failed));
    number(out, 12, dns.start.0 as u64);
    number(out, 13, dns.end.since(dns.start) as u64);
    number(out, 14, dns.bytes_sent);
    number(out, 15, dns.bytes_received);
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
