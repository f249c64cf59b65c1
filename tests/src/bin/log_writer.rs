//! Commits numbered epochs to an embedded log until it is killed. Started by the torn-write test only.

use std::io::Write;
use std::process::ExitCode;

use tidewatch::log::embedded::{Durability, EmbeddedLog, Options};
use tidewatch_tests::epochs::write_for_ever;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), Some(durability)) = (args.next(), args.next()) else {
        return ExitCode::from(2);
    };
    let durability = if durability == "machine" { Durability::Machine } else { Durability::Process };
    let outcome =
        EmbeddedLog::open(&dir, Options { durability, ..Options::default() }).map_err(|e| e.to_string()).and_then(|log| {
            let mut said = false;
            let started = || {
                if !said {
                    said = true;
                    let mut out = std::io::stdout();
                    // The test may have killed us or gone away: then nobody reads this.
                    let _ = out.write_all(b"!").and_then(|()| out.flush());
                }
            };
            write_for_ever(&log, started).map_err(|e| e.to_string())
        });
    if let Err(message) = outcome {
        let _ = writeln!(std::io::stderr(), "{message}");
    }
    ExitCode::FAILURE
}
