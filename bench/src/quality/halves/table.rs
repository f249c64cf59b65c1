//! The section of the report about the halves. Decides nothing: what was chosen and what follows is in [`Sweep`].

use std::fmt::Write as _;

use super::super::interval::{poisson, wilson};
use super::Sweep;
use super::tally::{Exposure, Score};

/// Adds the section; nothing where nothing was swept.
pub fn section(out: &mut String, sweeps: &[Sweep]) {
    if sweeps.is_empty() {
        return;
    }
    *out += "\n## Thresholds: fixed on half A, judged on half B\n\n\
        Cases (by form, family, tool or capture) and traffic without attacks (offices by seed, the two benign days each with its replays, captured \
        look-ups by file) are divided by a hash of what they are called: every other one in the order of the hash. On half A the deciding \
        threshold of each detector is tried; chosen is the value that finds most with alerts per benign host-day within the detector's budget, \
        on captured and on generated traffic each; of equals the nearest to the shipped one; where no value is within it, the one with the fewest alerts. Half B is run with the \
        chosen and the shipped value alone. Memoryless pairs, and look-ups of a crawl, add alerts but no host-days. \
        A beacon of up to 50 % jitter must be found within 30 contacts, generated names within ten, a sweep of one target a second or more within 25 failed targets or 10 s, a tunnel at a rate within \
        the time of its goal. The cases are the grids' harder ones too (few \
        contacts, 90 % jitter, few targets), so recall is not that of the goals above. The shipped values were set by earlier measurements, some on material that is in \
        half B: of them B is no blind test, of what A chose it is.\n\n\
        | detector | threshold | shipped | chosen on A | recall on B, chosen | recall on B, shipped | alerts per host-day on B, chosen: captured; generated | the same, shipped | budget | |\n\
        | --- | --- | ---: | ---: | --- | --- | --- | --- | ---: | --- |\n";
    for s in sweeps {
        let about = if s.about.is_empty() { String::new() } else { format!("; {}", s.about) };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {}{about} |",
            s.detector,
            names(s),
            value(s, s.shipped),
            value(s, s.chosen),
            found(&s.chosen_on_b),
            found(&s.shipped_on_b),
            alerts(&s.chosen_on_b),
            alerts(&s.shipped_on_b),
            s.budget,
            s.verdict,
        );
    }
    *out += "\nTried on half A:\n\n| detector | threshold | value | recall | captured: alerts per host-day | generated: alerts per host-day | |\n\
             | --- | --- | ---: | --- | --- | --- | --- |\n";
    for s in sweeps {
        for tried in &s.tried_on_a {
            let mut says = Vec::new();
            if tried.value == s.shipped {
                says.push("shipped");
            }
            if tried.value == s.chosen {
                says.push("chosen");
            }
            if tried.score.rate() > s.budget {
                says.push("over its budget");
            }
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} |",
                s.detector,
                names(s),
                value(s, tried.value),
                found(&tried.score),
                rate(&tried.score.captured),
                rate(&tried.score.generated),
                says.join(", "),
            );
        }
    }
}

fn names(s: &Sweep) -> String {
    let names: Vec<String> = s.thresholds.iter().map(|t| format!("`{t}`")).collect();
    names.join(", ")
}

fn value(s: &Sweep, value: f64) -> String {
    if s.factors { format!("{value} times") } else { value.to_string() }
}

fn found(score: &Score) -> String {
    let (low, high) = wilson(score.detected, score.positives);
    format!("{} of {}: {:.3} ({low:.3}-{high:.3})", score.detected, score.positives, score.recall())
}

fn alerts(score: &Score) -> String {
    format!("{}; {}", rate(&score.captured), rate(&score.generated))
}

fn rate(of: &Exposure) -> String {
    if of.host_days == 0.0 {
        return if of.alerts == 0 { "-".to_owned() } else { format!("{} without host-days", of.alerts) };
    }
    let (low, high) = poisson(of.alerts, of.host_days);
    format!("{} in {:.0}: {:.3} ({low:.3}-{high:.3})", of.alerts, of.host_days, of.rate())
}

#[cfg(test)]
mod tests {
    use super::super::Tried;
    use super::*;

    #[test]
    fn what_differs_from_what_is_shipped_is_said() {
        let generated = Exposure { alerts: 3, host_days: 10.0 };
        let score = Score { positives: 4, detected: 3, generated, ..Score::default() };
        let sweep = Sweep {
            detector: "ndr.x".into(),
            thresholds: vec!["t".into()],
            factors: false,
            budget: 0.1,
            tried_on_a: vec![Tried { value: 2.0, score }],
            chosen: 3.0,
            shipped: 2.0,
            chosen_on_b: score,
            shipped_on_b: score,
            verdict: "A chooses another".into(),
            about: String::new(),
        };
        let mut out = String::new();
        section(&mut out, &[sweep]);
        assert!(out.contains("| ndr.x | `t` | 2 | 3 | 3 of 4: 0.750"), "{out}");
        assert!(
            out.contains("| 2 | 3 of 4: 0.750 (0.301-0.954) | - | 3 in 10: 0.300 (0.062-0.877) | shipped, over its budget |"),
            "{out}"
        );
        let mut nothing = String::new();
        section(&mut nothing, &[]);
        assert!(nothing.is_empty());
    }
}
