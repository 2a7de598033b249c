//! `/livez`, `/readyz` and `/metrics`.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{ApiState, problem::Problem};
use crate::stream::Phase;

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

/// Ready while events are read and scored; the rule is [`ApiState::not_ready`].
pub(super) async fn readyz(State(state): State<ApiState>) -> Response {
    let reasons = (state.not_ready)();
    if reasons.is_empty() {
        return Json(json!({ "ready": true })).into_response();
    }
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not ready", reasons.join("; "));
    problem.with(json!({ "ready": false, "reasons": reasons })).into_response()
}

/// All metrics, as Prometheus reads them.
pub(super) async fn metrics(State(state): State<ApiState>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (state.metrics)()).into_response()
}
