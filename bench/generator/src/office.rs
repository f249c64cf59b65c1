//! Ordinary traffic of an office's servers: health checks, a resolver that asks upstream, a published web server with
//! callers from everywhere, a nightly backup, and the administrator's visits.

use tidewatch_schemas::time::SECOND_NS;

use crate::calendar::{DAY_S, WorkingDay, day_and_second};
use crate::dns::ordinary;
use crate::event::{Outcome, Transport};
use crate::habit::tcp;
use crate::queue::{Call, Out};
use crate::random::share;
use crate::world::{self, POLLED, Server};

/// Second of the day at which the backup begins: 01:30 UTC.
const BACKUP_S: i64 = 5_400;

/// Habits of servers. The order is part of the random streams' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Service {
    /// Polls every server every minute.
    Monitor = 64,
    /// Asks the resolvers of the provider.
    Upstream = 65,
    /// Is called from the internet.
    Web = 66,
    /// Sends the day's changes away at night.
    Backup = 67,
    /// Visits three servers by remote desktop or shell.
    Administrator = 68,
    /// The mail server looks senders up; only where the plan wants look-ups.
    Letters = 69,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Monitor, Self::Upstream, Self::Web, Self::Backup, Self::Administrator, Self::Letters];

    /// First wake, seconds after the start.
    pub fn first_s(self, start_ns: i64, draw: f64) -> f64 {
        match self {
            Self::Monitor => 60.0 * draw,
            Self::Upstream | Self::Web => 10.0 * draw,
            Self::Backup => {
                let second = day_and_second(start_ns).1;
                (BACKUP_S - second).rem_euclid(DAY_S) as f64 + 60.0 * draw
            }
            Self::Administrator => 7_200.0 * draw,
            Self::Letters => 25.0 * draw,
        }
    }

    /// Acts at `at_ns`; when it wakes next.
    pub fn step(self, out: &mut Out<'_>, at_ns: i64) -> i64 {
        let gap_s = match self {
            Self::Monitor => monitor(out, at_ns),
            Self::Upstream => upstream(out, at_ns),
            Self::Web => web(out, at_ns),
            Self::Backup => backup(out, at_ns),
            Self::Letters => ordinary::letter(out, at_ns),
            Self::Administrator => {
                let day = WorkingDay::of(out.seed, out.tenant, u32::MAX - u32::from(out.office));
                if !day.at_work(at_ns) {
                    return day.when_at_work(at_ns, &mut out.random);
                }
                administrator(out, at_ns)
            }
        };
        at_ns + (gap_s.max(0.05) * SECOND_NS as f64) as i64
    }
}

fn monitor(out: &mut Out<'_>, at_ns: i64) -> f64 {
    let from = world::server(out.office, Server::Monitor);
    let mut at_ns = at_ns;
    for (which, port) in POLLED {
        at_ns += 50_000_000 + out.random.below(100_000_000) as i64;
        let to = world::server(out.office, which);
        let (transport, service) = if port == 53 { (Transport::Udp, "dns") } else { (Transport::Tcp, "") };
        // A reboot or a busy moment.
        let outcome = if out.random.chance(0.001) { Outcome::NoReply } else { Outcome::Complete };
        let lasts_s = out.random.between(0.002, 0.05);
        out.call(Call { transport, lasts_s, outcome, sent: 120, received: 260, ..tcp(at_ns, from, to, port, service) });
    }
    // The scheduler keeps its minute: what the polls took is taken off.
    60.0 + out.random.between(-0.02, 0.02)
}

fn upstream(out: &mut Out<'_>, at_ns: i64) -> f64 {
    let from = world::server(out.office, Server::Resolver);
    let to = world::public(out.seed, (9 << 40) | out.random.below(2));
    let call = tcp(at_ns, from, to, 53, "dns");
    let lasts_s = out.random.log_normal(0.02, 0.5).min(2.0);
    let received = 90 + out.random.below(200);
    out.call(Call { transport: Transport::Udp, lasts_s, sent: 52, received, ..call });
    out.random.exponential(if is_day(at_ns) { 8.0 } else { 60.0 })
}

fn web(out: &mut Out<'_>, at_ns: i64) -> f64 {
    // Half of the callers are new ones, half come from large access networks' few addresses.
    let word = if out.random.chance(0.5) { out.random.bits() } else { out.random.rank(4_000) };
    let from = world::public(out.seed, word ^ (11 << 40));
    let received = out.random.log_normal(60_000.0, 1.2) as u64;
    let lasts_s = out.random.log_normal(1.5, 1.0).min(300.0);
    let call = tcp(at_ns, from, world::server(out.office, Server::Web), 443, "ssl");
    out.call(Call { lasts_s, sent: 1_400, received, ..call });
    out.random.exponential(if is_day(at_ns) { 6.0 } else { 25.0 })
}

fn backup(out: &mut Out<'_>, at_ns: i64) -> f64 {
    let from = world::server(out.office, Server::Backup);
    let to = world::public(out.seed, (13 << 40) | u64::from(out.tenant) << 16 | u64::from(out.office));
    // The size is the office's own; days differ by a fifth.
    let size = 2e9 + 4e9 * share(&[out.seed, 61, u64::from(out.tenant), u64::from(out.office)]);
    let bytes = size * out.random.between(0.8, 1.2);
    for stream in 0..4 {
        let at_ns = at_ns + stream * 2 * SECOND_NS;
        let lasts_s = out.random.between(1_800.0, 2_700.0);
        let call = tcp(at_ns, from, to, 443, "ssl");
        out.call(Call { lasts_s, sent: (bytes / 4.0) as u64, received: (bytes / 1_000.0) as u64, ..call });
    }
    // To the same minute of the next day.
    let next = DAY_S - (day_and_second(at_ns).1 - BACKUP_S);
    next as f64 + 60.0 * out.random.unit()
}

fn administrator(out: &mut Out<'_>, at_ns: i64) -> f64 {
    // The administrator sits at the monitoring host's console and goes to one server at a time.
    let from = world::server(out.office, Server::Monitor);
    let which = [(Server::Directory, 3389), (Server::Files, 3389), (Server::Web, 22)];
    if let Some(&(server, port)) = out.random.one_of(&which) {
        let lasts_s = out.random.log_normal(300.0, 0.9).min(3_600.0);
        let (sent, received) = ((lasts_s * 900.0) as u64, (lasts_s * 9_000.0) as u64);
        let call = tcp(at_ns, from, world::server(out.office, server), port, if port == 22 { "ssh" } else { "rdp" });
        out.call(Call { lasts_s, sent, received, ..call });
    }
    out.random.exponential(7_200.0)
}

/// Between 06:00 and 20:00 UTC.
fn is_day(at_ns: i64) -> bool {
    (6 * 3_600..20 * 3_600).contains(&day_and_second(at_ns).1)
}
