//! `probectl.flow.v1`: flow records as exporters send them, field numbers as on the wire. Only the message: the hot path
//! reads the bytes without it ([`crate::wire`]).

/// One record value of `probectl.flow.events`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FlowBatch {
    /// Records, at most about 1,000.
    #[prost(message, repeated, tag = "1")]
    pub flows: Vec<FlowRecord>,
}

/// One exported flow record (one direction).
#[derive(Clone, PartialEq, prost::Message)]
pub struct FlowRecord {
    /// Owner.
    #[prost(string, tag = "1")]
    pub tenant_id: String,
    /// Collector.
    #[prost(string, tag = "2")]
    pub agent_id: String,
    /// Router or switch.
    #[prost(string, tag = "3")]
    pub exporter_address: String,
    /// NetFlow v9 source id, IPFIX domain, sFlow sub-agent.
    #[prost(uint32, tag = "4")]
    pub observation_domain: u32,
    /// `netflow5` `netflow9` `ipfix` `sflow5`.
    #[prost(string, tag = "5")]
    pub flow_protocol: String,
    /// Received by the collector, ns.
    #[prost(int64, tag = "6")]
    pub observed_at_unix_nano: i64,
    /// First packet, exporter's clock, ns; 0 = unknown.
    #[prost(int64, tag = "7")]
    pub start_unix_nano: i64,
    /// Last packet, exporter's clock, ns; 0 = unknown.
    #[prost(int64, tag = "8")]
    pub end_unix_nano: i64,
    /// Sender.
    #[prost(string, tag = "9")]
    pub source_address: String,
    /// Its port; 0 = none.
    #[prost(uint32, tag = "10")]
    pub source_port: u32,
    /// Receiver.
    #[prost(string, tag = "11")]
    pub destination_address: String,
    /// Its port; 0 = none.
    #[prost(uint32, tag = "12")]
    pub destination_port: u32,
    /// `tcp` `udp` `icmp` or the decimal protocol number.
    #[prost(string, tag = "13")]
    pub network_transport: String,
    /// `ipv4` `ipv6`.
    #[prost(string, tag = "14")]
    pub network_type: String,
    /// SNMP ifIndex.
    #[prost(uint32, tag = "15")]
    pub input_interface: u32,
    /// SNMP ifIndex.
    #[prost(uint32, tag = "16")]
    pub output_interface: u32,
    /// VLAN id.
    #[prost(uint32, tag = "17")]
    pub vlan: u32,
    /// The TOS byte.
    #[prost(uint32, tag = "18")]
    pub tos: u32,
    /// OR of all flags.
    #[prost(uint32, tag = "19")]
    pub tcp_flags: u32,
    /// Next router.
    #[prost(string, tag = "20")]
    pub next_hop: String,
    /// Octets as exported.
    #[prost(uint64, tag = "21")]
    pub bytes: u64,
    /// Packets as exported.
    #[prost(uint64, tag = "22")]
    pub packets: u64,
    /// 1 in n; 1 = every packet.
    #[prost(uint64, tag = "23")]
    pub sampling_rate: u64,
    /// Octets times rate; 0 = see `bytes`.
    #[prost(uint64, tag = "24")]
    pub bytes_scaled: u64,
    /// Packets times rate; 0 = see `packets`.
    #[prost(uint64, tag = "25")]
    pub packets_scaled: u64,
    /// As asserted by the exporter.
    #[prost(uint32, tag = "26")]
    pub source_asn: u32,
    /// Name of that AS.
    #[prost(string, tag = "27")]
    pub source_as_name: String,
    /// ISO 3166-1 alpha-2.
    #[prost(string, tag = "28")]
    pub source_country: String,
    /// As asserted by the exporter.
    #[prost(uint32, tag = "29")]
    pub destination_asn: u32,
    /// Name of that AS.
    #[prost(string, tag = "30")]
    pub destination_as_name: String,
    /// ISO 3166-1 alpha-2.
    #[prost(string, tag = "31")]
    pub destination_country: String,
}
