//! A scrape: figures of the moment are taken from the status, then everything is written in Prometheus's text format.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use prometheus_client::encoding::prometheus_text;
use tidewatch_operators::detectors;
use tidewatch_schemas::time::EventTime;

use super::Metrics;
use super::table::*;
use crate::log::Settled;
use crate::status::{Cause, ProcessState, ProcessStatus, TaskPhase, TaskStatus};
use crate::task::RuleFigures;

/// Content type of what [`Metrics::text`] gives.
pub(crate) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Counters that a task or destination counts: they go when it goes.
const COUNTED_ELSEWHERE: &[&Metric] = &[
    &SPILLED_ROWS,
    &EVICTED_KEYS,
    &RULE_EVICTED,
    &STATE_LIMIT,
    &FINDINGS_ALLOWED,
    &CANDIDATES,
    &CONTACTS_WITHHELD,
    &CONNECTIONS_EVICTED,
    &SNAPSHOT_FAILURES,
    &SNAPSHOT_WAITS,
    &DELIVERED,
    &DELIVERY_RETRIES,
    &UNDELIVERED,
    &DELIVERY_LOST,
];

fn seconds(time: EventTime) -> f64 {
    time.as_secs_f64()
}

impl Metrics {
    /// All metrics as text, figures of the moment as the status says.
    pub fn text(&self, status: &ProcessStatus) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let gauges = ALL.iter().filter(|m| m.kind == Kind::Gauge);
        for kept in gauges.chain(COUNTED_ELSEWHERE).filter_map(|m| self.series.get(m.name)) {
            kept.clear();
        }
        self.process(status);
        let mut rules: BTreeMap<(&str, &str), RuleFigures> = BTreeMap::new();
        let mut verdicts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for task in &status.tasks {
            self.task(task, status.now);
            for rule in &task.progress.rules {
                let sum = rules.entry((&rule.detector, &rule.rule)).or_default();
                sum.keys += rule.keys;
                sum.bytes += rule.bytes;
                sum.evicted += rule.evicted;
                sum.allowed += rule.allowed;
                sum.where_rows += rule.where_rows;
                sum.where_findings += rule.where_findings;
                sum.where_errors += rule.where_errors;
            }
            for judged in &task.progress.judged {
                for (verdict, n) in [
                    ("signal", judged.signals),
                    ("shadow", judged.shadow),
                    ("suppressed", judged.suppressed),
                    ("dismissed", judged.dismissed),
                    ("allowed", judged.allowed),
                ] {
                    *verdicts.entry((&judged.rule, verdict)).or_default() += n;
                }
            }
        }
        for ((detector, rule), sum) in rules {
            self.set(&RULE_KEYS, &[detector, rule], sum.keys as f64);
            self.set(&RULE_BYTES, &[detector, rule], sum.bytes as f64);
            self.counted(&RULE_EVICTED, &[detector, rule], sum.evicted);
            self.counted(&FINDINGS_ALLOWED, &[detector, rule], sum.allowed);
            self.counted(&WHERE_ROWS, &[detector, rule], sum.where_rows);
            self.counted(&WHERE_FINDINGS, &[detector, rule], sum.where_findings);
            self.counted(&WHERE_ERRORS, &[detector, rule], sum.where_errors);
        }
        for (detector, limit) in detectors::limits() {
            self.counted(&STATE_LIMIT, &[detector, limit.name], limit.reached());
        }
        for ((rule, verdict), n) in verdicts {
            self.counted(&CANDIDATES, &[rule, verdict], n);
        }
        for d in &status.destinations {
            let name = [d.name.as_str()];
            self.counted(&DELIVERED, &name, d.delivered);
            self.counted(&DELIVERY_RETRIES, &name, d.retried);
            self.counted(&UNDELIVERED, &name, d.set_aside);
            self.counted(&DELIVERY_LOST, &name, d.lost);
            self.set(&DELIVERY_BACKLOG, &name, d.backlog as f64);
            self.set(&DELIVERY_UP, &name, f64::from(u8::from(d.is == "running")));
        }
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("writing to memory does not fail");
        text
    }

    fn process(&self, status: &ProcessStatus) {
        self.set(&BUILD_INFO, &[&status.version], 1.0);
        self.set(&START_TIME, &[], seconds(status.started));
        if let Some(bytes) = resident_bytes() {
            self.set(&RESIDENT, &[], bytes as f64);
        }
        self.set(&READY, &[], f64::from(u8::from(status.not_ready().is_empty())));
        self.set(&DRAINING, &[], f64::from(u8::from(status.state == ProcessState::Draining)));
        let Settled { committed, aborted, fenced, open, hung } = status.settled;
        self.counted(&CLIENT_CALLS_HUNG, &[], hung);
        for (outcome, n) in [("committed", committed), ("aborted", aborted), ("fenced", fenced), ("open", open)] {
            self.counted(&COMMITS_SETTLED, &[outcome], n);
        }
        let c = status.control;
        for (outcome, n) in [("accepted", c.accepted), ("refused", c.refused), ("dropped", c.dropped)] {
            self.counted(&CONTROL_CONNECTIONS, &[outcome], n);
        }
        for cause in Cause::ALL {
            let n = status.conditions.iter().filter(|c| c.cause == *cause).count();
            self.set(&CONDITIONS, &[cause.name()], n as f64);
        }
        for stage in status.stages.iter().filter(|s| *s != "deliver") {
            for phase in TaskPhase::NAMES {
                let n = status.tasks.iter().filter(|t| t.stage == *stage && t.phase.name() == *phase).count();
                self.set(&TASKS, &[stage, phase], n as f64);
            }
        }
    }

    fn task(&self, task: &TaskStatus, now: EventTime) {
        let partition = task.partition.to_string();
        let at = [task.stage.as_str(), task.topic.as_str(), partition.as_str()];
        let level = |metric: &'static Metric, value: f64| self.set(metric, &at, value);
        let known = |metric: &'static Metric, value: Option<f64>| {
            if let Some(value) = value {
                self.set(metric, &at, value);
            }
        };
        let flag = |yes: bool| f64::from(u8::from(yes));
        known(&LAG_RECORDS, task.lag().map(|n| n as f64));
        level(&UNSTABLE_RECORDS, task.unstable() as f64);
        known(&LAG_SECONDS, task.lag_s(now));
        known(&WATERMARK_LAG, task.watermark_lag_s(now));
        known(&COMMITTED_OFFSET, task.committed.map(|n| n as f64));
        known(&END_OFFSET, task.end.map(|n| n as f64));
        known(&STABLE_OFFSET, task.stable_end.map(|n| n as f64));
        level(&RATE, task.records_per_s);
        known(&LAST_EPOCH, task.epoch.map(|e| seconds(e.at)));
        level(&AT_END, flag(task.at_end));
        level(&PACED, flag(task.paced));
        level(&RESTORE, if task.phase.is_ready() { 1.0 } else { task.phase.fraction().unwrap_or(0.0) });
        let p = &task.progress;
        level(&WAITING_ROWS, p.waiting_rows as f64);
        level(&OPEN_SLICES, p.open_slices as f64);
        level(&SLICE_BYTES, p.slice_bytes as f64);
        level(&STATE_KEYS, p.keys as f64);
        level(&STATE_BYTES, p.state_bytes as f64);
        if p.slice_bytes_max > 0 {
            level(&SLICE_FILL, p.slice_bytes as f64 / p.slice_bytes_max as f64);
        }
        if p.state_bytes_max > 0 {
            level(&STATE_FILL, p.state_bytes as f64 / p.state_bytes_max as f64);
        }
        self.counted(&SPILLED_ROWS, &at, p.spilled_rows);
        self.counted(&EVICTED_KEYS, &at, p.evicted);
        self.counted(&CONTACTS_WITHHELD, &at, p.contacts_withheld);
        self.counted(&CONNECTIONS_EVICTED, &at, p.connections_evicted);
        if let Some(snapshot) = &task.snapshot {
            known(&SNAPSHOT_TIME, snapshot.at.map(seconds));
            level(&SNAPSHOT_BYTES, snapshot.bytes as f64);
            level(&SNAPSHOT_DURATION, snapshot.took_s);
            self.counted(&SNAPSHOT_FAILURES, &at, snapshot.failures);
            self.counted(&SNAPSHOT_WAITS, &at, snapshot.waited);
        }
    }
}

/// Memory of this process, as the kernel tells it.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
