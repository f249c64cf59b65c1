//! Bodies of the fuzz targets of this crate; see `tidewatch_schemas::fuzz`. Not part of the library's interface.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::fuzz::Target;
use tidewatch_schemas::observation::{FlowRow, Row};
use tidewatch_schemas::time::EventTime;

use crate::correlate::Correlation;
use crate::detection::{Detection, SliceOutput, SliceRow};
use crate::detectors;
use crate::key::{Host, HostKey};
use crate::operator::{Position, Slice};
use crate::rule::{DEFAULTS, RuleSet, Source};

/// Every target.
pub const TARGETS: &[Target] = &[
    // A tree of nodes, its mistakes, the rules and the defaults they lie over.
    Target { name: "rules", body: rules, seeds: rule_seeds, heap_bytes_max: 8 << 20 },
    // States take a few times the bytes they travel as, and most are read for several rules.
    Target { name: "state-group", body: state_group, seeds: state_seeds, heap_bytes_max: 4 << 20 },
];

/// Bytes as a rule file over the defaults.
fn rules(bytes: &[u8]) {
    let overlay = Source { label: "fuzz.yaml".to_owned(), text: String::from_utf8_lossy(bytes).into_owned() };
    match RuleSet::load(&[], &[overlay], detectors::ALL) {
        Ok(set) => {
            assert!(set.rules.iter().all(|r| r.enabled));
            drop(Detection::new(&set.rules));
        }
        Err(mistakes) => assert!(!mistakes.is_empty() && !mistakes.to_string().is_empty()),
    }
}

fn rule_seeds(_: &str) -> Vec<Vec<u8>> {
    DEFAULTS.iter().map(|d| d.text.as_bytes().to_vec()).collect()
}

thread_local! {
    /// Parsed once a thread: the set is no part of what is tried here.
    static DEFAULT_RULES: RuleSet = {
        let sources: Vec<Source> =
            DEFAULTS.iter().map(|d| Source { label: d.file.to_owned(), text: d.text.to_owned() }).collect();
        RuleSet::load(&sources, &[], detectors::ALL).unwrap_or_default()
    };
}

fn detection() -> Detection {
    DEFAULT_RULES.with(|set| Detection::new(&set.rules))
}

/// Bytes as a state group of every operator: what is read can be written again.
fn state_group(bytes: &[u8]) {
    let mut detection = detection();
    let names: Vec<String> = DEFAULT_RULES.with(|set| set.rules.iter().map(|r| r.id.clone()).collect());
    for name in names.into_iter().chain([crate::detection::DOOR.to_owned()]) {
        let part = (name, 0);
        if detection.unpack(&part, bytes).is_ok() {
            let _ = detection.pack(&part);
        }
    }
    let mut correlation = Correlation::default();
    if correlation.unpack(0, bytes).is_ok() {
        let _ = correlation.pack(0);
    }
}

/// The state groups of a host that has called one peer a few times.
fn state_seeds(_: &str) -> Vec<Vec<u8>> {
    let mut detection = detection();
    let (host, peer) = (Address::v4([10, 0, 0, 5]), Address::v4([203, 0, 113, 66]));
    let key = HostKey { tenant: "acme".into(), host: Host::Address(host) };
    for minute in 0..8_i64 {
        let at = EventTime::from_secs(1_780_574_400 + 60 * minute);
        let row = FlowRow {
            tenant: "acme",
            event_time: at,
            start_time: Some(at),
            source_address: Some(host),
            source_port: Some(40_000 + minute as u16),
            source_class: 1,
            destination_address: Some(peer),
            destination_port: Some(443),
            transport: 6,
            direction_known: true,
            bytes_forward: Some(500),
            ..FlowRow::default()
        };
        let position = Position { input: 0, offset: minute, row: 0 };
        let rows = [SliceRow { at, row: Row::Flow(row), position, primary: true, passes: u64::MAX }];
        let slice = Slice { start: at, end: at.plus(10_000_000_000) };
        detection.host(&key, key.route(), slice, &rows, &mut SliceOutput::default());
    }
    detection.parts(false).iter().map(|part| detection.pack(part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every bit of a state group, turned one by one: counters that travel in it cannot overflow what counts them.
    #[test]
    fn turned_bits_in_state_groups_never_panic() {
        for seed in state_seeds("") {
            for at in 0..seed.len() {
                for turn in [0x01, 0x7f, 0x80, 0xff] {
                    let mut bytes = seed.clone();
                    bytes[at] ^= turn;
                    state_group(&bytes);
                }
            }
            // The largest number there is, in the place of every byte.
            for at in 0..seed.len() {
                state_group(&[&seed[..at], &[0xff; 9], &[1], &seed[at + 1..]].concat());
            }
        }
    }
}
