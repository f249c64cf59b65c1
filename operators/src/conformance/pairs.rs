//! What a pair of ends costs, as the detectors and the door count it. Counts alone: what memory is really taken is measured
//! in `bench`. Always holds: a figure that changes must be written anew here, so that nobody pays more unseen.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::observation::Row;

use super::{Drive, MIDNIGHT_S, default_rule, flow, host};
use crate::detectors;
use crate::rule::Rule;

/// What a pair costs in each detector and at the door: hosts with 40 peers outside, all called as often, through what is
/// kept of them an hour later.
#[test]
fn bytes_per_pair_are_counted_and_told() {
    const HOSTS: u8 = 16;
    const PEERS: u8 = 40;
    let told: Vec<String> = [1, 3, 10]
        .into_iter()
        .map(|contacts| {
            let mut rows = Vec::new();
            for k in 0..contacts {
                for peer in 0..PEERS {
                    // Ten to an hour, so that what ends in minutes is kept of few.
                    let at = (MIDNIGHT_S + 36_000 + k * 3600) as f64 + f64::from(peer) * 90.0;
                    rows.extend(
                        (0..HOSTS).map(|h| Row::Flow(flow(at, host(1, h), Address::v4([45, 1, h, peer]), 443, 900, 9000))),
                    );
                }
            }
            let rules: Vec<Rule> = detectors::ALL.iter().map(|d| default_rule(d.rule_kind)).collect();
            let mut drive = Drive::new(&rules);
            drive.run(&rows);
            let pairs = u64::from(HOSTS) * u64::from(PEERS);
            let (door, rules) = (drive.detection.door_states(), drive.detection.stats().1);
            let packed: usize = drive.detection.parts(false).iter().map(|part| drive.detection.pack(part).len()).sum();
            let mut line = format!("{contacts} contacts: door {}", door.bytes / pairs);
            for rule in rules.iter().filter(|r| r.states.bytes > 0) {
                line += &format!(", {} {}", rule.kind, rule.states.bytes / pairs);
            }
            line + &format!("; in a snapshot {}", packed as u64 / pairs)
        })
        .collect();
    expect_test::expect![[r#"
        1 contacts: door 30, beaconing 96, egress_volume 51; in a snapshot 113
        3 contacts: door 30, beaconing 136, egress_volume 51; in a snapshot 145
        10 contacts: door 30, beaconing 316, egress_volume 51; in a snapshot 257
    "#]]
    .assert_eq(&(told.join("\n") + "\n"));
}
