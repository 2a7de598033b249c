//! Rules of the work: loop, scoring, decisions, snapshots, training.

use super::Report;
use crate::config::{Config, ScorerKind};

pub(super) fn stream(config: &Config, report: &mut Report) {
    let stream = &config.stream;
    report.require((1..=256).contains(&stream.threads), "stream.threads", "must be between 1 and 256", stream.threads);
    report.at_least_one("stream.max_records", stream.max_records);
    report.at_least_one("stream.max_bytes", stream.max_bytes);
    report.at_least_one("stream.max_due_users", stream.max_due_users);
    for (key, value) in
        [("stream.scoring_attempts", stream.scoring_attempts), ("stream.retry_attempts", stream.retry_attempts)]
    {
        report.require(value >= 1, key, "must be at least 1", value);
    }
    report.require(stream.lag_interval_ms >= 1, "stream.lag_interval_ms", "must be at least 1", stream.lag_interval_ms);
    report.require(
        (1..=60_000).contains(&stream.idle_wait_ms),
        "stream.idle_wait_ms",
        "must be between 1 and 60000",
        stream.idle_wait_ms,
    );
    report.require(stream.linger_ms <= 60_000, "stream.linger_ms", "must not be above 60000", stream.linger_ms);
    report.require(stream.topic_skew_ms >= 0, "stream.topic_skew_ms", "must not be negative", stream.topic_skew_ms);
    report.require(stream.live_grace_ms >= 0, "stream.live_grace_ms", "must not be negative", stream.live_grace_ms);
}

pub(super) fn scoring(config: &Config, report: &mut Report) {
    let scoring = &config.scoring;
    report.require(!scoring.bundle.is_empty(), "scoring.bundle", "must not be empty", &scoring.bundle);
    report.require(scoring.workers <= 1_024, "scoring.workers", "must not be above 1024", scoring.workers);
    report.require(
        scoring.cuda_devices.is_empty() || cfg!(feature = "cuda"),
        "scoring.cuda_devices",
        "must be empty: this binary was built without the feature `cuda`",
        format!("{:?}", scoring.cuda_devices),
    );
    report.at_least_one("scoring.max_batch_users", scoring.max_batch_users);
    report.at_least_one("scoring.max_batch_nodes", scoring.max_batch_nodes);
    report.at_least_one("scoring.queue_capacity_batches", scoring.queue_capacity_batches);
    report.require(scoring.timeout_ms >= 100, "scoring.timeout_ms", "must be at least 100", scoring.timeout_ms);
    report.require(
        (0.0..=1.0).contains(&scoring.shadow_share),
        "scoring.shadow_share",
        "must be between 0 and 1",
        scoring.shadow_share,
    );
    report.require(
        (1..=60_000).contains(&scoring.shadow_timeout_ms),
        "scoring.shadow_timeout_ms",
        "must be between 1 and 60000",
        scoring.shadow_timeout_ms,
    );
    for (key, value) in [
        ("scoring.recency_churn_days", config.scoring.recency_churn_days),
        ("scoring.recency_purchase_days", config.scoring.recency_purchase_days),
    ] {
        report.require((1..=365).contains(&value), key, "must be between 1 and 365", value);
    }
}

pub(super) fn decision(config: &Config, report: &mut Report) {
    let decision = &config.decision;
    let thresholds = [
        ("decision.enter_threshold", decision.enter_threshold),
        ("decision.escalate_threshold", decision.escalate_threshold),
        ("decision.recover_threshold", decision.recover_threshold),
    ];
    for (key, value) in thresholds {
        if let Some(value) = value {
            report.require((0.0..=1.0).contains(&value), key, "must be between 0 and 1", value);
        }
    }
    if let (Some(enter), Some(escalate)) = (decision.enter_threshold, decision.escalate_threshold) {
        let rule = format!("must not be below `decision.enter_threshold` ({enter})");
        report.require(escalate >= enter, "decision.escalate_threshold", rule, escalate);
    }
    if let (Some(enter), Some(recover)) = (decision.enter_threshold, decision.recover_threshold) {
        let rule = format!("must be below `decision.enter_threshold` ({enter})");
        report.require(recover < enter, "decision.recover_threshold", rule, recover);
    }
    for (key, days) in [
        ("decision.cooldown_days", decision.cooldown_days),
        ("decision.max_alert_age_days", decision.max_alert_age_days),
    ] {
        report.require((0.0..=36_500.0).contains(&days), key, "must be between 0 and 36500", days);
    }
    report.require(decision.max_reasons <= 20, "decision.max_reasons", "must not be above 20", decision.max_reasons);
    report.require(
        (1..=100).contains(&decision.list_length),
        "decision.list_length",
        "must be between 1 and 100",
        decision.list_length,
    );
}

pub(super) fn snapshot(config: &Config, report: &mut Report) {
    let snapshot = &config.snapshot;
    report.require(!snapshot.location.is_empty(), "snapshot.location", "must not be empty", &snapshot.location);
    report.require(snapshot.interval_s >= 1, "snapshot.interval_s", "must be at least 1", snapshot.interval_s);
    report.at_least_one("snapshot.keep_bases", snapshot.keep_bases);
}

pub(super) fn training(config: &Config, report: &mut Report) {
    let training = &config.training;
    report.require(
        !training.enabled || config.snapshot.enabled,
        "training.enabled",
        "needs `snapshot.enabled`: training reads snapshots",
        training.enabled,
    );
    report.require(
        !training.enabled || config.scoring.scorer == ScorerKind::Model,
        "training.enabled",
        "needs `scoring.scorer = \"model\"`: there is no champion else",
        training.enabled,
    );
    let hours = training.interval_h;
    report.require(
        hours.is_finite() && hours > 0.0 && hours <= 100_000.0,
        "training.interval_h",
        "must be above 0 and at most 100000",
        hours,
    );
    report.require(
        (1..=100_000).contains(&training.timeout_min),
        "training.timeout_min",
        "must be between 1 and 100000",
        training.timeout_min,
    );
    report.require(
        training.max_memory_mib >= 256,
        "training.max_memory_mib",
        "must be at least 256",
        training.max_memory_mib,
    );
    report.require(training.niceness <= 19, "training.niceness", "must be between 0 and 19", training.niceness);
    report.at_least_one("training.threads", training.threads);
    for (key, value) in [
        ("training.history_days", training.history_days),
        ("training.churn_days", training.churn_days),
        ("training.purchase_days", training.purchase_days),
    ] {
        report.require((1..=3_650).contains(&value), key, "must be between 1 and 3650", value);
    }
    report.require(training.min_gain.is_finite(), "training.min_gain", "must be a number", training.min_gain);
    report.require(
        training.confidence > 0.0 && training.confidence < 1.0,
        "training.confidence",
        "must be above 0 and below 1",
        training.confidence,
    );
    let hours = training.drift_interval_h;
    report.require(
        hours.is_finite() && hours > 0.0 && hours <= 100_000.0,
        "training.drift_interval_h",
        "must be above 0 and at most 100000",
        hours,
    );
    report.require(
        training.drift_users <= 100_000,
        "training.drift_users",
        "must not be above 100000",
        training.drift_users,
    );
    report.require(training.drift_psi > 0.0, "training.drift_psi", "must be above 0", training.drift_psi);
    report.require(
        (0.0..=1.0).contains(&training.drift_share),
        "training.drift_share",
        "must be between 0 and 1",
        training.drift_share,
    );
    report.require(training.max_loss >= 0.0, "training.max_loss", "must not be negative", training.max_loss);
}
