//! Under which host a row is filed: the internal end. A flow between two internal hosts goes to both, one marked
//! primary; between two external ones to the source.

use std::collections::{BTreeMap, VecDeque};

use tidewatch_schemas::address::{Address, AddressClass};
use tidewatch_schemas::observation::Row;

/// Workload names whose address is remembered per input partition; at the limit the name learned first goes.
pub const WORKLOADS_MAX: usize = 65_536;

/// A host: address, else name.
pub type HostRef<'a> = (Option<Address>, Option<&'a str>);

/// The hosts of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hosts<'a> {
    /// Filed under.
    pub primary: HostRef<'a>,
    /// Copied to.
    pub second: Option<HostRef<'a>>,
}

impl<'a> Hosts<'a> {
    /// The hosts of a row; `resolve` knows the address of a workload name.
    pub fn of(row: &Row<'a>, resolve: impl Fn(&str) -> Option<Address>) -> Self {
        let known = |address: Option<Address>, name: Option<&'a str>| match (address, name) {
            (Some(address), _) => (Some(address), None),
            (None, Some(name)) => match resolve(name) {
                Some(address) => (Some(address), None),
                None => (None, Some(name)),
            },
            (None, None) => (None, None),
        };
        let one = |primary| Self { primary, second: None };
        match row {
            Row::Flow(r) => {
                let source = known(r.source_address, r.source_name);
                let destination = known(r.destination_address, r.destination_name);
                // A name without an address is a workload of ours.
                let internal = |host: &HostRef<'_>, class: u8| host.0.is_none() || AddressClass::from_u8(class).is_internal();
                let inside = (internal(&source, r.source_class), internal(&destination, r.destination_class));
                match inside {
                    (true, true) if source != destination => Self { primary: source, second: Some(destination) },
                    (false, true) => one(destination),
                    _ => one(source),
                }
            }
            Row::Dns(r) if r.synthetic => one((None, r.observer)),
            Row::Dns(r) => one(known(r.client_address, r.client_name)),
            Row::Tls(r) => one((r.source_address, None)),
            Row::Http(r) => one((r.source_address, None)),
            Row::Edge(r) => one(known(Address::parse(r.source_name.as_bytes()), Some(r.source_name))),
            Row::Result(r) => one((None, r.observer)),
        }
    }
}

/// Addresses of workloads, as the latest earlier eBPF row of the same agent gave them.
#[derive(Debug, Default)]
pub struct Workloads {
    /// By tenant, agent and name: looked up for every row, so without building a key.
    known: BTreeMap<String, BTreeMap<String, BTreeMap<String, Address>>>,
    order: VecDeque<(String, String, String)>,
    evicted: u64,
}

impl Workloads {
    /// Learns from a flow that names both the workload and its address.
    pub fn learn(&mut self, tenant: &str, agent: &str, row: &Row<'_>) {
        let Row::Flow(flow) = row else { return };
        let (Some(name), Some(address)) = (flow.source_name, flow.source_address) else { return };
        let names = self.known.get_mut(tenant).and_then(|agents| agents.get_mut(agent));
        if let Some(known) = names.and_then(|names| names.get_mut(name)) {
            *known = address;
            return;
        }
        let (tenant, agent, name) = (tenant.to_owned(), agent.to_owned(), name.to_owned());
        self.order.push_back((tenant.clone(), agent.clone(), name.clone()));
        self.known.entry(tenant).or_default().entry(agent).or_default().insert(name, address);
        if self.order.len() > WORKLOADS_MAX
            && let Some((tenant, agent, name)) = self.order.pop_front()
        {
            self.forget(&tenant, &agent, &name);
        }
    }

    fn forget(&mut self, tenant: &str, agent: &str, name: &str) {
        let Some(agents) = self.known.get_mut(tenant) else { return };
        if let Some(names) = agents.get_mut(agent) {
            names.remove(name);
            if names.is_empty() {
                agents.remove(agent);
            }
        }
        if agents.is_empty() {
            self.known.remove(tenant);
        }
        self.evicted += 1;
    }

    /// Address of a workload.
    pub fn resolve(&self, tenant: &str, agent: &str, name: &str) -> Option<Address> {
        self.known.get(tenant)?.get(agent)?.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use tidewatch_schemas::observation::FlowRow;

    use super::*;

    #[test]
    fn the_latest_address_is_known_to_the_same_agent_alone_and_the_oldest_name_goes() {
        let mut workloads = Workloads::default();
        let mut learn = |name: &str, last: u8| {
            let address = Some(Address::v4([10, 0, 0, last]));
            let row = Row::Flow(FlowRow { source_name: Some(name), source_address: address, ..FlowRow::default() });
            workloads.learn("t", "a", &row);
        };
        learn("web", 1);
        learn("web", 2);
        for i in 1..WORKLOADS_MAX {
            learn(&i.to_string(), 3);
        }
        assert_eq!(workloads.resolve("t", "a", "web"), Some(Address::v4([10, 0, 0, 2])));
        assert_eq!([workloads.resolve("t", "b", "web"), workloads.resolve("u", "a", "web")], [None, None]);
        let row = Row::Flow(FlowRow {
            source_name: Some("one more"),
            source_address: Some(Address::v4([10, 0, 0, 4])),
            ..FlowRow::default()
        });
        workloads.learn("u", "b", &row);
        assert_eq!((workloads.resolve("t", "a", "web"), workloads.evicted), (None, 1));
        assert!(workloads.resolve("u", "b", "one more").is_some() && workloads.resolve("t", "a", "1").is_some());
    }
}
