//! `DELETE /v1/users/{id}`: a request to forget a user, into the embedded log.
//!
//! The answer comes once the request is durable. The stream then drops what it knows and takes back what the compacted outputs
//! say, in the order of the log: events that were taken before are erased, whether they were folded by then or not.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{ApiState, problem::Problem};
use crate::{
    event::{View, format_time_ms},
    stream::embedded::NewRecord,
};

/// Handles `DELETE /v1/users/{id}`.
pub(super) async fn delete_user(State(state): State<ApiState>, Path(id): Path<String>) -> Response {
    if state.ingest.is_none() {
        let detail =
            "events of this daemon come from Kafka: `undercurrent erase` produces the request to its input topics";
        return Problem::new(StatusCode::NOT_FOUND, "no ingestion here", detail).into_response();
    }
    // Waits for the disk: not on a thread that serves others.
    match tokio::task::spawn_blocking(move || erase_blocking(&state, &id)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(problem)) => problem.into_response(),
        Err(panic) => {
            tracing::error!(%panic, "an erasure panicked");
            let detail = "the request failed inside; whether it is stored is unknown, send it again";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error", detail).into_response()
        }
    }
}

fn erase_blocking(state: &ApiState, id: &str) -> Result<Response, Problem> {
    let now_ms = state.clock.now_ms();
    let edge = state.edge.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let request = edge.decoder().erasure_request(id, now_ms);
    drop(edge);
    let payload =
        request.map_err(|reject| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "erasure refused", reject.message))?;
    let records = View::ALL.map(|view| NewRecord { view, key: id.as_bytes(), payload: &payload, event_id: None });
    let failed = |error: &str| {
        let detail = format!("the request is not safely stored: {error}; send it again");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log unavailable", detail)
    };
    let Some(ingest) = &state.ingest else { return Err(failed("the log is closed")) };
    ingest.append_blocking(&records).map_err(|error| {
        tracing::error!(%error, "an erasure could not be appended");
        failed(&error)
    })?;
    let answer = json!({ "user_id": id, "erased_at": format_time_ms(now_ms) });
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}
