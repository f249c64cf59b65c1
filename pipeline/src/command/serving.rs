//! What stands around a run: the control socket, the HTTP server, the ends of partitions, and the watch that sees to it that
//! a process which was told to stop is gone in time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Failure;
use crate::http;
use crate::log::{Log, socket};
use crate::run::{Run, Shared};
use crate::status::{Look, Reporter, look_at_ends};
use crate::topology::{LogChoice, Stage, Topology};

/// Ends of partitions are asked for this often.
const ENDS_EVERY: Duration = Duration::from_secs(2);

/// Flags are looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// `--http`.
#[derive(Clone, Copy, Debug)]
pub enum Http {
    /// Nowhere.
    Off,
    /// There.
    On(SocketAddr),
}

/// Reads `--http`.
pub fn wish(text: &str) -> Result<Http, String> {
    match text {
        "off" => Ok(Http::Off),
        _ => text.parse().map(Http::On).map_err(|_| "expected an address and a port, as 127.0.0.1:9464, or off".to_owned()),
    }
}

/// How far the process is.
#[derive(Clone, Debug)]
pub struct Flags {
    /// It was told to stop.
    pub stop: Arc<AtomicBool>,
    /// Everything is done.
    pub finished: Arc<AtomicBool>,
}

/// Open as long as it is held.
pub struct Serving(#[allow(dead_code)] (socket::Handle, Option<http::Handle>)); // Held, not read.

/// Opens socket and server, and starts the threads that nobody waits for.
pub fn start(
    run: &Run,
    shared: &Shared,
    stages: &[Stage],
    wish: Option<Http>,
    flags: &Flags,
) -> Result<(Arc<Reporter>, Serving), Failure> {
    let topology = &run.topology;
    let reporter = Arc::new(Reporter::new(
        (shared.board.clone(), shared.metrics.clone(), run.log.clone()),
        run.clock.clone(),
        (run.ordinal, stages),
        topology.drain_within,
        (flags.stop.clone(), shared.for_good.clone()),
    ));
    let socket = serve(&run.log, topology, &reporter, &topology.control_of(stages, run.ordinal))?;
    reporter.listens(socket.watch());
    let http = serve_http(wish, topology, &reporter)?;
    leave_in_time(&reporter, flags, topology.drain_within);
    ask_for_ends(run, shared, flags);
    Ok((reporter, Serving((socket, http))))
}

/// The control socket. Only an embedded log is reached through it: brokers are reached by everybody, memory by nobody.
fn serve(log: &Arc<dyn Log>, topology: &Topology, reporter: &Arc<Reporter>, path: &Path) -> Result<socket::Handle, Failure> {
    let failed = |reason: String| Failure::File { verb: "serve", path: path.display().to_string(), reason };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| failed(e.to_string()))?;
    }
    let log = matches!(topology.log, LogChoice::Embedded(_)).then(|| log.clone());
    let voice: Arc<dyn socket::Voice> = reporter.clone();
    socket::serve_process(socket::Service { log, voice: Some(voice) }, path).map_err(|e| failed(e.to_string()))
}

fn serve_http(wish: Option<Http>, topology: &Topology, reporter: &Arc<Reporter>) -> Result<Option<http::Handle>, Failure> {
    let listen = match wish {
        Some(Http::Off) => None,
        Some(Http::On(address)) => Some(address),
        None => topology.http,
    };
    let Some(listen) = listen else { return Ok(None) };
    let handle = http::serve(listen, reporter.clone()).map_err(|e| {
        Failure::Usage(format!(
            "cannot serve health and metrics on {listen}: {e}; give each process on this machine its own with --http ADDRESS:PORT, \
             or --http off"
        ))
    })?;
    if !handle.address.ip().is_loopback() {
        tracing::warn!(address = %handle.address, "health and metrics can be read by everybody who reaches this address");
    }
    tracing::info!(address = %handle.address, "health and metrics");
    Ok(Some(handle))
}

/// After a stop, ends the process when the budget is spent: what is not committed by then is done again after the next start.
fn leave_in_time(reporter: &Arc<Reporter>, flags: &Flags, within: Duration) {
    let (reporter, flags) = (reporter.clone(), flags.clone());
    std::thread::spawn(move || {
        while !flags.stop.load(Ordering::Acquire) {
            std::thread::sleep(LOOK_EVERY);
        }
        let within_s = within.as_secs();
        tracing::info!(within_s, "told to stop: ending the running epoch, then a last snapshot");
        let until = Instant::now() + within;
        while Instant::now() < until {
            if flags.finished.load(Ordering::Acquire) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let status = reporter.status();
        let tasks = status.tasks.iter().map(|t| format!("{} {}", t.stage, t.at()));
        let destinations = status.destinations.iter().filter(|d| d.is != "ended").map(|d| format!("destination {}", d.name));
        let left: Vec<String> = tasks.chain(destinations).collect();
        tracing::error!(
            within_s,
            not_done = left.join(", "),
            "drain_within is spent: leaving now; nothing committed is lost, the next start goes on from there"
        );
        std::process::exit(1);
    });
}

/// Ends of partitions, for lag: on a thread that nobody waits for, because brokers that are away make it slow.
fn ask_for_ends(run: &Run, shared: &Shared, flags: &Flags) {
    let (source, log, board, flags) = (run.source.clone(), run.log.clone(), shared.board.clone(), flags.clone());
    std::thread::spawn(move || {
        let mut look = Look::default();
        while !flags.stop.load(Ordering::Acquire) && !flags.finished.load(Ordering::Acquire) {
            look_at_ends(&mut look, &board, source.as_ref(), log.as_ref());
            std::thread::sleep(ENDS_EVERY);
        }
    });
}
