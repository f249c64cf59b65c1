//! Secrets of destinations: from a file or the environment, never from a command line or a topology. A secret shows
//! itself to the request it is for and to nothing else: not to `Debug`, errors, logs or dead letters.

use std::fmt;
use std::path::PathBuf;

use super::destination::DestinationError;

/// Largest secret, bytes.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Where a secret is found. Read again whenever the destination is opened, so that a new token needs no restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// The content of a file, line ends at its end cut off.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl SecretSource {
    /// Reads it. Empty, too large and unreadable secrets are refused; the error names the place, never the content.
    #[allow(clippy::disallowed_methods, reason = "the edge where secrets enter")]
    pub fn read(&self) -> Result<Secret, DestinationError> {
        let refuse = |reason: String| DestinationError::Secret { from: self.to_string(), reason };
        let text = match self {
            Self::File(path) => {
                let size = std::fs::metadata(path).map_err(|e| refuse(e.to_string()))?.len();
                if size > SECRET_BYTES_MAX {
                    return Err(refuse(format!("{size} bytes exceed {SECRET_BYTES_MAX}")));
                }
                std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?
            }
            Self::Env(name) => std::env::var(name).map_err(|_| refuse("not set, or not text".into()))?,
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(refuse("empty".into()));
        }
        Ok(Secret(text.to_owned()))
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
        }
    }
}

impl Secret {
    /// The secret itself, for the request it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A secret made of another: a header value around a token.
    pub fn derived(from: &Self, make: impl FnOnce(&str) -> String) -> Self {
        Self(make(&from.0))
    }

    /// The text without the secret, should a server have sent it back.
    pub fn scrub(&self, text: &str) -> String {
        text.replace(&self.0, "[redacted]")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_read_trimmed_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let source = SecretSource::File(path.clone());
        assert!(source.read().unwrap_err().to_string().contains("token"));
        std::fs::write(&path, "hunter2\r\n").unwrap();
        let secret = source.read().unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret:?}"), "Secret([redacted])");
        assert_eq!(secret.scrub("you sent hunter2!"), "you sent [redacted]!");
        std::fs::write(&path, "\n").unwrap();
        assert!(source.read().is_err());
        std::fs::write(&path, vec![b'x'; SECRET_BYTES_MAX as usize + 1]).unwrap();
        assert!(source.read().is_err());
    }
}
