//! A row as people and scripts read it: a JSON object with the table's own column names. Absent columns are left out,
//! times are RFC 3339, addresses are text. For display and files; the log carries columns.

use serde_json::Value;

use super::Row;
use super::cell::{Addr, Cell, Dict, Flag, Number, Opt, Text};
use crate::address::Address;
use crate::time::EventTime;

/// A row as a JSON object; columns in alphabetical order, absent and empty ones left out.
pub fn describe(row: &Row<'_>) -> Value {
    Value::Object(row.describe())
}

/// A cell's value as JSON; `None` leaves the column out.
pub(super) trait Describe: Cell {
    /// The value.
    fn describe(value: Self::Value<'_>) -> Option<Value>;
}

/// A number's value as JSON.
pub(super) trait Plain {
    /// The value.
    fn plain(self) -> Value;
}

macro_rules! plain {
    ($($number:ty),*) => { $(impl Plain for $number {
        fn plain(self) -> Value { self.into() }
    })* };
}
// A double that is not finite becomes null; the tables hold none.
plain!(u8, u16, u32, u64, i64, f64);

impl Plain for EventTime {
    fn plain(self) -> Value {
        self.to_rfc3339().into()
    }
}

impl<N: Number<Rust: Plain>> Describe for N {
    fn describe(value: N::Rust) -> Option<Value> {
        Some(value.plain())
    }
}

impl<N: Number<Rust: Plain>> Describe for Opt<N> {
    fn describe(value: Option<N::Rust>) -> Option<Value> {
        value.map(Plain::plain)
    }
}

impl Describe for Flag {
    fn describe(value: bool) -> Option<Value> {
        Some(value.into())
    }
}

impl Describe for Opt<Flag> {
    fn describe(value: Option<bool>) -> Option<Value> {
        value.map(Value::from)
    }
}

impl Describe for Opt<Addr> {
    fn describe(value: Option<Address>) -> Option<Value> {
        value.map(|address| address.to_string().into())
    }
}

macro_rules! text {
    ($($cell:ty),*) => { $(
        impl Describe for $cell {
            fn describe(value: &str) -> Option<Value> {
                (!value.is_empty()).then(|| value.into())
            }
        }
        impl Describe for Opt<$cell> {
            fn describe(value: Option<&str>) -> Option<Value> {
                value.filter(|v| !v.is_empty()).map(Value::from)
            }
        }
    )* };
}
text!(Text, Dict);

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::{FlowRow, Kind};
    use super::*;

    #[test]
    fn a_row() {
        let row = Row::Flow(FlowRow {
            tenant: "t1",
            event_time: EventTime::from_secs(1_780_574_400),
            source_address: Some(Address::v4([10, 0, 0, 5])),
            source_port: Some(51514),
            bytes_forward: Some(0),
            transport: 6,
            ..FlowRow::default()
        });
        expect![[r#"{"bytes_forward":0,"destination_class":0,"direction_known":false,"event_time":"2026-06-04T12:00:00Z","key":0,"offset":0,"primary":false,"row":0,"sampled_packet":false,"sampling_rate":0,"source_address":"10.0.0.5","source_class":0,"source_port":51514,"tenant":"t1","transport":6}"#]]
        .assert_eq(&describe(&row).to_string());
    }

    #[test]
    fn names_are_columns() {
        for kind in Kind::ALL {
            let columns = kind.columns();
            let row = match kind {
                Kind::Flow => Row::Flow(FlowRow::default()),
                Kind::Dns => Row::Dns(super::super::DnsRow::default()),
                Kind::Tls => Row::Tls(super::super::TlsRow::default()),
                Kind::Http => Row::Http(super::super::HttpRow::default()),
                Kind::Edge => Row::Edge(super::super::EdgeRow::default()),
                Kind::Result => Row::Result(super::super::ResultRow::default()),
            };
            let described = row.describe();
            assert!(described.keys().all(|name| columns.iter().any(|c| c.name == name)), "{described:?}");
            assert!(
                columns
                    .iter()
                    .all(|c| c.nullable || c.kind == "text" || c.kind == "dictionary" || described.contains_key(c.name))
            );
        }
    }
}
