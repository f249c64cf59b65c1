//! What can be set on a local log. Not the topics: those are [`crate::log::TopicSpec`].

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tidewatch_schemas::time::EventTime;

/// Gives the moment of an append. Tests put their own in.
pub type Clock = Arc<dyn Fn() -> EventTime + Send + Sync>;

/// Default byte limit of a partition (4 GiB): a commit beyond it is refused as full.
pub const PARTITION_BYTES_MAX: u64 = 4 << 30;

/// Bytes every record counts beyond key, value and headers, so that empty records fill a partition too.
pub const RECORD_OVERHEAD_BYTES: u64 = 32;

/// Settings of a local log.
#[derive(Clone)]
pub struct Settings {
    /// Stamps records without a timestamp, and all records of topics with append time.
    pub clock: Clock,
    /// Bytes one partition may hold, [`RECORD_OVERHEAD_BYTES`] per record included; a commit beyond it is refused as full
    /// and may be repeated after retention or `delete_before`. A single epoch larger than this can never be written.
    pub partition_bytes_max: u64,
    /// Leave one offset unused after every so many records of a partition, as Kafka's transaction markers do. For tests.
    pub gap_every: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { clock: wall_clock(), partition_bytes_max: PARTITION_BYTES_MAX, gap_every: None }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("partition_bytes_max", &self.partition_bytes_max)
            .field("gap_every", &self.gap_every)
            .finish_non_exhaustive()
    }
}

/// The machine's clock. A moment outside 1970..2262 becomes the nearest end.
#[allow(clippy::disallowed_methods, reason = "the log is the edge: its timestamp is the moment of arrival")]
pub fn wall_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        EventTime(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    })
}
