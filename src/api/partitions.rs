//! `GET /v1/partitions`: where each partition of this process stands.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ApiState, problem::Problem};
use crate::{
    event::{Positions, View, format_time_ms},
    stream::PartitionStatus,
};

/// What may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// Whether to hash every bit of the state: sorts all users, seconds for a million.
    #[serde(default)]
    hash: bool,
}

/// One partition.
#[derive(Debug, Serialize)]
struct Shown {
    partition: i32,
    thread: usize,
    phase: &'static str,
    next_offsets: Value,
    end_offsets: Value,
    lag_records: u64,
    watermark: Option<String>,
    user_count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_hash: Option<String>,
}

pub(super) async fn get_partitions(
    State(state): State<ApiState>,
    options: Result<Query<Options>, QueryRejection>,
) -> Response {
    let Query(options) = match options {
        Ok(options) => options,
        Err(rejection) => {
            return Problem::new(StatusCode::BAD_REQUEST, "bad query", rejection.body_text()).into_response();
        }
    };
    // Hashing takes long: not on a thread that serves others.
    let shown = tokio::task::spawn_blocking(move || show_blocking(&state, &options)).await;
    match shown {
        Ok((partitions, restoring)) => {
            Json(json!({ "partitions": partitions, "restoring": restoring })).into_response()
        }
        Err(panic) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error", panic.to_string()).into_response()
        }
    }
}

/// The partitions that are read, and those that wait for their restore.
fn show_blocking(state: &ApiState, options: &Options) -> (Vec<Shown>, Vec<i32>) {
    let (mut shown, mut restoring) = (Vec::new(), Vec::new());
    for (thread, status) in state.streams.iter().enumerate() {
        let status = status.borrow().clone();
        restoring.extend(status.restoring.iter().map(|partition| partition.0));
        for (partition, at) in &status.partitions {
            let PartitionStatus { next_offsets, end_offsets, watermark_ms, user_count } = at;
            let handle = options.hash.then(|| state.partitions.get(*partition)).flatten();
            shown.push(Shown {
                partition: partition.0,
                thread,
                phase: status.phase.name(),
                next_offsets: by_view(next_offsets),
                end_offsets: by_view(end_offsets),
                lag_records: at.lag_records(),
                watermark: watermark_ms.map(format_time_ms),
                user_count: *user_count,
                state_hash: handle.map(|handle| format!("{:016x}", handle.state.state_hash())),
            });
        }
    }
    shown.sort_unstable_by_key(|shown| shown.partition);
    restoring.sort_unstable();
    (shown, restoring)
}

fn by_view(positions: &Positions) -> Value {
    let offsets = View::ALL.iter().map(|view| (view.name().to_owned(), Value::from(positions.get(*view).0)));
    Value::Object(offsets.collect())
}
