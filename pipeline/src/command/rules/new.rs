//! `tidewatch rules new`: a commented skeleton with a test that fails until it is written.

use tidewatch_operators::detectors;
use tidewatch_operators::operator::{Detector, ListEntry};
use tidewatch_schemas::observation::Kind;

use super::{Exit, Failure, Output};

/// Print a commented skeleton of a rule, with a test that fails until you have written it
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch rules new KIND --id my-rule > my-rules/my-rule.yaml")]
pub struct Args {
    /// Kind of the rule: the detector
    kind: String,
    /// Its id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let Some(detector) = detectors::by_rule_kind(&args.kind) else {
        let kinds: Vec<&str> = detectors::ALL.iter().map(|d| d.rule_kind).collect();
        return Err(Failure::Usage(format!("there is no kind {}; there are {}", args.kind, kinds.join(", "))));
    };
    let id = args.id.clone().unwrap_or_else(|| format!("my-{}", detector.rule_kind.replace('_', "-")));
    out.bytes(skeleton(detector, &id).as_bytes())?;
    Ok(Exit::Good)
}

/// The skeleton.
fn skeleton(detector: &Detector, id: &str) -> String {
    let kind = detector.rule_kind;
    let mut text = format!(
        "# A rule of kind {kind}: {title}.\n\
         # Every field: docs/rules.md. What the detector sees and does not see: tidewatch rules explain {kind}\n\
         # Check it: tidewatch rules lint --rules DIR; run its tests: tidewatch rules test --rules DIR --only {id}\n\
         rules:\n  - id: {id}\n    version: 1 # raise it with every change\n    kind: {kind}\n    name: {title}\n    \
         description: What it finds, in a sentence, and why that matters here.\n    \
         severity: medium # ceiling of its signals: info, low, medium, high, critical\n    base_confidence: 40 # 0 to 100\n    \
         suppress: 1h # the same subject of the same host stays silent for so long after a signal\n    \
         # shadow: true # to try it: what it finds goes to tidewatch.shadow, not to the signals\n",
        title = detector.title,
    );
    if !detector.thresholds.is_empty() {
        text.push_str("    # The detector's own values; take the # away from those that you change.\n    # thresholds:\n");
        for t in detector.thresholds {
            text.push_str(&format!("    #   {}: {} # {} to {}: {}\n", t.name, t.default, t.min, t.max, t.meaning));
        }
    }
    if !detector.lists.is_empty() {
        text.push_str("    # lists:\n");
        for l in detector.lists {
            let entries = match l.entry {
                ListEntry::Port | ListEntry::WatchedPort => l.default.join(", "),
                ListEntry::Text => l.default.iter().map(|e| format!("\"{e}\"")).collect::<Vec<_>>().join(", "),
            };
            text.push_str(&format!("    #   {}: [{entries}] # {}\n", l.name, l.meaning));
        }
    }
    text.push_str(
        "    # Which rows the detector sees, or which findings go on, as SQL (docs/rules.md). An example over findings follows.\n    \
         # where: confidence >= 60 AND destination.port <> 8443\n    # What it says nothing about: each with an owner, a reason and an end.\n    # allow:\n    \
         #   - source: 10.0.3.7\n    #     owner: network team\n    #     reason: vulnerability scanner, change 4711\n    \
         #     expires: 2027-06-30 # a day, a moment, or never\n    false_positives:\n      \
         - What else looks like this.\n    tests:\n      # This test fails until its rows are those of the attack.\n      \
         - name: what it finds\n        rows:\n",
    );
    let row = if detector.reads.contains(&Kind::Flow) {
        "{from: 10.0.0.5, to: 203.0.113.66, port: 443, out: 500-900, in: 4000}"
    } else {
        "{from: 10.0.0.5, query: \"<letters 14>.example\", code: NXDOMAIN}"
    };
    let name = if detector.reads.contains(&Kind::Flow) { "flow" } else { "dns" };
    text.push_str(&format!(
        "          - {name}: {row}\n            # every: 60s\n            # count: 40\n            # jitter: 0.2\n        \
         expect: {{signals: 1, host: 10.0.0.5}}\n      - name: what only looks like it\n        rows:\n          \
         - {name}: {row}\n        expect: none\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tidewatch_operators::rule::{RuleSet, Source};

    use super::*;
    use crate::rules::testing;

    #[test]
    fn a_skeleton_is_sound_and_one_of_its_tests_fails() {
        for detector in detectors::ALL {
            let text = skeleton(detector, "mine");
            let source = Source { label: "mine.yaml".to_owned(), text };
            let set = RuleSet::load(&[], &[source], detectors::ALL).unwrap_or_else(|m| panic!("{m}"));
            let (rule, notes) = set.all().next().unwrap();
            let tried: Vec<_> = notes.examples.iter().map(|e| testing::run(rule, e, detectors::ALL).unwrap()).collect();
            assert!(tried[0].wrong.is_some() && tried[1].wrong.is_none(), "{}: {tried:?}", detector.rule_kind);
        }
    }

    #[test]
    fn what_is_commented_out_is_sound_too() {
        for detector in detectors::ALL {
            let text = skeleton(detector, "mine");
            let uncommented: Vec<String> = text
                .lines()
                .map(|line| match line.strip_prefix("    # ") {
                    Some(rest) if rest.ends_with(':') || rest.starts_with("  ") => format!("    {rest}"),
                    _ => line.to_owned(),
                })
                .collect();
            let source = Source { label: "mine.yaml".to_owned(), text: uncommented.join("\n") };
            let set = RuleSet::load(&[], &[source], detectors::ALL).unwrap_or_else(|m| panic!("{m}"));
            assert_eq!(set.rules[0].allow.len(), 1);
        }
    }
}
