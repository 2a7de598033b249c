//! Draws negatives for the softmax over items.

#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "shares and bounded indices")]

use rand::Rng;

/// Draws item rows by their share of the training occurrences.
pub(super) struct Sampler {
    cumulative: Vec<f32>,
    shares: Vec<f32>,
}

impl Sampler {
    pub(super) fn new(shares: &[f32]) -> Self {
        let mut sum = 0.0;
        let cumulative = shares
            .iter()
            .map(|share| {
                sum += share;
                sum
            })
            .collect();
        Self { cumulative, shares: shares.to_vec() }
    }

    pub(super) fn draw(&self, random: &mut impl Rng) -> u32 {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let point = random.random::<f32>() * total;
        let place = self.cumulative.partition_point(|end| *end <= point);
        place.min(self.cumulative.len().saturating_sub(1)) as u32 + 1
    }

    /// Log of the expected count of `row` among `samples` draws.
    pub(super) fn log_q(&self, row: u32, samples: usize) -> f32 {
        let share = (row as usize).checked_sub(1).and_then(|place| self.shares.get(place)).copied().unwrap_or(1e-9);
        (share.max(1e-9) * samples as f32).ln()
    }
}
