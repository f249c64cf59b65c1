//! The `tidewatch` program once more, as a program of this package, so that tests of processes always run what was built
//! with them. The same one line as `pipeline/src/main.rs`.

use std::process::ExitCode;

/// States of hosts grow in small steps and for ever: libc's allocator took a tenth of what a flow costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidewatch::command::main()
}
