//! One key group as it travels in a snapshot: its tenants once each, then its keys in their order, each with its state.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::EventTime;

use super::pages::Slot;
use crate::key::{Host, HostKey};

/// (tenant, host, last touched, wake-up, state); the tenant is an index into the list before.
type Entry<H, S> = (u32, H, EventTime, Option<EventTime>, S);

/// A key with its state.
pub(super) struct Unpacked<S> {
    pub key: HostKey,
    pub touched: EventTime,
    pub wake: Option<EventTime>,
    pub state: S,
}

/// Slots as bytes; equal slots give equal bytes, whatever their order.
pub(super) fn pack<S: Serialize>(mut slots: Vec<&Slot<S>>) -> Vec<u8> {
    slots.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    let mut tenants: Vec<&str> = Vec::new();
    let mut entries: Vec<Entry<&Host, &S>> = Vec::with_capacity(slots.len());
    for slot in slots {
        if tenants.last().is_none_or(|last| *last != &*slot.key.tenant) {
            tenants.push(&slot.key.tenant);
        }
        entries.push(((tenants.len() - 1) as u32, &slot.key.host, slot.touched, slot.wake, &slot.state));
    }
    postcard::to_stdvec(&(tenants, entries)).expect("states are plain data and memory does not fail")
}

/// What [`pack`] gave. Equal tenants share one text.
pub(super) fn unpack<S: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<Unpacked<S>>, String> {
    let (tenants, entries): (Vec<Arc<str>>, Entries<S>) = postcard::from_bytes(bytes).map_err(|e| e.to_string())?;
    let entries = entries.0.into_iter().map(|(tenant, host, touched, wake, state)| {
        let tenant = tenants.get(tenant as usize).ok_or_else(|| format!("tenant {tenant} of {}", tenants.len()))?;
        Ok(Unpacked { key: HostKey { tenant: tenant.clone(), host }, touched, wake, state })
    });
    entries.collect()
}

#[derive(Deserialize)]
#[serde(bound = "S: DeserializeOwned")]
struct Entries<S>(Vec<Entry<Host, S>>);
