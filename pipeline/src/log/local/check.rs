//! Refusals of local logs that need nothing but the arguments. The rules are Kafka's, so that what works here works there.

use crate::log::{Committed, LogError, METADATA_BYTES_MAX, TopicPartition, TopicSpec};

/// Kafka's limit on a topic name, bytes.
const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Writer ids, group names and member names, bytes.
const ID_BYTES_MAX: usize = 512;

pub(crate) fn topic_spec(spec: &TopicSpec) -> Result<(), LogError> {
    let name_ok = !spec.name.is_empty()
        && spec.name.len() <= TOPIC_NAME_BYTES_MAX
        && spec.name != "."
        && spec.name != ".."
        && spec.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    let reason = if !name_ok {
        format!("topic name {:?} must be 1 to {TOPIC_NAME_BYTES_MAX} letters, digits, '.', '_' or '-'", spec.name)
    } else if spec.partitions == 0 {
        format!("topic {} needs at least one partition", spec.name)
    } else if u32::try_from(spec.record_bytes_max).is_err() {
        format!("topic {}: record limit must be below 4 GiB", spec.name)
    } else {
        return Ok(());
    };
    Err(LogError::Client { call: "create_topic", reason })
}

pub(crate) fn id(call: &'static str, id: &str) -> Result<(), LogError> {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(LogError::Client { call, reason: format!("a name must have 1 to {ID_BYTES_MAX} bytes") });
    }
    Ok(())
}

pub(crate) fn offsets(offsets: &[(TopicPartition, Committed)]) -> Result<(), LogError> {
    for (at, committed) in offsets {
        if committed.metadata.len() > METADATA_BYTES_MAX {
            return Err(LogError::Client {
                call: "commit",
                reason: format!("metadata of {at} has {} bytes, at most {METADATA_BYTES_MAX}", committed.metadata.len()),
            });
        }
        if committed.offset < 0 {
            return Err(LogError::Client { call: "commit", reason: format!("offset {} of {at}", committed.offset) });
        }
    }
    Ok(())
}
