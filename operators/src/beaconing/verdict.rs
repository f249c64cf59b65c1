//! From a pair's contacts to a verdict: is it a beacon by this rule's limits, how sure, and what else could it be. Pure;
//! knows one host's view only.

use arrayvec::ArrayVec;
use libm::{exp, fabs, sqrt};

use super::evidence::{self, Fit};
use super::pair::{BURST_S, CONTACTS_MAX, Contact, FARM, PairView};
use crate::rule::Rule;
use crate::why::Condition;

/// Weight (log e-value, nats) that makes a beacon. By the e-value's bound a memoryless pair passes with a chance of about
/// e^-9, 1 in 8,000, in its life; real traffic is not memoryless, which is what the rest of this file is for.
const WEIGHT_MIN: f64 = 9.0;

/// So much less where every contact sends about as much as the others: people and pages do not, so what else the gaps could
/// be is fewer things. The bound is e^-5 then, 1 in 150; of 6,000 memoryless pairs of one size none passed.
const WEIGHT_ALIKE: f64 = 4.0;

/// Evenness of sizes from which they are alike; even noise of half the size has 0.5, what pages send next to none. Below it
/// they help in proportion.
const ALIKE: f64 = 0.4;

/// Few gaps can be alike for reasons that no model holds, so they have to weigh more, alike or not: so much at 8 gaps,
/// nothing more from 16 on.
const WEIGHT_FEW: f64 = 14.0;
const FEW: usize = 16;

/// A beacon lasts at least this long, seconds: pages that poll while they are open are shorter.
const SPAN_S_MIN: f64 = 180.0;

/// Share of gaps that fit the period, at least; and of these that are a single sleep.
const FITTING_SHARE_MIN: f64 = 0.6;
const SINGLE_SHARE_MIN: f64 = 0.4;

/// Newest gaps looked at besides all of them, where they are half of them at most: a beacon that began in an old pair is found
/// by its own length.
const RECENT_GAPS: [usize; 2] = [32, 16];

/// Octets sent per contact from which it is a transfer on a timer (backup, upload), which is for the egress detectors:
/// asking for orders takes a few hundred.
const BULK_BYTES: f64 = 512.0 * 1024.0;

/// A connection that stays open this long after so little was exchanged is held by a client library for re-use; implants
/// that poll close at once.
const KEPT_OPEN_S: f64 = 10.0;

/// Jitter up to which a period is a timer's, and share of equal gaps from which one is at work beside other things.
const TIMER_JITTER: f64 = 0.05;
const TIMER_SAME: f64 = 0.35;

/// Jitter up to which polling a farm is ordinary: its addresses differ in delay.
const FARM_JITTER: f64 = 0.1;

/// Share of the period that the connection stays open, from which the next one is a reconnection.
const RECONNECT_SHARE: f64 = 0.8;

/// What a rule sets.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limits {
    pub base_confidence: f64,
    pub samples_min: usize,
    pub jitter_max: f64,
    pub interval_s_min: f64,
    pub interval_s_max: f64,
}

impl Limits {
    /// From a parsed rule.
    pub fn new(rule: &Rule) -> Self {
        Self {
            base_confidence: f64::from(rule.base_confidence),
            samples_min: rule.threshold("min_samples").max(3.0) as usize,
            jitter_max: rule.threshold("max_jitter"),
            interval_s_min: rule.threshold("min_interval_s"),
            interval_s_max: rule.threshold("max_interval_s"),
        }
    }
}

/// What ordinary thing it rather is; such a beacon is context, not an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ordinary {
    /// A timer of installed software: no jitter, connections held for re-use.
    Timer,
    /// A timer that polls a name served from many addresses.
    Farm,
    /// A connection that is re-opened whenever it ends.
    Reconnection,
    /// Both ends are inside.
    Internal,
    /// A service that the rule lists as ordinary.
    Listed,
}

impl Ordinary {
    /// As in evidence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timer => "timer with kept connections",
            Self::Farm => "timer to a farm of addresses",
            Self::Reconnection => "reconnection",
            Self::Internal => "internal peer",
            Self::Listed => "listed service",
        }
    }
}

/// A beacon.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    /// What the gaps say.
    pub fit: Fit,
    /// First contact of the gaps that were used, to the last, seconds.
    pub span_s: f64,
    /// Median octets sent per contact.
    pub bytes_median: Option<f64>,
    /// 0 = all over the place or not known, 1 = always the same.
    pub size_evenness: f64,
    /// Failed contacts.
    pub failed_ratio: f64,
    /// Median time a connection stayed open, seconds.
    pub lasting_s: f64,
    /// 0 to 100.
    pub confidence: f64,
    /// Rather this.
    pub ordinary: Option<Ordinary>,
}

/// Judges a pair. An error when it is no beacon by these limits: how many more contacts it takes at least before that can
/// change.
pub(super) fn verdict(view: PairView<'_>, limits: &Limits, listed: bool) -> Result<Verdict, usize> {
    let (pair, contacts) = (view.pair, view.collapsed());
    if contacts.len() <= limits.samples_min {
        return Err(limits.samples_min + 1 - contacts.len());
    }
    let gaps = gaps(&contacts);
    let mut best: Option<(f64, Fit, usize)> = None;
    let mut soonest = usize::MAX;
    for used in std::iter::once(gaps.len()).chain(RECENT_GAPS.into_iter().filter(|n| 2 * *n <= gaps.len())) {
        // A part chosen among many costs the number of parts that there were.
        let choice = if used == gaps.len() { 0.0 } else { 1.0 + libm::log(f64::from(pair.total) / used as f64) };
        // Less a little, so that rounding decides nothing here.
        let least = weight_min(used, 1.0) + choice - 1e-6;
        let are_all = used == gaps.len() && (pair.total as usize) < CONTACTS_MAX;
        let weigh = if are_all { evidence::weigh } else { evidence::weigh_newest };
        let fit = match weigh(&gaps[gaps.len() - used..], BURST_S, least) {
            Ok(fit) => fit,
            Err(more) => {
                soonest = soonest.min(more);
                continue;
            }
        };
        // Where sizes or shares decide, the next contact may.
        soonest = 1;
        let weight = fit.weight - choice;
        // Sizes are looked at only where they decide.
        let passes =
            weight >= weight_min(used, 0.0) || weight >= weight_min(used, sizes(&contacts[contacts.len() - used - 1..]).1);
        if passes && fits(&fit, used, limits) && best.is_none_or(|(w, ..)| weight > w) {
            best = Some((weight, fit, used));
            if used == gaps.len() {
                break;
            }
        }
    }
    let Some((weight, fit, used)) = best else { return Err(soonest) };
    let contacts = &contacts[contacts.len() - used - 1..];
    let span_s = contacts[contacts.len() - 1].start().since(contacts[0].start()) as f64 / 1e9;
    if span_s < SPAN_S_MIN {
        return Err(1);
    }
    let mut out = Verdict {
        fit: Fit { weight, ..fit },
        span_s,
        bytes_median: None,
        size_evenness: 0.0,
        failed_ratio: contacts.iter().filter(|c| c.failed()).count() as f64 / contacts.len() as f64,
        lasting_s: median(contacts.iter().filter_map(|c| c.lasting_s()).collect()).unwrap_or(0.0),
        confidence: 0.0,
        ordinary: None,
    };
    (out.bytes_median, out.size_evenness) = sizes(contacts);
    if out.bytes_median.is_some_and(|b| b >= BULK_BYTES) {
        return Err(1);
    }
    out.ordinary = ordinary(&out, view, listed);
    out.confidence = confidence(&out, pair.total, limits);
    Ok(out)
}

/// The same as conditions, over the part of the gaps that comes nearest; without enough gaps that alone.
pub(super) fn conditions(view: PairView<'_>, limits: &Limits) -> Vec<Condition> {
    let contacts = view.collapsed();
    let gaps = gaps(&contacts);
    let enough = Condition::at_least("gaps (min_samples)", gaps.len() as f64, limits.samples_min as f64);
    if !enough.met() {
        return vec![enough];
    }
    let mut nearest: Option<Vec<Condition>> = None;
    let lacks = |all: &[Condition]| all.iter().map(Condition::lacks).sum::<f64>();
    for used in std::iter::once(gaps.len()).chain(RECENT_GAPS.into_iter().filter(|n| 2 * *n <= gaps.len())) {
        let Ok(fit) = evidence::weigh(&gaps[gaps.len() - used..], BURST_S, f64::NEG_INFINITY) else { continue };
        let choice = if used == gaps.len() { 0.0 } else { 1.0 + libm::log(f64::from(view.pair.total) / used as f64) };
        let part = &contacts[contacts.len() - used - 1..];
        let span_s = part[part.len() - 1].start().since(part[0].start()) as f64 / 1e9;
        let all = vec![
            enough.clone(),
            Condition::at_least("weight of the rhythm", fit.weight - choice, weight_min(used, sizes(part).1)),
            Condition::at_least("gaps that fit (min_samples)", fit.fitting as f64, limits.samples_min as f64),
            Condition::at_most("jitter (max_jitter)", fit.jitter, limits.jitter_max),
            Condition::at_least("interval, s (min_interval_s)", fit.interval_s, limits.interval_s_min),
            Condition::at_most("interval, s (max_interval_s)", fit.interval_s, limits.interval_s_max),
            Condition::at_least("share of gaps that fit", fit.fitting as f64 / used as f64, FITTING_SHARE_MIN),
            Condition::at_least("share of single sleeps", fit.single as f64 / fit.fitting.max(1) as f64, SINGLE_SHARE_MIN),
            Condition::at_least("span, s", span_s, SPAN_S_MIN),
            Condition::at_most("octets sent per contact", sizes(part).0.unwrap_or(0.0), BULK_BYTES),
        ];
        if nearest.as_ref().is_none_or(|known| lacks(&all) < lacks(known)) {
            nearest = Some(all);
        }
    }
    nearest.unwrap_or_else(|| vec![enough, Condition::is("some rhythm fits the gaps", false, true)])
}

/// Gaps between contacts, seconds.
fn gaps(contacts: &[Contact]) -> ArrayVec<f64, CONTACTS_MAX> {
    contacts.windows(2).map(|w| w[1].start().since(w[0].start()) as f64 / 1e9).collect()
}

/// What so many gaps have to weigh, sizes being as even as that.
fn weight_min(used: usize, evenness: f64) -> f64 {
    let many = WEIGHT_MIN - WEIGHT_ALIKE * (evenness / ALIKE).min(1.0);
    many + (WEIGHT_FEW - many) * (FEW.saturating_sub(used) as f64 / (FEW / 2) as f64)
}

/// The rest that is asked of a rhythm.
fn fits(fit: &Fit, used: usize, limits: &Limits) -> bool {
    fit.fitting >= limits.samples_min
        && fit.jitter <= limits.jitter_max
        && fit.interval_s >= limits.interval_s_min
        && fit.interval_s <= limits.interval_s_max
        && fit.fitting as f64 >= FITTING_SHARE_MIN * used as f64
        && fit.single as f64 >= SINGLE_SHARE_MIN * fit.fitting as f64
}

fn ordinary(verdict: &Verdict, view: PairView<'_>, listed: bool) -> Option<Ordinary> {
    let fit = &verdict.fit;
    if listed {
        Some(Ordinary::Listed)
    } else if view.pair.internal {
        Some(Ordinary::Internal)
    } else if verdict.lasting_s >= RECONNECT_SHARE * fit.interval_s {
        Some(Ordinary::Reconnection)
    } else if verdict.lasting_s >= KEPT_OPEN_S && (fit.jitter <= TIMER_JITTER || fit.same >= TIMER_SAME) {
        Some(Ordinary::Timer)
    } else if view.addresses.len() >= FARM && fit.jitter <= FARM_JITTER {
        Some(Ordinary::Farm)
    } else {
        None
    }
}

/// Base, up to 25 for the weight, up to 25 for the number of contacts, up to 5 for even sizes, 3 for a peer that mostly
/// fails; 20 less for what is rather ordinary. A clock's ninth contact comes to 65 at base 40, its hundredth to 85.
fn confidence(verdict: &Verdict, total: u32, limits: &Limits) -> f64 {
    let weight = 25.0 * (1.0 - exp(-verdict.fit.weight / 10.0));
    let contacts = 25.0 * (1.0 - sqrt(9.0 / f64::from(total.max(9))));
    let failed = if verdict.failed_ratio >= 0.5 { 3.0 } else { 0.0 };
    let ordinary = if verdict.ordinary.is_some() { 20.0 } else { 0.0 };
    (limits.base_confidence + weight + contacts + 5.0 * verdict.size_evenness + failed - ordinary).clamp(1.0, 99.0)
}

/// Median octets, and how even they are: 1 less twice the median deviation over the median; 0 where nothing is sent.
fn sizes(contacts: &[Contact]) -> (Option<f64>, f64) {
    let known: ArrayVec<f64, CONTACTS_MAX> = contacts.iter().filter_map(|c| c.bytes()).collect();
    if known.len() * 2 < contacts.len() {
        return (None, 0.0);
    }
    let Some(middle) = median(known.clone()) else { return (None, 0.0) };
    let off = median(known.iter().map(|b| fabs(b - middle)).collect()).unwrap_or(0.0);
    (Some(middle), if middle > 0.0 { (1.0 - 2.0 * off / middle).max(0.0) } else { 0.0 })
}

fn median(mut values: ArrayVec<f64, CONTACTS_MAX>) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    Some(values[values.len() / 2])
}
