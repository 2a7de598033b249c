//! How far a challenger and the champion say the same: of the newest users that both scored, how far their probabilities lie
//! apart, and whether they put the users in the same order.

use std::{collections::VecDeque, sync::Arc};

use crate::score::Scored;

/// The heads that are compared, in the order of [`Agreement::heads`].
pub const HEADS: [&str; 2] = ["churn", "purchase"];
/// Users compared at most, the newest ones.
const WINDOW_USERS: usize = 2_000;
/// Fewer users say nothing.
const FEWEST_USERS: usize = 2;

/// Agreement on one head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadAgreement {
    /// Users compared.
    pub user_count: usize,
    /// Mean of the absolute differences of the two probabilities.
    pub mean_difference: f64,
    /// Spearman's rank correlation of the two probabilities, -1 to 1; 0 where one of them says the same of everyone.
    pub rank_agreement: f64,
}

/// Agreement of a challenger with the champion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// By head, in the order of [`HEADS`]; `None` where fewer than two users are known whom both answered the same question.
    pub heads: [Option<HeadAgreement>; HEADS.len()],
}

/// The newest answers of both.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Version of the challenger they are of.
    version: Option<Arc<str>>,
    /// Champion's and challenger's probability, by head.
    pairs: [VecDeque<[f32; 2]>; HEADS.len()],
}

impl Comparison {
    /// Adds what the challenger said of places of `champion`; another challenger begins anew.
    pub(super) fn add(&mut self, challenger: &[(usize, Scored)], champion: &[Option<Scored>]) {
        for (place, theirs) in challenger {
            let Some(ours) = champion.get(*place).and_then(Option::as_ref) else { continue };
            if self.version.as_ref() != Some(&theirs.model.version) {
                *self = Self { version: Some(Arc::clone(&theirs.model.version)), pairs: Default::default() };
            }
            // Probabilities of other horizons answer another question.
            if ours.model.churn_days == theirs.model.churn_days {
                self.push(0, [ours.churn_probability.get(), theirs.churn_probability.get()]);
            }
            if ours.model.purchase_days == theirs.model.purchase_days {
                self.push(1, [ours.purchase_probability.get(), theirs.purchase_probability.get()]);
            }
        }
    }

    /// The challenger's version; empty before it answered.
    pub(super) fn version(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }

    /// `None` where neither head can be compared.
    pub(super) fn agreement(&self) -> Option<Agreement> {
        let heads = [0, 1].map(|head| agreement_of(&self.pairs[head]));
        heads.iter().any(Option::is_some).then_some(Agreement { heads })
    }

    fn push(&mut self, head: usize, pair: [f32; 2]) {
        let pairs = &mut self.pairs[head];
        if pairs.len() == WINDOW_USERS {
            pairs.pop_front();
        }
        pairs.push_back(pair);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand users")]
fn agreement_of(pairs: &VecDeque<[f32; 2]>) -> Option<HeadAgreement> {
    if pairs.len() < FEWEST_USERS {
        return None;
    }
    let sum: f64 = pairs.iter().map(|[ours, theirs]| f64::from(ours - theirs).abs()).sum();
    let [ours, theirs] = [0, 1].map(|side| ranks(&pairs.iter().map(|pair| pair[side]).collect::<Vec<_>>()));
    Some(HeadAgreement {
        user_count: pairs.len(),
        mean_difference: sum / pairs.len() as f64,
        rank_agreement: correlation(&ours, &theirs),
    })
}

/// Ranks from 0; equal values share the mean of their places.
#[expect(clippy::cast_precision_loss, reason = "a few thousand users")]
fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|left, right| values[*left].total_cmp(&values[*right]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for run in order.chunk_by(|left, right| values[*left].total_cmp(&values[*right]).is_eq()) {
        let mean = start as f64 + (run.len() - 1) as f64 / 2.0;
        for place in run {
            ranks[*place] = mean;
        }
        start += run.len();
    }
    ranks
}

/// Pearson's correlation; 0 where a side does not vary. Both sides are ranks, so both have the mean of `0..n`.
#[expect(clippy::cast_precision_loss, reason = "a few thousand users")]
fn correlation(left: &[f64], right: &[f64]) -> f64 {
    let mean = (left.len() - 1) as f64 / 2.0;
    let (mut product, mut squares) = (0.0, [0.0, 0.0]);
    for (left, right) in left.iter().zip(right) {
        product += (left - mean) * (right - mean);
        squares[0] += (left - mean).powi(2);
        squares[1] += (right - mean).powi(2);
    }
    let scale = (squares[0] * squares[1]).sqrt();
    if scale > 0.0 { product / scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[[f32; 2]], mean_difference: f64, rank_agreement: f64) {
        let found = agreement_of(&pairs.iter().copied().collect()).unwrap();
        assert_eq!(found.user_count, pairs.len());
        assert!((found.mean_difference - mean_difference).abs() < 1e-6, "{found:?}");
        assert!((found.rank_agreement - rank_agreement).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn differences_and_ranks_are_as_by_hand() {
        check(&[[0.1, 0.1], [0.2, 0.2], [0.9, 0.9]], 0.0, 1.0);
        check(&[[0.1, 0.2], [0.2, 0.3], [0.9, 1.0]], 0.1, 1.0);
        check(&[[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]], 1.6 / 3.0, -1.0);
        // One says the same of everyone.
        check(&[[0.1, 0.5], [0.5, 0.5], [0.9, 0.5]], 0.8 / 3.0, 0.0);
        // Ranks 0, 1.5, 1.5, 3 against 0, 2, 1, 3: 4.5 / sqrt(4.5 * 5).
        check(&[[0.1, 0.1], [0.5, 0.7], [0.5, 0.6], [0.9, 0.9]], 0.3 / 4.0, 4.5 / (4.5_f64 * 5.0).sqrt());
        assert!(agreement_of(&VecDeque::from([[0.1, 0.2]])).is_none());
    }
}
