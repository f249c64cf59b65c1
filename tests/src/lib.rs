//! What the tests share. Each promise has its own file under `tests/`.

pub mod epochs;
pub mod growing;
pub mod http_server;
pub mod kafka;
pub mod live;
pub mod program;
pub mod project;
pub mod scenario;
pub mod sim;
pub mod traffic;
