//! A detector for the simulation: counts and chains every row of a host, and says so again and again. Any row lost, taken
//! twice or out of order changes all that it says from then on; what the product's detectors would forgive, it does not.
//!
//! Two more of it have a fault planted: one looks at the clock, one walks over a hash map.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::sync::LazyLock;

use tidewatch_operators::detectors;
use tidewatch_operators::operator::{Context, Detector, Draft, Footprint, Observation, Operator, Seen};
use tidewatch_operators::rule::Rule;
use tidewatch_operators::runtime::Store;
use tidewatch_schemas::observation::Kind;
use tidewatch_schemas::signal::{Endpoint, Evidence, Severity, Value};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

/// It speaks whenever so many rows more have come.
const SPEAKS_EVERY_ROWS: u64 = 5;

/// A host without rows for so long is said to be quiet.
const QUIET_NS: i64 = 25 * SECOND_NS;

thread_local! {
    /// Process and wall clock of whoever runs now: what an operator must not see.
    static AROUND: Cell<(u32, i64)> = const { Cell::new((0, 0)) };
}

/// Says who runs on this thread from now on, and what its clock shows.
pub fn enter(process: u32, now_ns: i64) {
    AROUND.set((process, now_ns));
}

/// The product's detectors and the tally.
pub fn detectors(fault: Fault) -> &'static [&'static Detector] {
    static OF: LazyLock<[Vec<&'static Detector>; 3]> =
        LazyLock::new(|| [&TALLY, &WALL_CLOCK, &HASH_ORDER].map(|tally| detectors::ALL.iter().copied().chain([tally]).collect()));
    &OF[fault as usize]
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It looks at the clock of its machine.
    WallClock,
    /// It walks over a hash map whose order differs between processes.
    HashOrder,
}

/// Its rule; what it says of one peer is not said again within two slices.
pub fn rule() -> Rule {
    Rule {
        id: "sim-tally".to_owned(),
        version: 1,
        kind: "tally".to_owned(),
        name: String::new(),
        description: String::new(),
        severity: Severity::Low,
        base_confidence: 50,
        suppress_ns: 12 * SECOND_NS,
        enabled: true,
        thresholds: BTreeMap::new(),
        lists: BTreeMap::new(),
        ..Rule::default()
    }
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Chain {
    rows: u64,
    chain: u64,
    last: EventTime,
}

impl Footprint for Chain {
    fn heap_bytes(&self) -> usize {
        0
    }
}

struct Tally(Fault);

/// Hashes differently in every process.
struct OfProcess(u32);

impl BuildHasher for OfProcess {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u32(self.0);
        hasher
    }
}

fn chained(chain: u64, text: &str) -> u64 {
    let digest = blake3::hash(format!("{chain:016x}{text}").as_bytes());
    u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

impl Tally {
    fn draft(&self, what: &str, peer: &str, state: &Chain, ctx: &Context<'_>) -> Draft {
        let mut evidence = Evidence::new();
        evidence.insert("rows".to_owned(), Value::Long(state.rows as i64));
        evidence.insert("chain".to_owned(), Value::Text(format!("{:016x}", state.chain)));
        Draft {
            why: format!("{} {what} {peer}", ctx.key.host),
            confidence: 50,
            subject: format!("{what} {peer}"),
            contact: Some(peer.to_owned()),
            destination: Some(Endpoint { ip: Some(peer.to_owned()), ..Endpoint::default() }),
            first_seen: state.last,
            last_seen: state.last,
            decided_at: state.last,
            evidence,
            ..Draft::default()
        }
    }
}

impl Operator for Tally {
    type State = Chain;

    fn rows(&self, rows: &[Seen<'_>], state: &mut Chain, ctx: &mut Context<'_>) {
        let mut last = None;
        let mut peers = HashMap::with_hasher(OfProcess(AROUND.get().0));
        let before = state.rows / SPEAKS_EVERY_ROWS;
        for seen in rows {
            let Observation::Flow(flow) = &seen.what else { continue };
            let peer = flow.peer.address.map(|a| a.to_string()).unwrap_or_default();
            state.rows += 1;
            state.chain = chained(state.chain, &format!("{peer} {} {:?} {:?}", seen.at.0, flow.peer_port, flow.bytes_out));
            state.last = state.last.max(seen.at);
            *peers.entry(peer.clone()).or_insert(0_u32) += 1;
            last = Some(peer);
        }
        let Some(mut peer) = last else { return };
        if self.0 == Fault::HashOrder {
            peer = peers.into_keys().next().unwrap_or(peer);
        }
        ctx.wake_at(ctx.slice.end.plus(QUIET_NS));
        if state.rows / SPEAKS_EVERY_ROWS > before {
            let mut draft = self.draft("calls", &peer, state, ctx);
            if self.0 == Fault::WallClock {
                draft.evidence.insert("took_s".to_owned(), Value::Long((AROUND.get().1 - state.last.0) / SECOND_NS));
            }
            ctx.emit(draft);
        }
    }

    fn wake(&self, at: EventTime, state: &mut Chain, ctx: &mut Context<'_>) {
        if at.since(state.last) >= QUIET_NS {
            state.chain = chained(state.chain, "quiet");
            let draft = self.draft("is quiet", "", state, ctx);
            ctx.emit(Draft { decided_at: at, ..draft });
        }
    }
}

const fn detector(build: fn(&Rule) -> Box<dyn tidewatch_operators::runtime::Instance>) -> Detector {
    Detector {
        kind: "sim.tally",
        rule_kind: "tally",
        title: "Tally",
        page: "",
        reads: &[Kind::Flow],
        attack: &[],
        thresholds: &[],
        lists: &[],
        evidence: &[],
        limits: &[],
        build,
        judge: |mut finding, facts| {
            finding.evidence.insert("knowing".to_owned(), Value::Long(facts.knowing as i64));
            finding.evidence.insert("hosts".to_owned(), Value::Long(facts.hosts as i64));
            Some(finding)
        },
    }
}

static TALLY: Detector = detector(|rule| Store::boxed(&TALLY, rule, |_| Tally(Fault::None)));
static WALL_CLOCK: Detector = detector(|rule| Store::boxed(&WALL_CLOCK, rule, |_| Tally(Fault::WallClock)));
static HASH_ORDER: Detector = detector(|rule| Store::boxed(&HASH_ORDER, rule, |_| Tally(Fault::HashOrder)));
