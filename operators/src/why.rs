//! Why nothing is said: what a detector's state of one host says of each of its conditions, as value against threshold.
//! Read only: asking changes no state and no answer. Decides nothing; what holds is what the detector's own code asks.

/// Cases of one answer, at most: those about most contacts, names or octets.
pub const CASES_MAX: usize = 50;

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Needs {
    /// Not below.
    AtLeast(f64),
    /// Not above.
    AtMost(f64),
    /// So; the value is 1 for true and 0 for false.
    Is(bool),
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// What is looked at; a threshold's name where the rule sets it.
    pub name: &'static str,
    /// What it is.
    pub value: f64,
    /// What it must be.
    pub needs: Needs,
}

impl Condition {
    /// At least.
    pub fn at_least(name: &'static str, value: f64, threshold: f64) -> Self {
        Self { name, value: finite(value), needs: Needs::AtLeast(threshold) }
    }

    /// At most.
    pub fn at_most(name: &'static str, value: f64, threshold: f64) -> Self {
        Self { name, value: finite(value), needs: Needs::AtMost(threshold) }
    }

    /// True or false.
    pub fn is(name: &'static str, value: bool, wanted: bool) -> Self {
        Self { name, value: f64::from(u8::from(value)), needs: Needs::Is(wanted) }
    }

    /// Whether it holds.
    pub fn met(&self) -> bool {
        self.lacks() == 0.0
    }

    /// What it lacks, as a share of what is asked for: 0 = it holds, 1 = there is nothing at all.
    pub fn lacks(&self) -> f64 {
        let share = |short: f64, of: f64| if short <= 0.0 { 0.0 } else { (short / of.abs().max(f64::MIN_POSITIVE)).min(1.0) };
        match self.needs {
            Needs::AtLeast(threshold) => share(threshold - self.value, threshold),
            Needs::AtMost(threshold) => share(self.value - threshold, self.value),
            Needs::Is(wanted) => f64::from(u8::from((self.value > 0.0) != wanted)),
        }
    }
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// One way in which one subject could be found: all its conditions must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Peer, domain, port, window.
    pub subject: String,
    /// Which way, where a detector has several.
    pub way: &'static str,
    /// In the order in which they are asked.
    pub conditions: Vec<Condition>,
}

impl Case {
    /// All conditions hold.
    pub fn met(&self) -> bool {
        self.conditions.iter().all(Condition::met)
    }

    /// How far it is from being found: the conditions that do not hold, each by what it lacks; less is nearer.
    pub fn distance(&self) -> f64 {
        self.conditions.iter().map(Condition::lacks).sum()
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Only subjects with this text in them, any case.
    pub subject: Option<&'a str>,
    /// Moment of the asking: the newest row's, or a slice's end.
    pub at: tidewatch_schemas::time::EventTime,
}

impl About<'_> {
    /// Whether a subject is meant.
    pub fn is(&self, subject: &str) -> bool {
        self.subject.is_none_or(|wanted| subject.to_lowercase().contains(&wanted.to_lowercase()))
    }
}

/// What a rule answers of a host.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The rule is switched off for the host's tenant, or is another tenant's.
    Off,
    /// Nothing is kept of the host: no row of it meant anything to the detector, or it was forgotten.
    NothingKept,
    /// The detector cannot tell.
    CannotTell,
    /// Its cases.
    Cases(Vec<Case>),
}

/// A rule's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleAnswer {
    /// Rule id.
    pub rule: String,
    /// Its version.
    pub version: u32,
    /// Kind of rule.
    pub kind: String,
    /// What it says.
    pub answer: Answer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nearer_lacks_less() {
        let near = Condition::at_least("n", 9.0, 10.0);
        let far = Condition::at_least("n", 0.0, 10.0);
        assert!(!near.met() && near.lacks() < far.lacks() && far.lacks() == 1.0);
        assert!(Condition::at_least("n", 10.0, 10.0).met() && Condition::at_most("n", 10.0, 10.0).met());
        assert!(!Condition::at_most("n", 11.0, 10.0).met());
        assert!(Condition::is("n", false, false).met() && !Condition::is("n", true, false).met());
        let case = |conditions: Vec<Condition>| Case { subject: String::new(), way: "", conditions };
        assert!(case(vec![near.clone()]).distance() < case(vec![near.clone(), far]).distance());
        assert!(!case(vec![near]).met() && case(vec![]).met());
        assert_eq!(Condition::at_least("n", f64::NAN, 1.0).value, 0.0);
    }
}
