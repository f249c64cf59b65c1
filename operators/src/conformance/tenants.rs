//! P4 for every detector: whatever another tenant's hosts of the same addresses do, a tenant's findings stay what they are
//! without it. Knows one process and one task; records of wrong tenants, clocks and lanes are tested where they are decided.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{DnsRow, FlowRow, Row};

use super::{Drive, FRONTED, MIDNIGHT_S, SLICE_S, each, flow, host, lookup, scan, scenario};
use crate::rule::Rule;

/// The scenario a little later, and all flows three times as large.
fn other(after_s: i64) -> Vec<Row<'static>> {
    let later = |row: Row<'static>| match row {
        Row::Flow(f) => Row::Flow(FlowRow {
            event_time: f.event_time.plus(after_s * 1_000_000_000),
            start_time: f.start_time.map(|t| t.plus(after_s * 1_000_000_000)),
            end_time: f.end_time.map(|t| t.plus(after_s * 1_000_000_000)),
            bytes_forward: f.bytes_forward.map(|bytes| bytes * 3),
            ..f
        }),
        Row::Dns(d) => Row::Dns(DnsRow { event_time: d.event_time.plus(after_s * 1_000_000_000), ..d }),
        row => row,
    };
    scenario().into_iter().map(later).collect()
}

fn of<'f>(findings: &'f [Finding], tenant: &str) -> Vec<&'f Finding> {
    findings.iter().filter(|f| f.tenant == tenant).collect()
}

/// A tenant whose rows let time go on the same way in every run: a slice of the drive is one in which somebody has a row,
/// and a wish to be woken is served in it. Live and in a backtest there is a slice for each wish.
const CLOCK: &str = "clock";

fn clock() -> Vec<Row<'static>> {
    let at_s = |k: i64| (MIDNIGHT_S + 36_000 + k * SLICE_S) as f64 + 0.5;
    (0..3 * 3600 / SLICE_S).map(|k| Row::Dns(lookup(at_s(k), host(9, 9), "www.example.com", Some(0)))).collect()
}

fn run(rule: &Rule, tenants: &[(&str, &[Row<'_>])]) -> Vec<Finding> {
    let mut drive = Drive::new(std::slice::from_ref(rule));
    run_on(&mut drive, tenants, |_| {});
    drive.findings
}

fn run_on(drive: &mut Drive, tenants: &[(&str, &[Row<'_>])], between: impl FnMut(&mut Drive)) {
    let clock = clock();
    let mut all = tenants.to_vec();
    all.push((CLOCK, &clock));
    drive.run_tenants(&all, between);
    drive.findings.retain(|f| f.tenant != CLOCK);
}

#[test]
fn findings_of_two_tenants_side_by_side_are_those_of_each_alone() {
    let rows = scenario();
    // The very same hosts, addresses, names and times; the same at other times and sizes; half of it, at a time when the
    // other tenant's windows are half full.
    let half: Vec<Row<'_>> = rows.iter().copied().step_by(2).collect();
    for beside in [&rows, &other(0), &other(437), &half] {
        each(|detector, rule| {
            let together = run(&rule, &[("a", &rows), ("b", beside)]);
            let (a, b) = (run(&rule, &[("a", &rows)]), run(&rule, &[("b", beside)]));
            assert!(a.len() >= 2, "{}", detector.kind);
            assert_eq!(of(&together, "a"), a.iter().collect::<Vec<_>>(), "{}: a with b beside it", detector.kind);
            assert_eq!(of(&together, "b"), b.iter().collect::<Vec<_>>(), "{}: b with a beside it", detector.kind);
            assert_eq!(together.len(), a.len() + b.len(), "{}: somebody else's", detector.kind);
        });
    }
}

/// What fills a tenant's limits: one host that scans, which fills those of a host, and many that call and look up something
/// else each few seconds, among them all that the scenario has.
fn flood() -> Vec<Row<'static>> {
    let mut rows: Vec<Row<'static>> = scan(host(0, 4)).into_iter().take(45_000).collect();
    for h in 0..60_u8 {
        for k in 0..600_u32 {
            let at_s = (MIDNIGHT_S + 36_000) as f64 + f64::from(k) * 5.0 + f64::from(h) * 0.07;
            let (i, j) = ((k >> 8) as u8, k as u8);
            let outside = flow(at_s, host(0, h), Address::v4([45, h, i, j]), 443, 2000, 0);
            let started = outside.event_time.minus(7_200_000_000_000);
            rows.push(Row::Flow(FlowRow { start_time: Some(started), ..outside }));
            rows.push(Row::Flow(flow(at_s, host(0, h), Address::v4([10, 70 + i, j, h]), 445, 300, 0)));
            let name = &FRONTED[usize::from(h) * 600 + k as usize];
            rows.push(Row::Dns(lookup(at_s, host(0, h), name, Some(3))));
        }
    }
    rows.sort_by_key(Row::event_time);
    rows
}

#[test]
fn a_tenant_that_floods_its_limits_changes_nothing_of_another() {
    let (rows, flood) = (scenario(), flood());
    each(|detector, rule| {
        let mut alone = Drive::new(std::slice::from_ref(&rule));
        let mut held = 0;
        run_on(&mut alone, &[("a", &rows)], |drive| {
            let door = drive.detection.door_states().bytes;
            held = held.max(door).max(drive.detection.stats().1[0].states.bytes);
        });
        // Room for what the tenant holds alone, and not for what the other one would.
        let mut beside = Drive::new(std::slice::from_ref(&rule));
        beside.detection.limit_bytes(held as usize * 12);
        run_on(&mut beside, &[("a", &rows), ("b", &flood)], |_| {});
        let (door, states) = (beside.detection.door_states(), beside.detection.stats().1[0].states);
        assert!(door.evicted + states.evicted > 0, "{}: no limit was reached: {door:?} {states:?}", detector.kind);
        assert_eq!(of(&beside.findings, "a"), alone.findings.iter().collect::<Vec<_>>(), "{}", detector.kind);
    });
}
