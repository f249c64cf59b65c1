//! `probectl.ebpf.v1`: what an agent sees on its own host: flows, service edges, application calls.

/// One record value of `probectl.ebpf.flows`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FlowBatch {
    /// Flows.
    #[prost(message, repeated, tag = "1")]
    pub flows: Vec<Flow>,
    /// Service edges.
    #[prost(message, repeated, tag = "2")]
    pub edges: Vec<ServiceEdge>,
    /// Application calls.
    #[prost(message, repeated, tag = "3")]
    pub l7_calls: Vec<L7Call>,
}

/// A flow with its process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Flow {
    /// Owner.
    #[prost(string, tag = "1")]
    pub tenant_id: String,
    /// Agent; its host name by default.
    #[prost(string, tag = "2")]
    pub agent_id: String,
    /// Host.
    #[prost(string, tag = "3")]
    pub host: String,
    /// Received by the agent, ns.
    #[prost(int64, tag = "4")]
    pub observed_at_unix_nano: i64,
    /// Local end.
    #[prost(string, tag = "5")]
    pub source_address: String,
    /// Its port.
    #[prost(uint32, tag = "6")]
    pub source_port: u32,
    /// Remote end.
    #[prost(string, tag = "7")]
    pub destination_address: String,
    /// Its port.
    #[prost(uint32, tag = "8")]
    pub destination_port: u32,
    /// `tcp` `udp`.
    #[prost(string, tag = "9")]
    pub network_transport: String,
    /// `ipv4` `ipv6`.
    #[prost(string, tag = "10")]
    pub network_type: String,
    /// Process id.
    #[prost(uint32, tag = "11")]
    pub pid: u32,
    /// Process.
    #[prost(string, tag = "12")]
    pub process_name: String,
    /// Container.
    #[prost(string, tag = "13")]
    pub container_id: String,
    /// Workload.
    #[prost(string, tag = "14")]
    pub workload: String,
    /// Octets; live producers send 0 = unknown.
    #[prost(uint64, tag = "15")]
    pub bytes: u64,
    /// Packets; 0 = unknown.
    #[prost(uint64, tag = "16")]
    pub packets: u64,
    /// `ingress` `egress`; live producers always say egress.
    #[prost(string, tag = "17")]
    pub direction: String,
    /// `established` `close`.
    #[prost(string, tag = "18")]
    pub state: String,
}

/// Cumulative totals of one caller and one service, re-sent at every flush. Has no agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServiceEdge {
    /// Owner.
    #[prost(string, tag = "1")]
    pub tenant_id: String,
    /// Workload or endpoint.
    #[prost(string, tag = "2")]
    pub source: String,
    /// Workload or endpoint.
    #[prost(string, tag = "3")]
    pub destination: String,
    /// Port.
    #[prost(uint32, tag = "4")]
    pub destination_port: u32,
    /// `tcp` `udp`.
    #[prost(string, tag = "5")]
    pub network_transport: String,
    /// Connections since first seen.
    #[prost(uint64, tag = "6")]
    pub connections: u64,
    /// Octets since first seen.
    #[prost(uint64, tag = "7")]
    pub bytes: u64,
    /// Packets since first seen.
    #[prost(uint64, tag = "8")]
    pub packets: u64,
    /// First seen, ns.
    #[prost(int64, tag = "9")]
    pub first_seen_unix_nano: i64,
    /// Last seen, ns.
    #[prost(int64, tag = "10")]
    pub last_seen_unix_nano: i64,
    /// Application protocol.
    #[prost(string, tag = "11")]
    pub l7_protocol: String,
    /// Calls.
    #[prost(uint64, tag = "12")]
    pub l7_calls: u64,
    /// Calls that failed.
    #[prost(uint64, tag = "13")]
    pub l7_errors: u64,
    /// Sum of latencies, ns.
    #[prost(int64, tag = "14")]
    pub l7_latency_sum_nano: i64,
    /// Longest latency, ns.
    #[prost(int64, tag = "15")]
    pub l7_latency_max_nano: i64,
}

/// One application call; DNS travels as one with `protocol` = `dns`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct L7Call {
    /// Owner.
    #[prost(string, tag = "1")]
    pub tenant_id: String,
    /// Agent.
    #[prost(string, tag = "2")]
    pub agent_id: String,
    /// Workload or address.
    #[prost(string, tag = "3")]
    pub source: String,
    /// Workload or address.
    #[prost(string, tag = "4")]
    pub destination: String,
    /// Port.
    #[prost(uint32, tag = "5")]
    pub destination_port: u32,
    /// `http1` `http2` `grpc` `dns` `kafka`.
    #[prost(string, tag = "6")]
    pub protocol: String,
    /// Verb; the query type for dns.
    #[prost(string, tag = "7")]
    pub method: String,
    /// Path; the query name with trailing dot for dns.
    #[prost(string, tag = "8")]
    pub resource: String,
    /// Status; the response code's name for dns.
    #[prost(string, tag = "9")]
    pub status: String,
    /// Failed.
    #[prost(bool, tag = "10")]
    pub error: bool,
    /// Captured inside the TLS library.
    #[prost(bool, tag = "11")]
    pub encrypted: bool,
    /// Start, ns.
    #[prost(int64, tag = "12")]
    pub start_unix_nano: i64,
    /// Until the answer, ns.
    #[prost(int64, tag = "13")]
    pub latency_nano: i64,
    /// Octets.
    #[prost(uint64, tag = "14")]
    pub request_bytes: u64,
    /// Octets.
    #[prost(uint64, tag = "15")]
    pub response_bytes: u64,
}
