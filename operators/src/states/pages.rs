//! Where states lie: pages that never move, an index over routing hashes, and the members of each key group.
//!
//! Knows no limit and no time. Always holds: a place is one key's until that key is removed, then the next newcomer's.

use hashbrown::HashTable;
use tidewatch_schemas::time::EventTime;

use crate::key::{HostKey, KEY_GROUPS};

/// States of one page: few enough that a task of one host is small.
const PAGE: usize = 64;

/// One key's state with what the runtime knows of it.
pub(super) struct Slot<S> {
    pub key: HostKey,
    pub route: u64,
    pub state: S,
    pub touched: EventTime,
    pub wake: Option<EventTime>,
    /// As last counted.
    pub bytes: u32,
    /// Index of the tenant.
    pub tenant: u32,
    /// Key group under which it is filed.
    pub group: u16,
    /// Place among the members of its group.
    member: u32,
}

/// See the file's header.
pub(super) struct Pages<S> {
    pages: Vec<Vec<Option<Slot<S>>>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    groups: Vec<Vec<u32>>,
}

impl<S> Pages<S> {
    pub fn new() -> Self {
        Self {
            pages: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            groups: (0..KEY_GROUPS).map(|_| Vec::new()).collect(),
        }
    }

    /// Place of a key.
    pub fn find(&self, key: &HostKey, route: u64) -> Option<u32> {
        self.index.find(route, |place| self.get(*place).is_some_and(|slot| slot.key == *key)).copied()
    }

    /// Whether a place is that key's.
    pub fn holds(&self, place: u32, key: &HostKey) -> bool {
        self.get(place).is_some_and(|slot| slot.key == *key)
    }

    pub fn get(&self, place: u32) -> Option<&Slot<S>> {
        let (page, at) = split(place);
        self.pages.get(page)?.get(at)?.as_ref()
    }

    /// Asks for the memory of a place.
    pub fn ask(&self, place: u32) {
        let (page, at) = split(place);
        if let Some(slot) = self.pages.get(page).and_then(|page| page.get(at)) {
            crate::ahead::ask(slot);
        }
    }

    pub fn get_mut(&mut self, place: u32) -> Option<&mut Slot<S>> {
        let (page, at) = split(place);
        self.pages.get_mut(page)?.get_mut(at)?.as_mut()
    }

    /// Adds a key that is not there.
    pub fn insert(&mut self, key: HostKey, route: u64, group: u16, tenant: u32, state: S, touched: EventTime) -> u32 {
        let members = &mut self.groups[usize::from(group)];
        let member = members.len() as u32;
        let slot = Slot { key, route, state, touched, wake: None, bytes: 0, tenant, group, member };
        let place = match self.free.pop() {
            Some(place) => {
                let (page, at) = split(place);
                self.pages[page][at] = Some(slot);
                place
            }
            None => {
                if self.pages.last().is_none_or(|page| page.len() == PAGE) {
                    self.pages.push(Vec::with_capacity(PAGE));
                }
                let page = self.pages.len() - 1;
                self.pages[page].push(Some(slot));
                (page * PAGE + self.pages[page].len() - 1) as u32
            }
        };
        members.push(place);
        let pages = &self.pages;
        let route_of = |place: &u32| {
            let (page, at) = split(*place);
            pages[page][at].as_ref().map_or(0, |slot| slot.route)
        };
        self.index.insert_unique(route, place, route_of);
        place
    }

    /// Takes a key out.
    pub fn remove(&mut self, place: u32) -> Option<Slot<S>> {
        let (page, at) = split(place);
        let slot = self.pages.get_mut(page)?.get_mut(at)?.take()?;
        if let Ok(entry) = self.index.find_entry(slot.route, |p| *p == place) {
            entry.remove();
        }
        let members = &mut self.groups[usize::from(slot.group)];
        members.swap_remove(slot.member as usize);
        let moved = members.get(slot.member as usize).copied();
        if let Some(other) = moved.and_then(|p| self.get_mut(p)) {
            other.member = slot.member;
        }
        self.free.push(place);
        Some(slot)
    }

    /// All keys with their places, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Slot<S>)> {
        let places = self.groups.iter().flatten();
        places.filter_map(|place| self.get(*place).map(|slot| (*place, slot)))
    }

    /// Places of a group's keys, in no order that means anything.
    pub fn members(&self, group: u16) -> &[u32] {
        &self.groups[usize::from(group)]
    }
}

fn split(place: u32) -> (usize, usize) {
    (place as usize / PAGE, place as usize % PAGE)
}
