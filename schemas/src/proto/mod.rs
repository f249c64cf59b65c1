//! probectl's protobuf messages, by hand with field numbers pinned by golden bytes: no protoc, no generated code. They
//! write test data, the generator's topics and re-encoded rows; the decoders of [`crate::wire`] do not use them.
//!
//! Always additive: numbers are never reused, unknown fields are skipped.

pub mod bgp;
pub mod ebpf;
pub mod flow;
pub mod result;

#[cfg(test)]
pub(crate) mod tests;
