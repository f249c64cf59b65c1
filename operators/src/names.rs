//! Names: what of a name was registered ([`domain`]), and how likely a machine made it up ([`model`]). Both the detector of
//! generated names and `tidewatch score names` ask here, so that they cannot disagree.
//!
//! Not a verdict: a score is about the look of one label. Who asks for how many such names, and whether they exist, is the
//! detectors' business.

pub mod domain;
pub mod grams;
pub mod model;
mod providers;

pub use domain::{Registered, Unregistered, registered};
pub use model::{Model, score_label};
