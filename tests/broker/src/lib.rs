//! A real Kafka broker as a process, for whoever proves or measures something on one: tests and benches. Knows no test.

pub mod kafka;
pub mod node;
