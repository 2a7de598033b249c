//! The losses of the four tasks and their learned weights.

use candle_core::{Result, Tensor};

use super::{Batch, Network, Output, TASKS};

/// What a batch should have said.
#[derive(Debug, Clone)]
pub struct Targets {
    /// `[B, 2]`: 1.0 churned; 1.0 purchased.
    pub binary: Tensor,
    /// `[B]`: next event kind; any kind where `kind_weight` is 0.
    pub kind: Tensor,
    /// `[B]`: 1.0 where the next kind is known.
    pub kind_weight: Tensor,
    /// Sampled next items; absent when no user of the batch has one.
    pub items: Option<ItemTargets>,
    /// `[4]`: 1.0 for the tasks that have any label here. A task without one must not move its learned weight.
    pub present: Tensor,
}

/// Positives and shared negatives of the sampled softmax.
#[derive(Debug, Clone)]
pub struct ItemTargets {
    /// Positives a user `P`.
    pub positives: usize,
    /// `[B·P]`: local rows of the positives.
    pub positive_rows: Tensor,
    /// `[B, P]`: log of the expected count of each positive in the sample (log Q).
    pub positive_log_q: Tensor,
    /// `[B, P]`: weight of each positive, summing to 1 for a user with any.
    pub positive_weight: Tensor,
    /// `[K]`: local rows of the negatives.
    pub negative_rows: Tensor,
    /// `[1, K]`: their log Q.
    pub negative_log_q: Tensor,
    /// `[B, K]`: 0, or a large negative number where the negative is one of the user's positives.
    pub negative_mask: Tensor,
}

/// The loss of each task, averaged over the users that have a label.
#[derive(Debug, Clone)]
pub struct Losses {
    /// Weighted sum to minimise.
    pub total: Tensor,
    /// `[4]`: churn, purchase, next item, next kind.
    pub tasks: Tensor,
}

/// Computes all losses. Weights are learned (Kendall, Gal & Cipolla 2018): `Σ exp(−s)·loss + s/2`.
pub fn losses(network: &Network, output: &Output, targets: &Targets, items: &Tensor, batch: &Batch) -> Result<Losses> {
    let binary = binary_cross_entropy(&output.binary, &targets.binary)?.mean(0)?;
    let item = match &targets.items {
        Some(item_targets) => sampled_softmax(&output.query, item_targets, items, batch.users)?,
        None => Tensor::zeros(1, output.binary.dtype(), output.binary.device())?,
    };
    let kind = candle_nn::ops::log_softmax(&output.kind, 1)?.gather(&targets.kind.unsqueeze(1)?, 1)?.squeeze(1)?;
    let kind = weighted_mean(&kind.neg()?, &targets.kind_weight)?;
    let tasks = Tensor::cat(&[binary, item, kind], 0)?;
    debug_assert_eq!(tasks.dims(), [TASKS]);
    let weight = network.log_variance.neg()?.exp()?;
    let total = (tasks.mul(&weight)? + (&network.log_variance * 0.5)?)?.mul(&targets.present)?.sum_all()?;
    Ok(Losses { total, tasks })
}

/// `[B, 2]` log-odds against 0/1: `max(x, 0) − x·y + ln(1 + e^−|x|)`.
fn binary_cross_entropy(log_odds: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let positive = log_odds.relu()?;
    (positive - log_odds.mul(labels)?)? + softplus_of_negative_abs(log_odds)?
}

/// `ln(1 + e^−|x|)`
fn softplus_of_negative_abs(values: &Tensor) -> Result<Tensor> {
    (values.abs()?.neg()?.exp()? + 1.0)?.log()
}

/// Sampled softmax with the log Q correction: the loss is −log of the positive's share among itself and the negatives.
fn sampled_softmax(query: &Tensor, targets: &ItemTargets, items: &Tensor, users: usize) -> Result<Tensor> {
    let width = query.dim(1)?;
    let negatives = query.matmul(&items.index_select(&targets.negative_rows, 0)?.t()?.contiguous()?)?;
    let negatives = (negatives.broadcast_sub(&targets.negative_log_q)? + &targets.negative_mask)?;
    let rest = negatives.log_sum_exp(1)?.unsqueeze(1)?;
    let positives = items.index_select(&targets.positive_rows, 0)?.reshape((users, targets.positives, width))?;
    let positives = positives.broadcast_mul(&query.unsqueeze(1)?)?.sum(2)?;
    let margin = (positives - &targets.positive_log_q)?.broadcast_sub(&rest)?;
    // −log(e^p / (e^p + e^rest)) = ln(1 + e^−(p − rest))
    let loss = (margin.neg()?.relu()? + softplus_of_negative_abs(&margin)?)?;
    weighted_mean(&loss.flatten_all()?, &targets.positive_weight.flatten_all()?)
}

/// `Σ w·v / Σ w`, as `[1]`; 0 without any weight.
fn weighted_mean(values: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let total = (weights.sum_keepdim(0)? + 1e-6)?;
    values.mul(weights)?.sum_keepdim(0)?.div(&total)
}
