//! What a detection is: pure operators over one key's rows. Knows no Kafka, no async, no clock, no files.
//!
//! In the order in which a row meets them: [`detection`] (a closed slice comes in), [`door`] (initiator, merge,
//! duplicates, contacts), the detectors of [`detectors::ALL`] behind the contract [`operator`], kept by [`runtime`] and
//! [`states`]; then, in the tenant's view, [`correlate`].

pub mod ahead;
pub mod attack;
pub mod beaconing;
#[cfg(test)]
mod conformance;
pub mod correlate;
pub mod detection;
pub mod detectors;
pub mod dns_dga;
pub mod dns_exfil;
pub mod door;
pub mod egress_volume;
mod ends;
#[doc(hidden)]
pub mod fuzz;
pub mod key;
pub mod lateral;
pub mod limit;
mod listed;
pub mod long_connection;
pub mod names;
pub mod operator;
mod places;
#[doc(hidden)]
pub mod planted;
mod raw;
pub mod rule;
pub mod runtime;
pub mod scan;
pub mod states;
mod table;
pub mod why;
