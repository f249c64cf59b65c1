//! A deterministic simulation of the whole pipeline: production code on a simulated Kafka, object store and clock.

pub mod broker;
pub mod fate;
pub mod log;
