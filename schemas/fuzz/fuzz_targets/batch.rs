//! Any bytes for `batch`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidewatch_schemas::fuzz;

fuzz_target!(|bytes: &[u8]| fuzz::run("batch", bytes));
