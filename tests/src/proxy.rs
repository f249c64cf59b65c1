//! A TCP proxy before a broker that can lose the end of a transaction: the request itself, its answer, or the connection
//! exactly between the two. It can lose a member's request to join its group, too.
//!
//! It reads Kafka's framing and the head of `EndTxn` requests, looks for a name in `JoinGroup`, counts `InitProducerId`, nothing else, and passes everything on unchanged. What
//! always holds: a connection that lost something carries nothing more; a broker that is away looks like one that refuses
//! connections.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// `JoinGroup` in the Kafka protocol.
const JOIN_GROUP: i16 = 11;
/// `EndTxn`.
const END_TXN: i16 = 26;
/// `InitProducerId`.
const INIT_PRODUCER_ID: i16 = 22;
/// Larger than any request or answer here; a longer frame ends its connection.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// What happens to the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lose {
    /// The broker never gets the request; the connection stays open and silent.
    Request,
    /// The client never gets the answer; the connection stays open and silent.
    Answer,
    /// The broker answers, and at that moment the connection breaks, before the client has the answer.
    Connection,
}

/// What is to be lost, shared by the proxies of a cluster.
#[derive(Clone, Default)]
pub struct Trap(Arc<Mutex<Set>>);

#[derive(Default)]
struct Set {
    /// What, for transactional ids that begin so, and how often yet; `None` = for ever.
    armed: Option<(Lose, String, Option<u32>)>,
    caught: u32,
    /// Whose requests to join are lost, after how many that pass.
    joining: Option<(String, u32)>,
    inits: u32,
}

impl Trap {
    /// From now on commits of transactional ids that begin with `id` lose it; `times` often, or until disarmed. The count
    /// of what was caught begins anew.
    pub fn arm(&self, lose: Lose, id: &str, times: Option<u32>) {
        let mut set = self.lock();
        set.armed = Some((lose, id.to_owned(), times));
        set.caught = 0;
    }

    /// From now on requests of this member to join its group are lost, after the first `pass`: its connection falls silent.
    pub fn arm_joining(&self, member: &str, pass: u32) {
        let mut set = self.lock();
        set.joining = Some((member.to_owned(), pass));
        set.caught = 0;
    }

    /// Nothing is lost any more.
    pub fn disarm(&self) {
        let mut set = self.lock();
        (set.armed, set.joining) = (None, None);
    }

    /// How many were caught since it was armed.
    pub fn caught(&self) -> u32 {
        self.lock().caught
    }

    /// How many producers were initialised, ever.
    pub fn inits(&self) -> u32 {
        self.lock().inits
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Set> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Springs for this request to join, or not.
    fn springs_at_joining(&self, frame: &[u8]) -> bool {
        let mut set = self.lock();
        let Some((member, pass)) = &mut set.joining else { return false };
        if short(frame, 4) != Some(JOIN_GROUP) || !frame.windows(member.len()).any(|part| part == member.as_bytes()) {
            return false;
        }
        if *pass > 0 {
            *pass -= 1;
            return false;
        }
        set.caught += 1;
        true
    }

    /// Springs for this request, or not.
    fn springs(&self, end: &EndTxn<'_>) -> Option<Lose> {
        let mut set = self.lock();
        let (lose, id, times) = set.armed.as_mut()?;
        if !end.commits || !end.id.starts_with(id.as_str()) {
            return None;
        }
        let lose = *lose;
        match times {
            Some(0) => return None,
            Some(times) => *times -= 1,
            None => {}
        }
        set.caught += 1;
        Some(lose)
    }
}

/// The proxy of one broker. Dropping it lets its connections end by themselves.
pub struct Proxy {
    connections: Connections,
}

/// The running connections, by number: both ends, so that they can be shut.
type Connections = Arc<Mutex<BTreeMap<u64, [TcpStream; 2]>>>;

impl Proxy {
    /// Listens on one port of this machine and passes on to another.
    pub fn start(port: u16, broker: u16, trap: &Trap) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("a proxy on port {port}"))?;
        let connections = Connections::default();
        let (trap, all) = (trap.clone(), Arc::clone(&connections));
        let counter = AtomicU64::new(0);
        std::thread::Builder::new().name("proxy".into()).spawn(move || {
            for client in listener.incoming().flatten() {
                // A broker that is away: the client sees its connection closed at once.
                let Ok(server) = TcpStream::connect(("127.0.0.1", broker)) else { continue };
                drop(serve(client, server, counter.fetch_add(1, Ordering::Relaxed), &trap, &all));
            }
        })?;
        Ok(Self { connections })
    }

    /// Breaks all connections, as a machine does that goes away.
    pub fn drop_connections(&self) {
        for ends in std::mem::take(&mut *self.connections.lock().unwrap_or_else(PoisonError::into_inner)).into_values() {
            shut(&ends);
        }
    }
}

/// What a connection has lost.
#[derive(Default)]
struct Lost {
    /// Nothing more is passed on.
    silent: AtomicBool,
    /// The connection breaks at the answer to this request.
    breaks: AtomicBool,
    correlation: AtomicI32,
}

/// Starts the two threads of a connection.
fn serve(client: TcpStream, server: TcpStream, number: u64, trap: &Trap, all: &Connections) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ends = [client.try_clone()?, server.try_clone()?];
    all.lock().unwrap_or_else(PoisonError::into_inner).insert(number, ends);
    let lost = Arc::new(Lost::default());
    let there = (client.try_clone()?, server.try_clone()?, trap.clone(), Arc::clone(&lost));
    let (mut from, mut to, all) = (server, client, Arc::clone(all));
    std::thread::Builder::new().name("proxy-back".into()).spawn(move || {
        let _ended = answers(&mut from, &mut to, &lost);
        if let Some(ends) = all.lock().unwrap_or_else(PoisonError::into_inner).remove(&number) {
            shut(&ends);
        }
        shut(&[from, to]);
    })?;
    std::thread::Builder::new().name("proxy-there".into()).spawn(move || {
        let (mut client, mut server, trap, lost) = there;
        let _ended = requests(&mut client, &mut server, &trap, &lost);
        shut(&[client, server]);
    })?;
    Ok(())
}

/// Passes requests on until the client goes away.
fn requests(client: &mut TcpStream, server: &mut TcpStream, trap: &Trap, lost: &Lost) -> Option<()> {
    let mut frame = Vec::new();
    loop {
        read_frame(client, &mut frame)?;
        if lost.silent.load(Ordering::SeqCst) {
            continue;
        }
        if short(&frame, 4) == Some(INIT_PRODUCER_ID) {
            trap.lock().inits += 1;
        }
        if trap.springs_at_joining(&frame) {
            lost.silent.store(true, Ordering::SeqCst);
            continue;
        }
        let end = EndTxn::parse(&frame);
        match end.as_ref().and_then(|end| Some((trap.springs(end)?, end.correlation))) {
            None => {}
            Some((Lose::Request, _)) => {
                lost.silent.store(true, Ordering::SeqCst);
                continue;
            }
            // Before the broker can answer.
            Some((Lose::Answer, _)) => lost.silent.store(true, Ordering::SeqCst),
            Some((Lose::Connection, correlation)) => {
                lost.correlation.store(correlation, Ordering::SeqCst);
                lost.breaks.store(true, Ordering::SeqCst);
            }
        }
        server.write_all(&frame).ok()?;
    }
}

/// Passes answers back until the broker goes away or the connection is to break.
fn answers(server: &mut TcpStream, client: &mut TcpStream, lost: &Lost) -> Option<()> {
    let mut frame = Vec::new();
    loop {
        read_frame(server, &mut frame)?;
        let correlation = int(&frame, 4)?;
        if lost.breaks.load(Ordering::SeqCst) && lost.correlation.load(Ordering::SeqCst) == correlation {
            return None;
        }
        if !lost.silent.load(Ordering::SeqCst) {
            client.write_all(&frame).ok()?;
        }
    }
}

fn shut(ends: &[TcpStream; 2]) {
    for end in ends {
        drop(end.shutdown(Shutdown::Both));
    }
}

/// One request or answer with its length.
fn read_frame(from: &mut TcpStream, frame: &mut Vec<u8>) -> Option<()> {
    frame.resize(4, 0);
    from.read_exact(frame).ok()?;
    let bytes = usize::try_from(int(frame, 0)?).ok()?;
    if !(4..=FRAME_BYTES_MAX).contains(&bytes) {
        return None;
    }
    frame.resize(4 + bytes, 0);
    from.read_exact(&mut frame[4..]).ok()
}

/// An `EndTxn` request: length, key, version, correlation, client id; transactional id, producer id and epoch, outcome.
#[derive(Debug, PartialEq, Eq)]
struct EndTxn<'a> {
    correlation: i32,
    id: &'a str,
    commits: bool,
}

impl<'a> EndTxn<'a> {
    /// Of a frame; `None` when it is another request, or of a newer version than the client's (1).
    fn parse(frame: &'a [u8]) -> Option<Self> {
        if short(frame, 4)? != END_TXN || short(frame, 6)? > 2 {
            return None;
        }
        let correlation = int(frame, 8)?;
        let client_id = usize::try_from(short(frame, 12)?).unwrap_or(0);
        let body = frame.get(14 + client_id..)?;
        let length = usize::try_from(short(body, 0)?).ok()?;
        let id = std::str::from_utf8(body.get(2..2 + length)?).ok()?;
        let commits = *body.get(2 + length + 8 + 2)? != 0;
        Some(Self { correlation, id, commits })
    }
}

fn short(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: i16, id: &str, commits: bool) -> Vec<u8> {
        let mut rest = [key.to_be_bytes(), 1_i16.to_be_bytes()].concat();
        rest.extend(7_i32.to_be_bytes());
        for text in ["tidewatch", id] {
            rest.extend((text.len() as i16).to_be_bytes());
            rest.extend(text.as_bytes());
        }
        rest.extend(4_711_i64.to_be_bytes());
        rest.extend(3_i16.to_be_bytes());
        rest.push(u8::from(commits));
        [&(rest.len() as i32).to_be_bytes()[..], &rest].concat()
    }

    #[test]
    fn the_end_of_a_transaction_is_recognised() {
        let frame = request(END_TXN, "w-1", true);
        assert_eq!(EndTxn::parse(&frame), Some(EndTxn { correlation: 7, id: "w-1", commits: true }));
        assert_eq!(EndTxn::parse(&request(25, "w-1", true)), None);
        for cut in 0..frame.len() {
            assert_eq!(EndTxn::parse(&frame[..cut]), None);
        }
    }

    #[test]
    fn a_trap_springs_for_its_commits_and_as_often_as_it_should() {
        let trap = Trap::default();
        let end = |id: &'static str, commits| EndTxn { correlation: 1, id, commits };
        assert_eq!(trap.springs(&end("w-1", true)), None);
        trap.arm(Lose::Connection, "w-", Some(1));
        assert_eq!(trap.springs(&end("v-1", true)), None);
        assert_eq!(trap.springs(&end("w-1", false)), None);
        assert_eq!(trap.springs(&end("w-1", true)), Some(Lose::Connection));
        assert_eq!(trap.springs(&end("w-2", true)), None);
        assert_eq!(trap.caught(), 1);
    }
}
