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
    /// Event time over which the records are spread evenly, seconds.
    pub duration_s: u32,
    /// Records of a batch, at least 1.
    pub batch: u32,
    /// Every second record is the reply to the one before.
    pub replies: bool,
}

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
        let tenant = n % tenants;
        let office = (n / tenants % 8) as u16;
        let (tenant_id, agent) = (format!("bench-{}", tenant + 1), collector(office));
        let mut random = Random::of([self.seed, 1 << 40, n, 0]);
        let rows = n * batch..((n + 1) * batch).min(self.flows);
        let mut value = Vec::with_capacity(batch as usize * 200);
        let mut last = self.start;
        let mut forward = None;
        for row in rows {
            let end = self.at(row);
            let mut flow = match forward.take() {
                Some(call) if self.replies => reply_of(call),
                _ => {
                    let call = self.call(tenant, tenants, office, &mut random);
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

    fn at(&self, row: u64) -> EventTime {
        let span_ns = u128::from(self.duration_s) * 1_000_000_000;
        self.start.plus((span_ns * u128::from(row) / u128::from(self.flows.max(1))) as i64)
    }

    /// A call of one of the tenant's pairs: the square favours the first ones, so some pairs are busy and many are rare.
    /// A pair always calls through the same office, as a host does.
    fn call(&self, tenant: u64, tenants: u64, office: u16, random: &mut Random) -> Directed {
        let pairs = (self.pairs / tenants / 8).max(1);
        let share = random.unit();
        let pair = (((share * share * pairs as f64) as u64).min(pairs - 1) * 8) + u64::from(office);
        let host = (pair / 8 / PAIRS_PER_HOST) as u32 * 8 + u32::from(office);
        let bits = random.bits();
        let to = mix(&[self.seed, tenant, pair]);
        let [a, b, c, d] = [23 + (to % 4) as u8 * 11, (to >> 8) as u8, (to >> 16) as u8, (to >> 24) as u8 | 1];
        Directed {
            from: (crate::world::host(host), 49_152 + (bits & 0x3fff) as u16),
            to: (Address::v4([a, b, c, d]), if to >> 60 == 0 { 80 } else { 443 }),
            bytes: 400 + (bits >> 20 & 0xfff),
            lasts_ns: (bits >> 32 & 0x3fff_ffff) as i64,
            tcp_flags: 0x03,
        }
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
}
