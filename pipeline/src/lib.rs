//! How a record travels: logs, decode, time, slices, workers, snapshots, delivery, and the `tidewatch` command.
//! Knows no detection: which detectors exist is the business of `tidewatch-operators`.

pub mod deliver;
pub mod log;
