//! Where the two ends of a flow lie, as the detectors of volume and fan-out ask it. Knows no threat.
//!
//! Always holds: a class that normalize wrote is believed (it knows the ranges an operator lists); only a row without a
//! class is classified by its address, and an end known by name alone is one of ours.

use tidewatch_schemas::address::{Address, AddressClass, Classifier};
use tidewatch_schemas::observation::FlowRow;

use crate::key::{Host, HostKey};
use crate::operator::Flow;

/// Class of the host whose rows these are.
pub(crate) fn host_class(key: &HostKey, flow: &Flow<'_>) -> AddressClass {
    match &key.host {
        Host::Name(_) => AddressClass::Internal,
        Host::Address(host) => {
            let is_source = flow.row.source_address == Some(*host);
            let class = if is_source { flow.row.source_class } else { flow.row.destination_class };
            class_of(Some(*host), None, class)
        }
    }
}

/// Class of the other end.
pub(crate) fn peer_class(flow: &Flow<'_>) -> AddressClass {
    class_of(flow.peer.address, flow.peer.name, flow.peer.class)
}

/// The other end as one number: equal ends are equal numbers. `None` without address and name.
pub(crate) fn peer_hash(flow: &Flow<'_>) -> Option<u64> {
    match (flow.peer.address, flow.peer.name) {
        (Some(address), _) => Some(address_hash(address)),
        (None, Some(name)) => Some(xxhash_rust::xxh3::xxh3_64(name.as_bytes())),
        (None, None) => None,
    }
}

/// The number of an end that is known by its address.
pub(crate) fn address_hash(address: Address) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&address.0)
}

/// Ends of a flow before the door: the other one's address, the host's port, the other one's port.
pub(crate) fn raw_ends(host: &Host, row: &FlowRow<'_>) -> Option<(Address, u16, u16)> {
    let is_source = matches!(host, Host::Address(address) if row.source_address == Some(*address));
    if is_source {
        Some((row.destination_address?, row.source_port?, row.destination_port?))
    } else {
        Some((row.source_address?, row.destination_port?, row.source_port?))
    }
}

fn class_of(address: Option<Address>, name: Option<&str>, class: u8) -> AddressClass {
    match (AddressClass::from_u8(class), address, name) {
        (AddressClass::Unknown, Some(address), _) => Classifier::default().classify(address),
        (AddressClass::Unknown, None, Some(_)) => AddressClass::Internal,
        (known, ..) => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_class_wins_and_a_missing_one_is_found() {
        let public = Some(Address::v4([9, 9, 9, 9]));
        assert_eq!(class_of(public, None, AddressClass::Internal.as_u8()), AddressClass::Internal);
        assert_eq!(class_of(public, None, 0), AddressClass::External);
        assert_eq!(class_of(Some(Address::v4([10, 0, 0, 1])), None, 0), AddressClass::Internal);
        assert_eq!(class_of(None, Some("payments"), 0), AddressClass::Internal);
        assert_eq!(class_of(None, None, 0), AddressClass::Unknown);
    }
}
