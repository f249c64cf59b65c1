//! What every log must do, as named checks. Test support that is part of the library, so that each log's tests, wherever
//! they live, run the same suite: memory and embedded in one process, Kafka against a real broker.
//!
//! A check gets a fresh [`Fixture`], uses the [`Log`](super::Log) door only and says in words what was broken; it never panics. What
//! a log cannot do it declares in its [`Capabilities`], and the checks that need it are reported as skipped, never as
//! passed.

mod fixture;
mod groups;
mod reading;
mod writing;

pub use fixture::{Broken, Capabilities, Fixture, Want};

/// One named check.
#[derive(Clone, Copy)]
pub struct Check {
    /// What holds, in words, as an identifier.
    pub name: &'static str,
    /// What the fixture must be like.
    pub want: Want,
    /// Whether a log of these capabilities can be asked.
    pub applies: fn(&Capabilities) -> bool,
    /// The check.
    pub run: fn(&Fixture) -> Result<(), Broken>,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Holds,
    /// The log does not claim this.
    Skipped,
    /// It does not hold.
    Fails(String),
}

/// The result of one check.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name.
    pub check: &'static str,
    /// Its outcome.
    pub outcome: Outcome,
}

/// All checks, writing first.
pub fn checks() -> Vec<Check> {
    [writing::CHECKS, reading::CHECKS, groups::CHECKS].concat()
}

/// Runs every check on a fixture of its own.
pub fn suite(make: &dyn Fn(Want) -> Fixture) -> Vec<Report> {
    checks()
        .into_iter()
        .map(|check| {
            let fixture = make(check.want);
            let outcome = if (check.applies)(&fixture.capabilities) {
                match (check.run)(&fixture) {
                    Ok(()) => Outcome::Holds,
                    Err(broken) => Outcome::Fails(broken.to_string()),
                }
            } else {
                Outcome::Skipped
            };
            Report { check: check.name, outcome }
        })
        .collect()
}

/// Every log.
fn always(_: &Capabilities) -> bool {
    true
}
