//! Scenarios of volume.
#![allow(clippy::unwrap_used, clippy::panic)]

use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::FlowRow;
use tidewatch_schemas::signal::Value;

use crate::conformance::{Drive, MIDNIGHT_S, default_rule, findings, flow, host};
use crate::rule::Rule;

const NOON_S: i64 = MIDNIGHT_S + 43_200;
const MIB: u64 = 1 << 20;
const DAY_S: i64 = 86_400;

fn rule() -> Rule {
    default_rule("egress_volume")
}

fn peer(last: u8) -> Address {
    Address::v4([198, 51, 100, last])
}

fn sent(at_s: f64, bytes: u64) -> FlowRow<'static> {
    flow(at_s, host(0, 8), peer(20), 443, bytes, 0)
}

/// 15 times 1 MiB, each minute.
fn usual(from_s: i64) -> Vec<FlowRow<'static>> {
    (0..15).map(|i| sent((from_s + i * 60) as f64, MIB)).collect()
}

fn spike(from_s: i64, flows: u64, peers: u64) -> Vec<FlowRow<'static>> {
    let bytes = 64 * MIB / flows;
    (0..flows)
        .map(|i| {
            let at_s = from_s as f64 + i as f64 * 0.005;
            flow(at_s, host(0, 8), peer(20 + (i % peers) as u8), 443, bytes, 0)
        })
        .collect()
}

fn of(found: &[Finding], name: &str) -> f64 {
    match found[0].evidence[name] {
        Value::Long(v) => v as f64,
        Value::Double(v) => v,
        ref other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn sixty_four_times_the_usual_minute_is_told_once() {
    let mut rows = usual(NOON_S);
    rows.extend(spike(NOON_S + 1200, 1, 1));
    let found = findings(&[rule()], &rows);
    assert_eq!(found.len(), 1);
    assert_eq!((of(&found, "ratio"), of(&found, "baseline_bytes"), of(&found, "bytes")), (64.0, MIB as f64, 64.0 * MIB as f64));
    assert_eq!(found[0].subject, "egress");
    assert_eq!(found[0].attack, ["T1048", "T1567"]);
    rows.iter_mut().for_each(|row| row.destination_port = Some(21));
    assert_eq!(findings(&[rule()], &rows)[0].attack, ["T1048"]);
    assert!(found[0].confidence >= 65, "{}", found[0].confidence);
}

#[test]
fn one_flow_or_a_thousand_to_one_peer_or_thirty_give_the_same_verdict() {
    let verdicts: Vec<(f64, f64, u8)> = [(1, 1), (1000, 1), (1000, 5)]
        .into_iter()
        .map(|(flows, peers)| {
            let mut rows = usual(NOON_S);
            rows.extend(spike(NOON_S + 1200, flows, peers));
            let found = findings(&[rule()], &rows);
            assert_eq!(found.len(), 1, "{flows} flows, {peers} peers: {found:?}");
            (of(&found, "window_s"), of(&found, "ratio"), found[0].confidence)
        })
        .collect();
    assert_eq!(verdicts[0], verdicts[1]);
    assert_eq!(verdicts[0].1, verdicts[2].1);
    assert!(verdicts[2].2 > verdicts[0].2, "new destinations raise confidence");
}

#[test]
fn without_history_nothing_is_unusual() {
    assert!(findings(&[rule()], &[sent(NOON_S as f64, 1024 * MIB)]).is_empty());
    let mut rows = usual(NOON_S);
    rows.truncate(10);
    rows.extend(spike(NOON_S + 1200, 1, 1));
    assert!(findings(&[rule()], &rows).is_empty());
}

#[test]
fn a_spike_does_not_raise_its_own_bar() {
    let mut rows = usual(NOON_S);
    for k in 0..5 {
        rows.extend(spike(NOON_S + 1200 + k * 2400, 1, 1));
    }
    let found = findings(&[rule()], &rows);
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|f| f.evidence["ratio"] == Value::Double(64.0)));
}

#[test]
fn records_without_octets_teach_nothing() {
    let mut rows: Vec<FlowRow<'_>> = (0..200).map(|i| sent((NOON_S + i * 60) as f64, 0)).collect();
    rows.iter_mut().for_each(|r| r.bytes_reverse = None);
    rows.extend(spike(NOON_S + 200 * 60, 1, 1));
    let mut drive = Drive::new(&[rule()]);
    drive.run_flows(&rows);
    assert!(drive.findings.is_empty());
}

#[test]
fn internal_peers_external_hosts_and_answers_do_not_count() {
    let turned = |mut r: FlowRow<'static>, to: Address| {
        r.destination_address = Some(to);
        r.destination_class = 1;
        r
    };
    let mut rows = usual(NOON_S);
    rows.extend(spike(NOON_S + 1200, 1, 1));
    let inside: Vec<FlowRow<'_>> = rows.iter().map(|r| turned(*r, host(3, 3))).collect();
    assert!(findings(&[rule()], &inside).is_empty());
    let asked: Vec<FlowRow<'_>> = rows
        .iter()
        .map(|r| FlowRow {
            source_address: r.destination_address,
            source_class: r.destination_class,
            destination_address: r.source_address,
            destination_class: r.source_class,
            bytes_forward: r.bytes_reverse,
            bytes_reverse: r.bytes_forward,
            ..*r
        })
        .collect();
    assert!(findings(&[rule()], &asked).is_empty());
}

/// A working day of small uploads, 8 hours from 9, a flow a minute.
fn working_day(day: i64) -> Vec<FlowRow<'static>> {
    (0..480)
        .map(|i| {
            let at_s = MIDNIGHT_S + day * DAY_S + 9 * 3600 + i * 60 + (i * 7) % 50;
            flow(
                at_s as f64,
                host(0, 8),
                peer(100 + (i % 20) as u8),
                443,
                20_000 + (i * i % 977) as u64 * 150,
                200_000 * u64::from(i % 3 > 0),
            )
        })
        .collect()
}

#[test]
fn a_call_is_a_conversation() {
    let mut rows: Vec<FlowRow<'_>> = (0..3).flat_map(working_day).collect();
    let call_s = MIDNIGHT_S + 2 * DAY_S + 15 * 3600;
    rows.extend((0..60).map(|m| flow((call_s + m * 60 + 3) as f64, host(0, 8), peer(200), 3478, 15 * MIB, 18 * MIB)));
    rows.sort_by_key(|r| r.event_time);
    assert!(findings(&[rule()], &rows).is_empty());
    // The same octets one way are an upload.
    rows.iter_mut().filter(|r| r.destination_port == Some(3478)).for_each(|r| r.bytes_reverse = Some(9000));
    assert!(!findings(&[rule()], &rows).is_empty());
}

#[test]
fn thousands_of_small_flows_to_a_ninth_destination_name_it() {
    let mut rows = usual(NOON_S);
    // Eight that each get more than any flow of the ninth, and go on getting a little.
    let at_s = |n: u64| (NOON_S + 1200) as f64 + n as f64 * 0.008;
    let eight = |n: u64| if n < 8 { 3 * MIB / 2 } else { 2_000 };
    rows.extend((0..40).map(|n| flow(at_s(n), host(0, 8), peer(20 + (n % 8) as u8), 443, eight(n), 100)));
    rows.extend((0..1000).map(|n| flow(at_s(40 + n), host(0, 8), peer(99), 443, 64 * 1024, 1000)));
    let found = findings(&[rule()], &rows);
    let [f] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(f.evidence["top_destination"], Value::Text("198.51.100.99".into()), "{}", f.why);
    let sum = 1000.0 * 65_536.0;
    // It took the place of one that had got little more than a MiB and a half, and says so.
    assert_eq!((of(&found, "top_destination_bytes"), f.why.contains("at least 62.5 MiB to 198.51.100.99")), (sum, true));
    let more = of(&found, "top_destination_bytes_max") - sum;
    assert!((1.5 * MIB as f64..1.6 * MIB as f64).contains(&more), "{more}");
    assert_eq!(
        (f.destination.as_ref().unwrap().ip.as_deref(), f.contact.as_deref()),
        (Some("198.51.100.99"), Some("198.51.100.99"))
    );
}

#[test]
fn a_call_in_small_parts_beside_eight_others_is_a_conversation() {
    let of_call = |back: u64| {
        let mut rows: Vec<FlowRow<'_>> = (0..3).flat_map(working_day).collect();
        let call_s = MIDNIGHT_S + 2 * DAY_S + 15 * 3600;
        rows.extend((0..8).map(|n| flow((call_s + n) as f64, host(0, 8), peer(200 + n as u8), 443, MIB / 2, 900)));
        rows.extend((0..600).map(|n| flow((call_s + 10 + n * 5) as f64, host(0, 8), peer(210), 3478, 100_000, back)));
        rows.sort_by_key(|r| r.event_time);
        findings(&[rule()], &rows)
    };
    assert!(of_call(120_000).is_empty());
    assert!(!of_call(100).is_empty());
}

#[test]
fn a_sum_beside_eight_conversations_is_told_without_a_destination() {
    let mut rows = usual(NOON_S);
    let at_s = |n: u64| (NOON_S + 1200) as f64 + n as f64 * 0.02;
    let other = |n: u64| Address::v4([198, 51, (n >> 8) as u8 + 1, n as u8]);
    rows.extend((0..256).map(|n| flow(at_s(n), host(0, 8), other(n), 443, MIB / 8, 1000)));
    rows.extend((0..8).map(|n| flow(at_s(260 + n), host(0, 8), peer(100 + n as u8), 3478, 8 * MIB, 8 * MIB)));
    let found = findings(&[rule()], &rows);
    let [f] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(of(&found, "bytes"), 32.0 * MIB as f64);
    assert!(f.destination.is_none() && f.contact.is_none() && !f.evidence.contains_key("top_destination"), "{f:?}");
    assert!(f.why.ends_with("to many destinations"), "{}", f.why);
}

/// What a backup of 20:00 is told of by night, with working days around it: `night` gives the rows of a night from when on
/// it runs, seconds after 20:00 of its day.
fn nights_told(nights: i64, night: impl Fn(i64) -> Vec<FlowRow<'static>>) -> Vec<i64> {
    let mut rows: Vec<FlowRow<'_>> = (0..nights + 1).flat_map(working_day).collect();
    for day in 1..=nights {
        rows.extend(night(day));
    }
    rows.sort_by_key(|r| r.event_time);
    let found = findings(&[rule()], &rows);
    let mut told: Vec<i64> = found.iter().map(|f| (f.decided_at.0 / 1_000_000_000 - MIDNIGHT_S).div_euclid(DAY_S)).collect();
    told.dedup();
    told
}

/// So many minutes of upload to one place from so many seconds after 20:00 of a day on.
fn upload(day: i64, off_s: i64, minutes: i64, mib: u64) -> Vec<FlowRow<'static>> {
    let from_s = MIDNIGHT_S + day * DAY_S + 20 * 3600 + off_s;
    (0..minutes).map(|m| flow((from_s + m * 60) as f64, host(0, 8), peer(7), 443, mib * MIB, MIB)).collect()
}

/// The same as one connection of which is told at its end.
fn whole_upload(day: i64, off_s: i64, minutes: i64, mib: u64) -> Vec<FlowRow<'static>> {
    let end_s = MIDNIGHT_S + day * DAY_S + 20 * 3600 + off_s + minutes * 60;
    let row = flow(end_s as f64, host(0, 8), peer(7), 443, mib * MIB * minutes as u64, MIB);
    vec![FlowRow { start_time: Some(row.event_time.minus(minutes * 60 * 1_000_000_000)), ..row }]
}

#[test]
fn a_nightly_backup_falls_silent_at_its_third_night() {
    let off_s = |day: i64| (day * 977) % 1500;
    assert_eq!(nights_told(7, |day| upload(day, off_s(day), 30, 200)), [1, 2]);
    assert_eq!(nights_told(7, |day| whole_upload(day, off_s(day), 30, 200)), [1, 2]);
    // Ten times as much on the last night is no habit.
    assert_eq!(nights_told(7, |day| upload(day, off_s(day), 30, if day == 7 { 2000 } else { 200 })), [1, 2, 7]);
}

#[test]
fn a_backup_that_is_late_or_takes_long_stays_silent() {
    let late = |day: i64| if day % 3 == 0 { 3600 } else { 0 };
    // Every third night an hour late; three hours every night; once the same octets over three hours, and an hour late.
    assert_eq!(nights_told(7, |day| upload(day, late(day), 30, 200)), [1, 2]);
    assert_eq!(nights_told(6, |day| upload(day, 0, 180, 200)), [1, 2]);
    for make in [upload, whole_upload] {
        let slow = |day: i64| if day == 5 { make(day, 3600, 180, 34) } else { make(day, 0, 30, 200) };
        assert_eq!(nights_told(7, slow), [1, 2]);
    }
    // With a pause of an hour and a half in it.
    let paused = |day: i64| [upload(day, 0, 10, 200), upload(day, 6000, 10, 200)].concat();
    assert_eq!(nights_told(6, paused), [1, 2]);
    // A week apart.
    assert_eq!(nights_told(29, |day| if day % 7 == 1 { upload(day, 0, 30, 200) } else { Vec::new() }), [1, 8]);
}

#[test]
fn a_habits_network_at_another_hour_is_told_and_the_habit_stays() {
    // On the fifth day the same amount three hours before, eight hours after, and at noon: each is told.
    for off_h in [-3, 8, 16] {
        let with = |day: i64| {
            let other = if day == 5 { upload(day, off_h * 3600, 30, 200) } else { Vec::new() };
            [upload(day, 0, 30, 200), other].concat()
        };
        assert_eq!(nights_told(8, with), [1, 2, 5 + (20 + off_h) / 24], "{off_h} h off");
    }
    // What goes on for ever is no backup of half an hour.
    let endless = |day: i64| upload(day, 0, if day == 5 { 600 } else { 30 }, 100);
    assert_eq!(nights_told(5, endless), [1, 2, 6]);
    // A connection that was opened at the habit's hour carries nothing past it.
    let held = |day: i64| if day == 5 { whole_upload(day, 0, 900, 40) } else { whole_upload(day, 0, 30, 200) };
    assert_eq!(nights_told(6, held), [1, 2, 6]);
}

#[test]
fn two_backups_a_day_to_one_network_are_two_habits() {
    let twice = |day: i64| [upload(day, -12 * 3600, 20, 200), upload(day, 0, 20, 200)].concat();
    assert_eq!(nights_told(7, twice), [1, 2]);
    // And every other hour.
    let often = |day: i64| (0..12).flat_map(|n| upload(day, n * 7200 - 20 * 3600, 5, 200)).collect();
    assert_eq!(nights_told(6, often), [1, 2]);
}

#[test]
fn a_slow_leak_over_eight_hours_is_told_by_the_longer_windows() {
    let mut rows: Vec<FlowRow<'_>> = (0..4).flat_map(working_day).collect();
    // Five days' worth over one working day, in small flows to many places.
    let total: u64 = working_day(0).iter().filter_map(|r| r.bytes_forward).sum::<u64>() * 5;
    let from_s = MIDNIGHT_S + 3 * DAY_S + 9 * 3600;
    rows.extend((0..960).map(|i| flow((from_s + i * 30 + 1) as f64, host(0, 8), peer((i % 5) as u8), 443, total / 960, 500)));
    rows.sort_by_key(|r| r.event_time);
    let found = findings(&[rule()], &rows);
    assert!((1..=3).contains(&found.len()), "{}", found.len());
    assert!(of(&found, "window_s") > 60.0, "{found:?}");
}

#[test]
fn a_flow_told_at_its_end_counts_by_the_part_that_lies_in_the_window() {
    let mut rows = usual(NOON_S);
    let mut long = sent((NOON_S + 1200 + 3600) as f64, 64 * MIB);
    long.start_time = Some(long.event_time.minus(3600 * 1_000_000_000));
    rows.push(long);
    assert!(findings(&[rule()], &rows).is_empty(), "about 1 MiB a minute");
}
