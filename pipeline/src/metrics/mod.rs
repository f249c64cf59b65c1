//! Figures for machines: one registry, filled per epoch and at a scrape, never per row.
//!
//! [`table`] says which metrics exist; here are their values. What always holds: only metrics of the table are served; a
//! metric has at most [`SERIES_MAX`] series, tenants beyond [`TENANTS_SHOWN_MAX`] share one name; nothing leaves the
//! process by itself, a scraper asks.

mod scrape;
pub(crate) use scrape::CONTENT_TYPE;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::epoch::Ledger;
use table::{Kind, Metric};

/// Series of one metric, at most; new ones beyond it are not kept, and counted.
pub const SERIES_MAX: usize = 20_000;

/// Tenants with series of their own, at most, in the order in which they come; the others share [`OTHERS`].
pub const TENANTS_SHOWN_MAX: usize = 200;

/// Name of all further tenants.
pub const OTHERS: &str = "(others)";

/// Upper bounds of all duration histograms, seconds: an epoch is 0.05 to 5 s, a restore may take minutes.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

type Labels = Vec<(&'static str, String)>;
type Level = Gauge<f64, std::sync::atomic::AtomicU64>;

#[derive(Clone, Debug)]
enum Series {
    Counter(Family<Labels, Counter>),
    Gauge(Family<Labels, Level>),
    Histogram(Family<Labels, Histogram, fn() -> Histogram>),
}

/// A metric's series, with their number: the family does not tell it.
#[derive(Debug)]
struct Kept {
    series: Series,
    count: AtomicUsize,
}

impl Kept {
    fn has(&self, labels: &Labels) -> bool {
        match &self.series {
            Series::Counter(family) => family.get(labels).is_some(),
            Series::Gauge(family) => family.get(labels).is_some(),
            Series::Histogram(family) => family.get(labels).is_some(),
        }
    }

    /// Room for one more, or it is there already.
    fn takes(&self, labels: &Labels) -> bool {
        if self.has(labels) {
            return true;
        }
        let room = self.count.load(Ordering::Relaxed) < SERIES_MAX;
        self.count.fetch_add(usize::from(room), Ordering::Relaxed);
        room
    }

    fn clear(&self) {
        match &self.series {
            Series::Counter(family) => family.clear(),
            Series::Gauge(family) => family.clear(),
            Series::Histogram(family) => family.clear(),
        }
        self.count.store(0, Ordering::Relaxed);
    }
}

/// The registry.
#[derive(Debug)]
pub struct Metrics {
    /// Locked by a scrape, so that two cannot mix.
    registry: Mutex<Registry>,
    series: BTreeMap<&'static str, Kept>,
    tenants: Mutex<BTreeSet<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let mut series = BTreeMap::new();
        for metric in table::ALL {
            let of_kind = match metric.kind {
                Kind::Counter => {
                    let family = Family::<Labels, Counter>::default();
                    // The encoder puts `_total` back.
                    registry.register(metric.name.trim_end_matches("_total"), metric.help, family.clone());
                    Series::Counter(family)
                }
                Kind::Gauge => {
                    let family = Family::<Labels, Level>::default();
                    registry.register(metric.name, metric.help, family.clone());
                    Series::Gauge(family)
                }
                Kind::Histogram => {
                    let make: fn() -> Histogram = || Histogram::new(SECONDS);
                    let family = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(make);
                    registry.register(metric.name, metric.help, family.clone());
                    Series::Histogram(family)
                }
            };
            series.insert(metric.name, Kept { series: of_kind, count: AtomicUsize::new(0) });
        }
        let metrics = Self { registry: Mutex::new(registry), series, tenants: Mutex::default() };
        for metric in table::ALL.iter().filter(|m| m.labels.is_empty() && m.kind == Kind::Counter) {
            metrics.add(metric, &[], 0);
        }
        metrics
    }
}

impl Metrics {
    /// Adds to a counter. `values` are those of the metric's labels, in order.
    pub fn add(&self, metric: &'static Metric, values: &[&str], n: u64) {
        if let Some((Series::Counter(family), labels)) = self.series(metric, values) {
            family.get_or_create(&labels).inc_by(n);
        }
    }

    /// Puts an observation into a histogram.
    pub fn observe(&self, metric: &'static Metric, values: &[&str], value: f64) {
        if let Some((Series::Histogram(family), labels)) = self.series(metric, values) {
            family.get_or_create(&labels).observe(value);
        }
    }

    /// Rows of a committed epoch.
    pub fn ledger(&self, ledger: &Ledger) {
        for ((topic, tenant), counts) in &ledger.0 {
            let tenant = self.tenant(tenant);
            for (metric, n) in [
                (&table::ROWS_IN, counts.rows_in),
                (&table::ROWS_NORMALIZED, counts.normalized),
                (&table::ROWS_LATE, counts.late),
                (&table::ROWS_REJECTED, counts.rejected),
                (&table::ROWS_DUPLICATE, counts.duplicate),
                (&table::ROWS_COPIED, counts.copies),
                (&table::SKIPPED, counts.skipped),
            ] {
                self.add(metric, &[topic, &tenant], n);
            }
        }
    }

    fn tenant(&self, tenant: &str) -> String {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = tenants.contains(tenant) || (tenants.len() < TENANTS_SHOWN_MAX && tenants.insert(tenant.to_owned()));
        if shown { tenant.to_owned() } else { OTHERS.to_owned() }
    }

    /// A gauge's value now.
    fn set(&self, metric: &'static Metric, values: &[&str], value: f64) {
        if let Some((Series::Gauge(family), labels)) = self.series(metric, values) {
            family.get_or_create(&labels).set(value);
        }
    }

    /// A counter that somebody else counts.
    fn counted(&self, metric: &'static Metric, values: &[&str], total: u64) {
        if let Some((Series::Counter(family), labels)) = self.series(metric, values) {
            family.get_or_create(&labels).inner().store(total, Ordering::Relaxed);
        }
    }

    /// The metric's series and the labels of one, unless there are too many.
    fn series(&self, metric: &'static Metric, values: &[&str]) -> Option<(&Series, Labels)> {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        let labels: Labels = metric.labels.iter().copied().zip(values.iter().map(|v| (*v).to_owned())).collect();
        let kept = self.series.get(metric.name)?;
        if !kept.takes(&labels) {
            self.add(&table::SERIES_DROPPED, &[], 1);
            return None;
        }
        Some((&kept.series, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_beyond_the_limit_share_a_name_and_series_end() {
        let metrics = Metrics::default();
        let mut ledger = Ledger::default();
        for n in 0..TENANTS_SHOWN_MAX + 50 {
            ledger.line("flow", &format!("tenant-{n:04}")).rows_in = 1;
        }
        metrics.ledger(&ledger);
        let counter = |metric: &'static Metric, values: &[&str]| match metrics.series(metric, values) {
            Some((Series::Counter(family), labels)) => family.get_or_create(&labels).get(),
            _ => panic!("{} is no counter", metric.name),
        };
        assert_eq!(metrics.series[table::ROWS_IN.name].count.load(Ordering::Relaxed), TENANTS_SHOWN_MAX + 1);
        assert_eq!(counter(&table::ROWS_IN, &["flow", OTHERS]), 50);
        for n in 0..SERIES_MAX + 7 {
            metrics.add(&table::RECORDS_READ, &[&n.to_string()], 1);
        }
        assert_eq!(counter(&table::SERIES_DROPPED, &[]), 7);
    }
}
