//! Tests of topologies.
#![allow(clippy::unwrap_used, clippy::panic)]
