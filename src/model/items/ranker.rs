//! A linear score plus one hidden layer over the standardised features of a candidate. Serving only; training is elsewhere.

/// Scores candidates. All parameters are finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranker {
    /// Mean of each feature in training.
    pub mean: Vec<f32>,
    /// One over the standard deviation of each feature; 0 for a feature without any spread, which is thereby ignored.
    pub inverse_deviation: Vec<f32>,
    /// Linear weight of each feature.
    pub linear: Vec<f32>,
    /// `hidden × width`, row-major.
    pub hidden_weights: Vec<f32>,
    /// One a hidden unit.
    pub hidden_bias: Vec<f32>,
    /// Weight of each hidden unit in the score.
    pub output: Vec<f32>,
}

/// Most hidden units a ranker may have.
const MAX_HIDDEN: usize = 64;
/// Standardised features are kept within ± this, so that a rare value cannot dominate.
const CLIP: f32 = 6.0;

impl Ranker {
    /// Features it reads.
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// Hidden units.
    pub fn hidden(&self) -> usize {
        self.output.len()
    }

    /// Writes the standardised features of one candidate.
    pub fn standardise(&self, features: &[f32], into: &mut [f32]) {
        let scale = self.mean.iter().zip(&self.inverse_deviation);
        for ((into, feature), (mean, inverse)) in into.iter_mut().zip(features).zip(scale) {
            *into = ((feature - mean) * inverse).clamp(-CLIP, CLIP);
        }
    }

    /// The score of one candidate; comparable within one user and list only.
    pub fn score(&self, features: &[f32]) -> f32 {
        let mut input = [0.0; super::FEATURE_WIDTH];
        self.standardise(features, &mut input[..self.width()]);
        let input = &input[..self.width()];
        let mut score: f32 = dot(&self.linear, input);
        for ((row, bias), weight) in
            self.hidden_weights.chunks_exact(self.width()).zip(&self.hidden_bias).zip(&self.output)
        {
            score += weight * (bias + dot(row, input)).max(0.0);
        }
        score
    }

    /// Whether the parts fit together and are finite.
    pub(super) fn is_valid(&self) -> bool {
        let (width, hidden) = (self.width(), self.hidden());
        let parts =
            [&self.mean, &self.inverse_deviation, &self.linear, &self.hidden_weights, &self.hidden_bias, &self.output];
        width == super::FEATURE_WIDTH
            && hidden <= MAX_HIDDEN
            && self.inverse_deviation.len() == width
            && self.linear.len() == width
            && self.hidden_weights.len() == hidden * width
            && self.hidden_bias.len() == hidden
            && parts.into_iter().flatten().all(|value| value.is_finite())
    }
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    // Eight sums, so that the compiler may use wide registers; the order of additions is fixed, so scores are exact.
    let mut sums = [0.0_f32; 8];
    let (left_eights, right_eights) = (left.chunks_exact(8), right.chunks_exact(8));
    let rest: f32 =
        left_eights.remainder().iter().zip(right_eights.remainder()).map(|(left, right)| left * right).sum();
    for (left, right) in left_eights.zip(right_eights) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += left * right;
        }
    }
    rest + sums.iter().sum::<f32>()
}
