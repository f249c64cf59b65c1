//! `probectl.bgp.v1`: routing events as the BGP watcher judged them.

/// One record value of `probectl.bgp.events`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BgpEvent {
    /// Owner.
    #[prost(string, tag = "1")]
    pub tenant_id: String,
    /// What happened.
    #[prost(enumeration = "EventType", tag = "2")]
    pub event_type: i32,
    /// How bad.
    #[prost(enumeration = "Severity", tag = "3")]
    pub severity: i32,
    /// 0 to 1.
    #[prost(double, tag = "4")]
    pub confidence: f64,
    /// CIDR.
    #[prost(string, tag = "5")]
    pub prefix: String,
    /// Origin now.
    #[prost(uint32, tag = "6")]
    pub new_origin_asn: u32,
    /// Origin before; 0 = none.
    #[prost(uint32, tag = "7")]
    pub old_origin_asn: u32,
    /// Path now, nearest peer first.
    #[prost(uint32, repeated, tag = "8")]
    pub new_as_path: Vec<u32>,
    /// Path before.
    #[prost(uint32, repeated, tag = "9")]
    pub old_as_path: Vec<u32>,
    /// Allowed origins.
    #[prost(uint32, repeated, tag = "10")]
    pub expected_origins: Vec<u32>,
    /// Validity of the origin.
    #[prost(enumeration = "RpkiStatus", tag = "11")]
    pub rpki_status: i32,
    /// Route collector.
    #[prost(string, tag = "12")]
    pub collector: String,
    /// Peer that said so.
    #[prost(uint32, tag = "13")]
    pub peer_asn: u32,
    /// Its address.
    #[prost(string, tag = "14")]
    pub peer_address: String,
    /// One sentence.
    #[prost(string, tag = "15")]
    pub message: String,
    /// Detected, ns.
    #[prost(int64, tag = "16")]
    pub detected_at_unix_nano: i64,
}

/// Several events; not used on the topics.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BgpEventBatch {
    /// Events.
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<BgpEvent>,
}

/// What happened to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EventType {
    /// Not said.
    Unspecified = 0,
    /// Another origin.
    OriginChange = 1,
    /// An origin that is not allowed.
    PossibleHijack = 2,
    /// A path that should not exist.
    PossibleLeak = 3,
    /// RPKI says invalid.
    RpkiInvalid = 4,
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Severity {
    /// Not said.
    Unspecified = 0,
    /// For information.
    Info = 1,
    /// Look at it.
    Warning = 2,
    /// Act.
    Critical = 3,
}

/// Validity of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RpkiStatus {
    /// Not said.
    Unspecified = 0,
    /// Valid.
    Valid = 1,
    /// Invalid.
    Invalid = 2,
    /// No ROA.
    NotFound = 3,
    /// Not checked.
    Unknown = 4,
}
