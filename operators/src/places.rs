//! Where the states of a host lie, found once for all who keep some: one look-up a host and slice instead of one a detector.
//! Only a short cut: it can be forgotten at any time, and then places are looked up again.
//!
//! Always holds: a place that is known is checked by whoever goes there, because its key may have been removed since; that
//! a host has no state is known only while nobody but the caller can give it one.

use crate::ahead::{Round, ask_all};
use crate::key::HostKey;
use crate::table::{Record, Table};

/// Hosts whose places are known; beyond it all are forgotten and looked up again.
pub(crate) const HOSTS_PLACED_MAX: usize = 1 << 20;

/// What is known of one state of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Nothing: it has to be looked up.
    #[default]
    Unknown,
    /// There is none.
    Nowhere,
    /// Where it was left.
    At(u32),
}

/// A host, by its routing key.
#[derive(Debug)]
struct Placed {
    route: u64,
    key: HostKey,
}

impl Record for Placed {
    fn hash(&self) -> u64 {
        self.route
    }
}

/// See the file's header.
#[derive(Debug, Default)]
pub(crate) struct Places {
    hosts: Table<Placed>,
    /// `states` of each host.
    places: Vec<Place>,
    states: usize,
}

impl Places {
    /// Forgets all; a host will have so many states.
    pub fn reset(&mut self, states: usize) {
        self.hosts = Table::default();
        self.places.clear();
        self.states = states;
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.reset(self.states);
    }

    /// What is known of the states of a host, to be kept up to date.
    pub fn of(&mut self, key: &HostKey, route: u64) -> &mut [Place] {
        let at = self.find(key, route);
        &mut self.places[at * self.states..][..self.states]
    }

    /// The same of a host that was just found.
    pub fn at(&self, at: usize) -> &[Place] {
        self.places.get(at * self.states..).and_then(|rest| rest.get(..self.states)).unwrap_or(&[])
    }

    /// Where that is, until the next time all is forgotten.
    pub fn find(&mut self, key: &HostKey, route: u64) -> usize {
        match self.hosts.find(route, |host| host.route == route && host.key == *key) {
            Some(at) => at,
            None => self.add(key, route),
        }
    }

    /// Asks for what [`Self::find`] and [`Self::at`] will look at; see [`crate::ahead`].
    pub fn ahead(&self, route: u64, round: Round) {
        self.hosts.ahead(route, round);
        if round == Round::Records
            && let Some(at) = self.hosts.likely_at(route)
        {
            ask_all(self.at(at));
        }
    }

    fn add(&mut self, key: &HostKey, route: u64) -> usize {
        if self.hosts.len() >= HOSTS_PLACED_MAX {
            self.clear();
        }
        let at = self.hosts.push(Placed { route, key: key.clone() });
        self.places.resize(self.hosts.len() * self.states, Place::Unknown);
        at
    }
}

#[cfg(test)]
mod tests {
    use tidewatch_schemas::address::Address;

    use super::*;
    use crate::key::Host;

    #[test]
    fn what_is_known_of_a_host_stays_known_until_all_is_forgotten() {
        let key = |last: u8| HostKey { tenant: "t".into(), host: Host::Address(Address::v4([10, 0, 0, last])) };
        let mut places = Places::default();
        places.reset(3);
        for last in 0..200 {
            // Some share a route: keys decide.
            assert_eq!(places.of(&key(last), u64::from(last / 2)), [Place::Unknown; 3]);
            places.of(&key(last), u64::from(last / 2))[2] = Place::At(u32::from(last));
        }
        assert!((0..200).all(|last| places.of(&key(last), u64::from(last / 2))[2] == Place::At(u32::from(last))));
        places.clear();
        assert_eq!(places.of(&key(7), 3), [Place::Unknown; 3]);
    }
}
