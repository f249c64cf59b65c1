//! The suite that every detector of [`detectors::ALL`] must pass, driven through the whole of detection: door, runtime and
//! detector together. A detector added to the list is tested without a line here, as long as [`scenario`] makes it speak.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pairs;
mod tenants;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use tidewatch_schemas::address::{Address, AddressClass, Classifier};
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{DnsRow, FlowRow, Row};
use tidewatch_schemas::time::EventTime;

use crate::detection::{Detection, SliceOutput, SliceRow};
use crate::detectors;
use crate::key::{Host, HostKey};
use crate::operator::{Detector, Position, Slice};
use crate::rule::filter::tests::declared;
use crate::rule::{DEFAULTS, Rule, RuleSet, Source};

/// Length of a slice here, seconds.
const SLICE_S: i64 = 10;

/// Midnight UTC of a day, seconds.
pub(crate) const MIDNIGHT_S: i64 = 1_780_531_200;

/// Bytes that one host's states may hold in one detector, whatever it does: 12 MiB is a beaconing host all of whose pairs
/// are busy.
const HOST_BYTES_MAX: u64 = 12 << 20;

/// The default rule of a kind.
pub(crate) fn default_rule(kind: &str) -> Rule {
    let sources: Vec<Source> = DEFAULTS.iter().map(|d| Source { label: d.file.to_owned(), text: d.text.to_owned() }).collect();
    let set = RuleSet::load(&sources, &[], detectors::ALL).expect("default rules are right");
    set.rules.into_iter().find(|r| r.kind == kind).expect("every detector has a default rule")
}

pub(crate) fn host(a: u8, b: u8) -> Address {
    Address::v4([10, 0, a, b])
}

/// A connection of one record, Zeek's way: the initiator is known.
pub(crate) fn flow(at_s: f64, from: Address, to: Address, port: u16, out: u64, back: u64) -> FlowRow<'static> {
    let at = EventTime::from_secs_f64(at_s).unwrap();
    let class = |a: Address| Classifier::default().classify(a).as_u8();
    FlowRow {
        event_time: at,
        start_time: Some(at),
        end_time: Some(at),
        source_address: Some(from),
        // One port per connection, as far as there are ports.
        source_port: Some(32_768 + ((at.0 / 1_000_000) % 30_000) as u16),
        source_class: class(from),
        destination_address: Some(to),
        destination_port: Some(port),
        destination_class: class(to),
        transport: 6,
        direction_known: true,
        bytes_forward: Some(out),
        bytes_reverse: Some(back),
        sampling_rate: 1,
        connection_state: Some("SF"),
        ..FlowRow::default()
    }
}

/// A look-up of type A with its response code.
pub(crate) fn lookup(at_s: f64, from: Address, query: &str, code: Option<u8>) -> DnsRow<'_> {
    DnsRow {
        event_time: EventTime::from_secs_f64(at_s).unwrap(),
        client_address: Some(from),
        server_port: Some(53),
        transport: 17,
        query,
        query_type: 1,
        response_code: code,
        answers: (code == Some(0)).then_some("198.51.100.7"),
        answer_count: code.map(|c| u16::from(c == 0)),
        ..DnsRow::default()
    }
}

/// The `i`-th of a lot of names that a machine made up.
pub(crate) fn generated_name(i: u64) -> String {
    let mut state = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let letters = (0..14 + i % 4).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((state >> 33) % 26) as u8)
    });
    letters.chain(".example".chars()).collect()
}

/// Rows of one or more hosts on their way through detection.
pub(crate) struct Drive {
    pub detection: Detection,
    pub findings: Vec<Finding>,
    offset: i64,
}

impl Drive {
    pub fn new(rules: &[Rule]) -> Self {
        let mut detection = Detection::new(rules);
        detection.input("flows", 0);
        Self { detection, findings: Vec::new(), offset: 0 }
    }

    /// Rows of one tenant.
    pub fn run_with(&mut self, rows: &[Row<'_>], between: impl FnMut(&mut Self)) {
        self.run_tenants(&[("t", rows)], between);
    }

    /// Files the rows of tenants under the host that each concerns, slice by slice; `between` runs after every slice. Where
    /// a row lies is counted by tenant, so that one does not show in another's findings.
    pub fn run_tenants(&mut self, tenants: &[(&str, &[Row<'_>])], mut between: impl FnMut(&mut Self)) {
        let mut slices: BTreeMap<i64, BTreeMap<HostKey, Vec<SliceRow<'_>>>> = BTreeMap::new();
        for (tenant, rows) in tenants {
            let tenant: Arc<str> = (*tenant).into();
            for (row, offset) in rows.iter().zip(self.offset..) {
                let slice = row.event_time().0.div_euclid(SLICE_S * 1_000_000_000);
                let internal = |class: u8| AddressClass::from_u8(class).is_internal();
                let ends = match row {
                    Row::Flow(row) => [
                        row.source_address.filter(|_| internal(row.source_class)),
                        row.destination_address.filter(|_| internal(row.destination_class)),
                    ],
                    Row::Dns(row) => [row.client_address, None],
                    Row::Edge(row) => [Address::parse(row.source_name.as_bytes()), None],
                    _ => [None, None],
                };
                let mut primary = true;
                for address in ends.into_iter().flatten() {
                    let key = HostKey { tenant: tenant.clone(), host: Host::Address(address) };
                    slices.entry(slice).or_default().entry(key).or_default().push(SliceRow {
                        at: row.event_time(),
                        row: *row,
                        position: Position { input: 0, offset, row: 0 },
                        primary,
                        passes: u64::MAX,
                    });
                    primary = false;
                }
            }
        }
        self.offset += tenants.iter().map(|(_, rows)| rows.len() as i64).max().unwrap_or(0);
        for (index, hosts) in slices {
            let start = EventTime::from_secs(index * SLICE_S);
            let slice = Slice { start, end: start.plus(SLICE_S * 1_000_000_000) };
            let mut out = SliceOutput::default();
            for (key, mut rows) in hosts {
                rows.sort_by(|a, b| a.order(b, &[]));
                self.detection.host(&key, key.route(), slice, &rows, &mut out);
            }
            self.detection.end(slice, &|_| true, &mut out);
            out.findings.iter().for_each(declared);
            self.findings.extend(out.findings);
            between(self);
        }
    }

    pub fn run(&mut self, rows: &[Row<'_>]) {
        self.run_with(rows, |_| {});
    }

    pub fn run_flows(&mut self, rows: &[FlowRow<'_>]) {
        self.run(&rows.iter().map(|r| Row::Flow(*r)).collect::<Vec<_>>());
    }
}

/// Findings of flows under rules.
pub(crate) fn findings(rules: &[Rule], rows: &[FlowRow<'_>]) -> Vec<Finding> {
    findings_of(rules, &rows.iter().map(|r| Row::Flow(*r)).collect::<Vec<_>>())
}

/// Findings of rows of any kind under rules.
pub(crate) fn findings_of(rules: &[Rule], rows: &[Row<'_>]) -> Vec<Finding> {
    let mut drive = Drive::new(rules);
    drive.run(rows);
    drive.findings
}

/// Names of [`scenario`] and [`scan`].
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| (0..50_000).map(generated_name).collect());

/// Names that carry something.
static TUNNEL: LazyLock<Vec<String>> = LazyLock::new(|| {
    (0..80).map(|i| generated_name(i) + &generated_name(i + 100).replace("example", "tunnel.example")).collect()
});

/// Rows in which every detector finds something: a beacon, a spike, a sweep, a search for a server, a scan, a connection
/// that lasts and a tunnel, each from its own host, and a fourth host that does all of it.
fn scenario() -> Vec<Row<'static>> {
    let at = |s: i64| (MIDNIGHT_S + 36_000 + s) as f64;
    let outside = Address::v4([198, 51, 100, 20]);
    let mut rows = Vec::new();
    for (i, n) in [(1_u8, 3_i64), (4, 5)] {
        rows.extend((0..60).map(|k| flow(at(k * 60 + n), host(0, i), outside, 443, 900, 4000)));
    }
    for (i, n) in [(2_u8, 7_i64), (4, 11)] {
        let other = Address::v4([203, 0, 113, 9]);
        // Not in rhythm.
        rows.extend((0..30).map(|k| flow(at(k * 60 + (k * k * 7 + n) % 50), host(0, i), other, 443, 1 << 20, 9000)));
        rows.push(flow(at(2400 + n), host(0, i), other, 443, 64 << 20, 9000));
        rows.push(flow(at(3000 + n), host(0, i), other, 443, 640 << 20, 9000));
    }
    for i in [3, 4] {
        rows.extend((1..=60).map(|k| flow(at(1000 + k * 2), host(0, i), host(1, k as u8), 445, 400, 400)));
    }
    for (i, n) in [(6_u8, 3_i64), (4, 9)] {
        // Open for three days; a source that tells of connections at their end.
        let open = flow(at(1500 + n), host(0, i), Address::v4([203, 0, 113, 40]), 8022, 400_000, 900_000);
        rows.push(FlowRow { start_time: Some(open.event_time.minus(259_200_000_000_000)), ..open });
        // Tries fail, or nobody is there.
        let failed = |k: i64| FlowRow {
            connection_state: Some(if k % 2 == 0 { "REJ" } else { "S0" }),
            ..flow(at(1600 + n + k / 2), host(0, i), host(2, k as u8), 8080, 0, 0)
        };
        rows.extend((1..=60).map(failed));
    }
    let mut rows: Vec<Row<'static>> = rows.into_iter().map(Row::Flow).collect();
    for (i, n) in [(7_u8, 1_i64), (4, 9)] {
        let ask = |k: usize| {
            let row = lookup(at(1500 + n + 2 * k as i64), host(0, i), &TUNNEL[k], Some(0));
            DnsRow { query_type: 16, answers: Some("c2VjcmV0cyBvZiBhIGhvc3Q"), ..row }
        };
        rows.extend((0..80).map(|k| Row::Dns(ask(k))));
    }
    for (i, n) in [(5_u8, 3_i64), (4, 0)] {
        let ask = |k: usize| lookup(at(1200 + n + 3 * k as i64), host(0, i), &NAMES[k + usize::from(i)], Some(3));
        rows.extend((0..40).map(|k| Row::Dns(ask(k))));
    }
    rows.sort_by_key(Row::event_time);
    rows
}

/// The same with other labels in front, so that they carry something.
static FRONTED: LazyLock<Vec<String>> =
    LazyLock::new(|| NAMES.iter().zip(7..).map(|(name, i)| generated_name(i)[..12].to_owned() + "." + name).collect());

/// A rule that asks for more and one that asks for less than the default.
fn variants(rule: &Rule) -> [Rule; 2] {
    let change = |id: &str, by: f64| {
        let mut rule = Rule { id: format!("{}-{id}", rule.id), ..rule.clone() };
        let detector = detectors::by_rule_kind(&rule.kind).unwrap();
        // The first threshold of a detector is how much it wants to see.
        let first = detector.thresholds[0];
        let value = (first.default * by).clamp(first.min, first.max);
        rule.thresholds.insert(first.name.to_owned(), value.ceil());
        rule
    };
    [change("less", 0.5), change("more", 2.0)]
}

fn each(test: impl Fn(&'static Detector, Rule)) {
    for detector in detectors::ALL {
        test(detector, default_rule(detector.rule_kind));
    }
}

#[test]
fn the_scenario_makes_every_detector_speak() {
    let rows = scenario();
    each(|detector, rule| {
        let found = findings_of(&[rule], &rows);
        assert!(found.len() >= 2, "{}: {found:?}", detector.kind);
        for f in &found {
            assert_eq!(f.kind, detector.kind);
            assert!(!f.why.is_empty() && !f.subject.is_empty() && !f.attack.is_empty() && f.confidence > 0, "{f:?}");
            let on_the_page = |id: &str| detector.page.lines().any(|l| l.starts_with("//!") && l.contains(id));
            let known = f.attack.iter().all(|id| crate::attack::name(id).is_some() && on_the_page(id));
            assert!(known && f.attack.is_sorted_by(|a, b| a < b), "{}: {:?}", f.kind, f.attack);
            assert!(f.first_seen <= f.last_seen && f.decided_at >= f.slice_start && f.decided_at < f.slice_end, "{f:?}");
            assert!(!f.raw.is_empty(), "{f:?}");
        }
    });
}

#[test]
fn the_same_rows_give_the_same_findings() {
    let (rows, mut backwards) = (scenario(), scenario());
    backwards.reverse();
    each(|detector, rule| {
        let strip = |mut found: Vec<Finding>| {
            // Offsets follow the order of arrival.
            found.iter_mut().for_each(|f| f.raw.clear());
            found
        };
        let first = findings_of(std::slice::from_ref(&rule), &rows);
        assert_eq!(first, findings_of(std::slice::from_ref(&rule), &rows), "{}", detector.kind);
        assert_eq!(strip(first), strip(findings_of(&[rule], &backwards)), "{}", detector.kind);
    });
}

#[test]
fn states_survive_a_snapshot_after_any_slice() {
    let rows = scenario();
    each(|detector, rule| {
        let rules = [rule];
        let undisturbed = findings_of(&rules, &rows);
        let mut drive = Drive::new(&rules);
        drive.run_with(&rows, |drive| {
            let mut restored = Detection::new(&rules);
            restored.set_inputs(drive.detection.inputs().to_vec());
            for part in drive.detection.parts(false) {
                let bytes = drive.detection.pack(&part);
                restored.unpack(&part, &bytes).unwrap();
                assert_eq!(restored.pack(&part), bytes, "{}: a restored state is another one", detector.kind);
            }
            drive.detection = restored;
        });
        assert_eq!(drive.findings, undisturbed, "{}", detector.kind);
    });
}

#[test]
fn two_rules_of_one_kind_give_what_each_gives_alone() {
    let rows = scenario();
    each(|detector, rule| {
        let [less, more] = variants(&rule);
        let by = |found: Vec<Finding>, id: &str| found.into_iter().filter(|f| f.rule.id == id).collect::<Vec<_>>();
        let both = findings_of(&[less.clone(), more.clone()], &rows);
        let alone = [findings_of(std::slice::from_ref(&less), &rows), findings_of(std::slice::from_ref(&more), &rows)];
        assert_ne!(alone[0].len() + alone[1].len(), 0, "{}", detector.kind);
        assert_eq!(by(both.clone(), &less.id), alone[0], "{}", detector.kind);
        assert_eq!(by(both, &more.id), alone[1], "{}", detector.kind);
    });
}

/// 100,000 destinations of one host, on a port that everybody looks at and one that nobody does. What goes outside has been
/// open for two hours.
fn scan(from: Address) -> Vec<Row<'static>> {
    let one = |i: u32, inside: bool| {
        let [_, a, b, c] = i.to_be_bytes();
        let to = if inside { Address::v4([10, 64 + a, b, c]) } else { Address::v4([45, a, b, c]) };
        let at_s = (MIDNIGHT_S + 36_000) as f64 + f64::from(i) * 0.002;
        let mut flow = flow(at_s, from, to, if inside { 445 } else { 443 }, 2000, 0);
        if !inside {
            flow.start_time = Some(flow.event_time.minus(7_200_000_000_000));
        }
        // Every other target has a name as well, which does not exist.
        let dns = inside.then(|| Row::Dns(lookup(at_s, from, &FRONTED[(i / 2) as usize], Some(3))));
        [Some(Row::Flow(flow)), dns].into_iter().flatten()
    };
    (0..100_000).flat_map(|i| one(i, i % 2 == 0)).collect()
}

#[test]
fn a_scan_of_100_000_destinations_is_bounded_and_told_a_few_times() {
    let scanner = host(0, 66);
    let rows = scan(scanner);
    let key = HostKey { tenant: "t".into(), host: Host::Address(scanner) };
    each(|detector, rule| {
        let before = reached(detector);
        let mut detection = Detection::new(&[rule]);
        detection.input("flows", 0);
        let mut out = SliceOutput::default();
        // Only the scanner's own rows: the other ends have their own states.
        for (k, rows) in rows.chunks(5000).enumerate() {
            let start = EventTime::from_secs(MIDNIGHT_S + 36_000 + k as i64 * SLICE_S);
            let slice = Slice { start, end: start.plus(SLICE_S * 1_000_000_000) };
            let rows: Vec<SliceRow<'_>> = rows
                .iter()
                .map(|r| SliceRow {
                    at: r.event_time(),
                    row: *r,
                    position: Position { input: 0, offset: 0, row: 0 },
                    primary: true,
                    passes: u64::MAX,
                })
                .collect();
            detection.host(&key, key.route(), slice, &rows, &mut out);
            detection.end(slice, &|_| true, &mut out);
        }
        let stats = detection.stats().1[0].states;
        // Nothing bounds a detector that keeps nothing of it.
        assert_eq!(stats.keys, 1, "{}: keeps nothing of the scan", detector.kind);
        assert!(stats.bytes <= HOST_BYTES_MAX, "{}: {stats:?}", detector.kind);
        assert!(out.findings.len() <= 20, "{}: {}", detector.kind, out.findings.len());
        // Who keeps destinations one by one says that it had to forget some; sums of octets forget none.
        if detector.rule_kind != "egress_volume" {
            assert!(reached(detector) > before, "{}: no limit was counted", detector.kind);
        }
    });
}

/// How often the limits of a detector bit so far, whoever did it.
fn reached(detector: &Detector) -> u64 {
    detector.limits.iter().map(|limit| limit.reached()).sum()
}

#[test]
fn a_server_that_answers_10_000_clients_raises_nothing() {
    let at = |i: i64| (MIDNIGHT_S + 36_000) as f64 + i as f64 * 0.5;
    let mut rows = Vec::new();
    for i in 0..10_000_i64 {
        let client = |a: u8| Address::v4([a, 77, (i >> 8) as u8, i as u8]);
        // Records of both directions, as NetFlow exports them, from inside and outside; the answer is seen first.
        for (client, port) in [(client(10), 445), (client(91), 443)] {
            let mut asked = flow(at(i), client, host(0, 10), port, 300, 0);
            (asked.direction_known, asked.bytes_reverse, asked.connection_state) = (false, None, None);
            asked.tcp_flags = Some(0x1b);
            let mut answered = FlowRow { bytes_forward: Some(if i % 5000 == 4000 { 1 << 30 } else { 40_000 }), ..asked };
            std::mem::swap(&mut answered.source_address, &mut answered.destination_address);
            std::mem::swap(&mut answered.source_port, &mut answered.destination_port);
            std::mem::swap(&mut answered.source_class, &mut answered.destination_class);
            rows.push(answered);
            rows.push(asked);
        }
    }
    let server = host(0, 10);
    each(|detector, rule| {
        let found = findings(&[rule], &rows);
        let of_server = found.iter().filter(|f| f.entity.id == server.to_string()).count();
        assert_eq!(of_server, 0, "{}: {:?}", detector.kind, found.first());
    });
}

#[test]
fn every_detector_has_a_page_a_rule_and_sound_thresholds() {
    each(|detector, rule| {
        assert_eq!(detector.kind, format!("ndr.{}", detector.rule_kind));
        assert!(rule.enabled && rule.suppress_ns > 0);
        let page: Vec<&str> = detector.page.lines().map_while(|l| l.strip_prefix("//!")).map(str::trim).collect();
        let headings: Vec<&str> = page.iter().filter_map(|l| l.strip_prefix("# ")).collect();
        assert_eq!(
            headings,
            [
                "What it finds",
                "Why it matters",
                "Rows and key",
                "State",
                "Thresholds",
                "False positives",
                "Blind spots",
                "ATT&CK",
                "Sources"
            ],
            "{}",
            detector.kind
        );
        let page = page.join(" ");
        assert!(page.contains("KB") && detector.attack.iter().all(|id| page.contains(id)), "{}", detector.kind);
        for t in detector.thresholds {
            assert!(t.min <= t.default && t.default <= t.max && !t.meaning.is_empty(), "{}", t.name);
            assert!(rule.thresholds.contains_key(t.name));
        }
        for list in detector.lists {
            assert!(rule.lists.contains_key(list.name) && !list.meaning.is_empty());
        }
    });
}

#[test]
fn repetition_does_not_let_states_grow() {
    let rows = scenario();
    let [few, many] = [1, 8].map(|days| {
        let mut all = Vec::new();
        for day in 0..days {
            for row in &rows {
                let mut row = *row;
                let times = match &mut row {
                    Row::Flow(f) => [Some(&mut f.event_time), f.start_time.as_mut(), f.end_time.as_mut()],
                    Row::Dns(d) => [Some(&mut d.event_time), None, None],
                    _ => [None, None, None],
                };
                times.into_iter().flatten().for_each(|t| *t = t.plus(day * 86_400_000_000_000));
                all.push(row);
            }
        }
        all
    });
    each(|detector, rule| {
        let mut drive = Drive::new(std::slice::from_ref(&rule));
        drive.run(&few);
        let once = drive.detection.stats().1[0].states.bytes;
        drive.run(&many[few.len()..]);
        let later = drive.detection.stats().1[0].states.bytes;
        assert!(later <= once * 3, "{}: states grow from {once} to {later} by repetition", detector.kind);
    });
}
