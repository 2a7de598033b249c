//! Scores candidates: boosted trees, and a linear part for shops without the history to grow any. Serving only.

use super::features::FEATURE_WIDTH;
use crate::model::{Forest, ForestError, ForestParts, LaneForest};

/// Scores candidates. All parameters are finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranker {
    /// Weight of each feature; a missing one counts 0.
    linear: Vec<f32>,
    /// The first trees, asked about every candidate.
    first: Forest,
    /// The others, asked about the candidates that the first ones keep.
    rest: Forest,
    /// Both, made ready for many candidates.
    first_lanes: LaneForest,
    rest_lanes: LaneForest,
}

/// Trees that every candidate is asked.
const FIRST_TREES: usize = 24;
/// Candidates kept for the other trees: three times what a list shows.
const KEPT: usize = 60;

impl Ranker {
    /// Joins weights and trees.
    ///
    /// # Panics
    /// When either is not for [`FEATURE_WIDTH`] features.
    pub fn new(linear: Vec<f32>, mut forest: Forest) -> Self {
        assert_eq!((linear.len(), forest.width()), (FEATURE_WIDTH, FEATURE_WIDTH), "one place a feature");
        let rest = forest.split_off(FIRST_TREES);
        let [first_lanes, rest_lanes] = [&forest, &rest].map(LaneForest::new);
        Self { linear, first: forest, rest, first_lanes, rest_lanes }
    }

    /// Trees.
    pub fn tree_count(&self) -> usize {
        self.first.tree_count() + self.rest.tree_count()
    }

    /// The score of one candidate; comparable within one user and list only.
    pub fn score(&self, features: &[f32]) -> f64 {
        self.weighted(features) + self.first.score(features) + self.rest.score(features)
    }

    /// Scores of many candidates by the weights and the first trees alone: most of it at a fraction of the cost.
    pub(super) fn first_scores(&self, rows: &[&[f32]]) -> Vec<f64> {
        let trees = self.first_lanes.scores(rows);
        trees.iter().zip(rows).map(|(trees, row)| self.weighted(row) + trees).collect()
    }

    fn weighted(&self, features: &[f32]) -> f64 {
        let pairs = self.linear.iter().zip(features).filter(|(weight, value)| **weight != 0.0 && value.is_finite());
        pairs.map(|(weight, value)| f64::from(*weight) * f64::from(*value)).sum()
    }

    /// The `limit` best of `places`, best first, with their scores. `features` gives a place's row; places are told
    /// apart by `tie` where scores are equal.
    pub(super) fn best<'a, K: Ord>(
        &self,
        places: impl Iterator<Item = usize>,
        limit: usize,
        features: impl Fn(usize) -> &'a [f32],
        tie: impl Fn(usize) -> K,
    ) -> Vec<(f64, usize)> {
        let best_first = |left: &(f64, usize), right: &(f64, usize)| {
            right.0.total_cmp(&left.0).then_with(|| tie(left.1).cmp(&tie(right.1)))
        };
        let places: Vec<usize> = places.collect();
        let rows: Vec<&[f32]> = places.iter().map(|place| features(*place)).collect();
        let mut scored: Vec<(f64, usize)> = self.first_scores(&rows).into_iter().zip(places).collect();
        let kept = KEPT.max(limit);
        if scored.len() > kept {
            scored.select_nth_unstable_by(kept - 1, best_first);
            scored.truncate(kept);
        }
        let rows: Vec<&[f32]> = scored.iter().map(|(_, place)| features(*place)).collect();
        for ((score, _), rest) in scored.iter_mut().zip(self.rest_lanes.scores(&rows)) {
            *score += rest;
        }
        scored.sort_unstable_by(best_first);
        scored.truncate(limit);
        scored
    }

    /// Weights and trees as plain arrays.
    pub(super) fn to_parts(&self) -> (&[f32], ForestParts) {
        let mut forest = self.first.clone();
        forest.append(&self.rest);
        (&self.linear, forest.to_parts())
    }

    /// Puts a ranker together; nothing is trusted.
    pub(super) fn from_parts(linear: Vec<f32>, forest: &ForestParts) -> Result<Self, ForestError> {
        if linear.len() != FEATURE_WIDTH || forest.width != FEATURE_WIDTH {
            return Err(ForestError::Shape("not for the features of this program"));
        }
        Ok(Self::new(linear, Forest::from_parts(forest)?))
    }
}
