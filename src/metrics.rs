//! Every metric the daemon exposes, in one table: name, kind, labels and meaning. `docs/metrics.md` is made from it.
//!
//! Modules record once per batch, by these constants. Labels have a known small set of values: never a user or an item.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution in buckets.
    Histogram,
}

impl Kind {
    /// The word used in the reference.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name, `undercurrent_<part>_<what>_<unit>[_total]`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it counts or measures.
    pub meaning: &'static str,
}

macro_rules! table {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: &str = $name;)*

        /// All metrics, by part.
        pub const ALL: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], meaning: $meaning },)*
        ];
    };
}

table! {
    BUILD_INFO = "undercurrent_build_info", Gauge, ["version"], "Always 1; the label says which release runs.";
    READY = "undercurrent_ready_state", Gauge, [], "1 while the daemon is ready to take and score events, else 0.";

    EVENT_CLEANED = "undercurrent_event_cleaned_total", Counter, ["rule"], "Events repaired or noted by a cleaning rule, by the rule's name.";
    EVENT_DEAD_LETTERS = "undercurrent_event_dead_letters_total", Counter, ["reason"], "Records that could not be folded and went to the dead letters, by reason.";

    STREAM_RECORDS = "undercurrent_stream_records_total", Counter, ["view"], "Input records committed, by view.";
    STREAM_BATCH_RECORDS = "undercurrent_stream_batch_records", Histogram, [], "Records in a micro-batch.";
    STREAM_STAGE_SECONDS = "undercurrent_stream_stage_seconds", Histogram, ["stage"], "Time of one stage of a micro-batch: fold, score, shadow (while a challenger answers), decide, commit or publish.";
    STREAM_EVENT_TO_COMMIT_SECONDS = "undercurrent_stream_event_to_commit_seconds", Histogram, [], "Time from the moment the log took the oldest record of a micro-batch to its commit.";
    STREAM_ABORTS = "undercurrent_stream_aborts_total", Counter, [], "Micro-batches aborted and collected again.";
    STREAM_LAG_RECORDS = "undercurrent_stream_lag_records", Gauge, ["partition", "view"], "Records between the committed position and the end of the input.";
    STREAM_EVENT_TIME_LAG_SECONDS = "undercurrent_stream_event_time_lag_seconds", Gauge, ["partition"], "Wall clock minus the event-time watermark of the partition.";
    STREAM_DUE_USERS = "undercurrent_stream_due_users_total", Counter, [], "Silent users scored because they were due, without any event of theirs.";
    STREAM_FORGOTTEN_USERS = "undercurrent_stream_forgotten_users_total", Counter, [], "Users whose score and lists were taken back: erased, or evicted from every view.";
    STREAM_PARTITIONS = "undercurrent_stream_partitions", Gauge, ["thread"], "Partitions owned by a stream thread.";
    STREAM_RESTORE_SECONDS = "undercurrent_stream_restore_seconds", Histogram, [], "Time to restore one partition: snapshot, replay and alert state.";
    STREAM_GAP_RECORDS = "undercurrent_stream_gap_records_total", Counter, ["view"], "Input offsets that retention had dropped before they were read, passed over because `stream.accept_gap` is set.";
    STREAM_RESTORED_RECORDS = "undercurrent_stream_restored_records_total", Counter, [], "Input records folded again during restores, without scoring.";

    GRAPH_USERS = "undercurrent_graph_users", Gauge, ["partition"], "Users with a committed graph.";
    GRAPH_EVICTED_USERS = "undercurrent_graph_evicted_users_total", Counter, [], "Users evicted from their last view because of `graph.user_capacity`.";
    GRAPH_BYTES = "undercurrent_graph_bytes", Gauge, ["partition"], "Estimated memory of the committed graphs, in bytes.";

    SCORING_USERS = "undercurrent_scoring_users_total", Counter, [], "Users scored by the pool.";
    SCORING_BATCH_SECONDS = "undercurrent_scoring_batch_seconds", Histogram, [], "Time of one batch on a worker: encode and forward.";
    SCORING_QUEUE_BATCHES = "undercurrent_scoring_queue_batches", Gauge, [], "Batches that wait for a worker.";
    SCORING_FAILURES = "undercurrent_scoring_failures_total", Counter, [], "Users whose score failed or was not finite.";
    SCORING_MODEL_INFO = "undercurrent_scoring_model_info", Gauge, ["model_version"], "1 for the bundle that scores now, 0 for those that did before.";

    SHADOW_SCORES = "undercurrent_shadow_scores_total", Counter, [], "Scores of a challenger written to `shadow-scores`.";
    SHADOW_FAILURES = "undercurrent_shadow_failures_total", Counter, ["reason"], "Users that the challenger did not score: failed, timeout, busy (it is behind), or resting (for a minute after it failed). The champion scored them all the same.";
    SHADOW_MODEL_INFO = "undercurrent_shadow_model_info", Gauge, ["model_version"], "1 for the bundle that scores in shadow now, 0 for those that did before.";
    SHADOW_DIFFERENCE = "undercurrent_shadow_mean_difference_ratio", Gauge, ["head", "model_version"], "Mean absolute difference of champion's and challenger's probabilities (churn, purchase), over the newest 2,000 users that both scored; absent where they predict other horizons.";
    SHADOW_RANK_AGREEMENT = "undercurrent_shadow_rank_agreement_ratio", Gauge, ["head", "model_version"], "Spearman's rank correlation of the two over the same users: 1 where they put the users in the same order.";

    DECISION_SCORES = "undercurrent_decision_scores_total", Counter, [], "Scores written.";
    DECISION_ALERTS = "undercurrent_decision_alerts_total", Counter, ["transition"], "Alerts written: entered, escalated or recovered.";
    DECISION_OUTCOMES = "undercurrent_decision_outcomes_total", Counter, ["outcome", "model_version"], "Alerts settled, by outcome (right, wrong or unknown) and by the model that had raised them: right / (right + wrong) is its live precision.";
    DECISION_RECOMMENDATIONS = "undercurrent_decision_recommendations_total", Counter, [], "Recommendation records written (lists that changed).";

    SNAPSHOT_WRITE_SECONDS = "undercurrent_snapshot_write_seconds", Histogram, ["kind"], "Time to write one snapshot: base or delta.";
    SNAPSHOT_BYTES = "undercurrent_snapshot_bytes_total", Counter, [], "Bytes of snapshots written.";
    SNAPSHOT_REJECTED = "undercurrent_snapshot_rejected_total", Counter, [], "Snapshots passed over by a restore: damaged, ahead of the group, or folded with other parameters.";
    SNAPSHOT_FAILURES = "undercurrent_snapshot_failures_total", Counter, [], "Snapshots that could not be written; the previous one stays valid.";
    SNAPSHOT_FAILING = "undercurrent_snapshot_failing", Gauge, ["partition"], "1 while the newest attempt at a snapshot of the partition failed (a full disk, a store out of reach): alert on it, before the log's retention passes the last one.";

    DRIFT_USERS = "undercurrent_drift_users", Gauge, [], "Users of the last sample that was held against the champion's training.";
    DRIFT_FEATURE_PSI = "undercurrent_drift_feature_psi", Gauge, ["feature"], "Population stability index of a feature against the champion's training, by the last sample: below 0.1 little has moved, above 0.25 much has.";
    DRIFT_SCORE_PSI = "undercurrent_drift_score_psi", Gauge, ["head"], "Population stability index of the probabilities (churn, purchase) against those on the champion's validation window; absent for bundles that do not hold them.";
    DRIFT_DETECTED = "undercurrent_drift_detected", Gauge, [], "1 while the last sample has drifted by `training.drift_psi` and `training.drift_share`: alert on it.";
    DRIFT_CALIBRATION_USERS = "undercurrent_drift_calibration_users", Gauge, [], "Users of the newest samples whose churn horizon has passed.";
    DRIFT_CALIBRATION_ERROR = "undercurrent_drift_calibration_error_ratio", Gauge, [], "Expected calibration error of the churn probabilities that those samples were told.";
    DRIFT_CALIBRATION_GAP = "undercurrent_drift_calibration_gap_ratio", Gauge, [], "Mean churn probability of those samples less the share that left: above 0 the model says too much.";

    TRAINING_RUN_SECONDS = "undercurrent_training_run_seconds", Histogram, ["outcome"], "Time of one retraining: promoted, shadowed, kept, failed, timeout or memory.";

    WEBHOOK_DELIVERED = "undercurrent_webhook_delivered_alerts_total", Counter, [], "Alerts that the webhook's receiver took.";
    WEBHOOK_FAILURES = "undercurrent_webhook_failed_attempts_total", Counter, ["reason"], "Attempts at posting an alert that failed: status, timeout or connection.";
    WEBHOOK_PARKED = "undercurrent_webhook_parked_alerts_total", Counter, [], "Alerts given up after `webhook.max_attempts` and written to `webhook.parked_file`: alert on it.";
    WEBHOOK_DROPPED = "undercurrent_webhook_dropped_alerts_total", Counter, [], "Parked alerts that `webhook.parked_max_bytes` had no room for any more, the oldest first.";
    WEBHOOK_WAITING = "undercurrent_webhook_waiting_alerts", Gauge, [], "Alerts read for the webhook that wait for the one before them.";
    WEBHOOK_GAP = "undercurrent_webhook_gap_alerts_total", Counter, [], "Offsets of `churn-alerts` that retention had dropped before the webhook read them.";

    HTTP_REQUEST_SECONDS = "undercurrent_http_request_seconds", Histogram, ["route", "status"], "Time of an HTTP request by route template and status.";
    HTTP_EVENTS = "undercurrent_http_events_total", Counter, ["outcome"], "Events sent to `POST /v1/events`: accepted, repeated or refused.";
}

/// Upper bounds of the buckets of every `_seconds` histogram: 1 ms to 10 min.
const SECONDS: [f64; 17] =
    [0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.045, 0.06, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Upper bounds of the buckets of every `_records` histogram.
const RECORDS: [f64; 9] = [1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, 50_000.0];

/// Models that get a label of their own in the life of a process; later ones share one (LIM-1).
const MODEL_LABELS: usize = 32;

/// The value of the label `model_version` for this model: `other` beyond the first 32 models of the process.
pub fn model_label(version: &str) -> String {
    static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    bounded_label(&mut known, version)
}

fn bounded_label(known: &mut BTreeSet<String>, version: &str) -> String {
    if !known.contains(version) {
        if known.len() >= MODEL_LABELS {
            return "other".to_owned();
        }
        known.insert(version.to_owned());
    }
    version.to_owned()
}

/// Installs the recorder of this process and describes every metric. The handle renders the `/metrics` page.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_records".to_owned()), &RECORDS)?
        .install_recorder()?;
    describe();
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn describe() {
    for metric in ALL {
        let unit = unit_of(metric.name);
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.meaning),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.meaning),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.meaning),
        }
    }
}

fn unit_of(name: &str) -> Unit {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => Unit::Seconds,
        Some("bytes") => Unit::Bytes,
        _ => Unit::Count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_beyond_the_bound_share_a_label() {
        let mut known = BTreeSet::new();
        let labels: Vec<String> = (0..40).map(|number| bounded_label(&mut known, &format!("m{number}"))).collect();
        assert_eq!(labels[31], "m31");
        assert_eq!((labels[32].as_str(), known.len()), ("other", MODEL_LABELS));
        assert_eq!(bounded_label(&mut known, "m3"), "m3");
    }

    #[test]
    fn names_are_unique_and_follow_the_rule() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(metric.name.starts_with("undercurrent_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            if metric.kind == Kind::Histogram {
                assert!(metric.name.ends_with("_seconds") || metric.name.ends_with("_records"), "{}", metric.name);
            }
        }
    }

    #[test]
    fn no_label_can_hold_a_user_or_an_item() {
        for metric in ALL {
            assert!(
                metric.labels.iter().all(|label| !["user", "item", "query", "key"].contains(label)),
                "{}",
                metric.name
            );
        }
    }
}
