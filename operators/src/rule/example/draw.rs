//! Rows drawn from patterns: the same seed gives the same rows, on every machine.

use std::fmt::Write as _;

use libm::{log, round};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::observation::{DnsRow, FlowRow, HttpRow, Row, TlsRow};
use tidewatch_schemas::time::EventTime;

use super::pattern::{Gaps, Pattern, Piece, Range, Shape, Text};

/// A row with the texts that it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Event time.
    pub at: EventTime,
    from: End,
    to: End,
    what: What,
}

/// An address, or a name.
#[derive(Clone, Debug, Default, PartialEq)]
struct End {
    address: Option<Address>,
    name: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Flow { start: EventTime, source_port: u16, port: u16, out: u64, back: u64, state: String, transport: u8, asn: Option<u32> },
    Dns { query: String, query_type: u16, code: Option<u8>, answers: Option<String>, request: Option<u32>, response: Option<u32> },
    Tls { source_port: u16, port: u16, name: Option<String> },
    Http { source_port: u16, port: u16, host: String, method: String },
}

impl Made {
    /// As a row, not yet filed under a host.
    pub fn row(&self) -> Row<'_> {
        let (from, to) = (&self.from, &self.to);
        match &self.what {
            What::Flow { start, source_port, port, out, back, state, transport, asn } => Row::Flow(FlowRow {
                event_time: self.at,
                start_time: Some(*start),
                end_time: Some(self.at),
                source_address: from.address,
                source_name: from.name.as_deref(),
                source_port: Some(*source_port),
                destination_address: to.address,
                destination_name: to.name.as_deref(),
                destination_port: Some(*port),
                transport: *transport,
                direction_known: true,
                bytes_forward: Some(*out),
                bytes_reverse: Some(*back),
                packets_forward: Some(1 + out / 1_000),
                packets_reverse: Some(back.div_ceil(1_000)),
                sampling_rate: 1,
                connection_state: Some(state),
                destination_asn: *asn,
                ..FlowRow::default()
            }),
            What::Dns { query, query_type, code, answers, request, response } => Row::Dns(DnsRow {
                event_time: self.at,
                client_address: from.address,
                client_name: from.name.as_deref(),
                server_address: to.address,
                server_port: Some(53),
                transport: 17,
                query,
                query_type: *query_type,
                response_code: *code,
                answers: answers.as_deref(),
                answer_count: code.map(|_| answers.as_deref().map_or(0, |a| a.split(',').count() as u16)),
                request_bytes: *request,
                response_bytes: *response,
                ..DnsRow::default()
            }),
            What::Tls { source_port, port, name } => Row::Tls(TlsRow {
                event_time: self.at,
                start_time: Some(self.at),
                source_address: from.address,
                source_port: Some(*source_port),
                destination_address: to.address,
                destination_port: Some(*port),
                server_name: name.as_deref(),
                version: Some("1.3"),
                established: Some(true),
                ..TlsRow::default()
            }),
            What::Http { source_port, port, host, method } => Row::Http(HttpRow {
                event_time: self.at,
                start_time: Some(self.at),
                source_address: from.address,
                source_port: Some(*source_port),
                destination_address: to.address,
                destination_port: Some(*port),
                method: Some(method),
                host: Some(host),
                host_port: Some(*port),
                via_proxy: method == "CONNECT",
                status: Some(200),
                ..HttpRow::default()
            }),
        }
    }
}

/// SplitMix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 up to, not including, 1.
    fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Both bounds included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        match (high - low).checked_add(1) {
            Some(width) => low + self.next() % width,
            None => self.next(),
        }
    }

    fn number(&mut self, range: Range) -> u64 {
        self.between(range.0, range.1)
    }

    fn text(&mut self, text: &Text, n: u32) -> String {
        let mut out = String::new();
        for piece in &text.0 {
            match piece {
                Piece::Fixed(text) => out.push_str(text),
                Piece::Number => {
                    // Writing to a string does not fail.
                    let _ = write!(out, "{n}");
                }
                Piece::Between(low, high) => {
                    let _ = write!(out, "{}", self.between(u64::from(*low), u64::from(*high)));
                }
                Piece::Letters(low, high) => self.characters(b"abcdefghijklmnopqrstuvwxyz", *low, *high, &mut out),
                Piece::Hex(low, high) => self.characters(b"0123456789abcdef", *low, *high, &mut out),
                Piece::OneOf(all) => out.push_str(&all[self.between(0, all.len() as u64 - 1) as usize]),
            }
        }
        out
    }

    fn characters(&mut self, of: &[u8], low: u32, high: u32, out: &mut String) {
        for _ in 0..self.between(u64::from(low), u64::from(high)) {
            out.push(char::from(of[self.between(0, of.len() as u64 - 1) as usize]));
        }
    }

    fn end(&mut self, text: &Text, n: u32) -> End {
        if let Some(address) = text.fixed_address() {
            return End { address: Some(address), name: None };
        }
        let text = self.text(text, n);
        match Address::parse(text.as_bytes()) {
            Some(address) => End { address: Some(address), name: None },
            None => End { address: None, name: (!text.is_empty()).then_some(text) },
        }
    }
}

impl Pattern {
    /// Draws its rows.
    pub(super) fn draw(&self, start: EventTime, seed: u64, out: &mut Vec<Made>) {
        let mut chance = Chance(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut at = start.plus(self.at_ns);
        for n in 1..=self.count {
            if n > 1 {
                let every = self.every_ns as f64;
                let gap = match self.gaps {
                    Gaps::Jitter(0.0) => every,
                    Gaps::Jitter(jitter) => every * (1.0 + jitter * (2.0 * chance.part() - 1.0)),
                    Gaps::Memoryless => -every * log(1.0 - chance.part()),
                };
                at = at.plus(round(gap) as i64);
            }
            let lost = self.lost > 0.0 && chance.part() < self.lost;
            let made = self.one(at, n, &mut chance);
            if !lost {
                out.push(made);
            }
        }
    }

    fn one(&self, at: EventTime, n: u32, chance: &mut Chance) -> Made {
        // One port per connection, as far as there are ports.
        let source_port = 32_768 + (n % 28_000) as u16;
        match &self.shape {
            Shape::Flow { from, to, port, out, back, lasts_ns, state, transport, asn } => Made {
                at: at.plus(*lasts_ns),
                from: chance.end(from, n),
                to: chance.end(to, n),
                what: What::Flow {
                    start: at,
                    source_port,
                    port: chance.number(*port) as u16,
                    out: chance.number(*out),
                    back: chance.number(*back),
                    state: state.clone(),
                    transport: *transport,
                    asn: *asn,
                },
            },
            Shape::Dns { from, query, query_type, code, answers, request, response, server } => Made {
                at,
                from: chance.end(from, n),
                to: server.as_ref().map(|s| chance.end(s, n)).unwrap_or_default(),
                what: What::Dns {
                    query: chance.text(query, n).to_lowercase(),
                    query_type: *query_type,
                    code: *code,
                    answers: answers.as_ref().map(|a| chance.text(a, n)),
                    request: request.map(|r| chance.number(r) as u32),
                    response: response.map(|r| chance.number(r) as u32),
                },
            },
            Shape::Tls { from, to, port, name } => Made {
                at,
                from: chance.end(from, n),
                to: chance.end(to, n),
                what: What::Tls {
                    source_port,
                    port: chance.number(*port) as u16,
                    name: name.as_ref().map(|name| chance.text(name, n).to_lowercase()),
                },
            },
            Shape::Http { from, to, port, host, method } => Made {
                at,
                from: chance.end(from, n),
                to: chance.end(to, n),
                what: What::Http {
                    source_port,
                    port: chance.number(*port) as u16,
                    host: chance.text(host, n).to_lowercase(),
                    method: method.clone(),
                },
            },
        }
    }
}
