//! The `tidewatch` command; everything is in [`tidewatch::command`].

use std::process::ExitCode;

/// States of hosts grow in small steps and for ever: libc's allocator took a tenth of what a flow costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidewatch::command::main()
}
