//! Flow records for measuring: no office, no meaning, but the shape that costs — many tenants, hosts and pairs, contacted
//! unevenly. Made as fast as bytes can be written, so that a bench measures its subject.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::EventTime;

use crate::event::Transport;
use crate::plan::PRESET_START;
use crate::probectl::{FLOW_TOPIC, Record, Row, collector, tenant_key};
use crate::protobuf::bytes;
use crate::random::{Random, mix};

/// Destinations of one host.
const PAIRS_PER_HOST: u64 = 40;

/// A synthetic stream of flow records.
#[derive(Clone, Debug, PartialEq)]
pub struct Synthetic {
    /// Names the random numbers.
    pub seed: u64,
    /// Records in all.
    pub flows: u64,
    /// Distinct (tenant, host, destination, port).
    pub pairs: u64,
    /// Tenants `bench-1` and on, at least 1.
    pub tenants: u32,
    /// Event time of the first record.
    pub start: EventTime,
    /// Event time over which the rows are spread evenly, seconds.
    pub duration_s: u32,
    /// Records of a batch, at least 1.
    pub batch: u32,
    /// Every second record is the reply to the one before.
    pub replies: bool,
    /// Share of all records that one host of the first tenant calls with, 0 to 1.
    pub skew: f64,
    /// Which pairs call how often.
    pub visits: Visits,
}

/// How calls are spread over pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visits {
    /// Some pairs are busy and many are rare; with few calls some never come.
    #[default]
    Uneven,
    /// Every pair three times, every tenth seven times more; each round in an order of its own. After these 3.7 calls per
    /// pair nothing is seen once, and from then on any pair may be next.
    Live,
    /// The same rounds again and again: every pair calls once a round, which is a timer with much jitter.
    Rounds,
}

/// Offices of a tenant, each with a collector of its own.
const OFFICES: u64 = 8;

/// Event time that the rows of one record are spread over at most, seconds.
const LOOKED_BACK_S: u64 = 15;

/// Destinations of the host that calls most, with [`Synthetic::skew`].
const HOT_PEERS: u64 = 1_000;

/// Targets of one sweep: enough for every threshold that a rule may set.
const SWEPT: u32 = 80;

impl Default for Synthetic {
    fn default() -> Self {
        Self {
            seed: 1,
            flows: 1_000_000,
            pairs: 100_000,
            tenants: 4,
            start: PRESET_START,
            duration_s: 3_600,
            batch: 500,
            replies: true,
            skew: 0.0,
            visits: Visits::Uneven,
        }
    }
}

impl Synthetic {
    /// The records, by timestamp.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let batches = self.flows.div_ceil(u64::from(self.batch.max(1)));
        let mut scratch = Vec::with_capacity(256);
        (0..batches).map(move |n| self.record(n, &mut scratch))
    }

    fn record(&self, n: u64, scratch: &mut Vec<u8>) -> Record {
        let (batch, tenants) = (u64::from(self.batch.max(1)), u64::from(self.tenants.max(1)));
        let hot = self.skew > 0.0 && Random::of([self.seed, 1 << 41, n, 0]).unit() < self.skew;
        let tenant = if hot { 0 } else { n % tenants };
        let office = if hot { 0 } else { (n / tenants % OFFICES) as u16 };
        let (tenant_id, agent) = (format!("bench-{}", tenant + 1), collector(office));
        let mut random = Random::of([self.seed, 1 << 40, n, 0]);
        let rows = n * batch..((n + 1) * batch).min(self.flows);
        let (after, looked_back) = (rows.end, (self.apart() * batch).min(rows.end));
        let mut value = Vec::with_capacity(batch as usize * 200);
        let mut last = self.start;
        let mut forward = None;
        // Calls of this tenant and office before this record.
        let mut serial = n / tenants / OFFICES * if self.replies { batch.div_ceil(2) } else { batch };
        for row in rows {
            let end = self.at(after - (after - row) * looked_back / batch);
            let mut flow = match forward.take() {
                Some(call) if self.replies => reply_of(call),
                _ => {
                    let call = if hot {
                        let to = mix(&[self.seed, 1 << 42, random.bits() % HOT_PEERS]);
                        directed((crate::world::HOSTS_MAX - 1, to), random.bits())
                    } else {
                        self.call(tenant, tenants, office, serial, &mut random)
                    };
                    serial += 1;
                    forward = Some(call);
                    call
                }
            };
            flow.tcp_flags |= 0x18;
            last = end;
            scratch.clear();
            Row {
                tenant: &tenant_id,
                agent: &agent,
                exporter: Address::v4([10, 0, office as u8, 1]),
                observed: end.plus(1_000_000_000),
                start: end.minus(flow.lasts_ns),
                end,
                from: flow.from,
                to: flow.to,
                transport: Transport::Tcp,
                tcp_flags: flow.tcp_flags,
                bytes: flow.bytes,
                packets: 2 + flow.bytes / 1_400,
                interfaces: (1, 2),
            }
            .write(scratch);
            bytes(&mut value, 1, scratch);
        }
        let key = tenant_key(&tenant_id, &agent).into_bytes();
        Record { topic: FLOW_TOPIC, key, timestamp: last.plus(1_000_000_000), value }
    }

    /// How many rows of all collectors lie between two of one record: a collector sends what it has seen since its last record,
    /// but no more than so much time is looked back on. Rows of one moment would give every pair the collector's rhythm.
    fn apart(&self) -> u64 {
        let looked_back = self.flows.saturating_mul(LOOKED_BACK_S) / u64::from(self.duration_s.max(1));
        let collectors = u64::from(self.tenants.max(1)) * OFFICES;
        (looked_back / u64::from(self.batch.max(1))).clamp(1, collectors)
    }

    fn at(&self, row: u64) -> EventTime {
        let span_ns = u128::from(self.duration_s) * 1_000_000_000;
        self.start.plus((span_ns * u128::from(row) / u128::from(self.flows.max(1))) as i64)
    }

    /// A call of one of the tenant's pairs: the square favours the first ones, so some pairs are busy and many are rare.
    /// A pair always calls through the same office, as a host does.
    fn call(&self, tenant: u64, tenants: u64, office: u16, serial: u64, random: &mut Random) -> Directed {
        let pairs = (self.pairs / tenants / OFFICES).max(1);
        let within = match self.visits {
            Visits::Uneven => {
                let share = random.unit();
                ((share * share * pairs as f64) as u64).min(pairs - 1)
            }
            Visits::Live if serial >= cycle(pairs) => random.bits() % pairs,
            Visits::Live | Visits::Rounds => in_rounds(pairs, serial, self.seed ^ tenant << 8 ^ u64::from(office)),
        };
        let pair = within * OFFICES + u64::from(office);
        let host = (pair / OFFICES / PAIRS_PER_HOST) as u32 * OFFICES as u32 + u32::from(office);
        let bits = random.bits();
        directed((host, mix(&[self.seed, tenant, pair])), bits)
    }

    /// One record in which one more host of the first tenant, number `n`, knocks at many neighbours that do not answer, at
    /// `at`: what a detector tells at once.
    pub fn sweep(&self, n: u32, at: EventTime) -> Record {
        let (tenant, agent) = ("bench-1", collector(0));
        let (mut value, mut scratch) = (Vec::new(), Vec::new());
        for target in 0..SWEPT {
            scratch.clear();
            Row {
                tenant,
                agent: &agent,
                exporter: Address::v4([10, 0, 0, 1]),
                observed: at,
                start: at.minus(1_000_000),
                end: at,
                from: (crate::world::host(2_000_000 + n), 50_000 + target as u16),
                to: (crate::world::host(1_000_000 + target), 445),
                transport: Transport::Tcp,
                tcp_flags: 0x02,
                bytes: 44,
                packets: 1,
                interfaces: (1, 2),
            }
            .write(&mut scratch);
            bytes(&mut value, 1, &scratch);
        }
        Record { topic: FLOW_TOPIC, key: tenant_key(tenant, &agent).into_bytes(), timestamp: at, value }
    }
}

/// Calls after which every pair has called three times and every tenth ten times.
fn cycle(pairs: u64) -> u64 {
    3 * pairs + 7 * pairs.div_ceil(10)
}

/// Which of `pairs` pairs calls as number `serial`, with [`Visits::Rounds`].
fn in_rounds(pairs: u64, serial: u64, seed: u64) -> u64 {
    let tenth = pairs.div_ceil(10);
    let (turn, at) = (serial / cycle(pairs), serial % cycle(pairs));
    let (round, among, step) = if at < 3 * pairs { (at / pairs, pairs, 1) } else { (3 + (at - 3 * pairs) / tenth, tenth, 10) };
    let place = if step == 1 { at % pairs } else { (at - 3 * pairs) % tenth };
    // A multiple of a number that shares no divisor with `among` passes every one once.
    let chance = mix(&[seed, turn, round]);
    let mut factor = (chance % among.max(2)) | 1;
    while divisor(factor, among) > 1 {
        factor += 2;
    }
    let shuffled = (u128::from(place) * u128::from(factor) + u128::from(chance >> 32)) % u128::from(among);
    (shuffled as u64 * step).min(pairs - 1)
}

fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn directed((host, to): (u32, u64), bits: u64) -> Directed {
    let [a, b, c, d] = [23 + (to % 4) as u8 * 11, (to >> 8) as u8, (to >> 16) as u8, (to >> 24) as u8 | 1];
    Directed {
        from: (crate::world::host(host), 49_152 + (bits & 0x3fff) as u16),
        to: (Address::v4([a, b, c, d]), if to >> 60 == 0 { 80 } else { 443 }),
        bytes: 400 + (bits >> 20 & 0xfff),
        lasts_ns: (bits >> 32 & 0x3fff_ffff) as i64,
        tcp_flags: 0x03,
    }
}

#[derive(Clone, Copy)]
struct Directed {
    from: (Address, u16),
    to: (Address, u16),
    bytes: u64,
    lasts_ns: i64,
    tcp_flags: u8,
}

fn reply_of(call: Directed) -> Directed {
    Directed { from: call.to, to: call.from, bytes: call.bytes * 6, ..call }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probectl::tests::{FlowBatch, decode};

    #[test]
    fn the_records_hold_the_flows_asked_for_in_order() {
        let synthetic = Synthetic { flows: 20_250, pairs: 640, ..Synthetic::default() };
        let mut pairs = std::collections::BTreeSet::new();
        let (mut rows, mut last) = (0, EventTime::MIN);
        for record in synthetic.records() {
            assert!(record.timestamp >= last);
            last = record.timestamp;
            for flow in decode::<FlowBatch>(&record.value).flows {
                rows += 1;
                if flow.destination_port < 49_152 {
                    pairs.insert((flow.tenant_id, flow.source_address, flow.destination_address, flow.destination_port));
                }
            }
        }
        assert_eq!(rows, 20_250);
        assert!((600..=640).contains(&pairs.len()), "{}", pairs.len());
    }
    #[test]
    fn live_pairs_call_three_or_ten_times_and_one_host_can_call_most() {
        let synthetic = Synthetic {
            flows: 3_700 * 32,
            pairs: 32_000,
            batch: 100,
            replies: false,
            visits: Visits::Live,
            ..Synthetic::default()
        };
        let mut calls = std::collections::BTreeMap::new();
        for flow in synthetic.records().flat_map(|r| decode::<FlowBatch>(&r.value).flows) {
            *calls.entry((flow.tenant_id, flow.source_address, flow.destination_address)).or_insert(0) += 1;
        }
        let all = calls.len() as f64;
        assert!(all > 31_900.0, "{all}");
        let at_least = |n| calls.values().filter(|c| **c >= n).count() as f64 / all;
        assert!(at_least(3) > 0.99 && at_least(10) > 0.099 && at_least(11) < 0.01, "{} {}", at_least(3), at_least(10));

        let skewed = Synthetic { flows: 50_000, skew: 0.3, ..synthetic };
        let mut by_host = std::collections::BTreeMap::new();
        for flow in skewed.records().flat_map(|r| decode::<FlowBatch>(&r.value).flows) {
            *by_host.entry((flow.tenant_id, flow.source_address)).or_insert(0) += 1;
        }
        let most = by_host.values().max().copied().unwrap_or(0);
        assert!((13_000..17_000).contains(&most), "{most}");
    }
}
