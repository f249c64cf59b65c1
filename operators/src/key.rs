//! Whose state it is: a tenant and one of its hosts.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::observation::{Routing, route_key};

/// Key groups: fixed for ever, so that snapshots can move between any number of partitions.
pub const KEY_GROUPS: u16 = 1024;

/// The key group of a routing key.
pub fn key_group(key: u64) -> u16 {
    // KEY_GROUPS is a power of two; the low bits of XXH3 are as good as any.
    (key % u64::from(KEY_GROUPS)) as u16
}

/// A host: its address, else its workload name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Host {
    /// Known by address.
    Address(Address),
    /// Known only by name.
    Name(Arc<str>),
}

impl Host {
    fn from_routing(routing: &Routing<'_>) -> Self {
        match routing.host_address {
            Some(address) => Self::Address(address),
            None => Self::Name(routing.host_name.unwrap_or("").into()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(a) => fmt::Display::fmt(a, f),
            Self::Name(n) => f.write_str(n),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A tenant's host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostKey {
    /// Tenant.
    pub tenant: Arc<str>,
    /// Host.
    pub host: Host,
}

impl HostKey {
    /// From a row's routing columns.
    pub fn from_routing(routing: &Routing<'_>) -> Self {
        Self { tenant: routing.tenant.into(), host: Host::from_routing(routing) }
    }

    /// The same, sharing the tenant's text with the keys made before: rows of one tenant come by the thousand.
    pub fn from_routing_shared(routing: &Routing<'_>, tenants: &mut BTreeSet<Arc<str>>) -> Self {
        let key = |tenant: Arc<str>| Self { tenant, host: Host::from_routing(routing) };
        if let Some(tenant) = tenants.get(routing.tenant) {
            return key(tenant.clone());
        }
        let tenant: Arc<str> = routing.tenant.into();
        tenants.insert(tenant.clone());
        key(tenant)
    }

    /// The routing key.
    pub fn route(&self) -> u64 {
        match &self.host {
            Host::Address(a) => route_key(&self.tenant, Some(*a), None),
            Host::Name(n) => route_key(&self.tenant, None, Some(n)),
        }
    }
}
