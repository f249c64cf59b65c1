//! conn.log: a connection, written when it ended. Octets are payload as counted by sequence numbers.

use super::super::Fault;
use super::super::value::{ICMP, ICMP_V6, TCP, transport};
use super::fields::{Field, Fields, wrong};
use crate::observation::{FlowRow, Row};

/// A flow; event time is its end.
#[inline]
pub(super) fn row<'a>(f: &Fields<'a>) -> Result<Row<'a>, Fault> {
    let start = f.ts()?;
    let duration_ns = f.interval(Field::Duration)?;
    let end = match duration_ns {
        Some(ns) => {
            let end = start.0.checked_add(ns).map(crate::time::EventTime);
            Some(end.ok_or_else(|| wrong(Field::Duration, "an end before 2262", f.text(Field::Duration).unwrap_or("")))?)
        }
        None => None,
    };
    let source = f.address(Field::OrigH)?;
    let destination = f.address(Field::RespH)?;
    let transport = match f.number::<u8>(Field::IpProto)? {
        Some(number) => number,
        None => match f.text(Field::Proto) {
            None => return Err(Fault::Missing { field: "proto" }),
            Some("unknown_transport") => 0,
            Some(name) => transport("proto", name.as_bytes(), source.to_v4().is_none())?,
        },
    };
    // Zeek puts ICMP's type and code where the ports are.
    let ports = transport != ICMP && transport != ICMP_V6;
    let port = |field| if ports { f.port(field) } else { Ok(None) };
    Ok(Row::Flow(FlowRow {
        event_time: end.unwrap_or(start),
        observer: f.text(Field::System),
        start_time: Some(start),
        end_time: end,
        source_address: Some(source),
        source_port: port(Field::OrigP)?,
        destination_address: Some(destination),
        destination_port: port(Field::RespP)?,
        transport,
        direction_known: true,
        bytes_forward: f.count(Field::OrigBytes)?,
        bytes_reverse: f.count(Field::RespBytes)?,
        packets_forward: f.count(Field::OrigPkts)?,
        packets_reverse: f.count(Field::RespPkts)?,
        sampling_rate: 1,
        tcp_flags: if transport == TCP { f.text(Field::History).and_then(flags) } else { None },
        connection_state: f.text(Field::ConnState),
        service: f.text(Field::Service),
        uid: f.text(Field::Uid),
        ..FlowRow::default()
    }))
}

/// Flags that `history` proves, both directions together; upper case is the originator. Zeek does not tell PSH and URG.
fn flags(history: &str) -> Option<u8> {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    let flags = history.bytes().fold(0, |flags, letter| {
        flags
            | match letter.to_ascii_lowercase() {
                b's' => SYN,
                b'h' => SYN | ACK,
                // Data after the handshake carries ACK.
                b'a' | b'd' => ACK,
                b'f' => FIN,
                b'r' => RST,
                _ => 0,
            }
    });
    (flags != 0).then_some(flags)
}
