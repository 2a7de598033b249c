//! The boundary between the stream and the model: graphs in, scores out. No tensor crosses it.

mod agreement;
mod explain;
mod lists;
mod pool;
mod recency;
mod served;
mod shadow;

pub use agreement::{Agreement, HEADS, HeadAgreement};
pub use pool::{Pool, PoolError, PoolRole, PoolSettings};
pub use recency::{RECENCY_VERSION, RecencyScorer};
pub use shadow::{Shadow, ShadowSettings, Shadowed};

use crate::{
    event::UserId,
    graph::UserGraph,
    score::{Reason, ScoreRequest, Scored},
};

/// Why a batch could not be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The pool is closed.
    #[error("the scoring pool is closed")]
    Closed,
    /// A worker failed on one user of the batch; the rest is unharmed.
    #[error("scoring failed for request {index} of the batch: {message}")]
    User {
        /// Place in the batch.
        index: usize,
        /// What happened.
        message: String,
    },
    /// The model failed as a whole.
    #[error("model `{model_version}` failed: {message}")]
    Model {
        /// The bundle that failed.
        model_version: String,
        /// What happened.
        message: String,
    },
}

/// Scores users. The stream knows nothing else of the model.
pub trait Scorer: Send + Sync {
    /// Scores all `requests` with one model version, in their order. Blocks; waiting here is the backpressure.
    /// A user's score does not depend on who else is in the batch (SCO-1).
    fn score_blocking(&self, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Scored>, ScoreError>;

    /// Says which pieces of the user's own history moved the churn score most, strongest first, at most `limit`.
    /// Costs tens of scores; asked for alerts only. Blocks.
    fn explain_blocking(&self, request: &ScoreRequest<UserGraph>, limit: usize) -> Result<Vec<Reason>, ScoreError>;

    /// What a challenger in shadow says of requests that the champion has answered (`None`: it could not), with their places.
    /// Empty without a challenger, and where it did not answer: nothing may depend on it. Blocks for a bounded time.
    fn challenge_blocking(
        &self,
        users: &[&UserId],
        requests: &[ScoreRequest<UserGraph>],
        champion: &[Option<Scored>],
    ) -> Vec<(usize, Scored)> {
        let _ = (users, requests, champion);
        Vec::new()
    }
}
