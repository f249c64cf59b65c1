//! Events as messages of probectl.flow.v1 and probectl.ebpf.v1.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::EventTime;

use super::{EXPORT_DELAY_NS, collector};
use crate::event::{Answer, DnsEvent, FlowEvent, Outcome, Transport};
use crate::plan::Plan;
use crate::protobuf::{address, number, text};

/// One direction of a flow as FlowRecord of probectl.flow.v1.
pub(super) fn flow_record(out: &mut Vec<u8>, plan: &Plan, flow: &FlowEvent, reply: bool) {
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
pub(super) fn dns_call(out: &mut Vec<u8>, plan: &Plan, dns: &DnsEvent) {
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
