//! Flows: who exchanged bytes with whom. One row is one exported record, not yet one connection; the door of detect
//! infers the initiator and merges active time-outs.

use super::table::table;

table! {
    /// A flow record.
    "flow" version 2, FlowRow, FlowColumns, FlowBatch;
    start_time: Opt<Time>, "ns", "start_unix_nano; Zeek ts", "first packet, where the source tells it";
    end_time: Opt<Time>, "ns", "end_unix_nano; Zeek ts + duration", "last packet, where the source tells it";
    source_address: Opt<Addr>, "-", "source_address; id.orig_h", "sender of the forward direction; the initiator when direction_known";
    source_port: Opt<U16>, "-", "source_port; id.orig_p", "its port; absent for ICMP and where the source has none (0)";
    source_name: Opt<Dict>, "-", "workload", "workload name of the source";
    source_class: U8, "class", "computed", "address class, see AddressClass";
    destination_address: Opt<Addr>, "-", "destination_address; id.resp_h", "receiver of the forward direction";
    destination_port: Opt<U16>, "-", "destination_port; id.resp_p", "its port";
    destination_name: Opt<Dict>, "-", "workload", "workload name of the destination";
    destination_class: U8, "class", "computed", "address class, see AddressClass";
    transport: U8, "IANA", "network_transport; proto", "protocol number";
    direction_known: Flag, "-", "format", "true when the source names the initiator";
    bytes_forward: Opt<U64>, "octets", "bytes_scaled else bytes; orig_bytes", "source to destination, scaled by sampling";
    bytes_reverse: Opt<U64>, "octets", "resp_bytes", "destination to source; absent for one-way sources";
    packets_forward: Opt<U64>, "packets", "packets_scaled else packets; orig_pkts", "source to destination";
    packets_reverse: Opt<U64>, "packets", "resp_pkts", "destination to source";
    sampling_rate: U32, "1 in n", "sampling_rate", "1 = every packet";
    sampled_packet: Flag, "-", "flow_protocol", "true when the row is one sampled packet: equal rows are two events";
    tcp_flags: Opt<U8>, "bits", "tcp_flags; history", "OR of the flags seen: FIN 1 SYN 2 RST 4 PSH 8 ACK 16 URG 32";
    connection_state: Opt<Dict>, "-", "conn_state; state", "Zeek's letters: S0 REJ SF S1 RSTO ...";
    service: Opt<Dict>, "-", "service", "application protocol where the source knows it";
    destination_asn: Opt<U32>, "AS number", "destination_asn", "as asserted by the exporter";
    process_name: Opt<Dict>, "-", "process_name", "process that opened it";
    uid: Opt<Text>, "-", "uid", "the source's own connection id; joins Zeek's logs";
}
