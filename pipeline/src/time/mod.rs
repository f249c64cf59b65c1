//! Event time of the pipeline: the clock of one input partition ([`input`]), and when a slice is complete ([`closing`]).
//! Decides purely: wall-clock moments come in as arguments.

pub mod closing;
pub mod input;

use tidewatch_schemas::time::EventTime;

/// Index of the slice that holds a moment.
pub fn slice_index(at: EventTime, slice_ns: i64) -> i64 {
    at.0.div_euclid(slice_ns)
}

/// Start of a slice.
pub fn slice_start(index: i64, slice_ns: i64) -> EventTime {
    EventTime(index.saturating_mul(slice_ns))
}

/// The last slice boundary not after a moment.
pub fn floor(at: EventTime, slice_ns: i64) -> EventTime {
    if at == EventTime::MAX || at == EventTime::MIN {
        return at;
    }
    slice_start(slice_index(at, slice_ns), slice_ns)
}

/// The first slice boundary after a moment: the end of its slice.
pub fn ceil(at: EventTime, slice_ns: i64) -> EventTime {
    slice_start(slice_index(at, slice_ns).saturating_add(1), slice_ns)
}
