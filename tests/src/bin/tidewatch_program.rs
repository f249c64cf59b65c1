//! The `tidewatch` program once more, as a program of this package, so that tests of processes always run what was built
//! with them. The same one line as `pipeline/src/main.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidewatch::command::main()
}
