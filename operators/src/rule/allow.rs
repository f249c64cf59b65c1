//! Exceptions of a rule: what it says nothing about, each with an owner, a reason and an end. Part of the rule, so that
//! they hold from a version's event time on, live and in a backtest; an end is a moment of event time, too. Compiled once
//! per version into tables of prefixes and suffixes; asked once per finding, never per row.
//!
//! One with `up_to` is an acknowledgement: somebody has seen it, and what becomes graver is told. How grave a finding is, the
//! tenant's view has the last word on, and it only ever makes it less grave: what is above here may be below there.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::signal::Severity;
use tidewatch_schemas::time::EventTime;

/// One exception. Every field that is not empty must be met, by one of its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// Whom the finding is about: addresses, networks, workload names; sorted.
    pub source: Vec<String>,
    /// The other end: addresses, networks, workload names; sorted.
    pub destination: Vec<String>,
    /// Names asked for, with everything below them; sorted.
    pub domain: Vec<String>,
    /// Networks of the other end by number, as its exporter asserts; sorted.
    pub asn: Vec<u32>,
    /// Ports of the other end; sorted.
    pub port: Vec<u16>,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// From here on, in event time, it acts no more; `None` = never ends.
    pub expires: Option<EventTime>,
    /// What is graver is told all the same; `None` = nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<Severity>,
}

impl Allow {
    /// Whether it acts no more at a moment.
    pub fn expired(&self, at: EventTime) -> bool {
        self.expires.is_some_and(|end| end <= at)
    }

    /// It names nothing, so it would be for everything.
    pub fn is_for_all(&self) -> bool {
        let Self { source, destination, domain, asn, port, .. } = self;
        source.is_empty() && destination.is_empty() && domain.is_empty() && asn.is_empty() && port.is_empty()
    }

    /// What it is about, in one line.
    pub fn what(&self) -> String {
        let list = |name: &str, all: Vec<String>| (!all.is_empty()).then(|| format!("{name} {}", all.join(", ")));
        let numbers = |all: &[u32]| all.iter().map(u32::to_string).collect();
        let parts = [
            list("source", self.source.clone()),
            list("destination", self.destination.clone()),
            list("domain", self.domain.clone()),
            list("asn", numbers(&self.asn)),
            list("port", self.port.iter().map(u16::to_string).collect()),
        ];
        let graver = self.up_to.map(|severity| format!(" up to {}", severity.name())).unwrap_or_default();
        parts.into_iter().flatten().collect::<Vec<_>>().join(" and ") + &graver
    }
}

/// Reads an entry that is an address or a network; anything else is a name.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    match Address::parse(text.as_bytes()) {
        Some(address) => Some(IpNet::from(address.to_ip())),
        None => text.parse::<IpNet>().ok(),
    }
}

const SOURCE: u8 = 1;
const DESTINATION: u8 = 2;
const DOMAIN: u8 = 4;
const ASN: u8 = 8;
const PORT: u8 = 16;

/// What a rule's exceptions say of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// Nothing.
    Open,
    /// It is held back.
    Held,
    /// It is held back if the tenant's view leaves it no graver than this.
    HeldUpTo(Severity),
}

/// An entry as it is asked.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Fields that it asks for.
    asked: u8,
    expires: Option<EventTime>,
    up_to: Option<Severity>,
}

/// The exceptions of one rule, ready to be asked.
#[derive(Debug, Default)]
pub struct AllowTable {
    entries: Vec<Entry>,
    source: Ends,
    destination: Ends,
    domain: BTreeMap<String, Vec<u32>>,
    asn: BTreeMap<u32, Vec<u32>>,
    port: BTreeMap<u16, Vec<u32>>,
}

/// Entries by network and by name.
#[derive(Debug, Default)]
struct Ends {
    /// Lengths of prefixes that occur, of 128 bits.
    lengths: Vec<u8>,
    networks: BTreeMap<(u8, [u8; 16]), Vec<u32>>,
    names: BTreeMap<String, Vec<u32>>,
}

impl Ends {
    fn add(&mut self, text: &str, entry: u32) {
        match network(text) {
            Some(network) => {
                let before = if network.addr().is_ipv4() { 96 } else { 0 };
                let length = network.prefix_len() + before;
                if let Err(at) = self.lengths.binary_search(&length) {
                    self.lengths.insert(at, length);
                }
                let key = (length, cut(Address::from(network.addr()), length));
                self.networks.entry(key).or_default().push(entry);
            }
            None => self.names.entry(text.to_lowercase()).or_default().push(entry),
        }
    }

    fn meet(&self, address: Option<Address>, name: Option<&str>, meet: &mut dyn FnMut(&[u32])) {
        if let Some(address) = address {
            for &length in &self.lengths {
                self.networks.get(&(length, cut(address, length))).into_iter().for_each(|e| meet(e));
            }
        }
        if let Some(name) = name.filter(|_| !self.names.is_empty()) {
            self.names.get(&name.to_lowercase()).into_iter().for_each(|e| meet(e));
        }
    }
}

/// The first bits of an address.
fn cut(address: Address, length: u8) -> [u8; 16] {
    let bits = u128::from_be_bytes(address.0);
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    (bits & mask).to_be_bytes()
}

impl AllowTable {
    /// Compiles a rule's exceptions.
    pub fn new(allow: &[Allow]) -> Self {
        let mut table = Self::default();
        for (entry, of) in (0..).zip(allow) {
            let asks = [
                (SOURCE, of.source.is_empty()),
                (DESTINATION, of.destination.is_empty()),
                (DOMAIN, of.domain.is_empty()),
                (ASN, of.asn.is_empty()),
                (PORT, of.port.is_empty()),
            ];
            let fields = asks.into_iter().filter(|(_, empty)| !empty).fold(0, |sum, (field, _)| sum | field);
            table.entries.push(Entry { asked: fields, expires: of.expires, up_to: of.up_to });
            of.source.iter().for_each(|s| table.source.add(s, entry));
            of.destination.iter().for_each(|d| table.destination.add(d, entry));
            of.domain.iter().for_each(|d| table.domain.entry(d.clone()).or_default().push(entry));
            of.asn.iter().for_each(|a| table.asn.entry(*a).or_default().push(entry));
            of.port.iter().for_each(|p| table.port.entry(*p).or_default().push(entry));
        }
        table
    }

    /// Nothing is excepted.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether some entry asks for an AS number.
    pub fn asks_for_asn(&self) -> bool {
        !self.asn.is_empty()
    }

    /// What they say of a finding. `asn` is that of the other end, where known.
    pub fn covers(&self, finding: &Finding, asn: Option<u32>) -> Cover {
        if self.entries.is_empty() {
            return Cover::Open;
        }
        let mut met: BTreeMap<u32, u8> = BTreeMap::new();
        let mut meet = |field: u8, entries: &[u32]| entries.iter().for_each(|e| *met.entry(*e).or_default() |= field);
        let entity = finding.entity.id.as_str();
        self.source.meet(Address::parse(entity.as_bytes()), Some(entity), &mut |e| meet(SOURCE, e));
        let other = finding.destination.as_ref();
        let address = other.and_then(|d| d.ip.as_deref()).and_then(|ip| Address::parse(ip.as_bytes()));
        self.destination.meet(address, other.and_then(|d| d.name.as_deref()), &mut |e| meet(DESTINATION, e));
        if !self.domain.is_empty() {
            for name in names(finding) {
                let mut rest = Some(name);
                while let Some(suffix) = rest {
                    self.domain.get(suffix).into_iter().for_each(|e| meet(DOMAIN, e));
                    rest = suffix.split_once('.').map(|(_, parent)| parent);
                }
            }
        }
        asn.and_then(|asn| self.asn.get(&asn)).into_iter().for_each(|e| meet(ASN, e));
        let port = other.and_then(|d| d.port).and_then(|p| self.port.get(&p));
        port.into_iter().for_each(|e| meet(PORT, e));
        let acting = met.into_iter().filter_map(|(entry, fields)| {
            let entry = self.entries[entry as usize];
            (fields == entry.asked && entry.expires.is_none_or(|end| finding.decided_at < end)).then_some(entry.up_to)
        });
        acting.fold(Cover::Open, |cover, up_to| match (up_to, cover) {
            (None, _) | (_, Cover::Held) => Cover::Held,
            (Some(up_to), _) if finding.severity <= up_to => Cover::Held,
            (Some(up_to), Cover::HeldUpTo(other)) => Cover::HeldUpTo(up_to.max(other)),
            (Some(up_to), Cover::Open) => Cover::HeldUpTo(up_to),
        })
    }
}

/// Names that a finding is about: the one asked for, the destination whose prevalence counts, its subject.
fn names(finding: &Finding) -> impl Iterator<Item = &str> {
    let asked = finding.destination.as_ref().and_then(|d| d.domain.as_deref());
    [asked, finding.contact.as_deref(), Some(finding.subject.as_str())].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tidewatch_schemas::signal::{Endpoint, Entity, Evidence, RuleRef};

    use super::*;

    fn finding(host: &str, to: &str, port: u16, domain: Option<&str>) -> Finding {
        let at = EventTime::from_secs(1000);
        Finding {
            tenant: "t".into(),
            plane: String::new(),
            kind: String::new(),
            title: String::new(),
            why: String::new(),
            severity: Severity::Low,
            confidence: 0,
            rule: RuleRef { id: "r".into(), version: 1 },
            entity: Entity { kind: "host".into(), id: host.into() },
            source: None,
            destination: Some(Endpoint {
                ip: Some(to.into()),
                port: Some(port),
                domain: domain.map(str::to_owned),
                ..Endpoint::default()
            }),
            first_seen: at,
            last_seen: at,
            decided_at: at,
            slice_start: at,
            slice_end: at,
            evidence: Evidence::new(),
            attack: Vec::new(),
            raw: Vec::new(),
            subject: "s".into(),
            contact: None,
            suppress_ns: 0,
            held_up_to: None,
            shadow: false,
        }
    }

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|t| (*t).to_owned()).collect()
    }

    fn covers(allow: Allow, finding: &Finding) -> bool {
        AllowTable::new(&[allow]).covers(finding, Some(64_500)) == Cover::Held
    }

    #[test]
    fn networks_names_numbers_and_ports_are_met() {
        let found = finding("10.0.0.5", "203.0.113.66", 443, Some("a.cdn.example"));
        let met = [
            Allow { source: texts(&["10.0.0.0/24"]), ..Allow::default() },
            Allow { source: texts(&["192.0.2.1", "10.0.0.5"]), ..Allow::default() },
            Allow { destination: texts(&["0.0.0.0/0"]), ..Allow::default() },
            Allow { destination: texts(&["203.0.113.64/27"]), port: vec![80, 443], ..Allow::default() },
            Allow { domain: texts(&["cdn.example"]), ..Allow::default() },
            Allow { domain: texts(&["a.cdn.example"]), asn: vec![64_500], ..Allow::default() },
            Allow { asn: vec![64_500], source: texts(&["10.0.0.5"]), ..Allow::default() },
        ];
        for allow in met {
            assert!(covers(allow.clone(), &found), "{allow:?}");
        }
        let missed = [
            Allow { source: texts(&["10.0.1.0/24"]), ..Allow::default() },
            Allow { source: texts(&["10.0.0.5"]), port: vec![80], ..Allow::default() },
            Allow { destination: texts(&["10.0.0.5"]), ..Allow::default() },
            Allow { destination: texts(&["::/1"]), domain: texts(&["n.example"]), ..Allow::default() },
            // Only whole labels.
            Allow { domain: texts(&["dn.example"]), ..Allow::default() },
            Allow { asn: vec![1], ..Allow::default() },
        ];
        for allow in missed {
            assert!(!covers(allow.clone(), &found), "{allow:?}");
        }
        let by_name = finding("web-1", "2001:db8::1", 443, None);
        assert!(covers(
            Allow { source: texts(&["Web-1"]), destination: texts(&["2001:db8::/32"]), ..Allow::default() },
            &by_name
        ));
        assert!(!covers(Allow { destination: texts(&["0.0.0.0/0"]), ..Allow::default() }, &by_name));
    }

    #[test]
    fn an_entry_ends_in_event_time() {
        let found = finding("10.0.0.5", "203.0.113.66", 443, None);
        let until = |s: i64| Allow { port: vec![443], expires: Some(EventTime::from_secs(s)), ..Allow::default() };
        assert!(covers(until(1001), &found));
        assert!(!covers(until(1000), &found));
        let other = AllowTable::new(&[until(1000), until(1001), until(2000)]);
        assert_eq!(other.covers(&found, None), Cover::Held);
    }

    #[test]
    fn what_is_graver_than_was_acknowledged_is_told() {
        let up_to = |severity: Option<Severity>, port| Allow { port: vec![port], up_to: severity, ..Allow::default() };
        let covers = |all: &[Allow], severity| {
            let found = Finding { severity, ..finding("10.0.0.5", "203.0.113.66", 443, None) };
            AllowTable::new(all).covers(&found, None)
        };
        let (low, medium) = (up_to(Some(Severity::Low), 443), up_to(Some(Severity::Medium), 443));
        let one = std::slice::from_ref(&medium);
        assert_eq!((covers(one, Severity::Low), covers(one, Severity::Medium)), (Cover::Held, Cover::Held));
        // The tenant's view may leave it at medium.
        assert_eq!(covers(one, Severity::High), Cover::HeldUpTo(Severity::Medium));
        // Of several the one that holds most back; one of another destination none of it.
        let all = [low.clone(), medium, up_to(None, 80)];
        assert_eq!(covers(&all, Severity::Critical), Cover::HeldUpTo(Severity::Medium));
        assert_eq!(covers(&[low.clone(), up_to(None, 443)], Severity::Critical), Cover::Held);
        assert_eq!(covers(&[up_to(Some(Severity::High), 80)], Severity::Low), Cover::Open);
        let over = Allow { expires: Some(EventTime::from_secs(1000)), ..low };
        assert_eq!(covers(&[over], Severity::Low), Cover::Open);
    }
}
