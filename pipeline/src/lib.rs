//! How a record travels: logs, decode, time, slices, workers, snapshots, delivery, and the `tidewatch` command.
//! Knows no detection: which detectors exist is the business of `tidewatch-operators`.

pub mod backtest;
pub mod command;
pub mod correlate;
pub mod deliver;
pub mod detect;
pub mod epoch;
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod input;
pub mod log;
pub mod metrics;
pub mod normalize;
pub mod rules;
pub mod run;
pub mod snapshot;
pub mod spill;
pub mod status;
pub mod task;
pub mod telemetry;
pub mod time;
pub mod topics;
pub mod topology;
pub mod versions;
pub mod worker;
