//! What expressions may name: columns of the observation tables, and fields of findings under the names that signals
//! publish them by.

use std::sync::Arc;

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampNanosecondArray,
    UInt16Array,
};
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::Kind;
use tidewatch_schemas::observation::table::Column;
use tidewatch_schemas::signal::{Endpoint, Value};
use tidewatch_schemas::time::EventTime;

use crate::operator::{Detector, Field};

/// Columns that say how a row travelled, not what it is: an answer must not depend on them.
const OF_THE_WAY: [&str; 4] = ["key", "primary", "offset", "row"];

/// Columns of a kind of row.
pub fn row_columns(kind: Kind) -> Vec<Column> {
    kind.columns().into_iter().filter(|c| !OF_THE_WAY.contains(&c.name)).collect()
}

/// What an address is.
pub(super) const ADDRESS: DataType = DataType::FixedSizeBinary(16);

/// What a moment is.
pub(super) fn moment() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

/// Fields of every finding, their types in words, and what they mean.
pub const FINDING_FIELDS: &[(&str, &str, &str)] = &[
    ("confidence", "whole number", "0 to 100, before the tenant's view (prevalence) changes it"),
    ("severity", "text", "`info`, `low`, `medium`, `high`, `critical`"),
    ("subject", "text", "the detector's key of what was found: peer, name, port"),
    ("entity.type", "text", "`host`, or `workload` where no address is known"),
    ("entity.id", "text", "the host"),
    ("source.ip", "address", "the host's address"),
    ("source.name", "text", "its name, where no address is known"),
    ("destination.ip", "address", "the other end, where there is one"),
    ("destination.port", "whole number", "its port"),
    ("destination.domain", "text", "the name asked for"),
    ("destination.name", "text", "its workload name"),
    ("first_seen", "time", "first row"),
    ("last_seen", "time", "last row"),
    ("decided_at", "time", "row that decided"),
];

/// Prefix of a detector's own fields.
const EVIDENCE: &str = "evidence.";

/// Fields of a detector's findings with their types. Lists have no column.
pub fn finding_fields(detector: &Detector) -> Vec<(String, DataType)> {
    let of_all = FINDING_FIELDS.iter().map(|(name, ty, _)| {
        let ty = match *ty {
            "whole number" if name.ends_with("port") => DataType::UInt16,
            "whole number" => DataType::Int64,
            "address" => ADDRESS,
            "time" => moment(),
            _ => DataType::Utf8,
        };
        ((*name).to_owned(), ty)
    });
    let own = detector.evidence.iter().filter_map(|(name, field)| {
        let ty = match field {
            Field::Long => DataType::Int64,
            Field::Double => DataType::Float64,
            Field::Text => DataType::Utf8,
            Field::Flag => DataType::Boolean,
            Field::List => return None,
        };
        Some((format!("{EVIDENCE}{name}"), ty))
    });
    of_all.chain(own).collect()
}

/// Findings as a batch of some of their fields. `None` = a field that is none.
pub(super) fn batch(schema: &SchemaRef, findings: &[Finding]) -> Option<RecordBatch> {
    let columns: Option<Vec<ArrayRef>> = schema.fields().iter().map(|f| column(f.name(), f.data_type(), findings)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(findings.len()));
    RecordBatch::try_new_with_options(schema.clone(), columns?, &options).ok()
}

fn column(name: &str, ty: &DataType, findings: &[Finding]) -> Option<ArrayRef> {
    if let Some(own) = name.strip_prefix(EVIDENCE) {
        return evidence(own, ty, findings);
    }
    let texts =
        |of: &dyn Fn(&Finding) -> Option<String>| -> ArrayRef { Arc::new(findings.iter().map(of).collect::<StringArray>()) };
    let times = |of: &dyn Fn(&Finding) -> EventTime| -> ArrayRef {
        let values = findings.iter().map(|f| of(f).0);
        Arc::new(TimestampNanosecondArray::from_iter_values(values).with_timezone("UTC"))
    };
    let source = |of: &dyn Fn(&Endpoint) -> Option<String>| texts(&|f| f.source.as_ref().and_then(of));
    let destination = |of: &dyn Fn(&Endpoint) -> Option<String>| texts(&|f| f.destination.as_ref().and_then(of));
    Some(match name {
        "confidence" => Arc::new(findings.iter().map(|f| Some(i64::from(f.confidence))).collect::<Int64Array>()),
        "severity" => texts(&|f| Some(f.severity.name().to_owned())),
        "subject" => texts(&|f| Some(f.subject.clone())),
        "entity.type" => texts(&|f| Some(f.entity.kind.clone())),
        "entity.id" => texts(&|f| Some(f.entity.id.clone())),
        "source.ip" => addresses(findings, |f| f.source.as_ref()),
        "source.name" => source(&|e| e.name.clone()),
        "destination.ip" => addresses(findings, |f| f.destination.as_ref()),
        "destination.port" => {
            Arc::new(findings.iter().map(|f| f.destination.as_ref().and_then(|d| d.port)).collect::<UInt16Array>())
        }
        "destination.domain" => destination(&|e| e.domain.clone()),
        "destination.name" => destination(&|e| e.name.clone()),
        "first_seen" => times(&|f| f.first_seen),
        "last_seen" => times(&|f| f.last_seen),
        "decided_at" => times(&|f| f.decided_at),
        _ => return None,
    })
}

fn addresses(findings: &[Finding], end: impl Fn(&Finding) -> Option<&Endpoint>) -> ArrayRef {
    let mut out = FixedSizeBinaryBuilder::new(16);
    for finding in findings {
        let ip = end(finding).and_then(|e| e.ip.as_deref());
        match ip.and_then(|ip| Address::parse(ip.as_bytes())) {
            // Refused only where it is not 16 bytes wide.
            Some(address) => drop(out.append_value(address.0)),
            None => out.append_null(),
        }
    }
    Arc::new(out.finish())
}

fn evidence(name: &str, ty: &DataType, findings: &[Finding]) -> Option<ArrayRef> {
    let values = findings.iter().map(|f| f.evidence.get(name));
    Some(match ty {
        DataType::Int64 => Arc::new(
            values
                .map(|v| match v {
                    Some(Value::Long(v)) => Some(*v),
                    _ => None,
                })
                .collect::<Int64Array>(),
        ),
        DataType::Float64 => Arc::new(
            values
                .map(|v| match v {
                    Some(Value::Double(v)) => Some(*v),
                    Some(Value::Long(v)) => Some(*v as f64),
                    _ => None,
                })
                .collect::<Float64Array>(),
        ),
        DataType::Boolean => Arc::new(
            values
                .map(|v| match v {
                    Some(Value::Flag(v)) => Some(*v),
                    _ => None,
                })
                .collect::<BooleanArray>(),
        ),
        DataType::Utf8 => Arc::new(
            values
                .map(|v| match v {
                    Some(Value::Text(v)) => Some(v.as_str()),
                    _ => None,
                })
                .collect::<StringArray>(),
        ),
        _ => return None,
    })
}
