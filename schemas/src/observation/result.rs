//! Results of synthetic tests: what our own probes measured.

use super::table::table;

table! {
    /// A test's result.
    "result" version 2, ResultRow, ResultColumns, ResultBatch;
    canary_type: Dict, "-", "canary_type", "icmp, tcp, http, dns, ...";
    server: Text, "-", "server_address", "the configured target";
    server_port: Opt<U16>, "-", "server_port", "its port";
    peer_address: Opt<Addr>, "-", "network.peer.address", "the address really contacted";
    success: Flag, "-", "success", "the test passed";
    error: Opt<Text>, "-", "error_message", "why it failed";
    start_time: Opt<Time>, "ns", "start_time_unix_nano", "start of the test";
    duration_s: F64, "s", "duration_nano", "how long it took";
    result_id: Opt<Text>, "-", "result_id", "constant over the agent's retries";
    tls_version: Opt<Dict>, "-", "tls.protocol.version", "1.0 .. 1.3";
    attributes: Text, "JSON", "attributes, metrics", "all attributes and metrics, keys sorted";
}
