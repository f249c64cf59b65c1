//! A connection that is held open: a shell, a desktop, a tunnel.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;

use super::steps::Home;
use crate::event::{Outcome, Transport};
use crate::queue::{Call, Out};

/// One interactive connection to a host that nobody else calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stay {
    /// Tenant index.
    pub tenant: u16,
    /// Host index.
    pub host: u32,
    /// First packet.
    pub start_s: u32,
    /// Open for so long.
    pub duration_s: u32,
    /// Port called.
    pub port: u16,
}

impl Stay {
    pub(super) fn step(&self, home: &Home, from: Address, out: &mut Out<'_>, at_ns: i64) -> Option<i64> {
        // What somebody types and reads in a day.
        let lasts_s = f64::from(self.duration_s);
        out.call(Call {
            at_ns,
            lasts_s,
            from,
            to: home.address(0),
            port: self.port,
            transport: Transport::Tcp,
            outcome: Outcome::Complete,
            service: "",
            sent: (8.0 * lasts_s) as u64,
            received: (40.0 * lasts_s) as u64,
        });
        None
    }
}
