//! What a running process says of itself: its tasks, what is wrong and since when, its destinations. One model for
//! `/readyz`, `lag`, `top`, `explain-stall` and the metrics that are figures of the moment.
//!
//! Not a log and not a history: only how things are. What always holds: writing costs something per epoch or per change of
//! state, never per row; everything in it is bounded by tasks, destinations and [`CONDITIONS_MAX`]; whoever reads gets a
//! copy. The same types travel as JSON over the control socket, so fields are added, not renamed.

mod board;
mod condition;
mod ends;
mod explain;
mod process;
mod reporter;
mod task;

pub(crate) use board::about;
pub use board::{Board, CONDITIONS_MAX, EpochFacts};
pub use condition::{Cause, Condition};
pub use ends::{Look, look_at_ends};
pub use explain::{Explanation, Facts, Held, InputFacts, explain};
pub use process::{DestinationStatus, NotReady, ProcessState, ProcessStatus};
pub use reporter::{DrainAsked, Reporter};
pub use task::{EpochStatus, RestoreStep, RestoreTimes, SnapshotStatus, TaskPhase, TaskStatus};
