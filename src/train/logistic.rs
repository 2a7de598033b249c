//! Logistic regression with a ridge penalty, fitted by limited-memory BFGS.

#![expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "weights are single precision")]

use std::collections::VecDeque;

/// A fitted logistic regression.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic {
    /// One weight an input.
    pub weights: Vec<f32>,
    /// Log-odds when all inputs are 0.
    pub bias: f32,
}

/// What to fit to: a dense row-major matrix with one label a row.
#[derive(Debug, Clone, Copy)]
pub struct Examples<'a> {
    /// `rows × width` values, finite.
    pub inputs: &'a [f32],
    /// Values a row.
    pub width: usize,
    /// One a row.
    pub labels: &'a [bool],
}

impl Logistic {
    /// The log-odds of one row.
    pub fn logit(&self, row: &[f32]) -> f32 {
        self.bias + dot(&self.weights, row)
    }

    /// Minimises the mean log-loss plus `ridge / 2 · |weights|²` (the bias is free).
    ///
    /// # Panics
    /// When the matrix and the labels do not fit together.
    pub fn fit(examples: Examples<'_>, ridge: f64) -> Self {
        assert_eq!(examples.inputs.len(), examples.width * examples.labels.len(), "one label a row");
        let positives = examples.labels.iter().filter(|label| **label).count() as f64 + 0.5;
        let negatives = examples.labels.len() as f64 - positives + 1.0;
        let mut start = vec![0.0; examples.width + 1];
        start[examples.width] = (positives / negatives).ln();
        let point = lbfgs(|point, gradient| objective(examples, ridge, point, gradient), start, 200);
        Self {
            weights: point[..examples.width].iter().map(|weight| *weight as f32).collect(),
            bias: point[examples.width] as f32,
        }
    }
}

/// Log-loss and its gradient; the last coordinate is the bias.
fn objective(examples: Examples<'_>, ridge: f64, point: &[f64], gradient: &mut [f64]) -> f64 {
    let width = examples.width;
    let weights: Vec<f32> = point[..width].iter().map(|weight| *weight as f32).collect();
    let share = 1.0 / examples.labels.len().max(1) as f64;
    gradient.fill(0.0);
    let mut partial = vec![0.0_f32; width];
    let mut loss = 0.0;
    // Sums of 256 rows in single precision, then in double: fast and exact enough for the line search.
    for (rows, labels) in examples.inputs.chunks(width.max(1) * 256).zip(examples.labels.chunks(256)) {
        partial.fill(0.0);
        for (row, label) in rows.chunks_exact(width.max(1)).zip(labels) {
            let logit = point[width] + f64::from(dot(&weights, row));
            let probability = sigmoid(logit);
            let target = f64::from(u8::from(*label));
            loss += share * softplus(if *label { -logit } else { logit });
            let slope = share * (probability - target);
            gradient[width] += slope;
            let slope = slope as f32;
            for (sum, value) in partial.iter_mut().zip(row) {
                *sum += slope * value;
            }
        }
        for (sum, part) in gradient.iter_mut().zip(&partial) {
            *sum += f64::from(*part);
        }
    }
    for (sum, weight) in gradient.iter_mut().zip(&point[..width]) {
        *sum += ridge * weight;
        loss += 0.5 * ridge * weight * weight;
    }
    loss
}

/// Minimises a smooth function from `point`; `function` writes the gradient and returns the value.
fn lbfgs(function: impl Fn(&[f64], &mut [f64]) -> f64, mut point: Vec<f64>, max_rounds: usize) -> Vec<f64> {
    const MEMORY: usize = 10;
    let mut gradient = vec![0.0; point.len()];
    let mut value = function(&point, &mut gradient);
    let mut history: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::with_capacity(MEMORY);
    for _ in 0..max_rounds {
        let direction = two_loop(&history, &gradient);
        let descent = dot64(&direction, &gradient);
        if descent > -1e-12 {
            break;
        }
        let mut step = 1.0;
        let mut next = vec![0.0; point.len()];
        let mut next_gradient = vec![0.0; point.len()];
        let mut next_value = f64::INFINITY;
        for _ in 0..20 {
            for ((next, point), direction) in next.iter_mut().zip(&point).zip(&direction) {
                *next = point + step * direction;
            }
            next_value = function(&next, &mut next_gradient);
            if next_value <= value + 1e-4 * step * descent {
                break;
            }
            step *= 0.5;
        }
        if next_value >= value {
            break;
        }
        let moved: Vec<f64> = next.iter().zip(&point).map(|(next, point)| next - point).collect();
        let bent: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(next, now)| next - now).collect();
        let curvature = dot64(&moved, &bent);
        if curvature > 1e-12 {
            if history.len() == MEMORY {
                history.pop_front();
            }
            history.push_back((moved, bent, 1.0 / curvature));
        }
        let gained = value - next_value;
        (point, gradient, value) = (next, next_gradient, next_value);
        if gained < 1e-7 * value.abs() {
            break;
        }
    }
    point
}

/// The quasi-Newton direction from the last moves and gradient changes.
fn two_loop(history: &VecDeque<(Vec<f64>, Vec<f64>, f64)>, gradient: &[f64]) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
    let mut factors = Vec::with_capacity(history.len());
    for (moved, bent, inverse) in history.iter().rev() {
        let factor = inverse * dot64(moved, &direction);
        add(&mut direction, bent, -factor);
        factors.push(factor);
    }
    if let Some((moved, bent, _)) = history.back() {
        let scale = dot64(moved, bent) / dot64(bent, bent).max(1e-300);
        for value in &mut direction {
            *value *= scale;
        }
    }
    for ((moved, bent, inverse), factor) in history.iter().zip(factors.into_iter().rev()) {
        let back = inverse * dot64(bent, &direction);
        add(&mut direction, moved, factor - back);
    }
    direction
}

/// The logistic function.
pub(crate) fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

fn softplus(value: f64) -> f64 {
    value.max(0.0) + (-value.abs()).exp().ln_1p()
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    // Eight sums, so that the compiler may use wide registers.
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

fn dot64(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn add(sum: &mut [f64], values: &[f64], factor: f64) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    #[test]
    fn finds_the_log_odds_of_a_table() {
        // 30 of 40 when the input is 1, 10 of 40 when it is 0.
        let inputs: Vec<f32> = (0..80).map(|row| if row < 40 { 1.0 } else { 0.0 }).collect();
        let labels: Vec<bool> = (0..80).map(|row| if row < 40 { row < 30 } else { row < 50 }).collect();
        let model = Logistic::fit(Examples { inputs: &inputs, width: 1, labels: &labels }, 0.0);
        assert!((model.bias - (1.0_f32 / 3.0).ln()).abs() < 1e-3, "{model:?}");
        assert!((model.weights[0] - 9.0_f32.ln()).abs() < 2e-3, "{model:?}");
    }

    #[test]
    fn recovers_the_weights_it_was_drawn_from() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let truth = [1.0_f32, -2.0, 0.0, 0.5];
        let inputs: Vec<f32> = (0..4 * 20_000).map(|_| random.random::<f32>() * 2.0 - 1.0).collect();
        let labels: Vec<bool> =
            inputs.chunks(4).map(|row| random.random_bool(sigmoid(f64::from(0.3 + dot(&truth, row))))).collect();
        let model = Logistic::fit(Examples { inputs: &inputs, width: 4, labels: &labels }, 1e-6);
        for (found, expected) in model.weights.iter().zip(truth) {
            assert!((found - expected).abs() < 0.12, "{model:?}");
        }
    }

    #[test]
    fn one_class_only_stays_finite() {
        let model = Logistic::fit(Examples { inputs: &[1.0, 2.0], width: 1, labels: &[true, true] }, 1e-3);
        assert!(model.logit(&[1.5]).is_finite() && model.logit(&[1.5]) > 0.0);
    }
}
