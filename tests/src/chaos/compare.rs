//! Two lots of published signals, byte for byte, tenant by tenant.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidewatch_schemas::signal::from_json;

/// Signals of each tenant in published order.
pub type PerTenant = BTreeMap<String, Vec<String>>;

/// Differences shown in words, at most.
const EXAMPLES_MAX: usize = 6;

/// What differs. All zero = the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Expected and not there.
    pub lost: u64,
    /// There more often than expected.
    pub duplicated: u64,
    /// There with other bytes under the same id.
    pub altered: u64,
    /// There and not expected.
    pub invented: u64,
    /// Tenants whose signals are the same in another order.
    pub reordered: u64,
    /// Some of them.
    #[serde(default)]
    pub examples: Vec<String>,
}

impl Difference {
    /// Nothing differs.
    pub fn is_none(&self) -> bool {
        [self.lost, self.duplicated, self.altered, self.invented, self.reordered].iter().all(|n| *n == 0)
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text);
        }
    }
}

/// Compares what is there with what is expected.
pub fn compare(got: &PerTenant, expected: &PerTenant) -> Difference {
    let mut difference = Difference::default();
    let empty = Vec::new();
    for tenant in got.keys().chain(expected.keys().filter(|t| !got.contains_key(*t))) {
        let (got, expected) = (got.get(tenant).unwrap_or(&empty), expected.get(tenant).unwrap_or(&empty));
        if got == expected {
            continue;
        }
        let before = difference.clone();
        let (by_id, by_id_expected) = (by_id(got), by_id(expected));
        for (id, expected) in &by_id_expected {
            let got = by_id.get(id).map_or(&[][..], |g| g);
            if got.len() < expected.len() {
                difference.lost += (expected.len() - got.len()) as u64;
                difference.example(format!("lost: {}", expected[0]));
            }
            if got.len() > expected.len() {
                difference.duplicated += (got.len() - expected.len()) as u64;
                difference.example(format!("duplicated: {}", got[0]));
            }
            for (got, expected) in got.iter().zip(expected).filter(|(g, e)| g != e) {
                difference.altered += 1;
                difference.example(format!("altered: {got}\n expected: {expected}"));
            }
        }
        for (id, got) in by_id.iter().filter(|(id, _)| !by_id_expected.contains_key(*id)) {
            difference.invented += got.len() as u64;
            difference.example(format!("invented: {id} {}", got[0]));
        }
        if difference == before {
            difference.reordered += 1;
            let first = got.iter().zip(expected).position(|(g, e)| g != e).unwrap_or(0);
            difference.example(format!("{tenant}: another order from signal {first} on: {}", got[first]));
        }
    }
    difference
}

/// Lines by signal id. A line that is no signal stands under itself.
fn by_id(lines: &[String]) -> BTreeMap<String, Vec<&str>> {
    let mut all: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in lines {
        let id = from_json(line).map_or_else(|_| line.clone(), |signal| signal.id);
        all.entry(id).or_default().push(line);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that are no signals stand for themselves: enough to count.
    fn of(lines: &[&str]) -> PerTenant {
        [("a".to_owned(), lines.iter().map(|l| (*l).to_owned()).collect())].into()
    }

    #[test]
    fn every_difference_is_counted() {
        assert!(compare(&of(&["1", "2"]), &of(&["1", "2"])).is_none());
        let count = |got: &[&str], expected: &[&str]| {
            let d = compare(&of(got), &of(expected));
            assert_eq!(d.is_none(), got == expected);
            [d.lost, d.duplicated, d.altered, d.invented, d.reordered]
        };
        assert_eq!(count(&["1"], &["1", "2"]), [1, 0, 0, 0, 0]);
        assert_eq!(count(&["1", "1", "2"], &["1", "2"]), [0, 1, 0, 0, 0]);
        assert_eq!(count(&["1", "3"], &["1"]), [0, 0, 0, 1, 0]);
        assert_eq!(count(&["2", "1"], &["1", "2"]), [0, 0, 0, 0, 1]);
        assert_eq!(compare(&PerTenant::new(), &of(&["1"])).lost, 1);
        assert_eq!(compare(&of(&["1"]), &PerTenant::new()).invented, 1);
    }

    #[test]
    fn the_same_id_with_other_bytes_is_altered() {
        let line = |severity: &str| {
            format!(
                r#"{{"id":"x","tenant":"a","plane":"threat","kind":"k","title":"t","why":"w","severity":"{severity}","confidence":1,"rule":{{"id":"r","version":1}},"entity":{{"type":"host","id":"h"}},"source":{{}},"destination":{{}},"first_seen":"2026-06-04T12:00:00Z","last_seen":"2026-06-04T12:00:00Z","decided_at":"2026-06-04T12:00:00Z","detected_at":"2026-06-04T12:00:00Z","evidence":{{}},"attack":[],"raw":[]}}"#
            )
        };
        let d = compare(&of(&[&line("low")]), &of(&[&line("high")]));
        assert_eq!([d.lost, d.altered, d.invented], [0, 1, 0], "{d:?}");
    }
}
