//! Keyed states: every tenant's hosts with what one operator remembers of them. Owns expiry, wake-ups, byte budgets and
//! the form in which states travel in snapshots; operators only ever see `&mut` one state.
//!
//! States lie in pages and are found through one index over the routing hash that came with the rows: nothing is hashed
//! again, and a page is never moved.
//!
//! What always holds: expiry depends on the key's own time line alone (a key untouched for its lifetime starts anew when
//! it is next touched; the sweep only frees memory); eviction goes by (last touched, key), never by arrival or memory
//! address; a snapshot of equal states is equal bytes.

mod packed;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidewatch_schemas::time::EventTime;

use crate::key::{Host, HostKey, KEY_GROUPS, key_group};
use crate::operator::Footprint;
pub use crate::places::Place;
use crate::planted::{self, Bug};
use packed::Unpacked;
use pages::{Pages, Slot};

/// With [`Bug::EvictByProcess`]: bytes of all tasks of a process, beyond which half of each goes.
const PLANTED_PROCESS_BYTES_MAX: u64 = 16 << 10;

/// Limits on the states of one operator in one task. Fixed in the topology, never per process.
#[derive(Clone, Copy, Debug)]
pub struct StateLimits {
    /// All states of the task; at the limit keys go until 15/16 remain, counted as `evicted`: of the tenants that hold most,
    /// down to one common level, each its least recently touched first. Who holds less than that level loses nothing.
    pub task_bytes_max: usize,
    /// States of one tenant; at the limit that tenant's least recently touched go first.
    pub tenant_bytes_max: usize,
    /// A key untouched for so long starts anew, nanoseconds.
    pub lifetime_ns: i64,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self { task_bytes_max: 256 << 20, tenant_bytes_max: 192 << 20, lifetime_ns: 8 * 24 * 3600 * 1_000_000_000 }
    }
}

/// What the states of one operator amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateStats {
    /// Keys held.
    pub keys: u64,
    /// Bytes, counted.
    pub bytes: u64,
    /// Keys dropped at a limit: reported as degraded.
    pub evicted: u64,
    /// Keys that outlived their lifetime.
    pub expired: u64,
}

/// States by key group and key.
pub struct KeyedStates<S> {
    pages: Pages<S>,
    /// By key group: changed since it was last written.
    dirty: Vec<bool>,
    wakes: BTreeMap<Arc<str>, BTreeSet<(EventTime, Host)>>,
    tenants: BTreeMap<Arc<str>, u32>,
    /// By index of the tenant.
    tenant_bytes: Vec<usize>,
    bytes: usize,
    limits: StateLimits,
    stats: StateStats,
}

impl<S> std::fmt::Debug for KeyedStates<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedStates").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// A snapshot that cannot be taken up.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RestoreError {
    /// Bytes of another layout, or damaged.
    #[error("state of {operator} in key group {group} cannot be read: {reason}")]
    Layout {
        /// Operator.
        operator: String,
        /// Group.
        group: u16,
        /// Codec's words.
        reason: String,
    },
}

impl<S: Default + Serialize + DeserializeOwned + Footprint> KeyedStates<S> {
    /// No states yet.
    pub fn new(limits: StateLimits) -> Self {
        Self {
            pages: Pages::new(),
            dirty: vec![false; usize::from(KEY_GROUPS)],
            wakes: BTreeMap::new(),
            tenants: BTreeMap::new(),
            tenant_bytes: Vec::new(),
            bytes: 0,
            limits,
            stats: StateStats::default(),
        }
    }

    /// Another limit on all states of the task; one tenant may take three quarters of it.
    pub fn limit_bytes(&mut self, task_bytes_max: usize) {
        self.limits.task_bytes_max = task_bytes_max;
        self.limits.tenant_bytes_max = task_bytes_max / 4 * 3;
    }

    /// Runs `work` on one key's state, its wake wish and "forget", then accounts for its bytes and its wish to be woken.
    pub fn touch<T>(
        &mut self,
        key: &HostKey,
        route: u64,
        now: EventTime,
        work: impl FnOnce(&mut S, &mut Option<EventTime>, &mut bool) -> T,
    ) -> T {
        let place = self.pages.find(key, route).unwrap_or_else(|| self.newcomer(key, route, now));
        self.touch_at(place, key, now, work)
    }

    /// The same for a key that has a state, or shall have one because it is `wanted`; else nothing happens. What is known of
    /// the state's place is used and kept up to date: as long as it is, nobody else gives the key a state.
    // In place: what `work` takes along would be copied on the way, in other pieces than it was written.
    #[inline(always)]
    pub fn touch_where<T>(
        &mut self,
        key: &HostKey,
        route: u64,
        known: &mut Place,
        now: EventTime,
        wanted: impl FnOnce() -> bool,
        work: impl FnOnce(&mut S, &mut Option<EventTime>, &mut bool) -> T,
    ) -> Option<T> {
        let found = match *known {
            Place::At(place) => Some(place).filter(|place| self.pages.holds(*place, key)),
            Place::Unknown => self.pages.find(key, route),
            Place::Nowhere => None,
        };
        let place = match found {
            Some(place) => place,
            None if wanted() => self.newcomer(key, route, now),
            None => {
                *known = Place::Nowhere;
                return None;
            }
        };
        *known = Place::At(place);
        Some(self.touch_at(place, key, now, work))
    }

    /// Asks for the memory of a state that is known to be there: see [`crate::ahead`].
    pub fn ask(&self, place: Place) {
        if let Place::At(place) = place {
            self.pages.ask(place);
        }
    }

    /// Lets somebody look at a state that is known to be there, without using it.
    pub fn look(&self, place: Place, look: impl FnOnce(&S)) {
        if let Place::At(place) = place
            && let Some(slot) = self.pages.get(place)
        {
            look(&slot.state);
        }
    }

    #[inline(always)]
    fn touch_at<T>(
        &mut self,
        place: u32,
        key: &HostKey,
        now: EventTime,
        work: impl FnOnce(&mut S, &mut Option<EventTime>, &mut bool) -> T,
    ) -> T {
        let slot = self.pages.get_mut(place).expect("a place that was found or made is taken");
        self.dirty[usize::from(slot.group)] = true;
        if now.since(slot.touched) > self.limits.lifetime_ns {
            slot.state = S::default();
            self.stats.expired += 1;
        }
        slot.touched = slot.touched.max(now);
        let mut wish = None;
        let mut forget = false;
        let out = work(&mut slot.state, &mut wish, &mut forget);

        let before = slot.bytes as usize;
        let after = if forget { 0 } else { size_of::<Slot<S>>() + slot.state.heap_bytes() };
        let after = u32::try_from(after).unwrap_or(u32::MAX);
        let wake_before = slot.wake;
        let wake_after = if forget { None } else { wish.or(slot.wake) };
        slot.wake = wake_after;
        slot.bytes = after;
        let tenant = slot.tenant as usize;
        if forget {
            self.pages.remove(place);
            self.stats.keys -= 1;
        }
        if wake_before != wake_after {
            let wakes = self.wakes.entry(key.tenant.clone()).or_default();
            if let Some(at) = wake_before {
                wakes.remove(&(at, key.host.clone()));
            }
            if let Some(at) = wake_after {
                wakes.insert((at, key.host.clone()));
            }
        }
        self.bytes = self.bytes + after as usize - before;
        self.tenant_bytes[tenant] = self.tenant_bytes[tenant] + after as usize - before;
        out
    }

    fn newcomer(&mut self, key: &HostKey, route: u64, now: EventTime) -> u32 {
        let tenant = self.tenant(&key.tenant);
        self.stats.keys += 1;
        self.pages.insert(key.clone(), route, key_group(route), tenant, S::default(), now)
    }

    fn tenant(&mut self, tenant: &Arc<str>) -> u32 {
        if let Some(index) = self.tenants.get(tenant) {
            return *index;
        }
        let index = self.tenant_bytes.len() as u32;
        self.tenant_bytes.push(0);
        self.tenants.insert(tenant.clone(), index);
        index
    }

    /// Tenants above the byte limits, by name, with the bytes each may keep: for states that can give a part of themselves first.
    pub fn above(&self) -> Vec<(Arc<str>, usize)> {
        let tenant_max = self.limits.tenant_bytes_max;
        let is_full = self.bytes > self.limits.task_bytes_max;
        let level = if is_full { self.level(self.limits.task_bytes_max / 16 * 15) } else { usize::MAX };
        let keeps = |held| if held > tenant_max { level.min(tenant_max / 16 * 15) } else { level };
        let all = self.tenants.iter().map(|(name, index)| (name, self.tenant_bytes[*index as usize]));
        let above = all.filter(|(_, held)| *held > keeps(*held));
        above.map(|(name, held)| (name.clone(), keeps(held).saturating_sub(size_of::<Slot<S>>()))).collect()
    }

    /// Keeps the byte limits; call once a slice. Eviction goes by (last touched, key), whole tenants over their own limit first.
    pub fn enforce(&mut self) {
        let limit = self.limits.tenant_bytes_max;
        if self.bytes > limit {
            // By name, not by index: indices are given out by arrival.
            let over = |index: &u32| self.tenant_bytes[*index as usize] > limit;
            for tenant in self.tenants.values().copied().filter(over).collect::<Vec<_>>() {
                self.evict(Some(tenant), limit / 16 * 15);
            }
        }
        if self.bytes > self.limits.task_bytes_max {
            let level = self.level(self.limits.task_bytes_max / 16 * 15);
            let over = |index: &u32| self.tenant_bytes[*index as usize] > level;
            for tenant in self.tenants.values().copied().filter(over).collect::<Vec<_>>() {
                self.evict(Some(tenant), level);
            }
        }
        if planted::is(Bug::EvictByProcess) && planted::process_bytes() > PLANTED_PROCESS_BYTES_MAX {
            self.evict(None, self.bytes / 2);
        }
    }

    /// The most that each tenant may hold, so that all of them together hold `target_bytes`.
    fn level(&self, target_bytes: usize) -> usize {
        let mut held: Vec<usize> = self.tenant_bytes.iter().copied().filter(|bytes| *bytes > 0).collect();
        held.sort_unstable();
        let (mut left, mut tenants) = (target_bytes, held.len());
        for bytes in held {
            if bytes.saturating_mul(tenants) > left {
                break;
            }
            left -= bytes;
            tenants -= 1;
        }
        left / tenants.max(1)
    }

    fn evict(&mut self, tenant: Option<u32>, target_bytes: usize) {
        let wanted = |slot: &Slot<S>| tenant.is_none_or(|t| t == slot.tenant);
        let mut order: Vec<(EventTime, &HostKey, u32)> =
            self.pages.iter().filter(|(_, slot)| wanted(slot)).map(|(place, slot)| (slot.touched, &slot.key, place)).collect();
        order.sort_unstable();
        let order: Vec<u32> = order.into_iter().map(|(_, _, place)| place).collect();
        for place in order {
            if tenant.map_or(self.bytes, |t| self.tenant_bytes[t as usize]) <= target_bytes {
                break;
            }
            self.remove(place);
            self.stats.evicted += 1;
        }
    }

    fn remove(&mut self, place: u32) {
        let Some(slot) = self.pages.remove(place) else { return };
        self.dirty[usize::from(slot.group)] = true;
        self.stats.keys -= 1;
        self.bytes = self.bytes.saturating_sub(slot.bytes as usize);
        let tenant = &mut self.tenant_bytes[slot.tenant as usize];
        *tenant = tenant.saturating_sub(slot.bytes as usize);
        if let (Some(at), Some(wakes)) = (slot.wake, self.wakes.get_mut(&slot.key.tenant)) {
            wakes.remove(&(at, slot.key.host));
        }
    }

    /// Frees keys of tenants in scope that have outlived their lifetime at `now`. Has no effect on any answer.
    pub fn sweep(&mut self, in_scope: &dyn Fn(&str) -> bool, now: EventTime) {
        let dead = |slot: &Slot<S>| now.since(slot.touched) > self.limits.lifetime_ns && in_scope(&slot.key.tenant);
        let dead: Vec<u32> = self.pages.iter().filter(|(_, slot)| dead(slot)).map(|(place, _)| place).collect();
        for place in dead {
            self.remove(place);
            self.stats.expired += 1;
        }
    }

    /// The earliest wake-up among tenants that `in_scope` accepts.
    pub fn next_wake(&self, in_scope: &dyn Fn(&str) -> bool) -> Option<EventTime> {
        self.wakes.iter().filter(|(t, _)| in_scope(t)).filter_map(|(_, w)| w.first().map(|(at, _)| *at)).min()
    }

    /// Takes the wake-ups before `before` of tenants in scope, in order of (time, tenant, host).
    pub fn due(&mut self, before: EventTime, in_scope: &dyn Fn(&str) -> bool) -> Vec<(EventTime, HostKey)> {
        let mut due = Vec::new();
        for (tenant, wakes) in self.wakes.iter_mut().filter(|(t, _)| in_scope(t)) {
            while wakes.first().is_some_and(|(at, _)| *at < before) {
                if let Some((at, host)) = wakes.pop_first() {
                    due.push((at, HostKey { tenant: tenant.clone(), host }));
                }
            }
        }
        for (_, key) in &due {
            if let Some(slot) = self.pages.find(key, key.route()).and_then(|place| self.pages.get_mut(place)) {
                slot.wake = None;
            }
        }
        due.sort_unstable();
        due
    }

    /// The state of a key.
    pub fn peek(&self, key: &HostKey) -> Option<&S> {
        self.pages.get(self.pages.find(key, key.route())?).map(|slot| &slot.state)
    }

    /// Whether the key has a state.
    pub fn contains(&self, key: &HostKey) -> bool {
        self.pages.find(key, key.route()).is_some()
    }

    /// Groups changed since the last [`Self::clean`].
    pub fn dirty(&self) -> impl Iterator<Item = u16> + '_ {
        (0..KEY_GROUPS).filter(|g| self.dirty[usize::from(*g)])
    }

    /// Groups that hold a key.
    pub fn occupied(&self) -> impl Iterator<Item = u16> + '_ {
        (0..KEY_GROUPS).filter(|g| !self.pages.members(*g).is_empty())
    }

    /// Forgets which groups changed.
    pub fn clean(&mut self) {
        self.dirty.fill(false);
    }

    /// One group's states as bytes; equal states give equal bytes.
    pub fn pack(&self, group: u16) -> Vec<u8> {
        packed::pack(self.pages.members(group).iter().filter_map(|place| self.pages.get(*place)).collect())
    }

    /// Takes up what [`Self::pack`] gave; replaces the group.
    pub fn unpack(&mut self, operator: &str, group: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        let layout = |reason| RestoreError::Layout { operator: operator.to_owned(), group, reason };
        let unpacked = packed::unpack::<S>(bytes).map_err(layout)?;
        for place in self.pages.members(group).to_vec() {
            self.remove(place);
        }
        for Unpacked { key, touched, wake, state } in unpacked {
            // A state may count itself by what the bytes say; what is added here is what goes when the key goes.
            let bytes = size_of::<Slot<S>>().saturating_add(state.heap_bytes());
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let route = key.route();
            if let Some(twice) = self.pages.find(&key, route) {
                self.remove(twice);
            }
            let tenant = self.tenant(&key.tenant);
            self.bytes += bytes as usize;
            self.tenant_bytes[tenant as usize] += bytes as usize;
            self.stats.keys += 1;
            if let Some(at) = wake {
                self.wakes.entry(key.tenant.clone()).or_default().insert((at, key.host.clone()));
            }
            let place = self.pages.insert(key, route, group, tenant, state, touched);
            if let Some(slot) = self.pages.get_mut(place) {
                (slot.wake, slot.bytes) = (wake, bytes);
            }
        }
        self.dirty[usize::from(group)] = false;
        Ok(())
    }

    /// Figures.
    pub fn stats(&self) -> StateStats {
        StateStats { bytes: self.bytes as u64, ..self.stats }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tidewatch_schemas::address::Address;

    #[derive(Default, Serialize, serde::Deserialize)]
    struct Weighty(Vec<u8>);

    impl Footprint for Weighty {
        fn heap_bytes(&self) -> usize {
            self.0.len()
        }
    }

    fn key(tenant: &str, host: u8) -> HostKey {
        HostKey { tenant: tenant.into(), host: Host::Address(Address::v4([10, 0, 0, host])) }
    }

    fn touch(states: &mut KeyedStates<Weighty>, key: &HostKey, s: i64) {
        states.touch(key, key.route(), EventTime::from_secs(s), |state, _, _| state.0.resize(10_000, 0));
    }

    fn limits(task: usize, tenant: usize) -> StateLimits {
        StateLimits { task_bytes_max: task, tenant_bytes_max: tenant, ..StateLimits::default() }
    }

    #[test]
    fn at_the_limit_a_new_host_is_tracked_and_the_least_recently_touched_goes() {
        let mut states = KeyedStates::new(limits(50_000, 50_000));
        for host in 0..20 {
            touch(&mut states, &key("t", host), i64::from(host));
            states.enforce();
            assert!(states.contains(&key("t", host)), "the newest is there");
        }
        assert!(!states.contains(&key("t", 0)));
        assert!(states.stats().evicted > 0 && states.stats().bytes <= 50_000);
    }

    #[test]
    fn a_tenant_over_its_limit_takes_nothing_from_another() {
        let mut states = KeyedStates::new(limits(1 << 20, 50_000));
        touch(&mut states, &key("quiet", 1), 0);
        for host in 0..50 {
            touch(&mut states, &key("loud", host), 1 + i64::from(host));
            states.enforce();
        }
        assert!(states.contains(&key("quiet", 1)));
        assert!(!states.contains(&key("loud", 0)));
    }

    #[test]
    fn at_the_task_s_limit_those_who_hold_most_give_and_the_others_nothing() {
        let mut states = KeyedStates::new(limits(500_000, 400_000));
        let held = |states: &KeyedStates<Weighty>, tenant| (0..60).filter(|h| states.contains(&key(tenant, *h))).count();
        // The quiet one was touched first: by time alone it would go first.
        for host in 0..10 {
            touch(&mut states, &key("quiet", host), 0);
        }
        for host in 0..15 {
            touch(&mut states, &key("steady", host), 1);
        }
        for host in 0..60 {
            touch(&mut states, &key("loud", host), 2 + i64::from(host));
            states.enforce();
        }
        assert_eq!((held(&states, "quiet"), held(&states, "steady")), (10, 15));
        let loud = held(&states, "loud");
        assert!((18..25).contains(&loud) && states.contains(&key("loud", 59)), "{loud}");
        assert!(states.stats().bytes <= 500_000 && states.stats().evicted == 60 - loud as u64);
    }

    #[test]
    fn what_is_packed_comes_back_with_its_wake_up() {
        let mut states = KeyedStates::<Weighty>::new(StateLimits::default());
        let host = key("t", 7);
        let at = EventTime::from_secs(100);
        states.touch(&host, host.route(), EventTime::from_secs(1), |_, wake, _| *wake = Some(at));
        let group = key_group(host.route());
        let bytes = states.pack(group);
        let mut restored = KeyedStates::<Weighty>::new(StateLimits::default());
        restored.unpack("op", group, &bytes).unwrap();
        assert_eq!(restored.next_wake(&|_| true), Some(at));
        assert_eq!(restored.pack(group), bytes);
    }
}
