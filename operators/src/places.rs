//! Where the states of a host lie, found once for all who keep some: one look-up a host and slice instead of one a detector.
//! Only a short cut: it can be forgotten at any time, and then places are looked up again.
//!
//! Always holds: a place that is known is checked by whoever goes there, because its key may have been removed since; that
//! a host has no state is known only while nobody but the caller can give it one.

use hashbrown::HashTable;

use crate::key::HostKey;

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

/// See the file's header.
#[derive(Debug, Default)]
pub(crate) struct Places {
    index: HashTable<u32>,
    hosts: Vec<(u64, HostKey)>,
    /// `states` of each host.
    places: Vec<Place>,
    states: usize,
}

impl Places {
    /// Forgets all; a host will have so many states.
    pub fn reset(&mut self, states: usize) {
        self.index.clear();
        self.hosts.clear();
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
        let same = |at: &u32| self.hosts.get(*at as usize).is_some_and(|(r, k)| *r == route && k == key);
        match self.index.find(route, same) {
            Some(at) => *at as usize,
            None => self.add(key, route),
        }
    }

    fn add(&mut self, key: &HostKey, route: u64) -> usize {
        if self.hosts.len() >= HOSTS_PLACED_MAX {
            self.clear();
        }
        let at = self.hosts.len();
        self.hosts.push((route, key.clone()));
        self.places.resize(self.hosts.len() * self.states, Place::Unknown);
        let hosts = &self.hosts;
        self.index.insert_unique(route, at as u32, |at| hosts.get(*at as usize).map_or(0, |(route, _)| *route));
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
