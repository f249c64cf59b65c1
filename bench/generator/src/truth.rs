//! What was injected: one label for each attack of a plan, and its JSON line. Detection is judged against these.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tidewatch_schemas::time::EventTime;

use crate::attack::{Attack, Beacon, Peer};
use crate::event::Event;
use crate::plan::Plan;
use crate::traffic::Traffic;
use crate::world;

/// Name of the file of labels, JSON lines.
pub const TRUTH_FILE: &str = "truth.ndjson";

/// The label of one attack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// Tenant id.
    pub tenant: String,
    /// Signal kind that would be right: `ndr.beaconing`, `ndr.lateral`, `ndr.scan`, `ndr.egress_volume`, `ndr.dns_dga`,
    /// `ndr.dns_exfil`, `ndr.long_connection`.
    pub kind: String,
    /// Kinds that would be right besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Address of the host that does it.
    pub host: String,
    /// Address or name it goes to, when that is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Port it goes to, when that is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// First packet.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub first: EventTime,
    /// Last packet.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub last: EventTime,
    /// Connections.
    pub contacts: u64,
    /// What must be seen beside flows to find it: `http` (a proxy's CONNECT), `dns`. Absent when flows are enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// Parameters in words.
    pub note: String,
}

impl Truth {
    /// The label as one line of JSON, no line end.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("a struct of texts and numbers always has a JSON form")
    }

    /// Reads one line.
    ///
    /// # Errors
    /// Says what is not a label.
    pub fn from_line(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }
}

/// The labels of a plan's attacks, in the plan's order. An attack that does not come to its first contact within the plan
/// has none. [`Plan::flows_max`] is not looked at: see [`truths_until`].
pub fn truths(plan: &Plan) -> Vec<Truth> {
    truths_until(plan, plan.end())
}

/// The labels of what of a plan's attacks had ended by `until`: for a stream that was cut there.
pub fn truths_until(plan: &Plan, until: EventTime) -> Vec<Truth> {
    let mut seen: Vec<Option<(EventTime, EventTime, u64)>> = vec![None; plan.attacks.len()];
    let whole = Plan { flows_max: None, ..plan.clone() };
    for event in Traffic::attacks_only(&whole).take_while(|event| event.at() <= until) {
        let Event::Flow(flow) = event else { continue };
        if let Some(entry) = flow.connection.attack.and_then(|n| seen.get_mut(usize::from(n))) {
            let (first, last, contacts) = entry.get_or_insert((flow.start, flow.end, 0));
            (*first, *last, *contacts) = ((*first).min(flow.start), (*last).max(flow.end), *contacts + 1);
        }
    }
    let label = |(n, attack): (usize, &Attack)| {
        let (first, last, contacts) = seen[n]?;
        let (tenant, host, _) = attack.place();
        let (destination, port) = attack.destination(plan.seed, n as u16);
        let (tenant, host) = (plan.tenant(tenant).to_owned(), world::host(host).to_string());
        let (kind, note) = (attack.kind().to_owned(), note(attack));
        let also = attack.also().iter().filter(|also| **also != kind).map(|also| (*also).to_owned()).collect();
        Some(Truth { tenant, kind, also, host, destination, port, first, last, contacts, needs: needs(attack), note })
    };
    plan.attacks.iter().enumerate().filter_map(label).collect()
}

fn needs(attack: &Attack) -> Option<String> {
    match attack {
        Attack::Beacon(Beacon { peer: Peer::Proxied, .. }) => Some("http".to_owned()),
        Attack::Names(_) | Attack::Tunnel(_) => Some("dns".to_owned()),
        _ => None,
    }
}

fn note(attack: &Attack) -> String {
    match attack {
        Attack::Beacon(it) => {
            let how = if it.refused { ", refused" } else { "" };
            format!("every {} s, jitter {:?}, {:?}{how}", it.period_s, it.jitter, it.peer)
        }
        Attack::Scan(it) => format!("{:?} at {} per s, {} answering", it.targets, it.per_s, it.answering),
        Attack::Egress(it) => {
            format!("{} bytes in {} s over {} flows to {} addresses", it.bytes, it.duration_s, it.flows, it.destinations)
        }
        Attack::Names(it) => format!("{} generated names ({:?}), mean gap {} s", it.names, it.family, it.gap_s),
        Attack::Stay(it) => format!("open for {} s, port {}", it.duration_s, it.port),
        Attack::Tunnel(it) => {
            format!("{} queries with names of their own ({:?}), mean gap {} s", it.queries, it.layout, it.gap_s)
        }
    }
}

fn to_text<S: Serializer>(time: &EventTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EventTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    EventTime::parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom(format!("not an RFC 3339 time: {text:?}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_attack_of_the_presets_has_its_label_and_the_traffic_holds_it() {
        for plan in [Plan::small(1), Plan::office(1, 2, 30, crate::PRESET_START, 86_400)] {
            let labels = truths(&plan);
            assert_eq!(labels.len(), plan.attacks.len());
            let mut seen = vec![0_u64; plan.attacks.len()];
            for event in Traffic::new(&plan, 0) {
                let Event::Flow(flow) = event else { continue };
                let Some(n) = flow.connection.attack.map(usize::from) else { continue };
                seen[n] += 1;
                assert_eq!(plan.tenant(flow.connection.tenant), labels[n].tenant);
                assert_eq!(flow.connection.initiator.to_string(), labels[n].host);
                assert!(labels[n].first <= flow.start && flow.end <= labels[n].last);
            }
            assert_eq!(seen, labels.iter().map(|l| l.contacts).collect::<Vec<_>>());
            for label in labels {
                assert_eq!(Truth::from_line(&label.to_line()).unwrap(), label);
            }
        }
    }

    #[test]
    fn beacons_keep_their_period() {
        let plan = Plan::small(3);
        let starts: Vec<i64> = Traffic::attacks_only(&plan)
            .filter_map(|e| match e {
                Event::Flow(flow) if flow.connection.attack == Some(0) => Some(flow.start.0),
                _ => None,
            })
            .collect();
        assert_eq!(starts.len(), 90, "5400 s at 60 s");
        assert!(starts.windows(2).all(|w| w[1] - w[0] == 60_000_000_000));
    }

    #[test]
    fn a_cut_stream_has_labels_for_what_is_in_it() {
        let plan = Plan::small(1);
        let cut = plan.start.plus(2_000 * 1_000_000_000);
        let labels = truths_until(&plan, cut);
        assert_eq!(labels.iter().map(|l| (l.tenant.as_str(), l.contacts)).collect::<Vec<_>>(), [("acme", 4), ("brook", 4)]);
        assert!(labels.iter().all(|l| l.last <= cut));
    }

    #[test]
    fn a_broken_line_is_an_error() {
        assert!(Truth::from_line("{}").is_err());
        let line = truths(&Plan::small(1))[0].to_line().replace("2026-", "year ");
        assert!(Truth::from_line(&line).is_err());
    }
}
