//! The commit protocol: one epoch as one Kafka transaction, and the way out of every way in which it can end.
//!
//! The procedure alone, over a [`Client`]: [`super::kafka`] puts rdkafka behind it, the simulation a simulated cluster, so
//! that what is proven there is what runs here. Knows no broker, no thread and no clock of its own. Where each rule is kept
//! and tested stands in docs/commit-protocol.md. What always holds: the outcome a caller sees is the broker's, never read
//! off an error text; an unclear commit is never aborted and never repeated; before anything follows something whose
//! requests may still be under way, the producer is made anew, so that its higher epoch shuts them out.

mod client;
mod epoch;
mod settle;
mod writer;

#[cfg(test)]
mod tests;

pub use client::{Client, Failure, Init, Kind, Standing, Times, Why};
pub use settle::SETTLE_WAIT;
pub use writer::TransactionalWriter;
