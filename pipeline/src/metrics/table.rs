//! Every metric there is, once: name, type, unit, labels, meaning. `docs/metrics.md` is made from it, and a test scrapes a
//! running process against it in both directions. Names keep to the rules of `promtool check metrics`: base units, `_total`
//! on counters alone, no colons, no types in names.

/// Types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows; begins at 0 with the process.
    Counter,
    /// A figure of the moment.
    Gauge,
    /// Observations in buckets, with their sum and number.
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name as served, without `_bucket`, `_sum`, `_count` of a histogram.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// What is counted or measured.
    pub unit: &'static str,
    /// Labels, in order.
    pub labels: &'static [&'static str],
    /// Meaning, one sentence without its full stop.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $unit:literal $help:literal;)*) => {
        $(#[doc = $help] pub static $id: Metric =
            Metric { name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], help: $help };)*
        /// All of them, in the order of the manual.
        pub static ALL: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    BUILD_INFO: Gauge "tidewatch_build_info" ["version"] "1" "Version of the running program; always 1";
    START_TIME: Gauge "process_start_time_seconds" [] "seconds" "When the process started, Unix time";
    RESIDENT: Gauge "process_resident_memory_bytes" [] "bytes" "Memory of the process";
    READY: Gauge "tidewatch_ready" [] "0 or 1" "1 while /readyz answers 200";
    DRAINING: Gauge "tidewatch_draining" [] "0 or 1" "1 from the moment the process was told to stop";
    CONDITIONS: Gauge "tidewatch_conditions" ["cause"] "conditions" "What is wrong now, by cause; 0 is good";
    TASKS: Gauge "tidewatch_tasks" ["stage", "phase"] "tasks" "Tasks of this process by stage and phase";

    ROWS_IN: Counter "tidewatch_input_rows_total" ["topic", "tenant"] "rows" "Rows, and records that could not be taken apart, that came in";
    ROWS_NORMALIZED: Counter "tidewatch_normalized_rows_total" ["topic", "tenant"] "rows" "Rows written to obs under their first key";
    ROWS_LATE: Counter "tidewatch_late_rows_total" ["topic", "tenant"] "rows" "Rows older than the watermark of their partition, kept in the late topic";
    ROWS_REJECTED: Counter "tidewatch_rejected_rows_total" ["topic", "tenant"] "rows" "Rows or whole records kept in the rejected topic with their reason";
    ROWS_DUPLICATE: Counter "tidewatch_duplicate_rows_total" ["topic", "tenant"] "rows" "Rows that told an event a second time, out of those normalized";
    ROWS_COPIED: Counter "tidewatch_copied_rows_total" ["topic", "tenant"] "rows" "Rows written a second time, to the other internal host";
    SKIPPED: Counter "tidewatch_skipped_elements_total" ["topic", "tenant"] "elements" "Elements of records that are no rows of ours";
    RECORDS_READ: Counter "tidewatch_records_read_total" ["stage"] "records" "Records read, re-processing included";

    EPOCHS: Counter "tidewatch_epochs_total" ["stage"] "epochs" "Epochs committed";
    EPOCH_DURATION: Histogram "tidewatch_epoch_duration_seconds" ["stage"] "seconds" "From the begin of an epoch to its commit";
    COMMIT_DURATION: Histogram "tidewatch_commit_duration_seconds" ["stage"] "seconds" "Of which the commit itself";
    WRITTEN_RECORDS: Counter "tidewatch_written_records_total" ["stage"] "records" "Records committed";
    WRITTEN_BYTES: Counter "tidewatch_written_bytes_total" ["stage"] "bytes" "Bytes of values committed";
    COMMIT_FAILURES: Counter "tidewatch_commit_failures_total" ["stage", "class"] "commits" "Commits that did not go through at once, by class: aborted, fenced, full, too_large, unreachable, other";
    COMMITS_SETTLED: Counter "tidewatch_commits_settled_total" ["outcome"] "commits" "Commits of unclear outcome that were settled by asking the log: committed, aborted, fenced, open";
    CLIENT_CALLS_HUNG: Counter "tidewatch_client_calls_hung_total" [] "calls" "Calls of the Kafka client that did not come back; their producers were given up";
    REBALANCES: Counter "tidewatch_rebalances_total" ["stage", "reason"] "changes" "Changes of the tasks given to a worker: joined, gained, lost, moved, epoch_lost";

    LAG_RECORDS: Gauge "tidewatch_lag_records" ["stage", "topic", "partition"] "records" "Offsets between the committed position and the last stable offset";
    UNSTABLE_RECORDS: Gauge "tidewatch_unstable_records" ["stage", "topic", "partition"] "records" "Offsets behind the last stable offset: an open transaction holds readers up";
    LAG_SECONDS: Gauge "tidewatch_lag_seconds" ["stage", "topic", "partition"] "seconds" "Clock minus the timestamp of the last record read; 0 at the end of the partition";
    WATERMARK_LAG: Gauge "tidewatch_watermark_lag_seconds" ["stage", "topic", "partition"] "seconds" "Clock minus the event time up to which the partition is complete";
    COMMITTED_OFFSET: Gauge "tidewatch_committed_offset" ["stage", "topic", "partition"] "offset" "Next offset to read by what is committed";
    END_OFFSET: Gauge "tidewatch_end_offset" ["stage", "topic", "partition"] "offset" "One past the last record, open transactions included";
    STABLE_OFFSET: Gauge "tidewatch_stable_offset" ["stage", "topic", "partition"] "offset" "Last stable offset: one past what readers may see";
    RATE: Gauge "tidewatch_task_records_per_second" ["stage", "topic", "partition"] "records per second" "Records read, smoothed over some epochs";
    LAST_EPOCH: Gauge "tidewatch_last_epoch_timestamp_seconds" ["stage", "topic", "partition"] "seconds" "When the task last committed, Unix time";
    AT_END: Gauge "tidewatch_at_end" ["stage", "topic", "partition"] "0 or 1" "1 when the last fetch showed that nothing more is there";
    PACED: Gauge "tidewatch_paced" ["stage", "topic", "partition"] "0 or 1" "1 while normalize waits because it is max_skew ahead of the others";

    WAITING_ROWS: Gauge "tidewatch_waiting_rows" ["stage", "topic", "partition"] "rows" "Rows or findings that wait for their slice to close";
    OPEN_SLICES: Gauge "tidewatch_open_slices" ["stage", "topic", "partition"] "slices" "Slices with rows that wait";
    SLICE_BYTES: Gauge "tidewatch_slice_memory_bytes" ["stage", "topic", "partition"] "bytes" "Memory of open slices, as counted against limits.slice_bytes (correlate: limits.correlate_slice_bytes)";
    SLICE_FILL: Gauge "tidewatch_slice_memory_ratio" ["stage", "topic", "partition"] "0 to 1" "Against which limit: near 1 rows spill to disk";
    SPILLED_ROWS: Counter "tidewatch_spilled_rows_total" ["stage", "topic", "partition"] "rows" "Rows (correlate: findings and contacts) of open slices that went to local disk";
    STATE_KEYS: Gauge "tidewatch_state_keys" ["stage", "topic", "partition"] "keys" "Keys with state";
    STATE_BYTES: Gauge "tidewatch_state_bytes" ["stage", "topic", "partition"] "bytes" "State, as counted against limits.state_bytes (correlate: limits.correlate_bytes)";
    STATE_FILL: Gauge "tidewatch_state_ratio" ["stage", "topic", "partition"] "0 to 1" "State against limits.state_bytes (correlate: limits.correlate_bytes): near 1 keys are evicted";
    EVICTED_KEYS: Counter "tidewatch_evicted_keys_total" ["stage", "topic", "partition"] "keys" "Keys dropped at the task's limit, since its state began";
    RULE_KEYS: Gauge "tidewatch_rule_state_keys" ["detector", "rule"] "keys" "Keys with state of one rule, all tasks of this process together";
    RULE_BYTES: Gauge "tidewatch_rule_state_bytes" ["detector", "rule"] "bytes" "State of one rule, all tasks of this process together";
    RULE_EVICTED: Counter "tidewatch_rule_evicted_keys_total" ["detector", "rule"] "keys" "Keys of one rule dropped at a limit";
    STATE_LIMIT: Counter "tidewatch_state_limit_reached_total" ["detector", "limit"] "times" "Times that a limit within the state of one host (correlate: of one tenant) bit: something was forgotten, or not taken in; limits.md says what. Re-processing included";
    FINDINGS_ALLOWED: Counter "tidewatch_findings_allowed_total" ["detector", "rule"] "findings" "Findings that an exception (allow) of the rule kept back before the tenant's view; re-processing included";
    WHERE_ROWS: Counter "tidewatch_where_rows_total" ["detector", "rule"] "rows" "Rows that the rule's where let its detector not see; re-processing included";
    WHERE_FINDINGS: Counter "tidewatch_where_findings_total" ["detector", "rule"] "findings" "Findings that the rule's where did not let through; re-processing included";
    WHERE_ERRORS: Counter "tidewatch_where_errors_total" ["detector", "rule"] "rows or findings" "Rows or findings that did not match because the rule's where had an error in them: a division by zero, an overflow, a cast; re-processing included";
    RULE_RELOADS: Counter "tidewatch_rule_reloads_total" ["outcome"] "reloads" "Times that the rules were read again at run time, by outcome: recorded, unchanged, refused";
    CANDIDATES: Counter "tidewatch_candidates_total" ["rule", "verdict"] "candidates" "Candidates judged: signal, shadow (a signal but that its rule runs in shadow), suppressed, dismissed, allowed (an exception up to a severity); re-processing included";
    CONTACTS_WITHHELD: Counter "tidewatch_contacts_withheld_total" ["stage", "topic", "partition"] "contacts" "New pairs not reported one by one because a host reached its limit";
    CONNECTIONS_EVICTED: Counter "tidewatch_connections_evicted_total" ["stage", "topic", "partition"] "connections" "Open connections forgotten at the limit per host";

    RESTORE: Gauge "tidewatch_restore_progress_ratio" ["stage", "topic", "partition"] "0 to 1" "Done of the running step of a restore; 1 once live";
    RESTORES: Counter "tidewatch_restores_total" ["stage"] "tasks" "Tasks that were brought up";
    RESTORE_DURATION: Histogram "tidewatch_restore_duration_seconds" ["stage"] "seconds" "From a task's begin to its first live record";
    SNAPSHOT_TIME: Gauge "tidewatch_snapshot_timestamp_seconds" ["stage", "topic", "partition"] "seconds" "When the current snapshot was taken, Unix time";
    SNAPSHOT_BYTES: Gauge "tidewatch_snapshot_bytes" ["stage", "topic", "partition"] "bytes" "Bytes written for the newest snapshot";
    SNAPSHOT_DURATION: Gauge "tidewatch_snapshot_duration_seconds" ["stage", "topic", "partition"] "seconds" "From taking the newest snapshot to its last byte";
    SNAPSHOT_FAILURES: Counter "tidewatch_snapshot_failures_total" ["stage", "topic", "partition"] "snapshots" "Snapshots that could not be written";
    SNAPSHOT_WAITS: Counter "tidewatch_snapshot_waits_total" ["stage", "topic", "partition"] "snapshots" "Snapshots that waited for memory that others of the process took";

    DELIVERED: Counter "tidewatch_delivered_signals_total" ["destination"] "signals" "Signals that the destination has taken";
    DELIVERY_RETRIES: Counter "tidewatch_delivery_retries_total" ["destination"] "signals" "Attempts that have to be repeated, per signal";
    UNDELIVERED: Counter "tidewatch_undelivered_signals_total" ["destination"] "signals" "Signals set aside in the undelivered topic";
    DELIVERY_LOST: Counter "tidewatch_delivery_lost_signals_total" ["destination"] "signals" "Signals that retention removed before they were read";
    DELIVERY_BACKLOG: Gauge "tidewatch_delivery_backlog_records" ["destination"] "records" "Records not yet done with, at most";
    DELIVERY_UP: Gauge "tidewatch_delivery_up" ["destination"] "0 or 1" "1 while the destination takes signals, 0 while it is retried or stopped";

    HTTP_REQUESTS: Counter "tidewatch_http_requests_total" ["path", "code"] "requests" "Answers of the HTTP server";
    HTTP_REFUSED: Counter "tidewatch_http_refused_connections_total" [] "connections" "Connections closed because too many were open";
    CONTROL_CONNECTIONS: Counter "tidewatch_control_connections_total" ["outcome"] "connections" "Connections of the control socket: accepted, refused, dropped";
    SPANS_SENT: Counter "tidewatch_spans_sent_total" [] "spans" "Spans that the OpenTelemetry collector has taken; 0 without the telemetry section";
    SPANS_DROPPED: Counter "tidewatch_spans_dropped_total" [] "spans" "Spans dropped because the collector was away, slow or refused them";
    TRACE_LINKS_LEFT_OUT: Counter "tidewatch_trace_links_left_out_total" [] "contexts" "Trace contexts of records not linked because a span has its 32; counted with the telemetry section alone";
    TRACE_CONTEXTS_REFUSED: Counter "tidewatch_trace_contexts_refused_total" [] "headers" "traceparent headers of records that are no trace context; counted with the telemetry section alone";
    SERIES_DROPPED: Counter "tidewatch_metric_series_dropped_total" [] "series" "New series not kept because a metric has too many";
}
