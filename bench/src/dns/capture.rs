//! Look-ups out of packet captures: classic pcap and pcapng, Ethernet or Linux cooked, IPv4, UDP port 53. Queries are
//! paired with their answers by address, port, id and name, and come in the order of time.
//!
//! Not the product's way in: what a sensor would have written, for measuring. A broken packet is left out.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Look;

/// A query without an answer is one of unknown outcome so long after it was sent.
const NO_ANSWER_NS: i64 = 5_000_000_000;
/// Names jump back at most so often.
const JUMPS_MAX: usize = 20;
const PCAPNG: u32 = 0x0a0d_0d0a;

/// The packets of a capture's octets in the order of time: nanoseconds since 1970, link type, octets.
pub fn packets<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<Packet<'a>>> {
    let mut packets = if u32_at(bytes, 0, false) == Some(PCAPNG) { pcapng(bytes) } else { pcap(bytes) }
        .with_context(|| format!("{} is no capture", path.display()))?;
    packets.sort_by_key(|p| p.0);
    Ok(packets)
}

/// Where the IP packet of a captured one begins, by link type; `None` for links that are not known.
pub fn ip(link: u32, packet: &[u8]) -> Option<&[u8]> {
    match link {
        1 => packet.get(14..),
        113 => packet.get(16..),
        276 => packet.get(20..),
        101 => Some(packet),
        _ => None,
    }
}

/// The look-ups of a capture, by the time of their answers.
pub fn read(path: &Path) -> Result<Vec<Look>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let packets = packets(path, &bytes)?;
    let mut waiting: HashMap<(u32, u16, u16, String), Look> = HashMap::new();
    let mut looks = Vec::new();
    for (at_ns, link, packet) in packets {
        let Some((from, from_port, to, to_port, message)) = datagram(link, packet) else { continue };
        let Some(dns) = Message::read(message) else { continue };
        let client = if dns.answers { (to, to_port) } else { (from, from_port) };
        let key = (client.0, client.1, dns.id, dns.name.clone());
        if dns.answers {
            if let Some(mut look) = waiting.remove(&key) {
                look.at_ns = at_ns;
                look.code = Some(dns.code);
                look.answers = dns.texts.join(",");
                look.response_bytes = message.len() as u32;
                looks.push(look);
            }
        } else {
            let asked = Look {
                at_ns,
                host: std::net::Ipv4Addr::from(client.0).to_string(),
                name: dns.name,
                kind: dns.kind,
                code: None,
                answers: String::new(),
                request_bytes: message.len() as u32,
                response_bytes: 0,
            };
            waiting.entry(key).or_insert(asked);
        }
    }
    looks.extend(waiting.into_values().map(|look| Look { at_ns: look.at_ns + NO_ANSWER_NS, ..look }));
    looks.sort_by(|a, b| (a.at_ns, &a.name).cmp(&(b.at_ns, &b.name)));
    Ok(looks)
}

/// Nanoseconds since 1970, link type, octets.
pub type Packet<'a> = (i64, u32, &'a [u8]);

fn pcap(bytes: &[u8]) -> Result<Vec<Packet<'_>>> {
    let magic = u32_at(bytes, 0, false).context("too short")?;
    let (big, nanos) = match magic {
        0xa1b2_c3d4 => (false, false),
        0xa1b2_3c4d => (false, true),
        0xd4c3_b2a1 => (true, false),
        0x4d3c_b2a1 => (true, true),
        other => bail!("unknown magic {other:#x}"),
    };
    let link = u32_at(bytes, 20, big).context("no header")?;
    let (mut at, mut out) = (24, Vec::new());
    while let (Some(s), Some(part), Some(len)) = (u32_at(bytes, at, big), u32_at(bytes, at + 4, big), u32_at(bytes, at + 8, big))
    {
        let Some(packet) = bytes.get(at + 16..at + 16 + len as usize) else { break };
        out.push((i64::from(s) * 1_000_000_000 + i64::from(part) * if nanos { 1 } else { 1_000 }, link, packet));
        at += 16 + len as usize;
    }
    Ok(out)
}

fn pcapng(bytes: &[u8]) -> Result<Vec<Packet<'_>>> {
    let big = u32_at(bytes, 8, false) == Some(0x4d3c_2b1a);
    // Per interface: link type, units a second.
    let mut interfaces: Vec<(u32, i64)> = Vec::new();
    let (mut at, mut out) = (0, Vec::new());
    while let (Some(kind), Some(len)) = (u32_at(bytes, at, big), u32_at(bytes, at + 4, big)) {
        let len = len as usize;
        let Some(block) = bytes.get(at..at + len).filter(|_| len >= 12) else { break };
        match kind {
            1 => interfaces.push((u32::from(u16_of(block, 8, big)), resolution(block, big))),
            6 => {
                let word = |o| i64::from(u32_at(block, o, big).unwrap_or(0));
                let &(link, units) = interfaces.get(word(8) as usize).context("a packet of no interface")?;
                let stamp = (word(12) << 32) | word(16);
                let at_ns = (i128::from(stamp) * 1_000_000_000 / i128::from(units)) as i64;
                if let Some(packet) = block.get(28..28 + word(20) as usize) {
                    out.push((at_ns, link, packet));
                }
            }
            _ => {}
        }
        at += len;
    }
    Ok(out)
}

/// Units a second of an interface: option 9, a power of ten unless its high bit is set.
fn resolution(block: &[u8], big: bool) -> i64 {
    let mut at = 16;
    while at + 4 <= block.len() {
        let (code, len) = (u16_of(block, at, big), usize::from(u16_of(block, at + 2, big)));
        match (code, block.get(at + 4)) {
            (0, _) | (_, None) => break,
            (9, Some(v)) if v & 128 != 0 => return 1 << (v & 63).min(62),
            (9, Some(v)) => return 10_i64.pow(u32::from(*v).min(18)),
            _ => at += 4 + len.div_ceil(4) * 4,
        }
    }
    1_000_000
}

/// UDP of IPv4 with port 53 at one end: from, port, to, port, payload.
fn datagram(link: u32, packet: &[u8]) -> Option<(u32, u16, u32, u16, &[u8])> {
    let ip = ip(link, packet)?;
    let first = *ip.first()?;
    if first >> 4 != 4 || *ip.get(9)? != 17 {
        return None;
    }
    let udp = ip.get(usize::from(first & 15) * 4..)?;
    let (from_port, to_port) = (u16_of(udp, 0, true), u16_of(udp, 2, true));
    (from_port == 53 || to_port == 53).then_some(())?;
    Some((u32_at(ip, 12, true)?, from_port, u32_at(ip, 16, true)?, to_port, udp.get(8..)?))
}

struct Message {
    id: u16,
    answers: bool,
    code: u8,
    name: String,
    kind: u16,
    texts: Vec<String>,
}

impl Message {
    fn read(message: &[u8]) -> Option<Self> {
        let flags = u16_of(message.get(..12)?, 2, true);
        if u16_of(message, 4, true) == 0 {
            return None;
        }
        let (name, end) = name(message, 12)?;
        let kind = u16_of(message.get(end..end + 4)?, 0, true);
        let (mut texts, mut at) = (Vec::new(), end + 4);
        for _ in 0..u16_of(message, 6, true) {
            let Some((text, next)) = record(message, at) else { break };
            texts.extend(text);
            at = next;
        }
        Some(Self { id: u16_of(message, 0, true), answers: flags & 0x8000 != 0, code: (flags & 15) as u8, name, kind, texts })
    }
}

/// Text of a record as a log would write it, and where the next begins.
fn record(message: &[u8], at: usize) -> Option<(Option<String>, usize)> {
    let (_, at) = name(message, at)?;
    let (kind, len) = (u16_of(message.get(at..at + 10)?, 0, true), usize::from(u16_of(message, at + 8, true)));
    let data = message.get(at + 10..at + 10 + len)?;
    let text = match (kind, data) {
        (1, [a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
        (5, _) => name(message, at + 10).map(|(n, _)| n),
        (41, _) => None,
        _ => Some(escaped(data)),
    };
    Some((text, at + 10 + len))
}

/// A name as Zeek writes it: lower case, octets that do not print as `\xNN`.
fn name(message: &[u8], at: usize) -> Option<(String, usize)> {
    let (mut at, mut end, mut jumps, mut out) = (at, None, 0, String::new());
    loop {
        let len = usize::from(*message.get(at)?);
        match len {
            0 => return Some((out.to_ascii_lowercase(), end.unwrap_or(at + 1))),
            64.. => {
                end = end.or(Some(at + 2));
                jumps += 1;
                if jumps > JUMPS_MAX {
                    return None;
                }
                at = (len & 63) << 8 | usize::from(*message.get(at + 1)?);
            }
            _ => {
                if !out.is_empty() {
                    out.push('.');
                }
                out += &escaped(message.get(at + 1..at + 1 + len)?);
                at += 1 + len;
            }
        }
    }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|b| if b.is_ascii_graphic() { char::from(*b).to_string() } else { format!("\\x{b:02x}") }).collect()
}

fn u32_at(bytes: &[u8], at: usize, big: bool) -> Option<u32> {
    let word: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
}

/// 0 beyond the end.
fn u16_of(bytes: &[u8], at: usize, big: bool) -> u16 {
    let pair = |i| u16::from(bytes.get(at + i).copied().unwrap_or(0));
    if big { pair(0) << 8 | pair(1) } else { pair(1) << 8 | pair(0) }
}
