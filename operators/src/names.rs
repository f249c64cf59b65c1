//! Names: what of a name was registered ([`domain`]), and how likely a machine made it up ([`model`], by its runs of characters
//! [`grams`], the chain of its letters [`chain`] and its [`words`]). Both the detector of generated names and `tidewatch score
//! names` ask here, so that they cannot disagree.
//!
//! Not a verdict: a score is about the look of one label. Who asks for how many such names, and whether they exist, is the
//! detectors' business.

pub(crate) mod address;
pub mod chain;
pub mod domain;
pub mod grams;
pub mod model;
mod providers;
pub mod words;

pub use domain::{Registered, Unregistered, registered};
pub use model::{score_by_chance, score_label};

/// How likely a machine made up a name as somebody writes it (capitals and a final dot do not matter): 0 to 1, by the
/// label under its public suffix. A name under no public suffix is judged by the label before its last dot, a single label
/// by itself. `Err` = nothing to judge.
pub fn score(name: &str) -> Result<f32, Unregistered> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if !name.is_ascii() && name.len() <= domain::NAME_BYTES_MAX && name.chars().all(|c| c.is_alphanumeric() || ".-".contains(c)) {
        return Ok(model::UNJUDGED);
    }
    match registered(&name) {
        Ok(of) if of.provided => Ok(model::UNJUDGED),
        Ok(of) => Ok(score_label(of.label)),
        Err(Unregistered::Single) => Ok(score_label(&name)),
        // Keys, not names.
        Err(Unregistered::Internal) if name.ends_with(".onion") => Ok(model::UNJUDGED),
        // With a dot in it, or it would be a single label.
        Err(Unregistered::Internal) => Ok(score_label(name.rsplit('.').nth(1).unwrap_or(&name))),
        Err(why) => Err(why),
    }
}

/// Letters in front of a registered domain from which on a name is long: a service that is asked about digests or ids.
const LONG_FRONT_BYTES: usize = 20;

/// The registered domain of a name with much in front of it, unless a provider hands such names out.
pub(crate) fn domain_with_long_front(name: &str) -> Option<&str> {
    registered(name).ok().filter(|of| !of.provided && of.front.len() >= LONG_FRONT_BYTES).map(|of| of.domain)
}

#[cfg(test)]
mod tests;
