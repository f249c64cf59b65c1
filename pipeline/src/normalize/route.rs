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
    known: BTreeMap<(String, String, String), Address>,
    order: VecDeque<(String, String, String)>,
    evicted: u64,
}

impl Workloads {
    /// Learns from a flow that names both the workload and its address.
    pub fn learn(&mut self, tenant: &str, agent: &str, row: &Row<'_>) {
        let Row::Flow(flow) = row else { return };
        let (Some(name), Some(address)) = (flow.source_name, flow.source_address) else { return };
        let key = (tenant.to_owned(), agent.to_owned(), name.to_owned());
        if self.known.insert(key.clone(), address).is_none() {
            self.order.push_back(key);
            if self.order.len() > WORKLOADS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
                self.evicted += 1;
            }
        }
    }

    /// Address of a workload.
    pub fn resolve(&self, tenant: &str, agent: &str, name: &str) -> Option<Address> {
        if self.known.is_empty() {
            return None;
        }
        self.known.get(&(tenant.to_owned(), agent.to_owned(), name.to_owned())).copied()
    }
}
