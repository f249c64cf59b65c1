//! What a destination is: it takes a batch of signals and says, for each, what became of it. A new destination is one
//! file that implements [`Destination`]; reading, positions, pauses and setting aside belong to the stage.

use std::sync::Arc;
use std::time::Duration;

use super::event::Event;

/// Sends signals somewhere.
///
/// What it must keep to: one outcome per event, in order; no event is reported [`Outcome::Delivered`] before the other
/// side has said so; a call ends in bounded time (its own time-outs, [`super::http::CALLS_BUDGET`]); it never waits to
/// try again, the stage does; an event that has to wait stops the later ones ([`Outcome::Untried`]), so that nothing
/// overtakes it.
pub trait Destination: Send {
    /// Sends a batch, in order. The batch is never empty. Events that are not done with come again, first in the next
    /// batch and in their order.
    fn send(&mut self, batch: &[Event]) -> Vec<Outcome>;
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other side has it.
    Delivered,
    /// Not now: the other side is away or overloaded. Nothing is lost, whether it has arrived or not.
    Retry {
        /// When the other side asked to be tried again; `None` = the stage decides.
        after: Option<Duration>,
        /// For people.
        reason: String,
    },
    /// Not tried in this call: an earlier one has to wait, or time was up.
    Untried,
    /// Never: this event will not be taken. It goes to the undelivered topic, the others go on.
    SetAside {
        /// Short and stable: an HTTP status, a vendor's code.
        code: String,
        /// For people.
        reason: String,
    },
    /// Nothing will be taken before somebody changes the configuration: hold everything and raise the alarm.
    Stop {
        /// For people.
        reason: String,
    },
}

/// Opens a destination; called at the start, after a stop was lifted, and after the stage had to begin anew.
pub type Opener = Arc<dyn Fn() -> Result<Box<dyn Destination>, DestinationError> + Send + Sync>;

/// Why a destination cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// A secret cannot be had.
    #[error("secret from {from}: {reason}")]
    Secret {
        /// File or variable.
        from: String,
        /// What is wrong; never the content.
        reason: String,
    },
    /// The address cannot be used.
    #[error("url {url}: {reason}")]
    Url {
        /// As configured, without user and query.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// A setting cannot be used.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is wrong.
        reason: String,
    },
}
