//! `/livez`, `/readyz` and `/metrics`.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{ApiState, problem::Problem};
use crate::stream::{Phase, StreamStatus};

/// Alive while no stream thread has failed. A broker that is away does not count: restarting would not bring it back.
pub(super) async fn livez(State(state): State<ApiState>) -> Response {
    let failed: Vec<String> = state
        .streams
        .iter()
        .enumerate()
        .filter_map(|(thread, status)| {
            let status = status.borrow();
            let error = status.last_error.as_deref().unwrap_or("no reason known");
            (status.phase == Phase::Failed).then(|| format!("stream thread {thread} failed: {error}"))
        })
        .collect();
    if failed.is_empty() {
        return Json(json!({ "alive": true })).into_response();
    }
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not alive", failed.join("; "));
    problem.with(json!({ "alive": false, "reasons": failed })).into_response()
}

/// Ready while events are read and scored: partitions assigned, all of them restored, a model loaded.
pub(super) async fn readyz(State(state): State<ApiState>) -> Response {
    let reasons = not_ready(&state);
    if reasons.is_empty() {
        return Json(json!({ "ready": true })).into_response();
    }
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not ready", reasons.join("; "));
    problem.with(json!({ "ready": false, "reasons": reasons })).into_response()
}

/// Why the daemon is not ready; empty when it is.
pub(super) fn not_ready(state: &ApiState) -> Vec<String> {
    let mut reasons = (state.missing)();
    let mut is_running = false;
    for (thread, status) in state.streams.iter().enumerate() {
        let status = status.borrow();
        match status.phase {
            Phase::Running => {
                is_running = true;
                reasons.extend(what_it_waits_for(thread, &status, state.clock.now_ms()));
            }
            // A group with more threads than partitions leaves some without: one that runs is enough.
            Phase::Starting => {}
            Phase::Restoring => {
                let partitions: Vec<String> = status.restoring.iter().map(ToString::to_string).collect();
                reasons.push(format!("stream thread {thread} restores partitions {}", partitions.join(", ")));
            }
            Phase::Stopped => reasons.push(format!("stream thread {thread} has stopped")),
            Phase::Failed => {
                let error = status.last_error.as_deref().unwrap_or("no reason known");
                reasons.push(format!("stream thread {thread} failed: {error}"));
            }
        }
    }
    if !is_running && reasons.is_empty() {
        reasons.push("no partition is assigned yet".to_owned());
    }
    reasons
}

/// Milliseconds a commit may take before the daemon says that it waits for one: far above any that goes well.
const LONG_COMMIT_MS: i64 = 5_000;

/// Why a thread that runs gets nowhere, if so.
fn what_it_waits_for(thread: usize, status: &StreamStatus, now_ms: i64) -> Option<String> {
    let committing_ms = status.committing_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
    if committing_ms >= LONG_COMMIT_MS {
        return Some(format!("stream thread {thread} waits for its commit since {} s", committing_ms / 1_000));
    }
    status.trouble.as_ref().map(|trouble| format!("stream thread {thread} waits: {trouble}"))
}

/// All metrics, as Prometheus reads them.
pub(super) async fn metrics(State(state): State<ApiState>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (state.metrics)()).into_response()
}
