//! Shared pieces of the tests in `tests/tests`: what several of them, or a child process and its test, must agree on.

pub mod epochs;
pub mod http_server;
pub mod kafka;
