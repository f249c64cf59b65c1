//! `probectl.result.v1`: the outcome of one synthetic test.

use std::collections::BTreeMap;

/// One record value of `probectl.network.results`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Result {
    /// Owner.
    #[prost(string, tag = "1")]
    pub tenant_id: String,
    /// Agent that tested.
    #[prost(string, tag = "2")]
    pub agent_id: String,
    /// `icmp` `tcp` `udp` `http` `dns` ...
    #[prost(string, tag = "3")]
    pub canary_type: String,
    /// The configured target.
    #[prost(string, tag = "4")]
    pub server_address: String,
    /// Its port.
    #[prost(uint32, tag = "5")]
    pub server_port: u32,
    /// Transport.
    #[prost(string, tag = "6")]
    pub network_transport: String,
    /// Application protocol.
    #[prost(string, tag = "7")]
    pub network_protocol_name: String,
    /// The test passed.
    #[prost(bool, tag = "8")]
    pub success: bool,
    /// Why not.
    #[prost(string, tag = "9")]
    pub error_message: String,
    /// Start, ns.
    #[prost(int64, tag = "10")]
    pub start_time_unix_nano: i64,
    /// Duration, ns.
    #[prost(int64, tag = "11")]
    pub duration_nano: i64,
    /// Figures.
    #[prost(btree_map = "string, double", tag = "12")]
    pub metrics: BTreeMap<String, f64>,
    /// Further facts.
    #[prost(btree_map = "string, string", tag = "13")]
    pub attributes: BTreeMap<String, String>,
    /// Constant over the agent's retries; may be empty.
    #[prost(string, tag = "14")]
    pub result_id: String,
}

/// Several results; not used on the topics.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResultBatch {
    /// Results.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<Result>,
}
