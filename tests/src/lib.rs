//! Shared pieces of the tests in `tests/tests`: what several of them, or a child process and its test, must agree on.
pub mod epochs;
//! What the tests share. Each promise has its own file under `tests/`.
pub mod http_server;
