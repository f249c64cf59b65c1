//! What has been started and not yet seen: events wait here until their end. [`Out`] is how habits and attacks speak.
//!
//! What always holds: a long connection waits as one entry, however many parts an exporter will report; so the queue holds
//! no more than the connections open at one moment plus what one step of each source starts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::event::{Answer, Connection, DnsEvent, Event, FlowEvent, HttpEvent, Outcome, QueryKind, TlsEvent, Transport};
use crate::random::Random;
use crate::world::{self, Server};

/// Events by end time, ties in the order of their making.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    order: BinaryHeap<Reverse<(i64, u64, u32)>>,
    slots: Vec<Option<Event>>,
    free: Vec<u32>,
    made: u64,
    connections: u64,
    /// Parts of long connections are reported after this long; 0 = never before their end.
    active_timeout_ns: i64,
}

impl Queue {
    pub(crate) fn new(active_timeout_s: u32) -> Self {
        Self { active_timeout_ns: i64::from(active_timeout_s) * SECOND_NS, ..Self::default() }
    }

    /// End of the earliest event.
    pub(crate) fn next_at(&self) -> Option<i64> {
        self.order.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Events that wait.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The earliest event; the rest of a long connection goes back.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        let Reverse((at, _, slot)) = self.order.pop()?;
        let event = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        if let Event::Flow(whole) = event
            && at < whole.end.0
        {
            let (part, rest) = split(whole, at);
            self.push_flow(rest);
            return Some(Event::Flow(part));
        }
        Some(event)
    }

    fn push_flow(&mut self, flow: FlowEvent) {
        let timeout = flow.start.0 + self.active_timeout_ns;
        let at = if self.active_timeout_ns > 0 && timeout < flow.end.0 { timeout } else { flow.end.0 };
        self.push(at, Event::Flow(flow));
    }

    fn push(&mut self, at: i64, event: Event) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                (self.slots.len() - 1) as u32
            }
        };
        self.order.push(Reverse((at, self.made, slot)));
        self.made += 1;
    }
}

/// Cuts a flow at a moment inside it; bytes and packets go by time and add up.
fn split(whole: FlowEvent, at: i64) -> (FlowEvent, FlowEvent) {
    let (passed, all) = ((at - whole.start.0) as u128, (whole.end.0 - whole.start.0) as u128);
    let share = |n: u64| (u128::from(n) * passed / all) as u64;
    let part = FlowEvent {
        end: EventTime(at),
        last: false,
        bytes_sent: share(whole.bytes_sent),
        bytes_received: share(whole.bytes_received),
        packets_sent: share(whole.packets_sent).max(1),
        packets_received: share(whole.packets_received).max(u64::from(whole.packets_received > 1)),
        ..whole
    };
    let rest = FlowEvent {
        start: EventTime(at),
        first: false,
        bytes_sent: whole.bytes_sent - part.bytes_sent,
        bytes_received: whole.bytes_received - part.bytes_received,
        packets_sent: whole.packets_sent.saturating_sub(part.packets_sent).max(1),
        packets_received: whole
            .packets_received
            .saturating_sub(part.packets_received)
            .max(u64::from(whole.bytes_received > part.bytes_received)),
        ..whole
    };
    (part, rest)
}

/// A connection to be made.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub at_ns: i64,
    pub lasts_s: f64,
    pub from: Address,
    pub to: Address,
    pub port: u16,
    pub transport: Transport,
    pub outcome: Outcome,
    pub service: &'static str,
    /// Payload, octets; nothing of it is sent when the connection is not established.
    pub sent: u64,
    pub received: u64,
}

/// One source's step: its random numbers, its place, and the queue.
pub(crate) struct Out<'a> {
    pub seed: u64,
    pub tenant: u16,
    pub office: u16,
    pub attack: Option<u16>,
    pub start_ns: i64,
    pub end_ns: i64,
    pub random: Random,
    pub queue: &'a mut Queue,
}

impl Out<'_> {
    /// Makes a connection.
    pub(crate) fn call(&mut self, call: Call) -> Connection {
        let connection = self.connection(call.from, call.to, call.port, call.transport);
        let tcp = call.transport == Transport::Tcp;
        let (mut lasts_ns, mut outcome) = ((call.lasts_s * SECOND_NS as f64) as i64, call.outcome);
        let (mut sent, mut received) = (call.sent, call.received);
        let (packets_sent, packets_received) = match outcome {
            Outcome::Refused => {
                (lasts_ns, sent, received) = (1_000_000 + self.random.below(60_000_000) as i64, 0, 0);
                (1, 1)
            }
            Outcome::NoReply => {
                received = 0;
                if tcp {
                    // The first packet and two repeats, after 1 s and 2 s more.
                    (lasts_ns, sent) = (3 * SECOND_NS, 0);
                }
                (if tcp { 3 } else { 1 + sent / 1_200 }, 0)
            }
            _ if tcp => (4 + sent / 1_400 + received / 2_800, 3 + received / 1_400 + sent / 2_800),
            _ => (1 + sent / 1_200, 1 + received / 1_200),
        };
        // Sensors count microseconds.
        let start = call.at_ns - call.at_ns.rem_euclid(1_000);
        let mut end = start + (lasts_ns - lasts_ns.rem_euclid(1_000)).max(1_000);
        if end > self.end_ns {
            end = self.end_ns.max(start);
            if outcome == Outcome::Complete {
                outcome = Outcome::Open;
            }
        }
        self.queue.push_flow(FlowEvent {
            connection,
            start: EventTime(start),
            end: EventTime(end),
            outcome,
            first: true,
            last: true,
            service: call.service,
            bytes_sent: sent,
            bytes_received: received,
            packets_sent,
            packets_received,
        });
        connection
    }

    /// Asks the office's resolver; the moment of the answer.
    pub(crate) fn lookup(&mut self, at_ns: i64, from: Address, name: &str, kind: QueryKind, answer: Answer) -> i64 {
        let resolver = world::server(self.office, Server::Resolver);
        let median_s = if self.random.chance(0.6) { 0.002 } else { 0.035 };
        let lasts_s = self.random.log_normal(median_s, 0.5).clamp(0.000_3, 2.0);
        let sent = 12 + name.len() as u64 + 2 + 4 + 11;
        let received = sent
            + match &answer {
                Answer::Address(_) => 16,
                Answer::Text(text) => 13 + text.len() as u64,
                Answer::Empty | Answer::NoName => 70,
            };
        let call = Call {
            at_ns: at_ns.max(self.start_ns),
            lasts_s,
            from,
            to: resolver,
            port: 53,
            transport: Transport::Udp,
            outcome: Outcome::Complete,
            service: "dns",
            sent,
            received,
        };
        let connection = self.call(call);
        let start = call.at_ns - call.at_ns.rem_euclid(1_000);
        let lasts_ns = (lasts_s * SECOND_NS as f64) as i64;
        let end = (start + (lasts_ns - lasts_ns.rem_euclid(1_000)).max(1_000)).min(self.end_ns.max(start));
        let query_id = self.random.below(1 << 16) as u16;
        let name = name.to_owned();
        self.queue.push(
            end,
            Event::Dns(DnsEvent {
                connection,
                start: EventTime(start),
                end: EventTime(end),
                query_id,
                name,
                kind,
                answer,
                bytes_sent: sent,
                bytes_received: received,
            }),
        );
        end
    }

    /// Says that a TLS handshake happened at the begin of a connection.
    pub(crate) fn tls(&mut self, connection: Connection, start_ns: i64, server_name: &str) {
        let at = start_ns + (self.random.between(0.03, 0.14) * SECOND_NS as f64) as i64;
        let (start, at) = (start_ns - start_ns.rem_euclid(1_000), at - at.rem_euclid(1_000));
        if at > self.end_ns {
            return;
        }
        let server_name = server_name.to_owned();
        self.queue.push(at, Event::Tls(TlsEvent { connection, start: EventTime(start), at: EventTime(at), server_name }));
    }

    /// Says that an HTTP exchange happened on a connection.
    pub(crate) fn http(&mut self, mut http: HttpEvent, after_s: f64) {
        let start = http.start.0 - http.start.0.rem_euclid(1_000);
        let at = start + (after_s * SECOND_NS as f64) as i64;
        let at = at - at.rem_euclid(1_000);
        if at > self.end_ns {
            return;
        }
        (http.start, http.at) = (EventTime(start), EventTime(at));
        self.queue.push(at, Event::Http(http));
    }

    /// The call goes to the office's proxy, which is asked to CONNECT to the name. The proxy's own connection to the
    /// outside is not seen: the sensor stands inside.
    pub(crate) fn proxied(&mut self, call: Call, name: &str) {
        let proxy = world::server(self.office, Server::Proxy);
        let connection = self.call(Call { to: proxy, port: 3_128, service: "http", outcome: Outcome::Complete, ..call });
        let refused = call.outcome != Outcome::Complete;
        let http = HttpEvent {
            connection,
            start: EventTime(call.at_ns + 1_000_000),
            at: EventTime(0),
            method: "CONNECT",
            host: name.to_owned(),
            uri: format!("{name}:{}", call.port),
            status: if refused { 503 } else { 200 },
            bytes_sent: 0,
            bytes_received: 0,
        };
        self.http(http, 0.02);
        if !refused {
            self.tls(connection, call.at_ns + 25_000_000, name);
        }
    }

    fn connection(&mut self, initiator: Address, responder: Address, responder_port: u16, transport: Transport) -> Connection {
        self.queue.connections += 1;
        Connection {
            id: self.queue.connections,
            tenant: self.tenant,
            office: self.office,
            attack: self.attack,
            initiator,
            initiator_port: self.random.client_port(),
            responder,
            responder_port,
            transport,
        }
    }
}
