//! What the generator says happened: connections and what was said inside them. The wire forms ([`crate::probectl`],
//! [`crate::zeek`]) are made from these. Knows the initiator and the outcome of everything; what a sensor would not know is
//! left out by the writer, not here.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::EventTime;

/// One thing a sensor could see.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A connection, or a part of a long one, has ended.
    Flow(FlowEvent),
    /// A DNS query was answered, or given up.
    Dns(DnsEvent),
    /// A TLS handshake is through.
    Tls(TlsEvent),
    /// An HTTP response came.
    Http(HttpEvent),
}

impl Event {
    /// Event time: when it could first be known.
    pub fn at(&self) -> EventTime {
        match self {
            Self::Flow(flow) => flow.end,
            Self::Dns(dns) => dns.end,
            Self::Tls(tls) => tls.at,
            Self::Http(http) => http.at,
        }
    }

    /// The connection it belongs to.
    pub fn connection(&self) -> &Connection {
        match self {
            Self::Flow(flow) => &flow.connection,
            Self::Dns(dns) => &dns.connection,
            Self::Tls(tls) => &tls.connection,
            Self::Http(http) => &http.connection,
        }
    }
}

/// Who spoke with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Number of the connection, unique in its run; events of one connection share it.
    pub id: u64,
    /// Index of the tenant in the plan.
    pub tenant: u16,
    /// Office of the tenant; one collector each.
    pub office: u16,
    /// Index of the attack in the plan that caused it; `None` for ordinary traffic.
    pub attack: Option<u16>,
    /// Who opened it.
    pub initiator: Address,
    /// Port of the initiator.
    pub initiator_port: u16,
    /// Who was called.
    pub responder: Address,
    /// Port called.
    pub responder_port: u16,
    /// Transport.
    pub transport: Transport,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, protocol 6.
    Tcp,
    /// UDP, protocol 17.
    Udp,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both sides spoke and closed.
    Complete,
    /// Refused at once.
    Refused,
    /// No answer at all.
    NoReply,
    /// Established, then reset by the initiator.
    Reset,
    /// Still open when the run ended.
    Open,
}

/// A connection, or the part of one since the exporter's last report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// Who with whom.
    pub connection: Connection,
    /// First packet of this part.
    pub start: EventTime,
    /// Last packet of this part.
    pub end: EventTime,
    /// Outcome of the whole connection.
    pub outcome: Outcome,
    /// Holds the connection's first packet.
    pub first: bool,
    /// Holds the connection's last packet.
    pub last: bool,
    /// What is spoken, as Zeek names it; empty when unknown.
    pub service: &'static str,
    /// Payload from the initiator, octets.
    pub bytes_sent: u64,
    /// Payload from the responder, octets.
    pub bytes_received: u64,
    /// Packets from the initiator.
    pub packets_sent: u64,
    /// Packets from the responder.
    pub packets_received: u64,
}

impl FlowEvent {
    /// Octets on the wire from IP on: (from the initiator, from the responder).
    pub fn ip_bytes(&self) -> (u64, u64) {
        let header = match self.connection.transport {
            Transport::Tcp => 40,
            Transport::Udp => 28,
        };
        (self.bytes_sent + header * self.packets_sent, self.bytes_received + header * self.packets_received)
    }
}

/// Type of a DNS query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Text.
    Txt,
    /// Service location.
    Srv,
    /// Name of an address.
    Ptr,
    /// Another name.
    Cname,
    /// Anything.
    Null,
}

impl QueryKind {
    /// Number and name of the type (IANA).
    pub fn code(self) -> (u16, &'static str) {
        match self {
            Self::A => (1, "A"),
            Self::Aaaa => (28, "AAAA"),
            Self::Txt => (16, "TXT"),
            Self::Srv => (33, "SRV"),
            Self::Ptr => (12, "PTR"),
            Self::Cname => (5, "CNAME"),
            Self::Null => (10, "NULL"),
        }
    }
}

/// What a DNS query brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// NOERROR with an address.
    Address(Address),
    /// NOERROR with a text.
    Text(String),
    /// NOERROR without a record.
    Empty,
    /// NXDOMAIN.
    NoName,
}

/// A DNS query with its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsEvent {
    /// Who asked whom.
    pub connection: Connection,
    /// The query was sent.
    pub start: EventTime,
    /// The answer came.
    pub end: EventTime,
    /// 16-bit id of the query.
    pub query_id: u16,
    /// Name asked, no trailing dot.
    pub name: String,
    /// Type asked.
    pub kind: QueryKind,
    /// What came back.
    pub answer: Answer,
    /// Octets of the query message.
    pub bytes_sent: u64,
    /// Octets of the answer message.
    pub bytes_received: u64,
}

/// A TLS handshake.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsEvent {
    /// The connection it was in.
    pub connection: Connection,
    /// First packet of the connection.
    pub start: EventTime,
    /// Handshake through.
    pub at: EventTime,
    /// Server name asked for.
    pub server_name: String,
}

/// An HTTP request with its response.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpEvent {
    /// The connection it was in.
    pub connection: Connection,
    /// The request was sent.
    pub start: EventTime,
    /// The response came.
    pub at: EventTime,
    /// Method.
    pub method: &'static str,
    /// Host asked for, without port.
    pub host: String,
    /// Path, or `host:port` for CONNECT.
    pub uri: String,
    /// Status of the response.
    pub status: u16,
    /// Octets of the request's body.
    pub bytes_sent: u64,
    /// Octets of the response's body.
    pub bytes_received: u64,
}
