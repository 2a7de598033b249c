//! How good scores are, the same numbers as the evaluation protocol: ranking of probabilities, calibration, lists.

#![expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]

use std::collections::HashSet;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

/// Bins of [`expected_calibration_error`].
const CALIBRATION_BINS: usize = 15;

/// Metrics of one probability against what happened.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BinaryMetrics {
    /// Users scored.
    pub count: usize,
    /// Share of them for whom it happened.
    pub rate: f64,
    /// Area under the ROC curve; absent when only one class occurs.
    pub roc_auc: Option<f64>,
    /// Average precision; absent without positives.
    pub pr_auc: Option<f64>,
    /// Mean negative log-likelihood.
    pub log_loss: f64,
    /// Expected calibration error over 15 bins of equal mass.
    pub ece: f64,
    /// The threshold, chosen on validation data.
    pub threshold: f64,
    /// Share of right answers at the threshold.
    pub accuracy: f64,
    /// Of those predicted, the share for whom it happened; 0 when nobody was predicted.
    pub precision: f64,
    /// Of those for whom it happened, the share predicted; 0 when it happened to nobody.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
}

impl BinaryMetrics {
    /// Computes all of them. `threshold` must come from other data than these.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn of(labels: &[bool], probabilities: &[f64], threshold: f64) -> Self {
        assert_eq!(labels.len(), probabilities.len(), "one probability a label");
        let count = labels.len();
        let positives = labels.iter().filter(|label| **label).count();
        let predicted = probabilities.iter().filter(|p| **p >= threshold).count();
        let hits = labels.iter().zip(probabilities).filter(|(label, p)| **label && **p >= threshold).count();
        let precision = ratio(hits, predicted);
        let recall = ratio(hits, positives);
        let right = count - (predicted - hits) - (positives - hits);
        Self {
            count,
            rate: ratio(positives, count),
            roc_auc: roc_auc(labels, probabilities),
            pr_auc: average_precision(labels, probabilities),
            log_loss: log_loss(labels, probabilities),
            ece: expected_calibration_error(labels, probabilities),
            threshold,
            accuracy: ratio(right, count),
            precision,
            recall,
            f1: harmonic(precision, recall),
        }
    }
}

/// Metrics of ranked lists against the items really bought, averaged over users who bought something.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ListMetrics {
    /// Users with at least one item to find.
    pub count: usize,
    /// Hits among the first 20, divided by what could be hit (at most 20).
    pub recall_at_20: f64,
    /// Normalised discounted gain of the first 10.
    pub ndcg_at_10: f64,
    /// Share of users with a hit among the first 20.
    pub hit_at_20: f64,
}

/// One user's list against the truth: recall@20, NDCG@10, hit@20. `None` when there is nothing to find.
pub fn list_scores<T: Eq + std::hash::Hash, S: std::hash::BuildHasher>(
    truth: &HashSet<T, S>,
    list: &[T],
) -> Option<[f64; 3]> {
    const LENGTH: usize = 20;
    if truth.is_empty() {
        return None;
    }
    let hits: Vec<bool> = list.iter().take(LENGTH).map(|item| truth.contains(item)).collect();
    let hit_count = hits.iter().filter(|hit| **hit).count();
    let gain: f64 = hits.iter().take(10).enumerate().filter(|(_, hit)| **hit).map(|(place, _)| discount(place)).sum();
    let ideal: f64 = (0..truth.len().min(10)).map(discount).sum();
    Some([hit_count as f64 / truth.len().min(LENGTH) as f64, gain / ideal, f64::from(u8::from(hit_count > 0))])
}

/// Averages [`list_scores`]; `None` when no user had anything to find.
pub fn list_metrics(scores: &[[f64; 3]]) -> Option<ListMetrics> {
    let mean = |part: usize| scores.iter().map(|score| score[part]).sum::<f64>() / scores.len() as f64;
    (!scores.is_empty()).then(|| ListMetrics {
        count: scores.len(),
        recall_at_20: mean(0),
        ndcg_at_10: mean(1),
        hit_at_20: mean(2),
    })
}

/// Area under the ROC curve, ties counted half. `None` when only one class occurs.
pub fn roc_auc(labels: &[bool], scores: &[f64]) -> Option<f64> {
    let order = ascending(scores);
    let positives = labels.iter().filter(|label| **label).count();
    let negatives = labels.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut rank_sum = 0.0;
    let mut start = 0;
    for group in order.chunk_by(|left, right| scores[*left].total_cmp(&scores[*right]).is_eq()) {
        let mean_rank = start as f64 + (group.len() + 1) as f64 / 2.0;
        rank_sum += mean_rank * group.iter().filter(|index| labels[**index]).count() as f64;
        start += group.len();
    }
    let positives = positives as f64;
    Some((rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives as f64))
}

/// Average precision: precision at each distinct score, weighted by the recall gained there. `None` without positives.
pub fn average_precision(labels: &[bool], scores: &[f64]) -> Option<f64> {
    let mut order = ascending(scores);
    order.reverse();
    let positives = labels.iter().filter(|label| **label).count();
    if positives == 0 {
        return None;
    }
    let (mut seen, mut hits, mut sum) = (0_usize, 0_usize, 0.0);
    for group in order.chunk_by(|left, right| scores[*left].total_cmp(&scores[*right]).is_eq()) {
        let gained = group.iter().filter(|index| labels[**index]).count();
        seen += group.len();
        hits += gained;
        sum += gained as f64 * hits as f64 / seen as f64;
    }
    Some(sum / positives as f64)
}

/// Mean negative log-likelihood; probabilities are kept `1e-7` away from 0 and 1.
pub fn log_loss(labels: &[bool], probabilities: &[f64]) -> f64 {
    let loss = |(label, p): (&bool, &f64)| {
        let p = p.clamp(1e-7, 1.0 - 1e-7);
        if *label { -p.ln() } else { -(1.0 - p).ln() }
    };
    labels.iter().zip(probabilities).map(loss).sum::<f64>() / labels.len().max(1) as f64
}

/// Mean distance between predicted and observed rate over 15 bins of equal mass.
pub fn expected_calibration_error(labels: &[bool], probabilities: &[f64]) -> f64 {
    let mut sorted = probabilities.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let edges: Vec<f64> =
        (1..CALIBRATION_BINS).map(|bin| quantile(&sorted, bin as f64 / CALIBRATION_BINS as f64)).collect();
    let mut bins = [(0.0, 0.0); CALIBRATION_BINS];
    for (label, p) in labels.iter().zip(probabilities) {
        let bin = &mut bins[edges.partition_point(|edge| edge <= p)];
        bin.0 += f64::from(u8::from(*label));
        bin.1 += p;
    }
    bins.iter().map(|(observed, predicted)| (observed - predicted).abs()).sum::<f64>() / labels.len().max(1) as f64
}

/// The threshold with the best F1 on (validation) data: predicted means `>=` it. 0.5 without positives.
pub fn best_f1_threshold(labels: &[bool], scores: &[f64]) -> f64 {
    let mut order = ascending(scores);
    order.reverse();
    let positives = labels.iter().filter(|label| **label).count();
    let (mut seen, mut hits) = (0_usize, 0_usize);
    let mut best = (0.0, 0.5);
    for group in order.chunk_by(|left, right| scores[*left].total_cmp(&scores[*right]).is_eq()) {
        seen += group.len();
        hits += group.iter().filter(|index| labels[**index]).count();
        let f1 = harmonic(ratio(hits, seen), ratio(hits, positives));
        if f1 > best.0 {
            best = (f1, scores[group[0]]);
        }
    }
    best.1
}

/// An interval of a difference between two models on the same users.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 2.5 % quantile.
    pub low: f64,
    /// Median.
    pub median: f64,
    /// 97.5 % quantile.
    pub high: f64,
}

/// Bootstrap over users of `roc_auc(first) - roc_auc(second)`, paired: both are measured on the same drawn users.
/// `None` when only one class occurs.
pub fn paired_auc_difference(
    labels: &[bool],
    first: &[f64],
    second: &[f64],
    rounds: usize,
    seed: u64,
) -> Option<Interval> {
    roc_auc(labels, first)?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut differences = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let drawn: Vec<usize> = (0..labels.len()).map(|_| random.random_range(0..labels.len())).collect();
        let pick = |scores: &[f64]| drawn.iter().map(|index| scores[*index]).collect::<Vec<_>>();
        let drawn_labels: Vec<bool> = drawn.iter().map(|index| labels[*index]).collect();
        if let (Some(a), Some(b)) = (roc_auc(&drawn_labels, &pick(first)), roc_auc(&drawn_labels, &pick(second))) {
            differences.push(a - b);
        }
    }
    differences.sort_unstable_by(f64::total_cmp);
    (!differences.is_empty()).then(|| Interval {
        low: quantile(&differences, 0.025),
        median: quantile(&differences, 0.5),
        high: quantile(&differences, 0.975),
    })
}

/// 95 % interval of `roc_auc(scores)`: bootstrap over users. `None` when only one class occurs.
pub fn auc_interval(labels: &[bool], scores: &[f64], rounds: usize, seed: u64) -> Option<Interval> {
    // A constant ranks nobody: its AUC is one half on every draw.
    let constant = vec![0.0; scores.len()];
    let above_half = paired_auc_difference(labels, scores, &constant, rounds, seed)?;
    let shifted = |value: f64| value + 0.5;
    Some(Interval { low: shifted(above_half.low), median: shifted(above_half.median), high: shifted(above_half.high) })
}

/// Quantile of ascending values by linear interpolation, as numpy does by default.
///
/// # Panics
/// When `sorted` is empty.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place inside the slice")]
    let low = place.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

fn ascending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|left, right| scores[*left].total_cmp(&scores[*right]));
    order
}

fn discount(place: usize) -> f64 {
    1.0 / ((place + 2) as f64).log2()
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn harmonic(precision: f64, recall: f64) -> f64 {
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [bool; 6] = [true, false, true, false, false, true];
    const SCORES: [f64; 6] = [0.9, 0.8, 0.6, 0.6, 0.3, 0.2];

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
    }

    #[test]
    fn ranking_by_hand() {
        // Pairs (positive, negative): 0.9 wins 3, 0.6 wins 1 and ties 1, 0.2 wins none: 4.5 of 9.
        close(roc_auc(&LABELS, &SCORES).unwrap(), 4.5 / 9.0);
        // Recall grows at 0.9 (precision 1), 0.6 (2 of 4) and 0.2 (3 of 6).
        close(average_precision(&LABELS, &SCORES).unwrap(), (1.0 + 0.5 + 0.5) / 3.0);
        assert_eq!(roc_auc(&[true, true], &[0.1, 0.2]), None);
        assert_eq!(average_precision(&[false], &[0.1]), None);
    }

    #[test]
    fn decisions_by_hand() {
        let metrics = BinaryMetrics::of(&LABELS, &SCORES, 0.6);
        close(metrics.precision, 0.5);
        close(metrics.recall, 2.0 / 3.0);
        close(metrics.accuracy, 3.0 / 6.0);
        close(metrics.f1, 2.0 * 0.5 * (2.0 / 3.0) / (0.5 + 2.0 / 3.0));
        close(best_f1_threshold(&LABELS, &SCORES), 0.2);
        close(best_f1_threshold(&[true, false, false], &[0.7, 0.6, 0.1]), 0.7);
    }

    #[test]
    fn loss_and_calibration_by_hand() {
        close(log_loss(&[true, false], &[0.8, 0.4]), -(0.8_f64.ln() + 0.6_f64.ln()) / 2.0);
        // One bin a distinct value: |0 - 0.25| and |1 - 0.75|.
        let labels: Vec<bool> = (0..30).map(|index| index >= 15).collect();
        let probabilities: Vec<f64> = (0..30).map(|index| if index >= 15 { 0.75 } else { 0.25 }).collect();
        close(expected_calibration_error(&labels, &probabilities), 0.25);
    }

    #[test]
    fn lists_by_hand() {
        let truth = HashSet::from([1, 2, 3]);
        let [recall, ndcg, hit] = list_scores(&truth, &[9, 2, 1]).unwrap();
        close(recall, 2.0 / 3.0);
        close(ndcg, (1.0 / 3.0_f64.log2() + 0.5) / (1.0 + 1.0 / 3.0_f64.log2() + 0.5));
        close(hit, 1.0);
        assert_eq!(list_scores(&HashSet::<u8>::new(), &[1]), None);
        let long: Vec<u32> = (0..40).collect();
        close(list_scores(&long.iter().copied().collect::<HashSet<u32>>(), &long).unwrap()[0], 1.0);
    }

    #[test]
    fn equal_models_do_not_differ_and_a_better_one_does() {
        let labels: Vec<bool> = (0..200).map(|index| index % 3 == 0).collect();
        let good: Vec<f64> =
            (0..200).map(|index| f64::from(u8::from(index % 3 == 0)) + f64::from(index % 7) / 5.0).collect();
        let bad: Vec<f64> = (0..200).map(|index| f64::from(index % 11)).collect();
        let same = paired_auc_difference(&labels, &good, &good, 50, 1).unwrap();
        close(same.low, 0.0);
        close(same.high, 0.0);
        assert!(paired_auc_difference(&labels, &good, &bad, 200, 1).unwrap().low > 0.0);
    }
}
