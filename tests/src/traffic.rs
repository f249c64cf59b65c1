//! What comes in scenarios: generated offices, and rows made by hand where every figure matters. Only bytes and keys; who
//! runs them is [`crate::scenario`].

use prost::Message as _;
use tidewatch_generator::attack::{Names, Scan, Stay, Targets, Tunnel};
use tidewatch_generator::zeek::Log;
use tidewatch_generator::{PRESET_START, Plan, Style, probectl_records, zeek_lines};
use tidewatch_schemas::proto::{ebpf, flow};
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use tidewatch_schemas::topic::tenant_key;

use crate::scenario::{Message, Scenario, open_input, static_input};

/// Topic of flow batches.
pub const FLOW: &str = "probectl.flow.events";
/// Topic of eBPF batches.
pub const EBPF: &str = "probectl.ebpf.flows";
/// 2026-06-04T12:00:00Z: where hand-made scenarios begin.
pub const NOON: EventTime = EventTime::from_secs(1_780_574_400);

/// A moment so many seconds after noon.
pub fn noon(s: f64) -> EventTime {
    NOON.plus((s * SECOND_NS as f64) as i64)
}

/// The small office, and what its first tenant lacks for every detector to have something to say: generated names, a tunnel
/// and a scan of ports. What it lacks still is a connection that stays open for days, see [`office`] and [`zeek`].
fn plan(seed: u64) -> Plan {
    let mut plan = Plan::small(seed);
    let ports = Targets::Vertical { ports: 120 };
    plan.attacks.extend([
        Names { tenant: 0, host: 10, start_s: 5_000, ..Names::default() }.into(),
        Tunnel { tenant: 0, host: 1, start_s: 7_000, ..Tunnel::default() }.into(),
        Scan { tenant: 0, host: 9, start_s: 2_000, targets: ports, per_s: 2.0, answering: 0.1 }.into(),
    ]);
    plan
}

/// Port of the connection that stays open.
const STAY_PORT: u16 = 8_022;
const STAY_S: u32 = 3 * 86_400;

/// A small office as probectl's collectors and agents tell of it. A collector that was started late tells of a connection
/// that has been open for three days.
pub fn office(seed: u64) -> Scenario {
    let plan = plan(seed);
    let mut messages: Vec<Message> =
        probectl_records(&plan).map(|r| Message::new(r.topic, r.key, r.timestamp, r.value)).collect();
    let at_s = (PRESET_START.since(NOON) / SECOND_NS) as f64 + 4_000.0;
    let contact = Contact { tenant: "acme", at_s, from: "10.7.7.7", to: "45.83.12.40", port: STAY_PORT, bytes: 400_000 };
    let mut there = flow_record(&contact);
    there.start_unix_nano -= i64::from(STAY_S) * SECOND_NS;
    let back = flow::FlowRecord {
        source_address: there.destination_address.clone(),
        source_port: there.destination_port,
        destination_address: there.source_address.clone(),
        destination_port: there.source_port,
        bytes: 900_000,
        ..there.clone()
    };
    let (at, key) = (EventTime(there.observed_at_unix_nano), tenant_key("acme", "collector-1"));
    messages.push(Message::new(FLOW, key, at, flow::FlowBatch { flows: vec![there, back] }.encode_to_vec()));
    messages.sort_by_key(|m| m.at);
    Scenario::new("office", vec![open_input(FLOW, "probectl-flow"), open_input(EBPF, "probectl-ebpf")], messages)
}

/// The line of a connection that has been open for three days when it ends.
fn stayed(seed: u64) -> impl Iterator<Item = String> {
    let small = Plan::small(seed);
    let stay = Stay { tenant: 0, host: 7, start_s: 600, duration_s: STAY_S, port: STAY_PORT };
    let plan = Plan {
        start: small.start.minus(i64::from(STAY_S) * SECOND_NS),
        duration_s: STAY_S + small.duration_s,
        hosts_per_tenant: 0,
        attacks: vec![stay.into()],
        ..small
    };
    let is = format!("\t{STAY_PORT}\t");
    let lines: Vec<String> =
        zeek_lines(&plan, Style::Tsv).filter(|l| l.log == Log::Conn && l.line.contains(&is)).map(|l| l.line).collect();
    lines.into_iter()
}

/// One tenant of the small office as Zeek writes it: tab-separated, four logs, a topic each.
pub fn zeek(seed: u64) -> Scenario {
    let plan = plan(seed);
    let topic = |log: Log| format!("zeek.{}", log.name());
    let mut messages: Vec<Message> = Vec::new();
    for log in Log::ALL {
        for line in log.header(plan.start).lines() {
            let header = Message::new(&topic(log), "", plan.start, line.as_bytes().to_vec());
            messages.push(Message { everywhere: true, ..header });
        }
    }
    // Any key will do: lines of a sensor come in no order that matters.
    for (n, line) in zeek_lines(&plan, Style::Tsv).filter(|l| l.tenant == 0).enumerate() {
        let message = Message::new(&topic(line.log), n.to_string(), line.at, line.line.into_bytes());
        messages.push(Message { ordered: matches!(line.log, Log::Ssl | Log::Http), ..message });
    }
    let ended = plan.start.plus(600 * SECOND_NS);
    messages.extend(stayed(seed).map(|line| Message::new(&topic(Log::Conn), "stay", ended, line.into_bytes())));
    messages.sort_by_key(|m| (!m.everywhere, m.at));
    let inputs = Log::ALL.map(|log| static_input(&topic(log), &format!("zeek-{}", log.name()), "acme"));
    Scenario::new("zeek", inputs.to_vec(), messages)
}

/// A connection for [`flow_message`].
#[derive(Clone, Copy, Debug)]
pub struct Contact<'a> {
    /// Tenant.
    pub tenant: &'a str,
    /// Start, seconds after noon.
    pub at_s: f64,
    /// Who calls.
    pub from: &'a str,
    /// Whom.
    pub to: &'a str,
    /// Port.
    pub port: u16,
    /// Octets sent.
    pub bytes: u64,
}

/// The flow record of a contact: one second long, observed at its end.
pub fn flow_record(c: &Contact<'_>) -> flow::FlowRecord {
    let at = noon(c.at_s);
    flow::FlowRecord {
        tenant_id: c.tenant.to_owned(),
        agent_id: "collector-1".to_owned(),
        exporter_address: "10.0.0.1".to_owned(),
        flow_protocol: "ipfix".to_owned(),
        observed_at_unix_nano: at.plus(SECOND_NS).0,
        start_unix_nano: at.0,
        end_unix_nano: at.plus(SECOND_NS).0,
        source_address: c.from.to_owned(),
        // A port for each connection, as far as there are ports.
        source_port: 32_768 + ((at.0 / 1_000_000_000) % 28_000) as u32,
        destination_address: c.to.to_owned(),
        destination_port: u32::from(c.port),
        network_transport: "tcp".to_owned(),
        network_type: "ipv4".to_owned(),
        tcp_flags: 0x1b,
        bytes: c.bytes,
        packets: 4,
        sampling_rate: 1,
        ..flow::FlowRecord::default()
    }
}

/// A batch with one record, produced when it was observed.
pub fn flow_message(c: &Contact<'_>) -> Message {
    let record = flow_record(c);
    let at = EventTime(record.observed_at_unix_nano);
    let key = tenant_key(c.tenant, &record.source_port.to_string());
    Message::new(FLOW, key, at, flow::FlowBatch { flows: vec![record] }.encode_to_vec())
}

/// The same connection as an agent on the caller sees it: name and address of the workload, no octets.
pub fn ebpf_message(c: &Contact<'_>, workload: &str) -> Message {
    let record = flow_record(c);
    let seen = ebpf::Flow {
        tenant_id: c.tenant.to_owned(),
        agent_id: format!("agent-{workload}"),
        host: workload.to_owned(),
        observed_at_unix_nano: record.start_unix_nano,
        source_address: record.source_address,
        source_port: record.source_port,
        destination_address: record.destination_address,
        destination_port: record.destination_port,
        network_transport: "tcp".to_owned(),
        network_type: "ipv4".to_owned(),
        workload: workload.to_owned(),
        direction: "egress".to_owned(),
        state: "established".to_owned(),
        ..ebpf::Flow::default()
    };
    let at = EventTime(seen.observed_at_unix_nano).plus(2 * SECOND_NS);
    let key = tenant_key(c.tenant, &seen.agent_id);
    Message::new(EBPF, key, at, ebpf::FlowBatch { flows: vec![seen], ..ebpf::FlowBatch::default() }.encode_to_vec())
}

/// Two tenants with equal addresses, of which one beacons, one scans; a host that both an exporter and an agent see;
/// contacts of one moment that differ only in their peer; every record twice for one exporter that repeats itself.
pub fn by_hand() -> Scenario {
    let mut messages = Vec::new();
    let base = Contact { tenant: "a", at_s: 0.0, from: "10.0.0.5", to: "203.0.113.66", port: 443, bytes: 512 };
    for n in 0..60_u32 {
        let at_s = f64::from(n) * 60.0;
        messages.push(flow_message(&Contact { at_s, ..base }));
        messages.push(ebpf_message(&Contact { at_s, ..base }, "web-1"));
        // The other tenant's host of the same address keeps no rhythm.
        let noise = f64::from(n * n * 7 % 53);
        messages.push(flow_message(&Contact { tenant: "b", at_s: at_s + noise, bytes: 4_000 + u64::from(n), ..base }));
        // Three peers in one moment, equal but for the peer.
        for peer in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
            messages.push(flow_message(&Contact { at_s: at_s + 30.0, from: "10.0.0.7", to: peer, bytes: 900, ..base }));
        }
        let again = flow_message(&Contact { at_s: at_s + 31.0, from: "10.0.0.8", ..base });
        messages.push(again.clone());
        messages.push(again);
    }
    for n in 0..25_u32 {
        let to = format!("10.0.1.{}", n + 1);
        let contact = Contact { tenant: "b", at_s: 600.0 + f64::from(n), from: "10.0.0.66", to: &to, port: 445, bytes: 80 };
        messages.push(flow_message(&contact));
    }
    messages.sort_by_key(|m| m.at);
    Scenario::new("by hand", vec![open_input(FLOW, "probectl-flow"), open_input(EBPF, "probectl-ebpf")], messages)
}
