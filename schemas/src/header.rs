//! Header names of internal records, and the one header that says what a record is. Pure names; nothing here reads a value.

use crate::observation::Kind;

/// Says what the record holds: [`RecordType`] as text.
pub const RECORD: &str = "tw-record";
/// On observation batches: the input the rows came from, `topic/partition`.
pub const INPUT: &str = "tw-input";
/// On records of a replay or a backtest: the run. Destinations skip them unless told otherwise.
pub const RUN_ID: &str = "tw-run-id";

/// What an internal record holds. As text `name/version`: `flow/1`, `mark/1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// A batch of observations of that kind and table version.
    Observations(Kind, u16),
    /// [`crate::control::Mark`].
    Mark,
    /// [`crate::control::StageMark`].
    StageMark,
    /// [`crate::control::Version`].
    Version,
    /// [`crate::control::SnapshotRef`].
    Snapshot,
    /// [`crate::finding::Finding`].
    Finding,
    /// [`crate::finding::Contacts`].
    Contacts,
}

/// All but observations, with their names. A test holds them apart from the kinds of observation.
const OTHERS: [(RecordType, &str); 6] = [
    (RecordType::Mark, "mark/1"),
    (RecordType::StageMark, "stage-mark/1"),
    (RecordType::Version, "version/1"),
    (RecordType::Snapshot, "snapshot/1"),
    (RecordType::Finding, "finding/1"),
    (RecordType::Contacts, "contacts/1"),
];

impl RecordType {
    /// Value of the [`RECORD`] header.
    pub fn to_header(self) -> String {
        match self {
            Self::Observations(kind, version) => format!("{}/{version}", kind.name()),
            other => OTHERS.iter().find(|(r, _)| *r == other).map_or("", |(_, name)| name).to_owned(),
        }
    }

    /// Reads the [`RECORD`] header. `None` for anything this binary does not know, newer versions among them; for
    /// observations the version is returned as written, for the reader to judge.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(header).ok()?;
        if let Some((record, _)) = OTHERS.iter().find(|(_, name)| *name == text) {
            return Some(*record);
        }
        let (kind, version) = text.split_once('/')?;
        Some(Self::Observations(Kind::parse(kind)?, version.parse().ok()?))
    }
}

/// Value of the [`INPUT`] header.
pub fn input_header(topic: &str, partition: u32) -> String {
    format!("{topic}/{partition}")
}

/// Topic and partition of an [`INPUT`] header. Topic names cannot hold a slash.
pub fn parse_input_header(header: &[u8]) -> Option<(&str, u32)> {
    let (topic, partition) = std::str::from_utf8(header).ok()?.rsplit_once('/')?;
    if topic.is_empty() || topic.contains('/') {
        return None;
    }
    Some((topic, partition.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_reads_back_and_names_differ() {
        let kinds = Kind::ALL.iter().map(|k| RecordType::Observations(*k, k.version()));
        let all: Vec<_> = OTHERS.iter().map(|(r, _)| *r).chain(kinds).collect();
        let names: std::collections::BTreeSet<_> = all.iter().map(|r| r.to_header()).collect();
        assert_eq!(names.len(), all.len());
        for record in all {
            assert_eq!(RecordType::parse(record.to_header().as_bytes()), Some(record));
        }
        assert_eq!(RecordType::parse(b"flow/7"), Some(RecordType::Observations(Kind::Flow, 7)));
        for unknown in [&b"mark/2"[..], b"mark", b"flow", b"flow/x", b"", b"\xff/1"] {
            assert_eq!(RecordType::parse(unknown), None);
        }
    }

    #[test]
    fn inputs_read_back() {
        assert_eq!(parse_input_header(input_header("a.b", 3).as_bytes()), Some(("a.b", 3)));
        for wrong in [&b"a"[..], b"/1", b"a/b/1", b"a/-1", b"a/"] {
            assert_eq!(parse_input_header(wrong), None);
        }
    }
}
