//! Bodies of the fuzz targets: bytes in, nothing out, a panic where a promise is broken. Shared by `fuzz/` (libFuzzer) and
//! by the smoke test that runs on the stable toolchain. Not part of the library's interface.

mod record;
mod seeds;
mod text;
mod wire;

pub(crate) use wire::{batch, format};

/// A body.
pub type Body = fn(&[u8]);

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name, as in `fuzz/`.
    pub name: &'static str,
    /// What is run.
    pub body: Body,
    /// Good inputs to start from.
    pub seeds: fn(&str) -> Vec<Vec<u8>>,
    /// Bytes on the heap at any time while one input of at most [`INPUT_BYTES_MAX`] runs, at most.
    pub heap_bytes_max: usize,
}

/// Bytes of one input, at most.
pub const INPUT_BYTES_MAX: usize = 4096;

/// An IPC stream may unpack to 128 MiB; each kind is opened after the other, and Arrow holds a column twice while it
/// unpacks it.
const BATCH_BYTES_MAX: usize = 256 << 20;

/// Rows and arenas of two decodes, bad lines with a header each, columns.
const FORMAT_BYTES_MAX: usize = 8 << 20;

/// The readers of records promise 64 times the datum; it is read, written and read again.
const RECORD_BYTES_MAX: usize = 2 * 64 * INPUT_BYTES_MAX;

/// A tree of nodes, at most one a byte, its mistakes and their text.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// Every target.
pub const TARGETS: &[Target] = &[
    target("probectl-flow", |bytes| format("probectl-flow", bytes), FORMAT_BYTES_MAX),
    target("probectl-ebpf", |bytes| format("probectl-ebpf", bytes), FORMAT_BYTES_MAX),
    target("probectl-result", |bytes| format("probectl-result", bytes), FORMAT_BYTES_MAX),
    target("probectl-bgp", |bytes| format("probectl-bgp", bytes), FORMAT_BYTES_MAX),
    target("zeek", |bytes| format("zeek", bytes), FORMAT_BYTES_MAX),
    target("zeek-conn", |bytes| format("zeek-conn", bytes), FORMAT_BYTES_MAX),
    target("zeek-dns", |bytes| format("zeek-dns", bytes), FORMAT_BYTES_MAX),
    target("zeek-ssl", |bytes| format("zeek-ssl", bytes), FORMAT_BYTES_MAX),
    target("zeek-http", |bytes| format("zeek-http", bytes), FORMAT_BYTES_MAX),
    target("batch", batch, BATCH_BYTES_MAX),
    target("address", text::address, TEXT_BYTES_MAX),
    target("topic", text::topic, TEXT_BYTES_MAX),
    target("header", text::header, TEXT_BYTES_MAX),
    target("quantity", text::quantity, TEXT_BYTES_MAX),
    target("document", text::document, TEXT_BYTES_MAX),
    target("signal-json", record::signal_json, RECORD_BYTES_MAX),
    target("signal-avro", record::signal_avro, RECORD_BYTES_MAX),
    target("finding", record::finding, RECORD_BYTES_MAX),
    target("avro-frame", record::avro_frame, RECORD_BYTES_MAX),
    target("contacts", record::contacts, RECORD_BYTES_MAX),
    target("control", record::control, RECORD_BYTES_MAX),
];

const fn target(name: &'static str, body: Body, heap_bytes_max: usize) -> Target {
    Target { name, body, seeds: seeds::of, heap_bytes_max }
}

/// Good inputs of a target; none for a name that is no target.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    seeds::of(name)
}

/// Runs a target by name; what libFuzzer calls.
///
/// # Panics
/// Where a promise is broken.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("the files of fuzz/ name targets: tested");
    (target.body)(bytes);
}
