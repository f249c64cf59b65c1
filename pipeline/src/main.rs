//! The `tidewatch` command; everything is in [`tidewatch::command`].

use std::process::ExitCode;

/// Millions of small pieces that grow in steps: libc's allocator leaves holes that it can neither fill nor give back. How it is set
/// stands in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidewatch::command::main()
}
