//! What is not wrong and should be looked at: exceptions that ended or never do, rules without tests, overlays that nobody
//! can tell from what they replace. Warnings stop nothing.

use tidewatch_schemas::document::Mistake;
use tidewatch_schemas::time::EventTime;

use super::{Allow, Notes, Rule, RuleSet, SHADOW};

/// Everything worth a warning at a moment, by file and line.
pub fn lint(set: &RuleSet, now: EventTime) -> Vec<Mistake> {
    let mut all = Vec::new();
    for (rule, notes) in set.all() {
        about(rule, notes, &mut all);
        for (allow, place) in rule.allow.iter().zip(&notes.allow_places) {
            all.extend(exception(allow, now).map(|what| place.remark(what)));
        }
    }
    all.sort();
    // An exception that stands beside the rules is one, for however many rules.
    all.dedup();
    all
}

fn about(rule: &Rule, notes: &Notes, all: &mut Vec<Mistake>) {
    let id = &rule.id;
    let mut say = |what: String| all.push(notes.place.remark(what));
    if let Some((old, place)) = &notes.replaces
        && *place != notes.place
        && old.version >= rule.version
        && spoken(old) != spoken(rule)
    {
        say(format!(
            "{id} replaces version {} of {}:{} by another rule of version {}: raise it to {}, so that signals tell them apart",
            old.version,
            place.file,
            place.line,
            rule.version,
            old.version.saturating_add(1)
        ));
    }
    if !rule.enabled {
        return;
    }
    if rule.description.is_empty() {
        say(format!("{id} has no description"));
    }
    let positive = notes.examples.iter().filter(|e| e.is_positive()).count();
    let negative = notes.examples.len() - positive;
    if positive == 0 || negative == 0 {
        say(format!("{id} has {positive} positive and {negative} negative tests; it should have one of each at least"));
    }
    if rule.suppress_ns == 0 {
        say(format!("{id} has suppress 0s: it says the same again with every candidate"));
    }
}

/// What shows in its signals: a rule that says the same in shadow needs no version of its own.
fn spoken(rule: &Rule) -> Rule {
    let mut rule = Rule { tenant: None, ..rule.clone() };
    rule.lists.remove(SHADOW);
    rule
}

fn exception(allow: &Allow, now: EventTime) -> Option<String> {
    let (what, owner) = (allow.what(), &allow.owner);
    if let Some(end) = allow.expires.filter(|_| allow.expired(now)) {
        return Some(format!(
            "the exception for {what} of {owner} ended at {end} and acts no more: take it out, or give it another end"
        ));
    }
    let everything = |ends: &[String]| ends.iter().any(|e| e.ends_with("/0"));
    if everything(&allow.source) || everything(&allow.destination) {
        return Some(format!("the exception for {what} of {owner} is for every address"));
    }
    allow.expires.is_none().then(|| format!("the exception for {what} of {owner} never ends"))
}
