//! One key group as it travels in a snapshot: its tenants once each, then its keys in their order, each with its state.

use std::sync::Arc;

use postcard::ser_flavors::Flavor;
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

/// Bytes with room made for them beforehand: a vector that doubles leaves holes of every size among the states.
struct Packed(Vec<u8>);

impl Flavor for Packed {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<Vec<u8>> {
        self.0.shrink_to_fit();
        Ok(self.0)
    }
}

/// Room made beforehand, at most: a state that was read back counts itself by what its bytes say, and they may say anything.
const ROOM_BYTES_MAX: usize = 1 << 20;

/// Slots as bytes; equal slots give equal bytes, whatever their order.
pub(super) fn pack<S: Serialize>(mut slots: Vec<&Slot<S>>) -> Vec<u8> {
    slots.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    let mut tenants: Vec<&str> = Vec::new();
    let mut entries: Vec<Entry<&Host, &S>> = Vec::with_capacity(slots.len());
    let mut counted = 0;
    for slot in slots {
        counted += slot.bytes as usize;
        if tenants.last().is_none_or(|last| *last != &*slot.key.tenant) {
            tenants.push(&slot.key.tenant);
        }
        entries.push(((tenants.len() - 1) as u32, &slot.key.host, slot.touched, slot.wake, &slot.state));
    }
    // Packed states take about two thirds of what they are counted as.
    let room = Packed(Vec::with_capacity((counted / 4 * 3).min(ROOM_BYTES_MAX)));
    postcard::serialize_with_flavor(&(tenants, entries), room).expect("states are plain data and memory does not fail")
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
