//! One request for all users of a batch, and what happens when the scorer fails on some of them.

use std::num::NonZeroU32;

use tracing::warn;

use super::StreamError;
use crate::{
    graph::UserGraph,
    score::{ScoreRequest, Scored},
    scoring::{ScoreError, Scorer},
};

/// Scores `requests`, in their order. `None` for a user that failed `attempts` times; the others are scored without it.
pub(super) fn score_all_blocking(
    scorer: &dyn Scorer,
    requests: &[ScoreRequest<UserGraph>],
    attempts: NonZeroU32,
) -> Result<Vec<Option<Scored>>, StreamError> {
    let mut scores: Vec<Option<Scored>> = vec![None; requests.len()];
    if requests.is_empty() {
        return Ok(scores);
    }
    let mut failures = vec![0_u32; requests.len()];
    let mut model_failures = 0;
    // The first request is the caller's own slice; only after a failure is a shorter one made.
    let mut remaining: Option<(Vec<usize>, Vec<ScoreRequest<UserGraph>>)> = None;
    loop {
        let asked = remaining.as_ref().map_or(requests, |(_, requests)| requests);
        let place_of = |index: usize| remaining.as_ref().map_or(index, |(places, _)| places[index]);
        match scorer.score_blocking(asked) {
            Ok(answers) if answers.len() == asked.len() => {
                for (index, answer) in answers.into_iter().enumerate() {
                    scores[place_of(index)] = Some(answer);
                }
                return Ok(scores);
            }
            Ok(answers) => return Err(StreamError::ScoreCount { asked: asked.len(), answered: answers.len() }),
            Err(ScoreError::User { index, message }) if index < asked.len() => {
                let place = place_of(index);
                failures[place] += 1;
                warn!(attempt = failures[place], %message, "scoring failed for one user");
                if failures[place] >= attempts.get() {
                    let places: Vec<usize> =
                        (0..requests.len()).filter(|place| failures[*place] < attempts.get()).collect();
                    if places.is_empty() {
                        return Ok(scores);
                    }
                    let fewer = places.iter().map(|place| requests[*place].clone()).collect();
                    remaining = Some((places, fewer));
                }
            }
            Err(error @ ScoreError::Model { .. }) => {
                model_failures += 1;
                warn!(attempt = model_failures, %error, "the model failed");
                if model_failures >= attempts.get() {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
