//! Names of which a host was told addresses: what a connection asks for where neither handshake nor request says it.
//!
//! A guess, as addresses are shared and answers can be made up: it gives a pair of its own, beside that of the address, and
//! silences none. Always holds: at most [`RESOLVED_MAX`] addresses a host, the newest answer for each.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewatch_schemas::address::Address;
use tidewatch_schemas::observation::DnsRow;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::key::PeerKey;
use super::state::{entries, kept};
use crate::limit::Limit;

/// Addresses per host whose name a look-up told; beyond it those told longest ago go.
pub(super) const RESOLVED_MAX: usize = 512;
pub(super) static RESOLVED: Limit = Limit::new("RESOLVED_MAX");

/// Answers read of one look-up; further ones name nothing.
const ANSWERS_MAX: usize = 12;

/// An answer names connections that begin within so long of it.
const ANSWER_NS: i64 = 3_600 * SECOND_NS;

/// Types of questions that ask for addresses, and a type that is not known.
const ADDRESS_TYPES: [u16; 3] = [1, 28, 0];

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved {
    pub(super) names: BTreeMap<Address, (Arc<str>, EventTime)>,
    /// When answers that are too old went last.
    pub(super) pruned: EventTime,
}

impl Resolved {
    /// A look-up of the host. Reads the answers of those that ask for addresses, and no others. `known` is `None` while no
    /// name is.
    pub(super) fn look_up(known: &mut Option<Box<Self>>, row: &DnsRow<'_>, at: EventTime) {
        let asks = ADDRESS_TYPES.contains(&row.query_type) && !row.synthetic && row.response_code.is_none_or(|code| code == 0);
        let Some(answers) = row.answers.filter(|_| asks) else { return };
        let mut resolved = known.take().unwrap_or_default();
        resolved.add(row, answers, at);
        *known = Some(resolved).filter(|resolved| !resolved.names.is_empty());
    }

    fn add(&mut self, row: &DnsRow<'_>, answers: &str, at: EventTime) {
        // One text for all addresses of an answer, made when the first of them is new.
        let mut text: Option<Arc<str>> = None;
        for address in answers.split(',').take(ANSWERS_MAX).filter_map(|answer| Address::parse(answer.trim().as_bytes())) {
            if let Some((name, told)) = self.names.get_mut(&address)
                && **name == *row.query
            {
                *told = at.max(*told);
                continue;
            }
            if text.is_none() {
                let Some(PeerKey::Name { name, .. }) = PeerKey::named(row.query, 0) else { return };
                text = Some(name);
            }
            let Some(name) = &text else { return };
            let newest = self.names.get(&address).is_none_or(|(_, told)| *told <= at);
            if newest {
                self.names.insert(address, (name.clone(), at));
            }
        }
        if at.since(self.pruned) > ANSWER_NS / 2 {
            self.prune(at);
        }
        if self.names.len() > RESOLVED_MAX {
            RESOLVED.bites();
            let mut order: Vec<(EventTime, Address)> = self.names.iter().map(|(address, (_, told))| (*told, *address)).collect();
            let gone = order.len() - kept(RESOLVED_MAX);
            order.select_nth_unstable(gone);
            order[..gone].iter().for_each(|(_, address)| {
                self.names.remove(address);
            });
        }
    }

    /// What is too old names nothing any more.
    pub(super) fn expire(known: &mut Option<Box<Self>>, now: EventTime) {
        if let Some(resolved) = known {
            resolved.prune(now);
        }
        *known = known.take().filter(|resolved| !resolved.names.is_empty());
    }

    fn prune(&mut self, now: EventTime) {
        self.pruned = now;
        self.names.retain(|_, (_, told)| now.since(*told) <= ANSWER_NS);
    }

    /// The name of which the host was told this address, for a connection that begins then.
    pub(super) fn name(&self, address: Address, start: EventTime) -> Option<&Arc<str>> {
        self.names.get(&address).filter(|(_, told)| start.since(*told).abs() <= ANSWER_NS).map(|(name, _)| name)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        // Names count 32 bytes, as others that no pair may have: exact counting would walk the map.
        size_of::<Self>() + entries(self.names.len(), size_of::<(Address, (Arc<str>, EventTime))>() + 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> EventTime {
        EventTime::from_secs(1_780_574_400 + seconds)
    }

    fn look_up<'a>(query: &'a str, query_type: u16, answers: &'a str) -> DnsRow<'a> {
        DnsRow { query, query_type, response_code: Some(0), answers: Some(answers), ..DnsRow::default() }
    }

    fn name(resolved: &Option<Box<Resolved>>, last: u8, seconds: i64) -> Option<&str> {
        resolved.as_ref()?.name(Address::v4([203, 0, 113, last]), at(seconds)).map(|name| &**name)
    }

    #[test]
    fn the_newest_answer_names_an_address_for_an_hour() {
        let mut resolved = None;
        Resolved::look_up(&mut resolved, &look_up("a.example", 1, "cdn.example, 203.0.113.1,203.0.113.2"), at(0));
        Resolved::look_up(&mut resolved, &look_up("b.example", 28, "::ffff:203.0.113.2"), at(60));
        assert_eq!((name(&resolved, 1, 3600), name(&resolved, 2, 70)), (Some("a.example"), Some("b.example")));
        assert_eq!(name(&resolved, 1, 3601), None);
        // Told again, it names for another hour; what is told of an earlier time changes nothing.
        Resolved::look_up(&mut resolved, &look_up("a.example", 1, "203.0.113.1"), at(1800));
        Resolved::look_up(&mut resolved, &look_up("c.example", 1, "203.0.113.1"), at(1700));
        assert_eq!(name(&resolved, 1, 5000), Some("a.example"));
    }

    #[test]
    fn only_answers_that_are_addresses_are_kept() {
        let mut resolved = None;
        Resolved::look_up(&mut resolved, &look_up("a.example", 16, "203.0.113.1"), at(0));
        Resolved::look_up(&mut resolved, &look_up("a.example", 5, "b.example"), at(0));
        Resolved::look_up(&mut resolved, &look_up("203.0.113.9", 1, "203.0.113.1"), at(0));
        Resolved::look_up(&mut resolved, &DnsRow { response_code: Some(3), ..look_up("a.example", 1, "203.0.113.1") }, at(0));
        Resolved::look_up(&mut resolved, &DnsRow { synthetic: true, ..look_up("a.example", 1, "203.0.113.1") }, at(0));
        assert!(resolved.is_none());
    }

    #[test]
    fn a_host_that_looks_everything_up_keeps_the_newest() {
        let mut resolved = None;
        let bitten = RESOLVED.reached();
        for n in 0..5_000_u32 {
            let [.., c, d] = n.to_be_bytes();
            let answer = format!("203.0.{c}.{d}");
            Resolved::look_up(&mut resolved, &look_up("a.example", 1, &answer), at(i64::from(n) / 10));
            assert!(resolved.as_ref().is_some_and(|known| known.names.len() <= RESOLVED_MAX));
        }
        assert!(RESOLVED.reached() > bitten);
        let known = |resolved: &Option<Box<Resolved>>, c, d| {
            resolved.as_ref().is_some_and(|known| known.names.contains_key(&Address::v4([203, 0, c, d])))
        };
        assert!(known(&resolved, 0x13, 0x87) && !known(&resolved, 0, 1));
        Resolved::look_up(&mut resolved, &look_up("a.example", 1, "203.0.113.1"), at(9_000));
        assert_eq!(resolved.map(|known| known.names.len()), Some(1));
    }
}
