//! The HTTP server of a running process: health, readiness, metrics. Answers only what it is asked; nothing here calls out.
//!
//! One thread with a runtime of its own, so that no worker waits for it. What always holds: at most [`CONNECTIONS_MAX`]
//! connections, each for one request and at most `CONNECTION_TIME_MAX`; a client that is slow or silent costs its place
//! and nothing else. Where it listens is the topology's to say (`http.listen`).

mod health;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::metrics::table;
use crate::status::Reporter;

/// Connections at a time; one more is closed at once and counted.
pub const CONNECTIONS_MAX: usize = 64;

/// From the first byte of a connection to its end.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(20);

/// A request's head must be there within this time.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// After a failed accept (out of descriptors): others must first let go of some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Keeps the server up; dropping it closes the port.
#[derive(Debug)]
pub struct Handle {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Serves a process's health and metrics until the handle is dropped.
pub fn serve(listen: SocketAddr, reporter: Arc<Reporter>) -> io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = runtime.block_on(TcpListener::bind(listen))?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    let routes = health::routes(reporter.clone());
    let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, routes, reporter) => {}
                // The sender is dropped: that is the sign.
                _ = stopped => {}
            }
        });
    })?;
    Ok(Handle { address, stop: Some(stop), thread: Some(thread) })
}

async fn accept(listener: TcpListener, routes: Router, reporter: Arc<Reporter>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => drop(tokio::spawn(converse(stream, routes.clone(), place))),
            Err(_) => reporter.metrics.add(&table::HTTP_REFUSED, &[], 1),
        }
    }
}

async fn converse(stream: TcpStream, routes: Router, place: OwnedSemaphorePermit) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // A client that goes or is late: its place is free again, nothing else happens.
    let _: Result<Result<(), hyper::Error>, _> = tokio::time::timeout(CONNECTION_TIME_MAX, connection).await;
    drop(place);
}
