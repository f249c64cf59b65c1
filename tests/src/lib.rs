//! What the tests share. Each promise has its own file under `tests/`.

pub mod chaos;
pub mod cluster;
pub mod epochs;
pub mod gate;
pub mod growing;
pub mod http_server;
pub mod job;
pub mod live;
pub mod program;
pub mod project;
pub mod proxy;
pub mod s3;
pub mod scenario;
pub mod secure;
pub mod sim;
pub mod traffic;

pub use tidewatch_broker::{kafka, node};
