//! Fits BG/NBD by maximum likelihood. The closed forms for one user live with the features.

use super::simplex::minimise;
use crate::features::{BgNbd, RepeatHistory};

/// Users used at most: the four parameters do not need more.
const MAX_USERS: usize = 20_000;

/// Fits the model to the histories of users with at least one active day. `None` without any repeat to learn from.
pub fn fit(histories: &[RepeatHistory]) -> Option<BgNbd> {
    if histories.iter().all(|history| history.repeats <= 0.0) {
        return None;
    }
    let step = histories.len().div_ceil(MAX_USERS);
    let sample: Vec<RepeatHistory> = histories.iter().step_by(step).copied().collect();
    let mean_age = sample.iter().map(|history| history.age_days).sum::<f64>() / count(sample.len());
    let start = [0.0, (mean_age / 10.0).max(0.1).ln(), -1.0, 0.5];
    // A weak pull towards 1 keeps the parameters finite where the data say nothing (nobody ever left).
    let objective = |point: &[f64]| {
        let model = from_logs(point);
        let loss: f64 = sample.iter().map(|history| -log_likelihood(&model, *history)).sum();
        let pull: f64 = point.iter().map(|value| value * value).sum();
        loss / count(sample.len()) + 1e-4 * pull
    };
    let found = minimise(objective, &start, 0.5, 600);
    Some(from_logs(&found))
}

fn from_logs(point: &[f64]) -> BgNbd {
    let positive = |value: f64| value.clamp(-12.0, 12.0).exp();
    BgNbd { r: positive(point[0]), alpha: positive(point[1]), a: positive(point[2]), b: positive(point[3]) }
}

/// Log-likelihood of one user (Fader, Hardie & Lee 2005, equation 6), up to the parts without parameters.
fn log_likelihood(model: &BgNbd, history: RepeatHistory) -> f64 {
    let BgNbd { r, alpha, a, b } = *model;
    let RepeatHistory { repeats: x, last_days, age_days } = history;
    let rate = ln_gamma(r + x) - ln_gamma(r) + r * alpha.ln();
    let stayed = ln_gamma(b + x) - ln_gamma(a + b + x) - ln_gamma(b) + ln_gamma(a + b);
    let alive = -(r + x) * (alpha + age_days).ln();
    if x <= 0.0 {
        return rate + stayed + alive;
    }
    let gone = (a / (b + x - 1.0).max(1e-9)).ln() - (r + x) * (alpha + last_days).ln();
    rate + stayed + log_sum(alive, gone)
}

fn log_sum(left: f64, right: f64) -> f64 {
    let high = left.max(right);
    high + ((left - high).exp() + (right - high).exp()).ln()
}

/// Logarithm of the gamma function for positive arguments (Lanczos, about 15 digits).
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        let pi = std::f64::consts::PI;
        return (pi / (pi * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let mut sum = 0.999_999_999_999_809_9;
    for (place, coefficient) in (1_u32..).zip(COEFFICIENTS) {
        sum += coefficient / (x + f64::from(place));
    }
    let t = x + 7.5;
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

#[expect(clippy::cast_precision_loss, reason = "a count of users")]
fn count(length: usize) -> f64 {
    length as f64
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    #[test]
    fn ln_gamma_of_known_values() {
        for (x, expected) in [(1.0, 0.0), (5.0, 24.0_f64.ln()), (0.5, std::f64::consts::PI.sqrt().ln())] {
            assert!((ln_gamma(x) - expected).abs() < 1e-10, "{x}");
        }
        // ln(99!) by summation.
        let sum: f64 = (1..100).map(|n| f64::from(n).ln()).sum();
        assert!((ln_gamma(100.0) - sum).abs() < 1e-9);
    }

    /// Users who all buy at rate λ a day and leave with probability p after each purchase: the fit must find both.
    #[test]
    fn recovers_a_population_it_was_drawn_from() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let (rate, leaving, age_days) = (0.1, 0.2, 200.0);
        let histories: Vec<RepeatHistory> = (0..3_000)
            .map(|_| {
                let (mut time, mut repeats) = (0.0, 0.0);
                loop {
                    let next = time - (1.0 - random.random::<f64>()).ln() / rate;
                    if next > age_days {
                        break;
                    }
                    time = next;
                    repeats += 1.0;
                    if random.random_bool(leaving) {
                        break;
                    }
                }
                RepeatHistory { repeats, last_days: time, age_days }
            })
            .collect();
        let model = fit(&histories).unwrap();
        assert!((model.r / model.alpha - rate).abs() < 0.015, "{model:?}");
        assert!((model.a / (model.a + model.b) - leaving).abs() < 0.03, "{model:?}");
    }

    #[test]
    fn nothing_to_learn_from_is_no_model() {
        assert!(fit(&[]).is_none());
        assert!(fit(&[RepeatHistory { repeats: 0.0, last_days: 0.0, age_days: 9.0 }]).is_none());
    }
}
