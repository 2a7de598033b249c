//! Raw feature → Gaussian rank by the quantiles of the training window, so that serving needs no other user.

#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "ranks of at most some million rows")]

use serde::{Deserialize, Serialize};

/// Training quantiles of one feature with the normal score of each, both ascending. Empty when the feature was never
/// present in training: it is then always treated as missing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knots {
    /// Raw values, strictly ascending.
    values: Vec<f32>,
    /// Normal score of the mean rank of each value.
    scores: Vec<f32>,
}

impl Knots {
    /// Most knots a feature keeps.
    pub const CAPACITY: usize = 33;

    /// Learns the knots of one feature; NaN values are missing and ignored. The median present value maps near 0.
    pub fn fit(values: impl Iterator<Item = f32>) -> Self {
        let mut sorted: Vec<f32> = values.filter(|value| value.is_finite()).collect();
        sorted.sort_unstable_by(f32::total_cmp);
        if sorted.is_empty() {
            return Self::default();
        }
        let mut picked: Vec<f32> = (0..Self::CAPACITY)
            .map(|knot| sorted[(sorted.len() - 1) * knot / (Self::CAPACITY - 1)])
            .map(|value| if value == 0.0 { 0.0 } else { value })
            .collect();
        picked.dedup();
        let scores = picked.iter().map(|value| mean_rank_score(&sorted, *value)).collect();
        Self { values: picked, scores }
    }

    /// The normal score of `value` by linear interpolation, flat beyond the ends; `None` when the value is missing.
    pub fn apply(&self, value: f32) -> Option<f32> {
        if !value.is_finite() {
            return None;
        }
        let last = self.values.len().checked_sub(1)?;
        let above = self.values.partition_point(|knot| *knot <= value);
        if above == 0 {
            return Some(self.scores[0]);
        }
        if above > last {
            return Some(self.scores[last]);
        }
        let (low, high) = (self.values[above - 1], self.values[above]);
        let share = (value - low) / (high - low);
        Some(self.scores[above - 1] + share * (self.scores[above] - self.scores[above - 1]))
    }

    /// The raw value whose normal score is nearest to 0, about the median; `None` when the feature was never present.
    pub fn middle(&self) -> Option<f32> {
        let pairs = self.values.iter().zip(&self.scores);
        pairs.min_by(|left, right| left.1.abs().total_cmp(&right.1.abs())).map(|(value, _)| *value)
    }

    /// Values with the normal scores of their mean ranks, both ascending.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (f32, f32)> + '_ {
        self.values.iter().copied().zip(self.scores.iter().copied())
    }

    /// Whether the two lists fit together.
    pub(super) fn is_valid(&self) -> bool {
        self.values.len() == self.scores.len()
            && self.values.len() <= Self::CAPACITY
            && self.values.iter().chain(&self.scores).all(|number| number.is_finite())
            && self.values.windows(2).all(|pair| pair[0] < pair[1])
    }
}

/// The normal score of the middle of `value`'s ties among `sorted`.
fn mean_rank_score(sorted: &[f32], value: f32) -> f32 {
    let below = sorted.partition_point(|other| *other < value);
    let through = sorted.partition_point(|other| *other <= value);
    let rank = (below + through) as f64 / 2.0;
    inverse_normal(rank.max(0.5).min(sorted.len() as f64 - 0.5) / sorted.len() as f64) as f32
}

/// The share of a normal distribution below `score` (Abramowitz and Stegun, 26.2.17, error below 7.5e-8).
pub(super) fn normal_share(score: f64) -> f64 {
    const FACTORS: [f64; 5] = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let t = 1.0 / (1.0 + 0.231_641_9 * score.abs());
    let sum = FACTORS.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    let above = (-score * score / 2.0).exp() / std::f64::consts::TAU.sqrt() * sum;
    if score > 0.0 { 1.0 - above } else { above }
}

/// The inverse of the normal distribution (Acklam's rational approximation, error below 1.2e-9), clamped to ±3.
fn inverse_normal(probability: f64) -> f64 {
    const A: [f64; 6] = [
        -39.696_830_286_653_76,
        220.946_098_424_520_5,
        -275.928_510_446_968_7,
        138.357_751_867_269,
        -30.664_798_066_147_16,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -54.476_098_798_224_06,
        161.585_836_858_040_9,
        -155.698_979_859_886_6,
        66.801_311_887_719_72,
        -13.280_681_552_885_72,
    ];
    const C: [f64; 6] = [
        -0.007_784_894_002_430_293,
        -0.322_396_458_041_136_5,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] =
        [0.007_784_695_709_041_462, 0.322_467_129_070_039_8, 2.445_134_137_142_996, 3.754_408_661_907_416];
    let p = probability.clamp(1e-9, 1.0 - 1e-9);
    let tail = |q: f64| {
        (((((C[0] * q + C[1]) * q + C[2]) * q + C[3]) * q + C[4]) * q + C[5])
            / ((((D[0] * q + D[1]) * q + D[2]) * q + D[3]) * q + 1.0)
    };
    let score = if p < 0.024_25 {
        tail((-2.0 * p.ln()).sqrt())
    } else if p > 1.0 - 0.024_25 {
        -tail((-2.0 * (1.0 - p).ln()).sqrt())
    } else {
        let q = p - 0.5;
        let r = q * q;
        (((((A[0] * r + A[1]) * r + A[2]) * r + A[3]) * r + A[4]) * r + A[5]) * q
            / (((((B[0] * r + B[1]) * r + B[2]) * r + B[3]) * r + B[4]) * r + 1.0)
    };
    score.clamp(-3.0, 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_scores_of_known_probabilities() {
        for (probability, score) in [(0.5, 0.0), (0.975, 1.959_964), (0.01, -2.326_348), (0.841_344_7, 1.0)] {
            assert!((inverse_normal(probability) - score).abs() < 1e-5, "{probability}");
            assert!((normal_share(score) - probability).abs() < 1e-6, "{score}");
        }
    }

    #[test]
    fn ranks_become_gaussian() {
        let knots = Knots::fit((0..10_001).map(|value| (value as f32).powi(3)));
        assert!(knots.is_valid());
        let median = knots.apply(5_000.0_f32.powi(3)).unwrap();
        assert!(median.abs() < 1e-3, "{median}");
        assert!(knots.apply(-5.0).unwrap() < -2.5);
        assert!(knots.apply(f32::MAX).unwrap() > 2.5);
        assert_eq!(knots.apply(f32::NAN), None);
        assert!(knots.apply(knots.middle().unwrap()).unwrap().abs() < 0.1);
    }

    #[test]
    fn ties_share_their_mean_rank_and_empty_features_are_missing() {
        let knots = Knots::fit([0.0, 0.0, 0.0, 1.0, f32::NAN].into_iter());
        assert!((knots.apply(0.0).unwrap() - inverse_normal(1.5 / 4.0) as f32).abs() < 1e-6);
        assert_eq!(Knots::fit(std::iter::empty()).apply(1.0), None);
        assert_eq!(Knots::fit([7.0].into_iter()).apply(3.0), Some(0.0));
    }
}
