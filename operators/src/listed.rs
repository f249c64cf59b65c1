//! Hosts that a rule names: by address, network or workload name. Knows no detector.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::key::{Host, HostKey};

/// A list of hosts, typed once per rule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    networks: Vec<IpNet>,
    names: Vec<String>,
}

impl Listed {
    /// From a rule's list: what is neither an address nor a network is a workload's name.
    pub fn of(entries: &[String]) -> Self {
        let network = |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        Self {
            networks: entries.iter().filter_map(|entry| network(entry)).collect(),
            names: entries.iter().filter(|entry| network(entry).is_none()).cloned().collect(),
        }
    }

    /// Whether the host is on it.
    pub fn holds(&self, key: &HostKey) -> bool {
        match &key.host {
            Host::Address(address) => {
                !self.networks.is_empty() && {
                    let ip = address.to_ip();
                    self.networks.iter().any(|n| n.contains(&ip))
                }
            }
            Host::Name(name) => self.names.iter().any(|n| **n == **name),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidewatch_schemas::address::Address;

    use super::*;

    #[test]
    fn addresses_networks_and_names_are_told_apart() {
        let listed = Listed::of(&["10.0.0.66".to_owned(), "10.0.9.0/24".to_owned(), "nessus".to_owned()]);
        let at = |host: Host| listed.holds(&HostKey { tenant: "t".into(), host });
        assert!(at(Host::Address(Address::v4([10, 0, 0, 66]))) && at(Host::Address(Address::v4([10, 0, 9, 7]))));
        assert!(!at(Host::Address(Address::v4([10, 0, 0, 67]))));
        assert!(at(Host::Name("nessus".into())) && !at(Host::Name("10.0.0.66".into())));
    }
}
