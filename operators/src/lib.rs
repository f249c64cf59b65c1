//! What a detection is: pure operators over one key's rows. Knows no Kafka, no async, no clock, no files.

pub mod beaconing;
pub mod detectors;
pub mod key;
pub mod operator;
pub mod rule;
pub mod runtime;
