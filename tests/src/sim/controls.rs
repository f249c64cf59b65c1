//! The controls: bugs planted on purpose, each of which the simulation must find. A suite that finds nothing wrong is worth
//! what it would have found.

use tidewatch_operators::planted::Bug;

use super::log;
use super::tally::Fault;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// In the client of the log.
    Client(log::Bug),
    /// In operators or pipeline.
    Planted(Bug),
    /// An operator looks at the clock.
    WallClock,
    /// An operator walks over a hash map.
    HashOrder,
}

impl Control {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Client(log::Bug::OffsetsOutside),
        Self::Client(log::Bug::AbortUnclear),
        Self::Client(log::Bug::NoFencing),
        Self::Planted(Bug::SnapshotEarly),
        Self::WallClock,
        Self::HashOrder,
        Self::Planted(Bug::SuppressionUncommitted),
        Self::Planted(Bug::OneUpstream),
        Self::Planted(Bug::RosterIncomplete),
        Self::Planted(Bug::EvictByProcess),
        Self::Planted(Bug::SilenceUnreachable),
        Self::Planted(Bug::TiesByPosition),
        Self::Planted(Bug::Unmuted),
    ];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client(log::Bug::OffsetsOutside) => "offsets committed outside the transaction",
            Self::Client(log::Bug::AbortUnclear) => "abort after an ambiguous commit",
            Self::Client(log::Bug::NoFencing) => "no fencing on restart",
            Self::Planted(Bug::SnapshotEarly) => "snapshot current before its epoch committed",
            Self::Planted(Bug::SuppressionUncommitted) => "suppression armed by an uncommitted signal",
            Self::Planted(Bug::OneUpstream) => "slice closed by one upstream's watermark alone",
            Self::Planted(Bug::RosterIncomplete) => "slice closed before the roster is complete",
            Self::Planted(Bug::EvictByProcess) => "eviction by process memory",
            Self::Planted(Bug::SilenceUnreachable) => "silence mark for an unreachable partition",
            Self::Planted(Bug::TiesByPosition) => "ties broken by source position",
            Self::Planted(Bug::Unmuted) => "outputs of re-processing written again",
            Self::WallClock => "wall clock in an operator",
            Self::HashOrder => "hash-map iteration order in an output",
        }
    }

    /// The switch of the product's code.
    pub fn planted(self) -> Option<Bug> {
        match self {
            Self::Planted(bug) => Some(bug),
            _ => None,
        }
    }

    /// The faulty detector.
    pub fn fault(self) -> Fault {
        match self {
            Self::WallClock => Fault::WallClock,
            Self::HashOrder => Fault::HashOrder,
            Self::Client(_) | Self::Planted(_) => Fault::None,
        }
    }

    /// The client's mistake.
    pub fn client(self) -> Option<log::Bug> {
        match self {
            Self::Client(bug) => Some(bug),
            _ => None,
        }
    }
}
