//! Ordinary traffic: what client hosts do over a day. Each habit of each host is a source of its own that wakes, acts, and
//! says when it wakes again; it keeps no state but the number of its wakes. Servers' habits are in [`crate::office`].

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::SECOND_NS;

use crate::browse;
use crate::calendar::WorkingDay;
use crate::dns::ordinary;
use crate::event::{Answer, Outcome, QueryKind, Transport};
use crate::queue::{Call, Out};
use crate::random::share;
use crate::world::{self, Server};

/// What one host knows of itself.
pub(crate) struct Client {
    pub index: u32,
    pub address: Address,
    pub day: WorkingDay,
    /// Switched off outside working hours.
    pub laptop: bool,
    pub proxied: bool,
    pub call_kbit_s: u32,
}

/// Habits of clients. The order is part of the random streams' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Habit {
    /// Pages in sessions.
    Browse = 0,
    /// The mail client asks the office's server.
    Mail = 1,
    /// The system reports home.
    Telemetry = 2,
    /// The virus scanner asks its cloud.
    Guard = 3,
    /// The system looks for updates.
    Updates = 4,
    /// A push service is asked often.
    Push = 5,
    /// Clocks.
    Time = 6,
    /// Log-on, tickets, directory.
    Directory = 7,
    /// The file server.
    Files = 8,
    /// Prints.
    Print = 9,
    /// A chat keeps one connection for long.
    Chat = 10,
    /// A page of the customer system renews itself while open.
    Renew = 11,
    /// Video calls.
    Video = 12,
    /// Names that are asked for beside all that; only where the plan wants them.
    Lookups = 13,
}

impl Habit {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Browse,
        Self::Mail,
        Self::Telemetry,
        Self::Guard,
        Self::Updates,
        Self::Push,
        Self::Time,
        Self::Directory,
        Self::Files,
        Self::Print,
        Self::Chat,
        Self::Renew,
        Self::Video,
        Self::Lookups,
    ];

    /// Whether this host has it.
    pub fn has(self, seed: u64, tenant: u16, host: u32) -> bool {
        let of = match self {
            Self::Chat => 0.5,
            Self::Renew => 0.5,
            _ => 1.0,
        };
        share(&[seed, 41, self as u64, u64::from(tenant), u64::from(host)]) < of
    }

    /// Typical distance of two wakes, seconds: the first one comes within it.
    pub fn period_s(self) -> f64 {
        match self {
            Self::Push => 240.0,
            Self::Mail | Self::Lookups => 300.0,
            Self::Browse | Self::Telemetry | Self::Files => 600.0,
            Self::Guard => 900.0,
            Self::Time => 1_024.0,
            Self::Chat | Self::Renew => 1_800.0,
            Self::Updates | Self::Directory => 3_600.0,
            Self::Print | Self::Video => 7_200.0,
        }
    }

    /// Acts at `at_ns`; when it wakes next.
    pub fn step(self, client: &Client, out: &mut Out<'_>, at_ns: i64) -> i64 {
        // Machines that run all day poll at night too; people, and laptops, do not.
        let nightly = matches!(self, Self::Telemetry | Self::Guard | Self::Updates | Self::Push | Self::Time | Self::Directory);
        if !(client.day.at_work(at_ns) || nightly && !client.laptop) {
            return client.day.when_at_work(at_ns, &mut out.random);
        }
        let from = client.address;
        let gap_s = match self {
            Self::Browse => browse::page(client, out, at_ns),
            Self::Mail => {
                let received = out.random.log_normal(2_500.0, 1.3) as u64;
                let call = tcp(at_ns, from, world::server(out.office, Server::Mail), 993, "ssl");
                let lasts_s = out.random.between(0.1, 0.8);
                out.call(Call { lasts_s, sent: 900, received, ..call });
                out.random.between(285.0, 315.0)
            }
            Self::Telemetry => poll(out, at_ns, from, 0, 3_200.0, 800.0, out_of(600.0, 0.05)),
            Self::Updates => poll(out, at_ns, from, 1, 900.0, 6_000.0, out_of(3_600.0, 0.15)),
            Self::Guard => poll(out, at_ns, from, 2, 700.0, 2_200.0, out_of(900.0, 0.1)),
            Self::Push => poll(out, at_ns, from, 3, 350.0, 420.0, out_of(240.0, 0.02)),
            Self::Time => time(client, out, at_ns),
            Self::Directory => directory(client, out, at_ns),
            Self::Files => files(client, out, at_ns),
            Self::Print => {
                let sent = out.random.log_normal(180_000.0, 1.1) as u64;
                let call = tcp(at_ns, from, world::server(out.office, Server::Print), 9_100, "");
                let lasts_s = out.random.between(1.0, 12.0);
                out.call(Call { lasts_s, sent, received: 900, ..call });
                out.random.exponential(7_200.0)
            }
            Self::Chat => chat(client, out, at_ns),
            Self::Renew => renew(client, out, at_ns),
            Self::Video => video(client, out, at_ns),
            Self::Lookups => ordinary::occasion(client.address, client.index, out, at_ns),
        };
        at_ns + (gap_s.max(0.05) * SECOND_NS as f64) as i64
    }
}

/// A completed TCP call without content: to be filled in.
pub(crate) fn tcp(at_ns: i64, from: Address, to: Address, port: u16, service: &'static str) -> Call {
    Call {
        at_ns,
        lasts_s: 0.3,
        from,
        to,
        port,
        transport: Transport::Tcp,
        outcome: Outcome::Complete,
        service,
        sent: 400,
        received: 600,
    }
}

/// A period with its half-width: what pollers add so that they do not all call at once.
fn out_of(period_s: f64, spread: f64) -> (f64, f64) {
    (period_s, spread)
}

/// One poll of a popular name; the gap to the next, seconds.
fn poll(
    out: &mut Out<'_>,
    at_ns: i64,
    from: Address,
    which: usize,
    sent: f64,
    received: f64,
    (period_s, spread): (f64, f64),
) -> f64 {
    let (name, to) = world::popular(out.seed, which, &mut out.random);
    let mut at_ns = at_ns;
    if out.random.chance(0.3) {
        at_ns = out.lookup(at_ns, from, name, QueryKind::A, Answer::Address(to)) + 1_000_000;
    }
    let sent = out.random.log_normal(sent, 0.25) as u64;
    let received = out.random.log_normal(received, 0.3) as u64;
    let lasts_s = out.random.between(0.2, 1.5);
    // One in two hundred fails, as anywhere.
    let outcome = if out.random.chance(0.005) { Outcome::NoReply } else { Outcome::Complete };
    let connection = out.call(Call { lasts_s, sent, received, outcome, ..tcp(at_ns, from, to, 443, "ssl") });
    if outcome == Outcome::Complete {
        out.tls(connection, at_ns, name);
    }
    period_s * (1.0 + spread * (2.0 * out.random.unit() - 1.0))
}

fn time(client: &Client, out: &mut Out<'_>, at_ns: i64) -> f64 {
    // A third of the machines ask the public pool, the others their domain controller.
    let to = if client.index.is_multiple_of(3) {
        world::popular(out.seed, 7, &mut out.random).1
    } else {
        world::server(out.office, Server::Directory)
    };
    let call = tcp(at_ns, client.address, to, 123, "ntp");
    let lasts_s = out.random.between(0.001, 0.05);
    out.call(Call { transport: Transport::Udp, lasts_s, sent: 48, received: 48, ..call });
    1_024.0 + out.random.between(-1.0, 1.0)
}

fn directory(client: &Client, out: &mut Out<'_>, at_ns: i64) -> f64 {
    let to = world::server(out.office, Server::Directory);
    let ticket = Call { lasts_s: 0.02, sent: 1_500, received: 1_700, ..tcp(at_ns, client.address, to, 88, "krb_tcp") };
    out.call(ticket);
    let received = out.random.log_normal(4_000.0, 0.8) as u64;
    let search = tcp(at_ns + 40_000_000, client.address, to, 389, "ldap");
    let lasts_s = out.random.between(0.05, 2.0);
    out.call(Call { lasts_s, sent: 1_200, received, ..search });
    if out.random.chance(0.3) {
        // Policies lie on a share of the domain controller.
        out.call(Call { lasts_s: 0.8, sent: 3_000, received: 25_000, ..tcp(at_ns + 90_000_000, client.address, to, 445, "smb") });
    }
    if out.random.chance(0.2) {
        out.lookup(at_ns, client.address, "_ldap._tcp.corp.example", QueryKind::Srv, Answer::Empty);
    }
    if out.random.chance(0.3) {
        // Old clients look for a proxy that was never there.
        out.lookup(at_ns, client.address, "wpad.corp.example", QueryKind::A, Answer::NoName);
    }
    out.random.exponential(3_600.0)
}

fn files(client: &Client, out: &mut Out<'_>, at_ns: i64) -> f64 {
    let sent = out.random.log_normal(20_000.0, 1.8).min(4e7) as u64;
    let received = out.random.log_normal(90_000.0, 1.8).min(2e8) as u64;
    let lasts_s = out.random.log_normal(8.0, 1.2).min(1_200.0);
    let call = tcp(at_ns, client.address, world::server(out.office, Server::Files), 445, "smb");
    out.call(Call { lasts_s, sent, received, ..call });
    out.random.exponential(600.0)
}

fn chat(client: &Client, out: &mut Out<'_>, at_ns: i64) -> f64 {
    let (name, to) = world::popular(out.seed, 4, &mut out.random);
    out.lookup(at_ns, client.address, name, QueryKind::A, Answer::Address(to));
    let lasts_s = out.random.pareto(600.0, 1.1, 14_400.0);
    let at_ns = at_ns + 60_000_000;
    let (sent, received) = ((lasts_s * 14.0) as u64 + 2_000, (lasts_s * 40.0) as u64 + 5_000);
    let connection = out.call(Call { lasts_s, sent, received, ..tcp(at_ns, client.address, to, 443, "ssl") });
    out.tls(connection, at_ns, name);
    lasts_s + out.random.exponential(20.0) + 1.0
}

fn renew(client: &Client, out: &mut Out<'_>, at_ns: i64) -> f64 {
    let (name, to) = world::popular(out.seed, 6, &mut out.random);
    let received = out.random.log_normal(2_600.0, 0.5) as u64;
    let lasts_s = out.random.between(0.1, 0.5);
    let connection = out.call(Call { lasts_s, sent: 780, received, ..tcp(at_ns, client.address, to, 443, "ssl") });
    out.tls(connection, at_ns, name);
    // Every half a minute while the page is open, 40 times in the mean.
    if out.random.chance(1.0 / 40.0) { out.random.exponential(2_400.0) } else { out.random.between(29.0, 33.0) }
}

fn video(client: &Client, out: &mut Out<'_>, at_ns: i64) -> f64 {
    let (name, to) = world::popular(out.seed, 5, &mut out.random);
    out.lookup(at_ns, client.address, name, QueryKind::A, Answer::Address(to));
    let lasts_s = out.random.between(600.0, 3_000.0);
    let sent = (lasts_s * f64::from(client.call_kbit_s) * 125.0 * out.random.between(0.7, 1.0)) as u64;
    let received = (sent as f64 * out.random.between(0.9, 2.5)) as u64;
    let call = tcp(at_ns + 300_000_000, client.address, to, 3_478, "");
    out.call(Call { transport: Transport::Udp, lasts_s, sent, received, ..call });
    lasts_s + out.random.exponential(9_000.0)
}
