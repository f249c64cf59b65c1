//! How a command can fail, what is said then, and with which code the process ends.

use std::io::{self, Write as _};
use std::process::ExitCode;

use tidewatch_schemas::document::Mistakes;

use crate::log::LogError;
use crate::topology::ReadError;

/// How a command ends when it did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: good.
    Good,
    /// 1: it found what it was to look for, or checks failed.
    Findings,
    /// 2: configuration is wrong, and its mistakes were the result asked for (`validate --json`).
    Mistakes,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Good => Self::SUCCESS,
            Exit::Findings => Self::from(1),
            Exit::Mistakes => Self::from(2),
        }
    }
}

/// How a command can fail. Every message says what to do, where that is not plain.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments make no sense together: 2.
    #[error("{0}")]
    Usage(String),
    /// Topology or rules are wrong: 2. One mistake a line.
    #[error("{0}")]
    Config(Mistakes),
    /// A file or directory cannot be read or written: 2.
    #[error("cannot {verb} {path}: {reason}")]
    File {
        /// `read`, `write`, `open`, ...
        verb: &'static str,
        /// Path as the user gave it.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// The log cannot be used as asked: 2.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The work itself failed, after it had begun: 1.
    #[error("{0}")]
    Failed(String),
    /// Who reads standard output has gone (`| head`): 0, and nothing is said.
    #[error("standard output is closed")]
    Closed,
}

impl Failure {
    /// The process's code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::File { .. } | Self::Log(_) => 2,
            Self::Failed(_) => 1,
            Self::Closed => 0,
        }
    }

    /// Says it on standard error.
    pub fn tell(&self, colored: bool) {
        if matches!(self, Self::Closed) {
            return;
        }
        let (on, off) = if colored { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let mut stderr = io::stderr().lock();
        // When standard error is gone there is nobody left to tell.
        let _ = match self {
            Self::Config(mistakes) => {
                let n = mistakes.len();
                let noun = if n == 1 { "mistake" } else { "mistakes" };
                writeln!(stderr, "{mistakes}\n{on}error:{off} {n} {noun}; nothing was done")
            }
            other => writeln!(stderr, "{on}error:{off} {other}"),
        };
    }
}

impl From<io::Error> for Failure {
    /// Of writing to standard output.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::File { verb: "write", path: "standard output".into(), reason: error.to_string() },
        }
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::Config(mistakes)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::File { path, reason } => Self::File { verb: "read", path, reason },
            ReadError::Mistakes(mistakes) => Self::Config(mistakes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_as_documented() {
        assert_eq!(Failure::Usage("x".into()).code(), 2);
        assert_eq!(Failure::Config(Mistakes::default()).code(), 2);
        assert_eq!(Failure::from(LogError::UnknownTopic { topic: "t".into() }).code(), 2);
        assert_eq!(Failure::Failed("x".into()).code(), 1);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(), 0);
    }
}
