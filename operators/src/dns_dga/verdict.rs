//! From what is kept to what is told: the three ways in which a host is found, and the words for it.

use libm::round;
use tidewatch_schemas::signal::{Endpoint, Evidence, Value};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::DnsDga;
use super::state::HostState;
use crate::operator::{Context, Draft};
use crate::why::{Case, Condition};

/// New failing domains must be this many times those that exist before a burst is one.
const BURST_OVER_FOUND: u32 = 2;

/// Mean score, per cent, at which the labels of a burst may be short: typing errors and expired domains score
/// below, about 11 on average.
const BURST_PERCENT: u32 = 25;

/// Told again after so long without a word, and more since.
const AGAIN_NS: i64 = 3600 * SECOND_NS;

impl DnsDga {
    /// Many new domains that do not exist, asked for themselves, among few that do.
    pub(super) fn is_burst(&self, state: &HostState) -> bool {
        let counts = &state.counts;
        counts.failed_apex >= self.burst
            && counts.failed_apex >= BURST_OVER_FOUND * counts.found
            && counts.failed_apex * 10 >= counts.failed * 8
            && (f64::from(counts.failed_apex_bytes) >= self.burst_label_bytes * f64::from(counts.failed_apex)
                || counts.failed_apex_percent >= BURST_PERCENT * counts.failed_apex)
    }

    /// What the state says of each condition.
    pub(super) fn cases(&self, state: &HostState, at: EventTime) -> Vec<Case> {
        let (counts, episode) = (&state.counts, &state.episode);
        let number = f64::from;
        let share = |part: u32, of: u32| f64::from(part) / f64::from(of.max(1));
        let long = number(counts.failed_apex_bytes) / number(counts.failed_apex.max(1)) / self.burst_label_bytes;
        let strange = share(counts.failed_apex_percent, counts.failed_apex) / number(BURST_PERCENT);
        let case = |way, conditions| Case { subject: "dga".to_owned(), way, conditions };
        vec![
            case(
                "evidence",
                vec![
                    Condition::at_least(
                        "generated domains that fail (min_failed)",
                        number(episode.generated),
                        number(self.min_failed),
                    ),
                    Condition::at_least("weight of the names (evidence)", state.evidence(at), self.evidence),
                ],
            ),
            case(
                "share",
                vec![
                    Condition::at_least("distinct names (min_names)", number(counts.names), number(self.min_names)),
                    Condition::at_least("share that looks generated (ratio)", share(counts.generated, counts.names), self.ratio),
                    Condition::at_least(
                        "the same without labels of one length (ratio)",
                        share(counts.generated.saturating_sub(state.of_one_length()), counts.names),
                        self.ratio,
                    ),
                ],
            ),
            case(
                "burst",
                vec![
                    Condition::at_least("new domains that do not exist (burst)", number(counts.failed_apex), number(self.burst)),
                    Condition::at_least(
                        "of these, per new domain that exists",
                        share(counts.failed_apex, counts.found),
                        number(BURST_OVER_FOUND),
                    ),
                    Condition::at_least("share of failures that are such domains", share(counts.failed_apex, counts.failed), 0.8),
                    Condition::at_least("length or strangeness of labels, of what is asked", long.max(strange), 1.0),
                ],
            ),
        ]
    }

    /// A draft when something is to be told now.
    pub(super) fn judge(&self, state: &mut HostState, burst: bool, at: EventTime, ctx: &Context<'_>) -> Option<Draft> {
        let counts = state.counts;
        let evidence = state.evidence(at);
        let ratio = f64::from(counts.generated) / f64::from(counts.names.max(1));
        let by_share = counts.names >= self.min_names
            && ratio >= self.ratio
            && f64::from(counts.generated - state.of_one_length()) >= self.ratio * f64::from(counts.names);
        let by_evidence = evidence >= self.evidence && state.episode.generated >= self.min_failed;
        if !(by_evidence || by_share || burst) {
            return None;
        }
        let told = if by_evidence { state.episode.generated } else { 0 };
        let told = told.max(if by_share { counts.generated } else { 0 }).max(if burst { counts.failed_apex } else { 0 });
        if !state.says(told, self.min_failed, at, AGAIN_NS) {
            return None;
        }
        let mut confidence = 0.0_f64;
        if by_evidence {
            confidence = confidence.max(20.0 + (25.0 * (evidence / self.evidence - 1.0)).clamp(0.0, 25.0));
        }
        if by_share {
            // Names that do not exist say more.
            let failed = f64::from(counts.failed) / f64::from(counts.names.max(1));
            confidence = confidence.max(libm::trunc(40.0 * ratio) + 5.0 * failed);
        }
        if burst {
            let share = f64::from(counts.failed_apex) / f64::from((counts.failed_apex + counts.found).max(1));
            confidence = confidence.max(10.0 * share + (f64::from(counts.failed_apex) / 10.0).min(10.0));
        }
        let confidence = (self.base_confidence + confidence).clamp(1.0, 99.0) as u8;
        Some(self.draft(state, confidence, evidence, ratio, at, ctx))
    }

    fn draft(&self, state: &HostState, confidence: u8, evidence: f64, ratio: f64, at: EventTime, ctx: &Context<'_>) -> Draft {
        let (counts, episode) = (&state.counts, &state.episode);
        let span_s = round(at.since(episode.first).max(0) as f64 / 1e9);
        let generated = episode.generated.max(counts.generated);
        let example = episode.examples.first().or(episode.found_names.first()).cloned().unwrap_or_default();
        let mut why = if generated >= self.min_failed {
            format!("{} asked for {generated} names that look generated", ctx.key.host)
        } else {
            format!("{} asked for {} new domains that do not exist, one after another", ctx.key.host, counts.failed_apex)
        };
        why += &format!(" within {span_s} s, such as {example}; {} registered domains failed", episode.failed);
        if let Some(found) = episode.found_names.first() {
            why += &format!("; {found} exists");
        }
        let texts = |list: &[String]| Value::List(list.iter().map(|n| Value::Text(n.clone())).collect());
        let mut fields = Evidence::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("names_distinct", Value::Long(i64::from(counts.names)));
        put("generated_ratio", Value::Double(round(ratio * 100.0) / 100.0));
        put("example", Value::Text(example));
        put("examples", texts(&episode.examples));
        put("found", texts(&episode.found_names));
        put("suffixes", texts(&episode.suffixes));
        put("failed_domains", Value::Long(i64::from(episode.failed)));
        put("generated_domains", Value::Long(i64::from(episode.generated)));
        put("burst_domains", Value::Long(i64::from(counts.failed_apex)));
        put("weight", Value::Double(round(evidence * 10.0) / 10.0));
        put("span_s", Value::Double(span_s));
        Draft {
            why,
            confidence,
            subject: "dga".to_owned(),
            contact: episode.found_names.first().cloned(),
            destination: episode.found_names.first().map(|n| Endpoint { domain: Some(n.clone()), ..Endpoint::default() }),
            first_seen: episode.first,
            last_seen: at,
            decided_at: at,
            evidence: fields,
            raw: episode.raw.clone(),
            ..Draft::default()
        }
    }
}
