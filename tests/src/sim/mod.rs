//! A deterministic simulation of the whole pipeline: production code on a simulated Kafka, object store and clock.

pub mod baton;
pub mod broker;
pub mod check;
pub mod cluster;
pub mod controls;
pub mod fate;
pub mod log;
pub mod office;
pub mod plan;
pub mod process;
pub mod report;
pub mod store;
pub mod suite;
pub mod tally;
pub mod world;
