//! The columns of Zeek's logs that rows are made of, by name, and the values of one line. TSV and JSON both fill this; the
//! logs read from it, so each log's meaning is written once.

use super::super::Fault;
use super::super::value::{Scratch, decimal, present, shown};
use super::clock;
use crate::address::Address;
use crate::time::EventTime;

macro_rules! fields {
    ($($field:ident: $name:literal $(| $alias:literal)*;)*) => {
        /// A known column.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Field { $($field,)* }

        impl Field {
            const ALL: &'static [Self] = &[$(Self::$field,)*];

            /// By the name of any writer; `None` for columns that no row needs.
            pub(super) fn by_name(name: &str) -> Option<Self> {
                match name {
                    $($name $(| $alias)* => Some(Self::$field),)*
                    _ => None,
                }
            }

            /// Holds several values: a separator inside one of them stays escaped.
            pub(super) const fn is_set(self) -> bool {
                matches!(self, Self::Answers | Self::CertChainFps)
            }

            /// Zeek's own name.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$field => $name,)* }
            }
        }
    };
}

fields! {
    Ts: "ts" | "@timestamp";
    WriteTs: "_write_ts";
    Path: "_path" | "@stream" | "@path";
    System: "_system_name" | "@system";
    Uid: "uid";
    OrigH: "id.orig_h" | "id_orig_h";
    OrigP: "id.orig_p" | "id_orig_p";
    RespH: "id.resp_h" | "id_resp_h";
    RespP: "id.resp_p" | "id_resp_p";
    Proto: "proto";
    IpProto: "ip_proto";
    Service: "service";
    Duration: "duration";
    OrigBytes: "orig_bytes";
    RespBytes: "resp_bytes";
    ConnState: "conn_state";
    History: "history";
    OrigPkts: "orig_pkts";
    RespPkts: "resp_pkts";
    TransId: "trans_id";
    Rtt: "rtt";
    Query: "query";
    Qtype: "qtype";
    QtypeName: "qtype_name";
    Rcode: "rcode";
    RcodeName: "rcode_name";
    Answers: "answers";
    Version: "version";
    Cipher: "cipher";
    SslHistory: "ssl_history";
    ServerName: "server_name";
    Established: "established";
    CertChainFps: "cert_chain_fps";
    Subject: "subject";
    Issuer: "issuer";
    ValidationStatus: "validation_status";
    Ja3: "ja3";
    Ja4: "ja4";
    Method: "method";
    Host: "host";
    Uri: "uri";
    UserAgent: "user_agent";
    RequestBodyLen: "request_body_len";
    ResponseBodyLen: "response_body_len";
    StatusCode: "status_code";
    Tags: "tags";
}

/// Known columns.
const COUNT: usize = Field::ALL.len();

/// The values of one line; unset and empty ones are absent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    values: [Option<&'a str>; COUNT],
    /// Columns that the line has, set or not.
    seen: u64,
    /// Between the members of a set or vector.
    pub(super) set_separator: u8,
}

// One bit per column.
const _: () = assert!(COUNT <= 64);

impl<'a> Fields<'a> {
    /// None set.
    pub(super) const fn new(set_separator: u8) -> Self {
        Self { values: [None; COUNT], seen: 0, set_separator }
    }

    /// Sets a value; the last one of a name holds.
    #[inline]
    pub(super) fn set(&mut self, field: Field, value: Option<&'a str>) {
        self.values[field as usize] = value.and_then(present);
        self.seen |= 1 << field as u8;
    }

    /// The line has that column.
    pub(super) const fn has(&self, field: Field) -> bool {
        self.seen >> field as u8 & 1 == 1
    }

    /// Text.
    #[inline]
    pub(super) const fn text(&self, field: Field) -> Option<&'a str> {
        self.values[field as usize]
    }

    /// A whole number.
    #[inline]
    pub(super) fn number<T: TryFrom<u64>>(&self, field: Field) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(field) else { return Ok(None) };
        // Some JSON writers print counts as 12.0.
        let digits = text.strip_suffix(".0").unwrap_or(text);
        decimal(digits).map(Some).ok_or_else(|| wrong(field, "a whole number in range", text))
    }

    /// A count that may be larger than its column: the column's highest value then.
    pub(super) fn count(&self, field: Field) -> Result<Option<u64>, Fault> {
        self.number(field)
    }

    /// A truth value.
    pub(super) fn flag(&self, field: Field) -> Result<Option<bool>, Fault> {
        match self.text(field) {
            None => Ok(None),
            Some("T" | "true" | "1") => Ok(Some(true)),
            Some("F" | "false" | "0") => Ok(Some(false)),
            Some(text) => Err(wrong(field, "T or F", text)),
        }
    }

    /// A mandatory address.
    #[inline]
    pub(super) fn address(&self, field: Field) -> Result<Address, Fault> {
        let text = self.text(field).ok_or(Fault::Missing { field: field.name() })?;
        Address::parse(text.as_bytes()).ok_or_else(|| wrong(field, "an address", text))
    }

    /// A port; 0 is none.
    #[inline]
    pub(super) fn port(&self, field: Field) -> Result<Option<u16>, Fault> {
        Ok(self.number(field)?.filter(|&port: &u16| port != 0))
    }

    /// Start of the event; every log has it.
    #[inline]
    pub(super) fn ts(&self) -> Result<EventTime, Fault> {
        self.time(Field::Ts)?.ok_or(Fault::Missing { field: "ts" })
    }

    /// A moment.
    #[inline]
    pub(super) fn time(&self, field: Field) -> Result<Option<EventTime>, Fault> {
        let Some(text) = self.text(field) else { return Ok(None) };
        clock::moment(text).map(Some).ok_or_else(|| wrong(field, "a time", text))
    }

    /// A length of time, ns.
    #[inline]
    pub(super) fn interval(&self, field: Field) -> Result<Option<i64>, Fault> {
        let Some(text) = self.text(field) else { return Ok(None) };
        clock::seconds(text).map(Some).ok_or_else(|| wrong(field, "seconds from 0", text))
    }

    /// A DNS name.
    pub(super) fn name(&self, field: Field, scratch: &Scratch<'a>) -> Result<Option<&'a str>, Fault> {
        self.text(field).map(|text| scratch.dns_name(field.name(), text)).transpose()
    }

    /// Members of a set or vector.
    pub(super) fn members(&self, field: Field) -> impl Iterator<Item = &'a str> {
        let separator = char::from(self.set_separator);
        self.text(field).into_iter().flat_map(move |text| text.split(separator))
    }
}

/// A column holds what it cannot.
#[cold]
pub(super) fn wrong(field: Field, expected: &'static str, got: &str) -> Fault {
    Fault::Field { field: field.name(), expected, got: shown(got.as_bytes()) }
}
