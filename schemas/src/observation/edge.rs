//! Service edges: cumulative totals of who calls whom, re-sent by the agent at every flush.

use super::table::table;

table! {
    /// An edge of the service map.
    "edge" version 2, EdgeRow, EdgeColumns, EdgeBatch;
    source_name: Dict, "-", "source", "calling workload or address";
    destination_name: Dict, "-", "destination", "called workload or address";
    destination_port: Opt<U16>, "-", "destination_port", "port";
    transport: U8, "IANA", "network_transport", "protocol number";
    connections: U64, "connections", "connections", "total since first_seen";
    bytes: U64, "octets", "bytes", "total since first_seen";
    packets: U64, "packets", "packets", "total since first_seen";
    first_seen: Opt<Time>, "ns", "first_seen_unix_nano", "edge first seen";
    last_seen: Opt<Time>, "ns", "last_seen_unix_nano", "edge last seen";
    l7_protocol: Opt<Dict>, "-", "l7_protocol", "application protocol";
    l7_calls: U64, "calls", "l7_calls", "total calls";
    l7_errors: U64, "calls", "l7_errors", "calls that failed";
}
