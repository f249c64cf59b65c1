//! Keyed states: every tenant's hosts with what one operator remembers of them. Owns expiry, wake-ups, byte budgets and
//! the form in which states travel in snapshots; operators only ever see `&mut` one state.
//!
//! What always holds: expiry depends on the key's own time line alone (a key untouched for its lifetime starts anew when
//! it is next touched; the sweep only frees memory); eviction goes by (last touched, key), never by arrival or memory
//! address; a snapshot of equal states is equal bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidewatch_schemas::time::EventTime;

use crate::key::{Host, HostKey, KEY_GROUPS, key_group};
use crate::operator::Footprint;
use crate::planted::{self, Bug};

/// With [`Bug::EvictByProcess`]: bytes of all tasks of a process, beyond which half of each goes.
const PLANTED_PROCESS_BYTES_MAX: u64 = 96 << 10;

/// Limits on the states of one operator in one task. Fixed in the topology, never per process.
#[derive(Clone, Copy, Debug)]
pub struct StateLimits {
    /// All states of the task; at the limit the least recently touched go until 15/16 remain, counted as `evicted`.
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

struct Slot<S> {
    state: S,
    touched: EventTime,
    wake: Option<EventTime>,
    bytes: u32,
}

/// One slot as it travels in a snapshot.
type Packed<S> = (HostKey, EventTime, Option<EventTime>, S);

struct Group<S> {
    keys: HashMap<HostKey, Slot<S>, FixedState>,
    dirty: bool,
}

/// States by key group and key.
pub struct KeyedStates<S> {
    groups: Vec<Group<S>>,
    wakes: BTreeMap<Arc<str>, BTreeSet<(EventTime, Host)>>,
    tenant_bytes: BTreeMap<Arc<str>, usize>,
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
        let group = |_| Group { keys: HashMap::with_hasher(FixedState::with_seed(0)), dirty: false };
        Self {
            groups: (0..KEY_GROUPS).map(group).collect(),
            wakes: BTreeMap::new(),
            tenant_bytes: BTreeMap::new(),
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

    /// Runs `work` on one key's state, then accounts for its bytes and its wish to be woken. `work` gets the state and
    /// returns (wake wish, forget).
    pub fn touch<T>(
        &mut self,
        key: &HostKey,
        route: u64,
        now: EventTime,
        work: impl FnOnce(&mut S, &mut Option<EventTime>, &mut bool) -> T,
    ) -> T {
        let group = &mut self.groups[usize::from(key_group(route))];
        group.dirty = true;
        let overhead = size_of::<(HostKey, Slot<S>)>();
        let slot = group.keys.entry_ref(key).or_insert_with(|| {
            self.stats.keys += 1;
            Slot { state: S::default(), touched: now, wake: None, bytes: 0 }
        });
        if now.since(slot.touched) > self.limits.lifetime_ns {
            slot.state = S::default();
            self.stats.expired += 1;
        }
        slot.touched = slot.touched.max(now);
        let mut wish = None;
        let mut forget = false;
        let out = work(&mut slot.state, &mut wish, &mut forget);

        let before = slot.bytes as usize;
        let after = if forget { 0 } else { overhead + slot.state.heap_bytes() };
        let wake_before = slot.wake;
        let wake_after = if forget { None } else { wish.or(slot.wake) };
        slot.wake = wake_after;
        slot.bytes = u32::try_from(after).unwrap_or(u32::MAX);
        if forget {
            group.keys.remove(key);
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
        if before != after {
            self.bytes = self.bytes + after - before;
            let tenant = self.tenant_bytes.entry(key.tenant.clone()).or_default();
            *tenant = *tenant + after - before;
        }
        out
    }

    /// Keeps the byte limits; call once a slice. Eviction goes by (last touched, key), whole tenants over their own limit first.
    pub fn enforce(&mut self) {
        let over: Vec<Arc<str>> = self
            .tenant_bytes
            .iter()
            .filter(|&(_, &bytes)| bytes > self.limits.tenant_bytes_max)
            .map(|(t, _)| t.clone())
            .collect();
        for tenant in over {
            self.evict(Some(&tenant), self.limits.tenant_bytes_max / 16 * 15);
        }
        if self.bytes > self.limits.task_bytes_max {
            self.evict(None, self.limits.task_bytes_max / 16 * 15);
        }
        if planted::is(Bug::EvictByProcess) && planted::process_bytes() > PLANTED_PROCESS_BYTES_MAX {
            self.evict(None, self.bytes / 2);
        }
    }

    fn evict(&mut self, tenant: Option<&Arc<str>>, target_bytes: usize) {
        let mut order: Vec<(EventTime, HostKey, u64)> = Vec::new();
        for group in &self.groups {
            for (key, slot) in &group.keys {
                if tenant.is_none_or(|t| *t == key.tenant) {
                    order.push((slot.touched, key.clone(), u64::from(slot.bytes)));
                }
            }
        }
        order.sort_unstable();
        let mut held = tenant.map_or(self.bytes, |t| self.tenant_bytes.get(t).copied().unwrap_or(0));
        for (_, key, bytes) in order {
            if held <= target_bytes {
                break;
            }
            held = held.saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.remove(&key);
            self.stats.evicted += 1;
        }
    }

    fn remove(&mut self, key: &HostKey) {
        let group = &mut self.groups[usize::from(key_group(key.route()))];
        let Some(slot) = group.keys.remove(key) else { return };
        group.dirty = true;
        self.stats.keys -= 1;
        self.bytes = self.bytes.saturating_sub(slot.bytes as usize);
        if let Some(bytes) = self.tenant_bytes.get_mut(&key.tenant) {
            *bytes = bytes.saturating_sub(slot.bytes as usize);
        }
        if let (Some(at), Some(wakes)) = (slot.wake, self.wakes.get_mut(&key.tenant)) {
            wakes.remove(&(at, key.host.clone()));
        }
    }

    /// Frees keys of tenants in scope that have outlived their lifetime at `now`. Has no effect on any answer.
    pub fn sweep(&mut self, in_scope: &dyn Fn(&str) -> bool, now: EventTime) {
        let mut dead = Vec::new();
        for group in &self.groups {
            for (key, slot) in &group.keys {
                if now.since(slot.touched) > self.limits.lifetime_ns && in_scope(&key.tenant) {
                    dead.push(key.clone());
                }
            }
        }
        for key in dead {
            self.remove(&key);
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
            let group = &mut self.groups[usize::from(key_group(key.route()))];
            if let Some(slot) = group.keys.get_mut(key) {
                slot.wake = None;
            }
        }
        due.sort_unstable();
        due
    }

    /// Whether the key has a state.
    pub fn contains(&self, key: &HostKey) -> bool {
        self.groups[usize::from(key_group(key.route()))].keys.contains_key(key)
    }

    /// Groups changed since the last [`Self::clean`].
    pub fn dirty(&self) -> impl Iterator<Item = u16> + '_ {
        (0..KEY_GROUPS).filter(|g| self.groups[usize::from(*g)].dirty)
    }

    /// Groups that hold a key.
    pub fn occupied(&self) -> impl Iterator<Item = u16> + '_ {
        (0..KEY_GROUPS).filter(|g| !self.groups[usize::from(*g)].keys.is_empty())
    }

    /// Forgets which groups changed.
    pub fn clean(&mut self) {
        self.groups.iter_mut().for_each(|g| g.dirty = false);
    }

    /// One group's states as bytes; equal states give equal bytes.
    pub fn pack(&self, group: u16) -> Vec<u8> {
        let keys = &self.groups[usize::from(group)].keys;
        let mut order: Vec<&HostKey> = keys.keys().collect();
        order.sort_unstable();
        let packed: Vec<(&HostKey, EventTime, Option<EventTime>, &S)> =
            order.into_iter().map(|k| (k, keys[k].touched, keys[k].wake, &keys[k].state)).collect();
        postcard::to_stdvec(&packed).expect("states are plain data and memory does not fail")
    }

    /// Takes up what [`Self::pack`] gave; replaces the group.
    pub fn unpack(&mut self, operator: &str, group: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        let packed: Vec<Packed<S>> = postcard::from_bytes(bytes).map_err(|e| RestoreError::Layout {
            operator: operator.to_owned(),
            group,
            reason: e.to_string(),
        })?;
        let old: Vec<HostKey> = self.groups[usize::from(group)].keys.keys().cloned().collect();
        old.iter().for_each(|key| self.remove(key));
        for (key, touched, wake, state) in packed {
            // A state may count itself by what the bytes say; what is added here is what goes when the key goes.
            let bytes = size_of::<(HostKey, Slot<S>)>().saturating_add(state.heap_bytes());
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.remove(&key);
            self.bytes += bytes as usize;
            *self.tenant_bytes.entry(key.tenant.clone()).or_default() += bytes as usize;
            self.stats.keys += 1;
            if let Some(at) = wake {
                self.wakes.entry(key.tenant.clone()).or_default().insert((at, key.host.clone()));
            }
            self.groups[usize::from(group)].keys.insert(key, Slot { state, touched, wake, bytes });
        }
        self.groups[usize::from(group)].dirty = false;
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
