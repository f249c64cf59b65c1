//! What a row is: observation tables, signals, findings, control records, and every wire form of them. No I/O, no clock.

pub mod address;
pub mod avro;
pub mod control;
pub mod document;
pub mod finding;
pub mod fuzz;
pub mod header;
pub mod observation;
pub mod proto;
pub mod signal;
pub mod time;
pub mod topic;
pub mod trace;
pub mod wire;
