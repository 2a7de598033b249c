//! `POST /v1/events`: events into the embedded log.
//!
//! The answer comes after the events are durable. One that got lost can be sent again as it was: events that are in the
//! log already are recognised by their id (or, without one, by their bytes) and counted as repeated.

use std::{sync::PoisonError, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use super::{
    ApiState,
    problem::Problem,
    split::{Row, SplitError, split},
};
use crate::{
    event::{Admitted, CleaningCounts, Edge},
    metrics as names,
    stream::embedded::{Appended, EmbeddedLog, NewRecord},
};

/// A log that takes events from this process.
pub trait Ingest: Send + Sync {
    /// Appends `records` at once and durably, and says in their order what became of each. Blocks. After an error nothing
    /// was appended, or it is unknown; the same records may be appended again either way.
    fn append_blocking(&self, records: &[NewRecord<'_>]) -> Result<Vec<Appended>, String>;
}

impl Ingest for EmbeddedLog {
    fn append_blocking(&self, records: &[NewRecord<'_>]) -> Result<Vec<Appended>, String> {
        EmbeddedLog::append_blocking(self, records).map_err(|error| error.to_string())
    }
}

/// Refusals named one by one in an answer; the rest is counted.
const REFUSALS_NAMED: usize = 100;

/// What became of the events of one request.
#[derive(Debug, Default, Serialize)]
struct Answer {
    /// Durable in the log.
    accepted: usize,
    /// In the log already.
    repeated: usize,
    /// Not taken, for the reasons below.
    refused: usize,
    /// The first refusals, by row.
    refusals: Vec<Refusal>,
    /// Refusals not named.
    refusals_left_out: usize,
}

/// Why one event was not taken.
#[derive(Debug, Serialize)]
struct Refusal {
    /// The line (JSON Lines) or the place in the array, from 1.
    row: usize,
    /// The field at fault, or `record`.
    field: &'static str,
    /// The cleaning rule.
    reason: &'static str,
    /// What was found.
    message: String,
}

/// Handles `POST /v1/events`.
pub(super) async fn post_events(State(state): State<ApiState>, request: Request) -> Response {
    if state.ingest.is_none() {
        let detail = "events of this daemon come from Kafka: produce them to its input topics, keyed by user id";
        return Problem::new(StatusCode::NOT_FOUND, "no ingestion here", detail).into_response();
    }
    let is_lines = says_lines(request.headers());
    let body = match read_body(&state, request).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    // Decoding a thousand events and waiting for the disk: not on a thread that serves others.
    let taken = tokio::task::spawn_blocking(move || take_blocking(&state, &body, is_lines)).await;
    match taken {
        Ok(Ok(answer)) => answer.into_response(),
        Ok(Err(problem)) => problem.into_response(),
        Err(panic) => {
            tracing::error!(%panic, "ingestion panicked");
            let detail = "the request failed inside; what became of its events is unknown, send it again";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error", detail).into_response()
        }
    }
}

/// Reads the body within the time and the size that the router's limit allows.
async fn read_body(state: &ApiState, request: Request) -> Result<Bytes, Problem> {
    let wait = Duration::from_millis(state.limits.request_timeout_ms);
    let Ok(read) = tokio::time::timeout(wait, Bytes::from_request(request, &())).await else {
        let detail = format!("the body did not arrive within {} ms", wait.as_millis());
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request timeout", detail));
    };
    read.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = state.limits.max_body_bytes;
            let detail = format!("the body is longer than {limit} bytes; send fewer events at once");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body too large", detail)
        }
        status => Problem::new(status, "unreadable body", format!("the body broke off: {rejection}")),
    })
}

fn says_lines(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/jsonlines",
        "application/json-lines",
    ]
    .iter()
    .any(|known| media_type.eq_ignore_ascii_case(known))
}

fn take_blocking(state: &ApiState, body: &[u8], is_lines: bool) -> Result<Response, Problem> {
    let rows = split(body, is_lines, state.limits.max_events).map_err(|error| match error {
        SplitError::TooMany { .. } => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too many events", error.to_string()),
        _ => Problem::new(StatusCode::BAD_REQUEST, "unreadable body", error.to_string()),
    })?;
    let mut answer = Answer::default();
    let admitted = admit(state, &rows, &mut answer);
    let records: Vec<NewRecord<'_>> = admitted.iter().map(record_of).collect();
    if !records.is_empty() {
        let Some(ingest) = &state.ingest else { return Err(log_failed("the log is closed")) };
        let outcomes = ingest.append_blocking(&records).map_err(|error| {
            tracing::error!(%error, "events could not be appended");
            log_failed(&error)
        })?;
        answer.repeated = outcomes.iter().filter(|outcome| **outcome == Appended::Repeated).count();
        answer.accepted = outcomes.len() - answer.repeated;
    }
    answer.refusals_left_out = answer.refused - answer.refusals.len();
    for (outcome, count) in [("accepted", answer.accepted), ("repeated", answer.repeated), ("refused", answer.refused)]
    {
        metrics::counter!(names::HTTP_EVENTS, "outcome" => outcome).increment(count as u64);
    }
    if answer.accepted + answer.repeated > 0 {
        return Ok(Json(answer).into_response());
    }
    let detail = match &answer.refusals[..] {
        [only] => only.message.clone(),
        all => format!("none of the {} events was taken; the first: {}", answer.refused, all[0].message),
    };
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "events refused", detail).with(json!(answer)))
}

fn log_failed(error: &str) -> Problem {
    let detail = format!("the events are not safely stored: {error}; send them again, nothing is taken twice");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log unavailable", detail)
}

/// Checks every row; what is refused goes into `answer`.
fn admit<'a>(state: &ApiState, rows: &[Row<'a>], answer: &mut Answer) -> Vec<Admitted<'a>> {
    let now_ms = state.clock.now_ms();
    // The counts of cleaning are the stream's: it decodes the record again.
    let mut counts = CleaningCounts::default();
    let mut admitted = Vec::with_capacity(rows.len());
    // Held while decoding only; a poisoned edge has at worst forgotten a price.
    let mut edge = state.edge.lock().unwrap_or_else(PoisonError::into_inner);
    let edge: &mut Edge = &mut edge;
    for row in rows {
        match edge.admit(row.bytes, now_ms, &mut counts) {
            Ok(event) => admitted.push(event),
            Err(reject) => {
                answer.refused += 1;
                if answer.refusals.len() < REFUSALS_NAMED {
                    answer.refusals.push(Refusal {
                        row: row.number,
                        field: reject.field,
                        reason: reject.reason.name(),
                        message: reject.message,
                    });
                }
            }
        }
    }
    admitted
}

fn record_of<'a>(admitted: &'a Admitted<'_>) -> NewRecord<'a> {
    NewRecord {
        view: admitted.view(),
        key: admitted.event.user.as_bytes(),
        payload: &admitted.payload,
        event_id: Some(admitted.event.event_id),
    }
}
