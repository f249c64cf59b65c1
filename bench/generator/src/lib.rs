//! Seeded traffic: offices at work with injected attacks, and the truth about them. `tidewatch demo`, tests and benches
//! all use it.
//!
//! A [`Plan`] says everything; [`Traffic`] is the stream of its events; [`probectl`] and [`zeek`] are its wire forms,
//! [`truth`] its labels. What always holds: the same plan gives the same bytes on every machine, in bounded memory. No
//! clock, no file system: who writes files is `tidewatch-bench`.

pub mod random;

pub mod event;
pub mod world;

mod calendar;
mod queue;

pub mod dns;

mod browse;
pub mod bystander;
mod habit;
mod office;

pub mod attack;
pub mod plan;
mod scans;
pub mod traffic;
pub mod truth;

mod protobuf;

pub mod probectl;
pub mod recordfile;
pub mod synthetic;
pub mod zeek;

pub use plan::{PRESET_START, Plan};
pub use probectl::{Record, probectl_records};
pub use synthetic::Synthetic;
pub use traffic::Traffic;
pub use truth::{Truth, truths, truths_until};
pub use zeek::{Style, zeek_lines, zeek_lines_of};
