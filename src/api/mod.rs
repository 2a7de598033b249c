//! The HTTP interface: events in, users and partitions out, health and metrics.
//!
//! `axum` appears here and nowhere else. Handlers read committed state only and never wait for the stream; what blocks (the
//! log's disk, hashing a partition) runs on the blocking pool. Errors are RFC 9457 problem documents.

mod access;
mod erase;
mod health;
mod ingest;
mod listener;
mod partitions;
mod problem;
mod split;
mod users;

pub use access::AccessToken;
pub use ingest::Ingest;

use std::{
    future::Future,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    clock::Clock,
    event::Edge,
    graph::{GraphParams, NameLookup},
    metrics as names,
    scoring::Scorer,
    stream::{Partitions, StreamStatus},
};

/// Bounds of what one request may ask (LIM-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiLimits {
    /// Longest body, bytes.
    pub max_body_bytes: usize,
    /// Milliseconds for a body to arrive.
    pub request_timeout_ms: u64,
    /// Most events of one request.
    pub max_events: usize,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self { max_body_bytes: /* 8 MiB */ 8 << 20, request_timeout_ms: 30_000, max_events: 10_000 }
    }
}

/// All that the handlers need. Cloning is a few reference counts.
#[derive(Clone)]
pub struct ApiState {
    /// Wall clock, for the time an event arrives.
    pub clock: Arc<dyn Clock>,
    /// The log that takes events; `None` when they come from Kafka.
    pub ingest: Option<Arc<dyn Ingest>>,
    /// Checks events before they are in the log. Locked for the decoding of one request.
    pub edge: Arc<Mutex<Edge>>,
    /// Explains scores and makes lists for a reader, afresh from the committed graph.
    pub scorer: Arc<dyn Scorer>,
    /// Bounds and constants of the fold, to read graphs with.
    pub graph_params: GraphParams,
    /// Committed partition states.
    pub partitions: Arc<Partitions>,
    /// What each stream thread says of itself.
    pub streams: Vec<watch::Receiver<StreamStatus>>,
    /// Why the daemon is not ready, in words; empty when it is.
    pub not_ready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Texts of items that no graph of a partition mentions: the bundle's catalogue.
    pub catalogue: Arc<dyn NameLookup + Send + Sync>,
    /// Renders the metrics page.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The token that requests must carry, if any.
    pub token: Option<Arc<AccessToken>>,
    /// Bounds.
    pub limits: ApiLimits,
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ApiState").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Connections served at once; further ones wait to be accepted. Each costs a few kilobytes, and a body in memory at most.
const MAX_CONNECTIONS: usize = 1_024;

/// A connection is closed after this many request timeouts without a byte from the client. More than one, because a
/// client also waits silently for an answer that takes long.
const SILENT_TIMEOUTS: u32 = 4;

/// Serves until `shutdown` is done and the requests under way are answered.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let silence = Duration::from_millis(state.limits.request_timeout_ms) * SILENT_TIMEOUTS;
    let listener = listener::BoundedListener::new(listener, MAX_CONNECTIONS, silence);
    axum::serve(listener, router(state)).with_graceful_shutdown(shutdown).await
}

fn router(state: ApiState) -> Router {
    let mut guarded = Router::new()
        .route("/metrics", get(health::metrics))
        .route("/v1/events", post(ingest::post_events))
        .route("/v1/users/{id}", get(users::get_user).delete(erase::delete_user))
        .route("/v1/partitions", get(partitions::get_partitions));
    if let Some(token) = &state.token {
        let token = Arc::clone(token);
        let require = move |request, next| access::require(Arc::clone(&token), request, next);
        guarded = guarded.route_layer(middleware::from_fn(require));
    }
    // Open to all: those who restart or route to the daemon hold no token, and it says nothing of users.
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .merge(guarded)
        .fallback(async || problem::Problem::new(StatusCode::NOT_FOUND, "not found", PATHS).into_response())
        .method_not_allowed_fallback(async || {
            let detail = "events are posted, users may be deleted; everything else is asked for with GET";
            problem::Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", detail).into_response()
        })
        .layer(DefaultBodyLimit::max(state.limits.max_body_bytes))
        .layer(middleware::from_fn({
            let clock = Arc::clone(&state.clock);
            move |request, next| measure(Arc::clone(&clock), request, next)
        }))
        .with_state(state)
}

const PATHS: &str =
    "there are `/livez`, `/readyz`, `/metrics`, `POST /v1/events`, `/v1/users/{id}` and `/v1/partitions`";

/// Records the time of every request by route template and status.
async fn measure(clock: Arc<dyn Clock>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let started_ms = clock.now_ms();
    let response = next.run(request).await;
    #[expect(clippy::cast_precision_loss, reason = "a metric")]
    let seconds = (clock.now_ms() - started_ms).max(0) as f64 / 1_000.0;
    let status = response.status().as_str().to_owned();
    metrics::histogram!(names::HTTP_REQUEST_SECONDS, "route" => route, "status" => status).record(seconds);
    response
}

#[cfg(test)]
mod tests;
