//! Control records: everything besides rows that can change a task's answer. Marks of time with the roster of inputs,
//! versions of rules and tables, snapshots that have become current.
//!
//! JSON, so that `tap` shows them and a newer binary reads an older one's: `{"v":1,"record":"mark","body":{...}}`.
//! Unknown fields are passed over; an incompatible change raises `v`, which an older binary refuses. Times are event
//! time in nanoseconds. Equal records give equal bytes.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};

use crate::time::EventTime;

/// Version of the envelope that this binary writes.
pub const CONTROL_VERSION: u32 = 1;

/// Largest control record, bytes: below the 1 MiB of a topic's record, with room for key and headers.
pub const CONTROL_BYTES_MAX: usize = 1_000_000;

/// Partitions of all inputs of a roster together, at most: five times what one Kafka broker is advised to hold.
pub const ROSTER_PARTITIONS_MAX: u32 = 20_000;

/// An input partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InputRef {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
}

/// Why a watermark moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Rows came.
    Rows,
    /// The partition is at its end and nothing came for a while.
    Silence,
    /// The input has ended: no row will come.
    End,
    /// The partition was added to the roster.
    Join,
    /// The partition was taken off the roster.
    Leave,
}

/// One input topic of the roster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RosterInput {
    /// Topic.
    pub topic: String,
    /// Its partition count.
    pub partitions: u32,
    /// Tenant whose own lane it is; `None` = shared by all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
}

/// The inputs that a slice waits for. A higher epoch replaces a lower one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Grows with every change.
    pub epoch: u64,
    /// Inputs, sorted by topic: [`Roster::new`] sees to it. At most [`ROSTER_PARTITIONS_MAX`] partitions are read.
    #[serde(deserialize_with = "bounded")]
    pub inputs: Vec<RosterInput>,
}

/// Whoever reads a roster walks its partitions, so their number cannot be the writer's word alone.
fn bounded<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<RosterInput>, D::Error> {
    let inputs = Vec::<RosterInput>::deserialize(from)?;
    let partitions = inputs.iter().fold(0u32, |sum, input| sum.saturating_add(input.partitions));
    if partitions > ROSTER_PARTITIONS_MAX {
        return Err(D::Error::custom(format_args!("{partitions} partitions, at most {ROSTER_PARTITIONS_MAX} can be read")));
    }
    Ok(inputs)
}

impl Roster {
    /// Sorted, each topic once (the first of equal topics stays).
    pub fn new(epoch: u64, mut inputs: Vec<RosterInput>) -> Self {
        inputs.sort();
        inputs.dedup_by(|a, b| a.topic == b.topic);
        Self { epoch, inputs }
    }

    /// Every input partition with its lane, sorted.
    pub fn partitions(&self) -> impl Iterator<Item = (InputRef, Option<&str>)> {
        self.inputs.iter().flat_map(|input| {
            let lane = input.lane.as_deref();
            (0..input.partitions).map(move |partition| (InputRef { topic: input.topic.clone(), partition }, lane))
        })
    }
}

/// Normalize to detect: no row of this input partition at or below the watermark will follow in this partition of `obs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Whose watermark.
    pub input: InputRef,
    /// Tenant whose own lane the input is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// The watermark.
    pub watermark: EventTime,
    /// Why it moved.
    pub cause: Cause,
    /// The next input offset: the mark speaks of everything before it.
    pub input_offset: i64,
    /// Inputs known to the writer.
    pub roster: Roster,
}

/// Detect to correlate: every slice that ends at or before these times is closed in that partition of `obs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageMark {
    /// Partition of `obs`.
    pub partition: u32,
    /// Partition count of `obs`.
    pub partitions: u32,
    /// For tenants without a lane.
    pub closed_shared: EventTime,
    /// For tenants with one.
    #[serde(default)]
    pub closed_lanes: BTreeMap<String, EventTime>,
    /// Nothing will follow.
    pub ended: bool,
}

/// A version of rules, intelligence or a table, and the event time from which it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `rules`, ...
    pub what: String,
    /// Name of the set.
    pub id: String,
    /// BLAKE3 of the content, hex: several reloads of one content are one version.
    pub hash: String,
    /// Rows from here on are judged by it.
    pub from: EventTime,
    /// The set itself, in its own form.
    pub content: String,
}

/// A snapshot that has become current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Id.
    pub id: String,
    /// Path below the snapshot store's URL.
    pub url_path: String,
    /// Lowest offset that holds a row of an open slice: re-processing starts here.
    pub replay_offset: i64,
    /// Offset up to which the task had read.
    pub position: i64,
}

/// What can be wrong with a control record.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Larger than [`CONTROL_BYTES_MAX`].
    #[error("control record of {got} bytes exceeds {CONTROL_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        got: usize,
    },
    /// Another record than expected.
    #[error("expected a {expected} record, got {got}")]
    Record {
        /// Expected.
        expected: &'static str,
        /// Got, at most 80 characters.
        got: String,
    },
    /// Written by a newer binary in a way that this one cannot read.
    #[error("control record of version {got}, this binary reads up to {CONTROL_VERSION}")]
    Newer {
        /// Its version.
        got: u32,
    },
    /// Not the JSON it should be.
    #[error("not a control record: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Envelope<R, B> {
    v: u32,
    record: R,
    body: B,
}

#[derive(Deserialize)]
struct Head {
    v: u32,
    record: String,
}

macro_rules! control_records {
    ($($record:ident, $name:literal;)*) => {
        $(impl $record {
            /// Name in the envelope.
            pub const NAME: &'static str = $name;

            /// Bytes of the record; [`ControlError::TooLarge`] when the topic would not take them.
            pub fn encode(&self) -> Result<Vec<u8>, ControlError> {
                encode(Self::NAME, self)
            }

            /// Reads a record. Hostile bytes give an error.
            pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
                decode(Self::NAME, bytes)
            }
        })*
    };
}

control_records! {
    Mark, "mark";
    StageMark, "stage-mark";
    Version, "version";
    SnapshotRef, "snapshot";
}

fn encode<B: Serialize>(name: &str, body: &B) -> Result<Vec<u8>, ControlError> {
    let bytes = serde_json::to_vec(&Envelope { v: CONTROL_VERSION, record: name, body })?;
    check_size(&bytes)?;
    Ok(bytes)
}

fn decode<B: DeserializeOwned>(name: &'static str, bytes: &[u8]) -> Result<B, ControlError> {
    check_size(bytes)?;
    let head: Head = serde_json::from_slice(bytes)?;
    if head.record != name {
        return Err(ControlError::Record { expected: name, got: head.record.chars().take(80).collect() });
    }
    if head.v > CONTROL_VERSION {
        return Err(ControlError::Newer { got: head.v });
    }
    let envelope: Envelope<String, B> = serde_json::from_slice(bytes)?;
    Ok(envelope.body)
}

fn check_size(bytes: &[u8]) -> Result<(), ControlError> {
    if bytes.len() > CONTROL_BYTES_MAX { Err(ControlError::TooLarge { got: bytes.len() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use expect_test::expect;

    use super::*;

    fn mark() -> Mark {
        Mark {
            input: InputRef { topic: "probectl.flow.events".into(), partition: 3 },
            lane: Some("acme".into()),
            watermark: EventTime(1_780_574_400_000_000_000),
            cause: Cause::Rows,
            input_offset: 1389,
            roster: Roster::new(
                2,
                vec![
                    RosterInput { topic: "probectl.flow.events".into(), partitions: 8, lane: None },
                    RosterInput { topic: "acme.flow".into(), partitions: 1, lane: Some("acme".into()) },
                ],
            ),
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn forms_are_pinned_and_read_back() {
        let bytes = mark().encode().unwrap();
        assert_eq!(Mark::decode(&bytes).unwrap(), mark());
        expect![[r#"{"v":1,"record":"mark","body":{"input":{"topic":"probectl.flow.events","partition":3},"lane":"acme","watermark":1780574400000000000,"cause":"rows","input_offset":1389,"roster":{"epoch":2,"inputs":[{"topic":"acme.flow","partitions":1,"lane":"acme"},{"topic":"probectl.flow.events","partitions":8}]}}}"#]].assert_eq(&text(bytes));

        let stage = StageMark {
            partition: 0,
            partitions: 2,
            closed_shared: EventTime::MIN,
            closed_lanes: BTreeMap::from([("acme".into(), EventTime::MAX)]),
            ended: true,
        };
        let bytes = stage.encode().unwrap();
        assert_eq!(StageMark::decode(&bytes).unwrap(), stage);
        expect![[r#"{"v":1,"record":"stage-mark","body":{"partition":0,"partitions":2,"closed_shared":-9223372036854775808,"closed_lanes":{"acme":9223372036854775807},"ended":true}}"#]].assert_eq(&text(bytes));

        let version = Version {
            what: "rules".into(),
            id: "default".into(),
            hash: "ab".into(),
            from: EventTime(5),
            content: "a: 1\n".into(),
        };
        let bytes = version.encode().unwrap();
        assert_eq!(Version::decode(&bytes).unwrap(), version);
        expect![[r#"{"v":1,"record":"version","body":{"what":"rules","id":"default","hash":"ab","from":5,"content":"a: 1\n"}}"#]]
            .assert_eq(&text(bytes));

        let snapshot = SnapshotRef { id: "s1".into(), url_path: "detect/0/s1".into(), replay_offset: 10, position: 20 };
        let bytes = snapshot.encode().unwrap();
        assert_eq!(SnapshotRef::decode(&bytes).unwrap(), snapshot);
        expect![[r#"{"v":1,"record":"snapshot","body":{"id":"s1","url_path":"detect/0/s1","replay_offset":10,"position":20}}"#]]
            .assert_eq(&text(bytes));
    }

    #[test]
    fn unknown_fields_are_passed_over_and_newer_versions_refused() {
        let line = text(mark().encode().unwrap());
        let more = line.replacen("\"watermark\"", "\"new\":[1],\"watermark\"", 1).replacen("{\"v\":1", "{\"z\":0,\"v\":1", 1);
        assert_eq!(Mark::decode(more.as_bytes()).unwrap(), mark());
        let newer = line.replacen("\"v\":1", "\"v\":2", 1);
        assert!(matches!(Mark::decode(newer.as_bytes()), Err(ControlError::Newer { got: 2 })));
        assert!(matches!(Version::decode(line.as_bytes()), Err(ControlError::Record { expected: "version", .. })));
    }

    #[test]
    fn hostile_bytes_and_sizes_are_refused() {
        for bytes in [&b""[..], b"{}", b"null", b"\xff", b"{\"v\":1,\"record\":\"mark\",\"body\":{}}"] {
            assert!(Mark::decode(bytes).is_err());
        }
        let nested = format!("{{\"v\":1,\"record\":\"mark\",\"body\":{}", "[".repeat(100_000));
        assert!(Mark::decode(nested.as_bytes()).is_err());
        let large = Version {
            what: "rules".into(),
            id: "x".into(),
            hash: String::new(),
            from: EventTime(0),
            content: "x".repeat(CONTROL_BYTES_MAX),
        };
        assert!(matches!(large.encode(), Err(ControlError::TooLarge { .. })));
        assert!(matches!(Mark::decode(&vec![b' '; CONTROL_BYTES_MAX + 1]), Err(ControlError::TooLarge { .. })));
    }

    #[test]
    fn a_roster_of_too_many_partitions_is_refused() {
        let line = text(mark().encode().unwrap());
        for partitions in ["20000", "4294967295"] {
            let many = line.replacen("\"partitions\":8", &format!("\"partitions\":{partitions}"), 1);
            assert!(Mark::decode(many.as_bytes()).is_err(), "{partitions}");
        }
        let most = line.replacen("\"partitions\":8", "\"partitions\":19999", 1);
        assert!(Mark::decode(most.as_bytes()).is_ok());
    }

    #[test]
    fn a_roster_is_sorted_and_lists_its_partitions() {
        let roster = mark().roster;
        let all: Vec<_> = roster.partitions().collect();
        assert_eq!(all.len(), 9);
        assert_eq!(all[0], (InputRef { topic: "acme.flow".into(), partition: 0 }, Some("acme")));
        assert!(all.is_sorted_by_key(|(input, _)| input.clone()));
    }
}
