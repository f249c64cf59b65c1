//! The stream of events of a plan, in the order of their ends. Sources (a habit of a host, a service of an office, an
//! attack) wake by time; each wake draws from a stream of random numbers named by plan, place, source and wake, so nothing
//! one source does moves another.
//!
//! Memory: 32 octets for each source, and the connections open at one moment (`queue.rs`). Nothing grows with the
//! length of the plan.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::calendar::WorkingDay;
use crate::event::Event;
use crate::habit::{Client, Habit};
use crate::office::Service;
use crate::plan::Plan;
use crate::queue::{Out, Queue};
use crate::random::{Random, share};
use crate::world;

/// An iterator over a plan's events by [`Event::at`].
pub struct Traffic<'p> {
    plan: &'p Plan,
    wakes: BinaryHeap<Reverse<Wake>>,
    queue: Queue,
    flows_left: u64,
    pending_peak: usize,
}

/// A source with the moment it acts next. Ordered by moment, then place: never by the order of insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wake {
    at_ns: i64,
    tenant: u16,
    source: Source,
    count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// Host and place in [`Habit::ALL`].
    Client(u32, u8),
    /// Office and place in [`Service::ALL`].
    Office(u16, u8),
    /// Index in the plan.
    Attack(u16),
    /// Index in the plan.
    Bystander(u16),
}

impl<'p> Traffic<'p> {
    /// The plan's traffic. `active_timeout_s`: long connections are reported in parts after so many seconds, as flow
    /// exporters do; 0 reports each once, at its end.
    pub fn new(plan: &'p Plan, active_timeout_s: u32) -> Self {
        let mut traffic = Self::empty(plan, active_timeout_s);
        for tenant in 0..plan.tenants.len().min(usize::from(u16::MAX)) as u16 {
            for host in 0..plan.hosts_per_tenant.min(world::HOSTS_MAX) {
                for (n, habit) in Habit::ALL.into_iter().enumerate() {
                    if habit.has(plan.seed, tenant, host) && (plan.lookups || habit != Habit::Lookups) {
                        let draw = share(&[plan.seed, 71, u64::from(tenant), u64::from(host), n as u64]);
                        traffic.begin(tenant, Source::Client(host, n as u8), habit.period_s() * draw);
                    }
                }
            }
            let offices = plan.hosts_per_tenant.div_ceil(world::OFFICE_HOSTS).min(world::OFFICES_MAX) as u16;
            for office in 0..offices {
                for (n, service) in Service::ALL.into_iter().enumerate() {
                    if service == Service::Letters && !plan.lookups {
                        continue;
                    }
                    let draw = share(&[plan.seed, 72, u64::from(tenant), u64::from(office), n as u64]);
                    traffic.begin(tenant, Source::Office(office, n as u8), service.first_s(plan.start.0, draw));
                }
            }
        }
        for (n, bystander) in plan.bystanders.iter().take(usize::from(u16::MAX)).enumerate() {
            if usize::from(bystander.tenant) < plan.tenants.len() {
                traffic.begin(bystander.tenant, Source::Bystander(n as u16), f64::from(bystander.start_s));
            }
        }
        traffic
    }

    /// The injected attacks alone; their events are the same as among all others, their connections' ids are not.
    pub fn attacks_only(plan: &'p Plan) -> Self {
        Self::empty(plan, 0)
    }

    /// Most events that waited at one moment so far.
    pub fn pending_peak(&self) -> usize {
        self.pending_peak
    }

    fn empty(plan: &'p Plan, active_timeout_s: u32) -> Self {
        let mut traffic = Self {
            plan,
            wakes: BinaryHeap::new(),
            queue: Queue::new(active_timeout_s),
            flows_left: plan.flows_max.unwrap_or(u64::MAX),
            pending_peak: 0,
        };
        for (n, attack) in plan.attacks.iter().take(usize::from(u16::MAX)).enumerate() {
            let (tenant, _, start_s) = attack.place();
            if usize::from(tenant) < plan.tenants.len() {
                traffic.begin(tenant, Source::Attack(n as u16), f64::from(start_s));
            }
        }
        traffic
    }

    fn begin(&mut self, tenant: u16, source: Source, after_s: f64) {
        let at_ns = self.plan.start.plus((after_s * 1e9) as i64).0;
        if at_ns < self.plan.end().0 {
            self.wakes.push(Reverse(Wake { at_ns, tenant, source, count: 0 }));
        }
    }

    fn act(&mut self, wake: Wake) {
        let plan = self.plan;
        let (kind, place) = match wake.source {
            Source::Client(host, habit) => (u64::from(habit), u64::from(host)),
            Source::Office(office, service) => (64 + u64::from(service), u64::from(office)),
            Source::Attack(n) => (128, u64::from(n)),
            Source::Bystander(n) => (129, u64::from(n)),
        };
        let (office, attack) = match wake.source {
            Source::Client(host, _) => (world::office(host), None),
            Source::Office(office, _) => (office, None),
            Source::Attack(n) => (plan.attacks.get(usize::from(n)).map_or(0, |a| world::office(a.place().1)), Some(n)),
            Source::Bystander(n) => (plan.bystanders.get(usize::from(n)).map_or(0, |b| world::office(b.host)), None),
        };
        let mut out = Out {
            seed: plan.seed,
            tenant: wake.tenant,
            office,
            attack,
            start_ns: plan.start.0,
            end_ns: plan.end().0,
            random: Random::of([plan.seed, (kind << 32) | u64::from(wake.tenant), place, u64::from(wake.count)]),
            queue: &mut self.queue,
        };
        let next = match wake.source {
            Source::Client(host, habit) => {
                let of = |salt: u64| share(&[plan.seed, salt, u64::from(wake.tenant), u64::from(host)]);
                let client = Client {
                    index: host,
                    address: world::host(host),
                    day: WorkingDay::of(plan.seed, wake.tenant, host),
                    laptop: of(42) < 0.3,
                    proxied: of(43) < plan.proxied_share,
                    call_kbit_s: plan.call_kbit_s,
                };
                Some(Habit::ALL[usize::from(habit)].step(&client, &mut out, wake.at_ns))
            }
            Source::Office(_, service) => Some(Service::ALL[usize::from(service)].step(&mut out, wake.at_ns)),
            Source::Attack(n) => plan.attacks.get(usize::from(n)).and_then(|a| a.step(n, &mut out, wake.at_ns, wake.count)),
            Source::Bystander(n) => plan.bystanders.get(usize::from(n)).map(|b| b.step(&mut out, wake.at_ns, wake.count)),
        };
        // Sources that wake more than 4 billion times end; at one wake a millisecond that is 49 days.
        if let (Some(at_ns), Some(count)) = (next, wake.count.checked_add(1))
            && at_ns < plan.end().0
        {
            // A habit that would not move on would hold everybody's time still.
            self.wakes.push(Reverse(Wake { at_ns: at_ns.max(wake.at_ns + 1_000), count, ..wake }));
        }
        self.pending_peak = self.pending_peak.max(self.queue.len());
    }
}

impl Iterator for Traffic<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.flows_left == 0 {
            return None;
        }
        // A source acts before any event that ends after its wake: what it starts may end first.
        while let Some(&Reverse(wake)) = self.wakes.peek()
            && self.queue.next_at().is_none_or(|at| wake.at_ns - LOOK_BACK_NS <= at)
        {
            self.wakes.pop();
            self.act(wake);
        }
        let event = self.queue.pop()?;
        if matches!(event, Event::Flow(_)) {
            self.flows_left -= 1;
        }
        Some(event)
    }
}

/// A step may start something up to this long before its wake (a beacon's name is asked for just before the contact).
const LOOK_BACK_NS: i64 = 50_000_000;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::event::{Connection, Outcome, Transport};

    #[test]
    fn events_come_by_end_time_and_few_wait() {
        for timeout in [0, 60] {
            let plan = Plan::small(5);
            let mut traffic = Traffic::new(&plan, timeout);
            let (mut last, mut events) = (plan.start, 0_u64);
            for event in traffic.by_ref() {
                assert!(event.at() >= last, "{event:?} after {last}");
                last = event.at();
                assert!(last <= plan.end());
                if let Event::Flow(flow) = &event {
                    assert!(flow.start <= flow.end && flow.start >= plan.start, "{flow:?}");
                    assert!(timeout == 0 || flow.end.since(flow.start) <= 60_000_000_000);
                }
                events += 1;
            }
            assert!(events > 20_000, "{events}");
            assert!(traffic.pending_peak() < 2_000, "{}", traffic.pending_peak());
        }
    }

    #[test]
    fn parts_of_a_long_connection_add_up_to_it() {
        let plan = Plan::small(6);
        let sum = |timeout| {
            let mut by_id: BTreeMap<u64, (u64, u64, u32, u32, u32)> = BTreeMap::new();
            for event in Traffic::new(&plan, timeout) {
                if let Event::Flow(flow) = event {
                    let sums = by_id.entry(flow.connection.id).or_default();
                    sums.0 += flow.bytes_sent;
                    sums.1 += flow.bytes_received;
                    sums.2 += u32::from(flow.first);
                    sums.3 += u32::from(flow.last);
                    sums.4 += 1;
                }
            }
            by_id
        };
        let (whole, parts) = (sum(0), sum(60));
        assert_eq!(whole.len(), parts.len());
        for (id, w) in &whole {
            let p = parts[id];
            assert_eq!((w.0, w.1, 1, 1), (p.0, p.1, p.2, p.3), "connection {id}");
        }
        assert!(parts.values().any(|p| p.4 > 10));
    }

    #[test]
    fn one_more_host_changes_nothing_for_the_others() {
        let plan = Plan::small(7);
        let more = Plan { hosts_per_tenant: plan.hosts_per_tenant + 1, ..plan.clone() };
        // The scan tries the new host's address with and without the host.
        let new = world::host(plan.hosts_per_tenant);
        let others = |plan: &Plan| {
            let mut seen: Vec<_> = Traffic::new(plan, 0)
                .filter(|e| e.connection().initiator != new && e.connection().responder != new)
                .map(|e| (e.at(), Connection { id: 0, ..*e.connection() }))
                .map(|(at, c)| (at, c.tenant, c.initiator, c.initiator_port, c.responder, c.responder_port))
                .collect();
            seen.sort_unstable();
            seen
        };
        let (before, after) = (others(&plan), others(&more));
        assert!(before.len() > 10_000 && before == after, "{} and {}", before.len(), after.len());
    }

    #[test]
    fn traffic_has_failures_datagrams_and_a_limit() {
        let plan = Plan { flows_max: Some(5_000), attacks: Vec::new(), ..Plan::small(8) };
        let flows: Vec<_> =
            Traffic::new(&plan, 0).filter_map(|e| if let Event::Flow(flow) = e { Some(flow) } else { None }).collect();
        assert_eq!(flows.len(), 5_000);
        let failed = flows.iter().filter(|f| matches!(f.outcome, Outcome::NoReply | Outcome::Refused)).count();
        let datagrams = flows.iter().filter(|f| f.connection.transport == Transport::Udp).count();
        assert!((5..250).contains(&failed), "{failed}");
        assert!((1_000..4_000).contains(&datagrams), "{datagrams}");
    }
}
