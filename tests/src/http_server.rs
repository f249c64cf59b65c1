//! A small HTTP/1.1 server for tests of destinations: answers every request as told, remembers them all, speaks TLS when
//! given a certificate, goes away and comes back on one port. One request per connection; nothing for production.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request as received.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Path and query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What to answer: status, further header lines, body.
pub type Answer = (u16, Vec<(&'static str, String)>, String);

/// Shorthand for an answer without headers.
pub fn answer(status: u16, body: impl Into<String>) -> Answer {
    (status, Vec::new(), body.into())
}

type Handler = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// The server; it ends when dropped.
pub struct HttpServer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// On any free port.
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0", None, handler)
    }

    /// On that address, with TLS when there is a configuration.
    pub fn start_on(
        address: &str,
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let handler: Handler = Arc::new(handler);
        let thread = std::thread::spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    // A client that goes away in the middle is the client's business.
                    let _ = serve(stream, tls.as_ref(), &seen, &handler);
                }
            }
        });
        Self { address, seen, stop, thread: Some(thread) }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Everything received so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<&Arc<ServerConfig>>,
    seen: &Mutex<Vec<Request>>,
    handler: &Handler,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    match tls {
        None => exchange(stream, seen, handler),
        Some(config) => {
            let connection = ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
            exchange(StreamOwned::new(connection, stream), seen, handler)
        }
    }
}

fn exchange(stream: impl Read + Write, seen: &Mutex<Vec<Request>>, handler: &Handler) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut request = Request { path: line.split(' ').nth(1).unwrap_or_default().to_owned(), ..Request::default() };
    if request.path.is_empty() {
        return Ok(());
    }
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        request.headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    let (status, headers, body) = handler(&request);
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let mut reply = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
    for (name, value) in headers {
        reply.push_str(&format!("{name}: {value}\r\n"));
    }
    reply.push_str(&format!("\r\n{body}"));
    let stream = reader.get_mut();
    stream.write_all(reply.as_bytes())?;
    stream.flush()
}
