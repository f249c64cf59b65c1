//! The `tidewatch` command; everything is in [`tidewatch::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tidewatch::command::main()
}
