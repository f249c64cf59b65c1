//! What travels in the offsets' metadata: the output hash, the current snapshot, a stage's note. JSON, so that any Kafka
//! tool shows it.

use serde::{Deserialize, Serialize};

use crate::log::METADATA_BYTES_MAX;

/// Metadata of one partition's committed offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Layout.
    pub(crate) v: u32,
    /// Output hash, hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) hash: String,
    /// Offset at which the hash began.
    #[serde(default)]
    pub(crate) from: i64,
    /// Output version of whoever wrote the outputs.
    #[serde(default = "first_outputs")]
    pub(crate) outputs: u32,
    /// Id of the topic in which the offset lies, where the log gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<String>,
    /// Current snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<String>,
    /// The task's note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// Outputs were not numbered before the first number.
fn first_outputs() -> u32 {
    1
}

impl Meta {
    /// As committed. A note that would not fit is left out: the task then learns again.
    pub(crate) fn encode(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        if text.len() <= METADATA_BYTES_MAX {
            return text;
        }
        tracing::warn!(bytes = text.len(), "note too long for an offset's metadata: left out");
        serde_json::to_string(&Self { note: None, ..self.clone() }).unwrap_or_default()
    }

    /// As read back; anything else is as if there were none.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|m: &Self| m.v == 1)
    }
}
