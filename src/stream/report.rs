//! What the loop measures: once a batch, never a record.

use std::{collections::BTreeMap, sync::Arc};

use super::{PartitionStatus, StreamStatus};
use crate::{
    decision::Verdict,
    event::{CleaningCounts, Reason, Repair, View},
    metrics as names,
};

/// Measures stages for metrics. No decision depends on it, so it reads the machine's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "durations of stages are metrics; nothing is decided by them")]
    pub(super) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Seconds since the start.
    pub(super) fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    /// Records the seconds since the start as those of `stage`, and starts again.
    pub(super) fn lap(&mut self, stage: &'static str) {
        metrics::histogram!(names::STREAM_STAGE_SECONDS, "stage" => stage).record(self.seconds());
        *self = Self::start();
    }
}

/// Counts of one committed micro-batch.
#[derive(Debug, Default)]
pub(super) struct BatchReport {
    pub(super) cleaning: CleaningCounts,
    pub(super) record_count: [u64; View::COUNT],
    pub(super) score_count: u64,
    pub(super) due_user_count: u64,
    pub(super) recommendation_count: u64,
    pub(super) shadow_count: u64,
    /// Users whose scores and lists were taken back.
    pub(super) forgotten_user_count: u64,
    /// Users whom no view has room for any more.
    pub(super) evicted_user_count: u64,
    /// Alerts by transition name.
    pub(super) alerts: Vec<&'static str>,
    /// Settled alerts by verdict and by the model that had raised them.
    pub(super) outcomes: BTreeMap<(Verdict, Arc<str>), u64>,
    /// Dead letters that cleaning knows nothing of.
    pub(super) scoring_failed_count: u64,
    pub(super) dead_letter_count: u64,
    /// When the log took the oldest record, milliseconds since the Unix epoch.
    pub(super) oldest_ms: Option<i64>,
}

impl BatchReport {
    pub(super) fn all_records(&self) -> u64 {
        self.record_count.iter().sum()
    }

    /// Records the metrics of a batch that was committed at `now_ms`.
    pub(super) fn record(&self, now_ms: i64) {
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        metrics::histogram!(names::STREAM_BATCH_RECORDS).record(self.all_records() as f64);
        for view in View::ALL {
            count(names::STREAM_RECORDS, "view", view.name(), self.record_count[view.index()]);
        }
        for reason in Reason::ALL {
            let times = self.cleaning.reject_count(reason);
            if reason.is_dead_letter() {
                count(names::EVENT_DEAD_LETTERS, "reason", reason.name(), times);
            } else {
                count(names::EVENT_CLEANED, "rule", reason.name(), times);
            }
        }
        count(names::EVENT_DEAD_LETTERS, "reason", super::SCORING_FAILED, self.scoring_failed_count);
        for repair in Repair::ALL {
            count(names::EVENT_CLEANED, "rule", repair.name(), self.cleaning.repair_count(repair));
        }
        metrics::counter!(names::STREAM_DUE_USERS).increment(self.due_user_count);
        metrics::counter!(names::STREAM_FORGOTTEN_USERS).increment(self.forgotten_user_count);
        metrics::counter!(names::GRAPH_EVICTED_USERS).increment(self.evicted_user_count);
        metrics::counter!(names::DECISION_SCORES).increment(self.score_count);
        metrics::counter!(names::DECISION_RECOMMENDATIONS).increment(self.recommendation_count);
        if self.shadow_count > 0 {
            metrics::counter!(names::SHADOW_SCORES).increment(self.shadow_count);
        }
        for transition in &self.alerts {
            count(names::DECISION_ALERTS, "transition", transition, 1);
        }
        for ((verdict, model_version), times) in &self.outcomes {
            let model_version = names::model_label(model_version);
            metrics::counter!(names::DECISION_OUTCOMES, "outcome" => verdict.name(), "model_version" => model_version)
                .increment(*times);
        }
        if let Some(oldest_ms) = self.oldest_ms {
            metrics::histogram!(names::STREAM_EVENT_TO_COMMIT_SECONDS)
                .record(seconds(now_ms.saturating_sub(oldest_ms)));
        }
    }
}

/// Records what is shown of partitions.
pub(super) fn record_gauges(status: &StreamStatus, now_ms: i64) {
    for (partition, shown) in &status.partitions {
        let PartitionStatus { next_offsets, end_offsets, watermark_ms, user_count } = shown;
        let partition = partition.to_string();
        for view in View::ALL {
            let lag = end_offsets.get(view).0.saturating_sub(next_offsets.get(view).0).max(0);
            #[expect(clippy::cast_precision_loss, reason = "a metric")]
            metrics::gauge!(names::STREAM_LAG_RECORDS, "partition" => partition.clone(), "view" => view.name())
                .set(lag as f64);
        }
        if let Some(watermark_ms) = watermark_ms {
            metrics::gauge!(names::STREAM_EVENT_TIME_LAG_SECONDS, "partition" => partition.clone())
                .set(seconds(now_ms.saturating_sub(*watermark_ms)));
        }
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        metrics::gauge!(names::GRAPH_USERS, "partition" => partition).set(*user_count as f64);
    }
}

fn count(name: &'static str, label: &'static str, value: &'static str, times: u64) {
    if times > 0 {
        metrics::counter!(name, label => value).increment(times);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1_000.0
}
