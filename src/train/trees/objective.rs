//! What trees are grown for: slopes and curvatures of a loss at the present scores.

#![expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "gradients are single precision")]

use std::ops::Range;

/// A loss over the rows of a training sample, in the sample's order.
pub trait Objective: Sync {
    /// The score every row starts with.
    fn base(&self) -> f64;

    /// Writes slope and curvature of the loss at each row's score; curvatures are not negative.
    fn gradients(&self, scores: &[f64], into: &mut [[f32; 2]]);
}

/// Log-loss of yes or no.
#[derive(Debug, Clone, Copy)]
pub struct LogLoss<'a> {
    /// What happened, by row.
    pub labels: &'a [bool],
    /// Weight of each row; empty for 1 each.
    pub weights: &'a [f32],
}

impl Objective for LogLoss<'_> {
    /// Log-odds of the (weighted) rate.
    fn base(&self) -> f64 {
        let weight = |row: usize| f64::from(self.weights.get(row).copied().unwrap_or(1.0));
        let total: f64 = (0..self.labels.len()).map(weight).sum();
        let happened: f64 = (0..self.labels.len()).filter(|row| self.labels[*row]).map(weight).sum();
        ((happened + 0.5) / (total - happened + 0.5)).ln()
    }

    fn gradients(&self, scores: &[f64], into: &mut [[f32; 2]]) {
        for (row, ((score, label), into)) in scores.iter().zip(self.labels).zip(into).enumerate() {
            let p = 1.0 / (1.0 + (-score).exp());
            let weight = f64::from(self.weights.get(row).copied().unwrap_or(1.0));
            let slope = p - f64::from(u8::from(*label));
            *into = [(weight * slope) as f32, (weight * (p * (1.0 - p)).max(1e-16)) as f32];
        }
    }
}

/// Pairwise ranking loss weighted by the change in NDCG (`LambdaMART`, Burges 2010), each list's sum dampened as in `LightGBM`.
#[derive(Debug, Clone, Copy)]
pub struct LambdaRank<'a> {
    /// Relevance of each row, 0 for none; gain is `2^relevance - 1`.
    pub relevance: &'a [u8],
    /// Rows each row stands for, where others like it were left out of its list: a place is the sum of what stands above
    /// it, and a pair counts as often as the product says. Empty for 1 each.
    pub weights: &'a [f32],
    /// Rows of each list: ranges in order, without gaps.
    pub lists: &'a [Range<usize>],
    /// Pairs count when one of the two is among the first this many.
    pub truncation: usize,
}

impl Objective for LambdaRank<'_> {
    fn base(&self) -> f64 {
        0.0
    }

    fn gradients(&self, scores: &[f64], into: &mut [[f32; 2]]) {
        into.fill([0.0, 0.0]);
        let mut sums = Vec::new();
        for list in self.lists {
            sums.clear();
            sums.resize(list.len(), [0.0_f64; 2]);
            let weights = if self.weights.is_empty() { &[] } else { &self.weights[list.clone()] };
            self.list(&self.relevance[list.clone()], weights, &scores[list.clone()], &mut sums);
            for (into, sum) in into[list.clone()].iter_mut().zip(&sums) {
                *into = [sum[0] as f32, sum[1] as f32];
            }
        }
    }
}

impl LambdaRank<'_> {
    fn list(&self, relevance: &[u8], weights: &[f32], scores: &[f64], sums: &mut [[f64; 2]]) {
        let gain = |relevance: u8| (f64::from(relevance)).exp2() - 1.0;
        let discount = |above: f64| (above + 2.0).log2().recip();
        let weight_of = |row: usize| weights.get(row).copied().map_or(1.0, f64::from);
        let mut best: Vec<u8> = relevance.iter().copied().filter(|relevance| *relevance > 0).collect();
        best.sort_unstable_by(|left, right| right.cmp(left));
        let ideal: f64 =
            best.iter().take(self.truncation).enumerate().map(|(place, r)| gain(*r) * discount(place as f64)).sum();
        if ideal <= 0.0 || best.len() == relevance.len() && best.first() == best.last() {
            return;
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
        let spread = scores[order[0]] > scores[order[order.len() - 1]];
        let discounts: Vec<f64> = order
            .iter()
            .scan(0.0, |above, row| {
                // The middle of the rows that it stands for.
                let place = *above + (weight_of(*row) - 1.0) / 2.0;
                *above += weight_of(*row);
                Some(discount(place))
            })
            .collect();
        let last = discount(self.truncation as f64);
        let mut total = 0.0;
        for high in (0..order.len()).take_while(|place| discounts[*place] > last) {
            for low in high + 1..order.len() {
                let (mut winner, mut loser) = (order[high], order[low]);
                if relevance[winner] == relevance[loser] {
                    continue;
                }
                if relevance[winner] < relevance[loser] {
                    std::mem::swap(&mut winner, &mut loser);
                }
                let lead = scores[winner] - scores[loser];
                let mut weight =
                    (gain(relevance[winner]) - gain(relevance[loser])) * (discounts[high] - discounts[low]) / ideal;
                weight *= weight_of(winner) * weight_of(loser);
                if spread {
                    weight /= 0.01 + lead.abs();
                }
                let p = 1.0 / (1.0 + lead.exp());
                let (slope, curvature) = (weight * p, weight * p * (1.0 - p));
                sums[winner][0] -= slope;
                sums[loser][0] += slope;
                sums[winner][1] += curvature;
                sums[loser][1] += curvature;
                total += 2.0 * slope;
            }
        }
        if total > 0.0 {
            let scale = (1.0 + total).log2() / total;
            for sum in sums {
                *sum = sum.map(|value| value * scale);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_loss_by_hand() {
        let objective = LogLoss { labels: &[true, false], weights: &[1.0, 3.0] };
        let mut found = [[0.0; 2]; 2];
        objective.gradients(&[0.0, 0.0], &mut found);
        assert_eq!(found, [[-0.5, 0.25], [1.5, 0.75]]);
        assert!((objective.base() - (1.5_f64 / 3.5).ln()).abs() < 1e-12);
    }

    #[test]
    fn pairs_push_apart_and_cancel_out() {
        let lists = [0..3, 3..5, 5..7];
        let objective = LambdaRank { relevance: &[0, 1, 0, 0, 0, 1, 1], weights: &[], lists: &lists, truncation: 20 };
        let mut found = [[0.0; 2]; 7];
        objective.gradients(&[2.0, 1.0, 0.0, 1.0, 2.0, 0.0, 1.0], &mut found);
        // The bought one rises, the others fall, the one that stands above it more.
        assert!(found[1][0] < 0.0 && found[0][0] > found[2][0] && found[2][0] > 0.0, "{found:?}");
        assert!(found[..3].iter().map(|pair| pair[0]).sum::<f32>().abs() < 1e-6);
        assert!(found[..3].iter().all(|pair| pair[1] > 0.0));
        // A row that stands for two is the row twice.
        let (twice, once): (Range<usize>, Range<usize>) = (0..4, 0..3);
        let (twice, once) = (std::slice::from_ref(&twice), std::slice::from_ref(&once));
        let objective = LambdaRank { relevance: &[0, 0, 1, 0], weights: &[], lists: twice, truncation: 20 };
        let mut expected = [[0.0; 2]; 4];
        objective.gradients(&[2.0, 2.0, 1.0, 0.0], &mut expected);
        let objective = LambdaRank { relevance: &[0, 1, 0], weights: &[2.0, 1.0, 1.0], lists: once, truncation: 20 };
        let mut weighted = [[0.0; 2]; 3];
        objective.gradients(&[2.0, 1.0, 0.0], &mut weighted);
        // But for the two's own places, of which only the middle is known.
        assert!((weighted[1][0] / expected[2][0] - 1.0).abs() < 0.25, "{weighted:?} {expected:?}");
        // Lists in which all are alike say nothing.
        assert_eq!(found[3..], [[0.0; 2]; 4]);
    }
}
