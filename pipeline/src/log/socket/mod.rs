//! The way into a running process from another one of the same machine and user: `lag`, `top`, `drain`, `rules reload` ask how it is and tell
//! it to stop; `tap`, `lag`, `dlq` and `produce` reach an embedded log through the process that owns the directory.
//!
//! Not a broker: it reads, and it appends for tools; groups stay inside the owner ([`LogError::Unsupported`]). What always
//! holds: whatever a client sends or fails to read, the owner loses at most that connection; connections, requests and
//! answers have limits. The socket belongs to the owner's user alone.

use std::path::{Path, PathBuf};

use super::LogError;

mod client;
pub(crate) mod fuzz;
mod path;
mod server;
mod wire;

pub use client::{SocketLog, ask_status, ask_to_drain, ask_to_reload};
pub use server::{Handle, Service, SocketStats, SocketWatch, Voice, serve, serve_process};

/// Name of the socket in the log's directory.
pub const SOCKET_FILE: &str = "control.sock";

/// Connections at a time; one more is answered with a refusal and closed.
pub const CONNECTIONS_MAX: usize = 64;

/// Bytes of one request: an epoch that a tool appends must fit.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// Bytes of one answer; a record larger than this cannot be read through the socket.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The socket of the log in `dir`.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join(SOCKET_FILE)
}

fn unreachable(path: &Path, reason: impl Into<String>) -> LogError {
    LogError::Unreachable { what: path.display().to_string(), reason: reason.into() }
}

#[cfg(test)]
mod tests;
