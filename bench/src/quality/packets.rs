//! Connections out of packet captures, as Zeek would have logged them: who began, how it ended, what passed. IPv4, TCP, UDP
//! and ICMP, Ethernet or cooked; no reassembly.
//!
//! Not the product's way in: what a sensor would have written, for measuring. A broken packet is left out.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};

use super::logs::Conn;
use crate::dns::capture::{ip, packets};

/// A UDP or ICMP exchange is another one after so much silence.
const SILENCE_NS: i64 = 60_000_000_000;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// (protocol, address, port, address, port); ICMP has the identifier of echoes for both ports.
type Tuple = (u8, u32, u16, u32, u16);

#[derive(Default)]
struct Open {
    conn: Conn,
    /// Flags seen from the initiator and from the responder.
    flags: [u8; 2],
    history: String,
}

/// The connections of a capture.
///
/// # Errors
/// Says which file cannot be read.
pub fn connections(path: &Path) -> Result<Vec<Conn>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut open: HashMap<Tuple, Open> = HashMap::new();
    let mut done = Vec::new();
    for (at_ns, link, packet) in packets(path, &bytes)? {
        let Some((tuple, flags, payload)) = ip(link, packet).and_then(read) else { continue };
        let back = (tuple.0, tuple.3, tuple.4, tuple.1, tuple.2);
        let (mut key, mut side) = if open.contains_key(&back) { (back, 1) } else { (tuple, 0) };
        if let Some(known) = open.get(&key) {
            let over = known.flags[0] | known.flags[1];
            let silent = tuple.0 != 6 && at_ns - known.conn.end_ns > SILENCE_NS;
            // A port used again.
            let again = flags & (SYN | ACK) == SYN && over & (FIN | RST) != 0;
            if silent || again {
                done.extend(open.remove(&key).map(ended));
                (key, side) = (tuple, 0);
            }
        }
        let entry = open.entry(key).or_insert_with(|| {
            // Who answers a SYN that nobody saw did not begin.
            let answers = tuple.0 == 6 && flags & (SYN | ACK) == SYN | ACK;
            side = usize::from(answers);
            let (from, from_port, to, to_port) =
                if answers { (tuple.3, tuple.4, tuple.1, tuple.2) } else { (tuple.1, tuple.2, tuple.3, tuple.4) };
            Open {
                conn: Conn {
                    start_ns: at_ns,
                    from: Ipv4Addr::from(from).to_string(),
                    from_port,
                    to: Ipv4Addr::from(to).to_string(),
                    to_port,
                    proto: match tuple.0 {
                        6 => "tcp",
                        17 => "udp",
                        _ => "icmp",
                    },
                    ..Conn::default()
                },
                ..Open::default()
            }
        });
        entry.packet(side, tuple, flags, payload, at_ns);
    }
    done.extend(open.into_values().map(ended));
    done.sort_by(|a, b| {
        (a.start_ns, &a.from, a.from_port, &a.to, a.to_port).cmp(&(b.start_ns, &b.from, b.from_port, &b.to, b.to_port))
    });
    Ok(done)
}

impl Open {
    fn packet(&mut self, side: usize, tuple: Tuple, flags: u8, payload: u64, at_ns: i64) {
        // The side is told by the address once the connection turned round at its beginning.
        let side =
            if self.conn.from == Ipv4Addr::from(tuple.1).to_string() && self.conn.from_port == tuple.2 { 0 } else { side.max(1) };
        self.conn.end_ns = at_ns;
        let letter = match (tuple.0, flags) {
            (6, f) if f & (SYN | ACK) == SYN | ACK => 'h',
            (6, f) if f & SYN != 0 => 's',
            (6, f) if f & RST != 0 => 'r',
            (6, f) if f & FIN != 0 => 'f',
            (6, _) if payload == 0 => 'a',
            _ => 'd',
        };
        let letter = if side == 0 { letter.to_ascii_uppercase() } else { letter };
        if !self.history.contains(letter) {
            self.history.push(letter);
        }
        self.flags[side.min(1)] |= flags;
        if side == 0 {
            self.conn.sent += payload;
            self.conn.packets_sent += 1;
        } else {
            self.conn.received += payload;
            self.conn.packets_received += 1;
        }
    }
}

/// Zeek's word for how it went.
fn ended(open: Open) -> Conn {
    let [ours, theirs] = open.flags;
    let state = match open.conn.proto {
        "tcp" => {
            let (asked, answered) = (ours & SYN != 0, theirs & SYN != 0);
            match (asked, answered) {
                (true, false) if theirs & RST != 0 => "REJ",
                (true, false) if ours & RST != 0 => "RSTOS0",
                (true, false) if ours & FIN != 0 => "SH",
                (true, false) => "S0",
                (true, true) if theirs & RST != 0 => "RSTR",
                (true, true) if ours & RST != 0 => "RSTO",
                (true, true) if ours & theirs & FIN != 0 => "SF",
                (true, true) => "S1",
                (false, true) if theirs & RST != 0 => "RSTRH",
                (false, true) if theirs & FIN != 0 => "SHR",
                (false, _) => "OTH",
            }
        }
        "udp" if open.conn.packets_received > 0 => "SF",
        "udp" => "S0",
        _ => "OTH",
    };
    Conn { state: state.to_owned(), history: open.history, ..open.conn }
}

/// Tuple, TCP flags and octets of payload of an IPv4 packet.
fn read(packet: &[u8]) -> Option<(Tuple, u8, u64)> {
    let first = *packet.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let header = usize::from(first & 15) * 4;
    let total = usize::from(pair(packet, 2)?);
    let (protocol, from, to) = (*packet.get(9)?, word(packet, 12)?, word(packet, 16)?);
    // Later fragments have no ports.
    if pair(packet, 6)? & 0x1fff != 0 {
        return None;
    }
    let body = packet.get(header..)?;
    let length = total.saturating_sub(header);
    match protocol {
        6 => {
            let (flags, offset) = (*body.get(13)?, usize::from(*body.get(12)? >> 4) * 4);
            Some(((6, from, pair(body, 0)?, to, pair(body, 2)?), flags, length.saturating_sub(offset) as u64))
        }
        17 => Some(((17, from, pair(body, 0)?, to, pair(body, 2)?), 0, length.saturating_sub(8) as u64)),
        1 => {
            let echo = pair(body, 4).filter(|_| matches!(body.first(), Some(0 | 8))).unwrap_or(0);
            Some(((1, from, echo, to, echo), 0, length.saturating_sub(8) as u64))
        }
        _ => None,
    }
}

fn pair(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: u32 = 0x0a00_0001;
    const B: u32 = 0x0a00_0002;

    /// A TCP packet over raw IP: seconds, from, to, flags, octets of payload.
    fn packet(at_s: u32, (from, from_port): (u32, u16), (to, to_port): (u32, u16), flags: u8, payload: u16) -> Vec<u8> {
        let total = 40 + payload;
        let mut ip = vec![0x45, 0];
        ip.extend(total.to_be_bytes());
        ip.extend([0, 0, 0, 0, 64, 6, 0, 0]);
        ip.extend(from.to_be_bytes());
        ip.extend(to.to_be_bytes());
        ip.extend(from_port.to_be_bytes());
        ip.extend(to_port.to_be_bytes());
        ip.extend([0; 8]);
        ip.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        ip.resize(usize::from(total), 0);
        let mut out = Vec::new();
        for word in [at_s, 0, ip.len() as u32, ip.len() as u32] {
            out.extend(word.to_le_bytes());
        }
        out.extend(ip);
        out
    }

    fn read_all(packets: &[Vec<u8>]) -> Vec<Conn> {
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0, 0, 0, 65_535, 101] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(packets.concat());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        connections(file.path()).unwrap()
    }

    #[test]
    fn connections_end_as_zeek_would_say() {
        let (a, b) = ((A, 4_000), (B, 80));
        let told = |packets: &[Vec<u8>]| {
            let all = read_all(packets);
            all.iter().map(|c| (c.state.clone(), c.from.clone(), c.sent, c.received)).collect::<Vec<_>>()
        };
        let one = |state: &str, from: &str, sent, received| vec![(state.to_owned(), from.to_owned(), sent, received)];
        assert_eq!(told(&[packet(1, a, b, SYN, 0), packet(4, a, b, SYN, 0)]), one("S0", "10.0.0.1", 0, 0));
        assert_eq!(told(&[packet(1, a, b, SYN, 0), packet(1, b, a, RST | ACK, 0)]), one("REJ", "10.0.0.1", 0, 0));
        let whole = [
            packet(1, a, b, SYN, 0),
            packet(1, b, a, SYN | ACK, 0),
            packet(1, a, b, ACK, 100),
            packet(2, b, a, ACK, 900),
            packet(3, a, b, FIN | ACK, 0),
            packet(3, b, a, FIN | ACK, 0),
        ];
        assert_eq!(told(&whole), one("SF", "10.0.0.1", 100, 900));
        // An answer to what nobody asked: the one who answers did not begin.
        assert_eq!(told(&[packet(1, b, a, SYN | ACK, 0)]), one("OTH", "10.0.0.1", 0, 0));
        // A port that is used again is another connection.
        let mut again = whole.to_vec();
        again.push(packet(9, a, b, SYN, 0));
        assert_eq!(told(&again).len(), 2);
    }
}
