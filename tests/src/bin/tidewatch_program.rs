//! The `tidewatch` program once more, as a program of this package, so that tests of processes always run what was built
//! with them. The same lines as `pipeline/src/main.rs`.

use std::process::ExitCode;

/// As in the product.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidewatch::command::main()
}
