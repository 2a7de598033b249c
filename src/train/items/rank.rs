//! Trains a ranker on lists: per user, what was bought should stand above what was not.

#![expect(clippy::cast_precision_loss, reason = "counts of candidates")]

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::model::items::{FEATURE_WIDTH, Ranker};

/// Candidate lists with what was bought of them.
#[derive(Debug, Clone, Default)]
pub struct RankExamples {
    /// `candidates × FEATURE_WIDTH`.
    features: Vec<f32>,
    bought: Vec<bool>,
    /// Candidates of list `i`: `starts[i]..starts[i + 1]`.
    starts: Vec<usize>,
    /// Items each user bought in all, also those that were no candidates.
    truth_count: Vec<u32>,
}

impl RankExamples {
    /// Adds one list: features and whether bought of each candidate; `truth_count` items were bought in all.
    pub fn push<'a>(&mut self, candidates: impl Iterator<Item = (&'a [f32], bool)>, truth_count: u32) {
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        for (features, bought) in candidates {
            self.features.extend_from_slice(features);
            self.bought.push(bought);
        }
        self.starts.push(self.bought.len());
        self.truth_count.push(truth_count);
    }

    /// Appends the lists of `other`.
    pub fn append(&mut self, other: &Self) {
        for list in 0..other.list_count() {
            let range = other.range(list);
            self.push(range.map(|place| (other.row(place), other.bought[place])), other.truth_count[list]);
        }
    }

    /// Lists.
    pub fn list_count(&self) -> usize {
        self.truth_count.len()
    }

    /// Candidates of all lists.
    pub fn candidate_count(&self) -> usize {
        self.bought.len()
    }

    /// Lists with something bought among the candidates.
    pub fn useful_count(&self) -> usize {
        (0..self.list_count()).filter(|list| self.bought[self.range(*list)].contains(&true)).count()
    }

    fn range(&self, list: usize) -> std::ops::Range<usize> {
        self.starts[list]..self.starts[list + 1]
    }

    fn row(&self, place: usize) -> &[f32] {
        &self.features[place * FEATURE_WIDTH..(place + 1) * FEATURE_WIDTH]
    }

    /// Mean recall@20 of a score over lists where something was bought.
    pub fn recall_at_20(&self, score: impl Fn(&[f32]) -> f32) -> f64 {
        let (mut sum, mut count) = (0.0, 0_u32);
        for list in (0..self.list_count()).filter(|list| self.truth_count[*list] > 0) {
            let mut scored: Vec<(f32, bool)> =
                self.range(list).map(|place| (score(self.row(place)), self.bought[place])).collect();
            scored.sort_by(|left, right| right.0.total_cmp(&left.0));
            let hits = scored.iter().take(20).filter(|(_, bought)| *bought).count();
            sum += hits as f64 / f64::from(self.truth_count[list].min(20));
            count += 1;
        }
        if count == 0 { 0.0 } else { sum / f64::from(count) }
    }
}

/// How a ranker is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankerOptions {
    /// Hidden units; 0 gives a linear ranker.
    pub hidden: usize,
    /// Passes over all lists.
    pub epochs: usize,
    /// Adam's step size at the start; it falls to a tenth by a cosine.
    pub learning_rate: f32,
    /// Decay of the weights a step, relative to the step size.
    pub weight_decay: f32,
    /// Seed of the start and the order.
    pub seed: u64,
}

impl Default for RankerOptions {
    fn default() -> Self {
        Self { hidden: 16, epochs: 6, learning_rate: 3e-3, weight_decay: 0.01, seed: 1 }
    }
}

/// Trains a ranker; `after_epoch` sees it after every pass (1-based) and says whether to go on.
pub fn fit_ranker(
    examples: &RankExamples,
    options: &RankerOptions,
    after_epoch: &mut dyn FnMut(usize, &Ranker) -> bool,
) -> Ranker {
    const LISTS_A_STEP: usize = 16;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(options.seed);
    let mut ranker = start(examples, options.hidden, &mut random);
    let mut adam = Adam::new(&ranker);
    let mut gradient = zeros_like(&ranker);
    let mut order: Vec<usize> =
        (0..examples.list_count()).filter(|list| examples.bought[examples.range(*list)].contains(&true)).collect();
    let step_count = order.len().div_ceil(LISTS_A_STEP) * options.epochs;
    let mut step = 0;
    for epoch in 1..=options.epochs {
        order.shuffle(&mut random);
        for lists in order.chunks(LISTS_A_STEP) {
            for part in parameters(&mut gradient) {
                part.fill(0.0);
            }
            for list in lists {
                add_gradient(&ranker, examples, *list, 1.0 / lists.len() as f32, &mut gradient);
            }
            let progress = step as f32 / step_count.max(1) as f32;
            let rate = options.learning_rate * (0.1 + 0.45 * (1.0 + (std::f32::consts::PI * progress).cos()));
            adam.step(&mut ranker, &mut gradient, rate, options.weight_decay);
            step += 1;
        }
        if !after_epoch(epoch, &ranker) {
            break;
        }
    }
    ranker
}

/// A linear start at zero, small random hidden weights, and the standardisation of the examples.
fn start(examples: &RankExamples, hidden: usize, random: &mut Xoshiro256PlusPlus) -> Ranker {
    let count = examples.candidate_count().max(1) as f64;
    let mut mean = vec![0.0_f64; FEATURE_WIDTH];
    let mut square = vec![0.0_f64; FEATURE_WIDTH];
    for row in examples.features.chunks_exact(FEATURE_WIDTH) {
        for ((mean, square), value) in mean.iter_mut().zip(&mut square).zip(row) {
            *mean += f64::from(*value);
            *square += f64::from(*value) * f64::from(*value);
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "served in single precision")]
    let (mean, inverse_deviation) = mean
        .iter()
        .zip(&square)
        .map(|(sum, square)| {
            let mean = sum / count;
            let deviation = (square / count - mean * mean).max(0.0).sqrt();
            (mean as f32, if deviation > 1e-6 { (1.0 / deviation) as f32 } else { 0.0 })
        })
        .unzip();
    let scale = (2.0 / FEATURE_WIDTH as f32).sqrt();
    let mut weight = || (random.random::<f32>() * 2.0 - 1.0) * scale;
    Ranker {
        mean,
        inverse_deviation,
        linear: vec![0.0; FEATURE_WIDTH],
        hidden_weights: (0..hidden * FEATURE_WIDTH).map(|_| weight()).collect(),
        hidden_bias: vec![0.0; hidden],
        output: (0..hidden).map(|_| 0.1 * weight()).collect(),
    }
}

fn zeros_like(ranker: &Ranker) -> Ranker {
    let zeros = |values: &[f32]| vec![0.0; values.len()];
    Ranker {
        mean: Vec::new(),
        inverse_deviation: Vec::new(),
        linear: zeros(&ranker.linear),
        hidden_weights: zeros(&ranker.hidden_weights),
        hidden_bias: zeros(&ranker.hidden_bias),
        output: zeros(&ranker.output),
    }
}

fn parameters(ranker: &mut Ranker) -> [&mut Vec<f32>; 4] {
    [&mut ranker.linear, &mut ranker.hidden_weights, &mut ranker.hidden_bias, &mut ranker.output]
}

/// Adds the gradient of one list's loss: the softmax over its candidates should put its mass on what was bought.
fn add_gradient(ranker: &Ranker, examples: &RankExamples, list: usize, share: f32, gradient: &mut Ranker) {
    let range = examples.range(list);
    let (width, hidden) = (FEATURE_WIDTH, ranker.hidden());
    let mut inputs = vec![0.0; range.len() * width];
    let mut activations = vec![0.0; range.len() * hidden];
    let mut scores = Vec::with_capacity(range.len());
    for (place, (input, activation)) in
        range.clone().zip(inputs.chunks_exact_mut(width).zip(chunks(&mut activations, hidden, range.len())))
    {
        ranker.standardise(examples.row(place), input);
        let mut score = dot(&ranker.linear, input);
        for (unit, active) in activation.iter_mut().enumerate() {
            let row = &ranker.hidden_weights[unit * width..(unit + 1) * width];
            *active = (ranker.hidden_bias[unit] + dot(row, input)).max(0.0);
            score += ranker.output[unit] * *active;
        }
        scores.push(score);
    }
    let high = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - high).exp()).collect();
    let total: f32 = weights.iter().sum();
    let positives = examples.bought[range.clone()].iter().filter(|bought| **bought).count() as f32;
    for (index, place) in range.enumerate() {
        let target = if examples.bought[place] { 1.0 / positives } else { 0.0 };
        let slope = share * (weights[index] / total - target);
        if slope.abs() < 1e-9 {
            continue;
        }
        let input = &inputs[index * width..(index + 1) * width];
        add(&mut gradient.linear, input, slope);
        for unit in 0..hidden {
            let active = activations[index * hidden + unit];
            if active > 0.0 {
                gradient.output[unit] += slope * active;
                let inner = slope * ranker.output[unit];
                gradient.hidden_bias[unit] += inner;
                add(&mut gradient.hidden_weights[unit * width..(unit + 1) * width], input, inner);
            }
        }
    }
}

/// `count` chunks of `size`, also when `size` is 0.
fn chunks(values: &mut [f32], size: usize, count: usize) -> Vec<&mut [f32]> {
    if size == 0 {
        return (0..count).map(|_| &mut [][..]).collect();
    }
    values.chunks_exact_mut(size).collect()
}

/// Adam with decoupled weight decay.
struct Adam {
    first: Ranker,
    second: Ranker,
    steps: i32,
}

impl Adam {
    fn new(ranker: &Ranker) -> Self {
        Self { first: zeros_like(ranker), second: zeros_like(ranker), steps: 0 }
    }

    fn step(&mut self, ranker: &mut Ranker, gradient: &mut Ranker, rate: f32, decay: f32) {
        const BETA1: f32 = 0.9;
        const BETA2: f32 = 0.99;
        self.steps += 1;
        let correct1 = 1.0 - BETA1.powi(self.steps);
        let correct2 = 1.0 - BETA2.powi(self.steps);
        let moments = parameters(&mut self.first).into_iter().zip(parameters(&mut self.second));
        for ((values, slopes), (first, second)) in parameters(ranker).into_iter().zip(parameters(gradient)).zip(moments)
        {
            for ((value, slope), (first, second)) in
                values.iter_mut().zip(slopes.iter()).zip(first.iter_mut().zip(second.iter_mut()))
            {
                *first = BETA1 * *first + (1.0 - BETA1) * slope;
                *second = BETA2 * *second + (1.0 - BETA2) * slope * slope;
                *value -= rate * ((*first / correct1) / ((*second / correct2).sqrt() + 1e-8) + decay * *value);
            }
        }
    }
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
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

fn add(sum: &mut [f32], values: &[f32], factor: f32) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bought is what exactly one of two features speaks for: no linear score can tell.
    fn examples(lists: usize, seed: u64) -> RankExamples {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut examples = RankExamples::default();
        for _ in 0..lists {
            let rows: Vec<([f32; FEATURE_WIDTH], bool)> = (0..60)
                .map(|_| {
                    let mut row = [0.0; FEATURE_WIDTH];
                    let (left, right) = (random.random_bool(0.5), random.random_bool(0.5));
                    row[0] = f32::from(u8::from(left));
                    row[5] = f32::from(u8::from(right));
                    (row, left != right && random.random_bool(0.5))
                })
                .collect();
            let truth = rows.iter().filter(|(_, bought)| *bought).count();
            examples.push(rows.iter().map(|(row, bought)| (&row[..], *bought)), u32::try_from(truth).unwrap());
        }
        examples
    }

    #[test]
    fn the_hidden_layer_finds_what_a_linear_ranker_cannot() {
        let (train, test) = (examples(200, 1), examples(50, 2));
        let fit = |hidden| {
            let options = RankerOptions { hidden, epochs: 20, learning_rate: 0.02, ..RankerOptions::default() };
            let ranker = fit_ranker(&train, &options, &mut |_, _| true);
            test.recall_at_20(|row| ranker.score(row))
        };
        let (linear, hidden) = (fit(0), fit(16));
        assert!(hidden > linear + 0.1, "linear {linear}, hidden {hidden}");
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let examples = examples(1, 3);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(4);
        let ranker = start(&examples, 3, &mut random);
        let loss = |ranker: &Ranker| {
            let scores: Vec<f32> = examples.range(0).map(|place| ranker.score(examples.row(place))).collect();
            let total: f32 = scores.iter().map(|score| score.exp()).sum();
            let bought: Vec<f32> =
                scores.iter().zip(&examples.bought).filter(|(_, bought)| **bought).map(|(score, _)| *score).collect();
            bought.iter().map(|score| total.ln() - score).sum::<f32>() / bought.len() as f32
        };
        let mut gradient = zeros_like(&ranker);
        add_gradient(&ranker, &examples, 0, 1.0, &mut gradient);
        for (part, place) in [(0, 0), (0, 5), (1, 0), (1, FEATURE_WIDTH + 5), (2, 1), (3, 2)] {
            let moved = |by: f32| {
                let mut copy = ranker.clone();
                parameters(&mut copy)[part][place] += by;
                loss(&copy)
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let found = parameters(&mut gradient)[part][place];
            assert!((slope - found).abs() < 5e-3, "part {part} place {place}: {slope} against {found}");
        }
    }
}
