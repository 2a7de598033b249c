//! Log-odds to probabilities that mean what they say, fitted on validation users.

#![expect(clippy::cast_possible_truncation, reason = "fitted in double, served in single precision")]

use serde::{Deserialize, Serialize};

/// Platt scaling: `P = σ(scale · log-odds + offset)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platt {
    /// Factor of the log-odds, positive, so that the order of users stays.
    pub scale: f32,
    /// Added to the scaled log-odds.
    pub offset: f32,
}

impl Default for Platt {
    /// Changes nothing.
    fn default() -> Self {
        Self { scale: 1.0, offset: 0.0 }
    }
}

impl Platt {
    /// Fits on log-odds and outcomes by Newton's method with Platt's smoothed targets. Without both outcomes present it
    /// changes nothing.
    pub fn fit(pairs: &[(f32, bool)]) -> Self {
        let count = |outcome: bool| pairs.iter().filter(|(_, happened)| *happened == outcome).count();
        let (happened, did_not) = (f64::from(count(true) as u32), f64::from(count(false) as u32));
        if happened < 1.0 || did_not < 1.0 {
            return Self::default();
        }
        let (high, low) = ((happened + 1.0) / (happened + 2.0), 1.0 / (did_not + 2.0));
        let (mut scale, mut offset) = (1.0_f64, 0.0_f64);
        for _ in 0..50 {
            // A weak pull to (1, 0) keeps the system solvable when log-odds hardly vary.
            let ridge = 1e-3;
            let (mut g0, mut g1) = (ridge * (scale - 1.0), ridge * offset);
            let (mut h00, mut h01, mut h11) = (ridge, 0.0, ridge);
            for (log_odds, outcome) in pairs {
                let x = f64::from(*log_odds);
                let p = 1.0 / (1.0 + (-(scale * x + offset)).exp());
                let error = p - if *outcome { high } else { low };
                let curvature = p * (1.0 - p);
                g0 += error * x;
                g1 += error;
                h00 += curvature * x * x;
                h01 += curvature * x;
                h11 += curvature;
            }
            let determinant = h00 * h11 - h01 * h01;
            if determinant.abs() < 1e-12 {
                break;
            }
            let (step0, step1) = ((h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant);
            let largest = step0.abs().max(step1.abs());
            let damping = if largest > 2.0 { 2.0 / largest } else { 1.0 };
            scale = (scale - damping * step0).max(0.05);
            offset -= damping * step1;
            if largest < 1e-7 {
                break;
            }
        }
        Self { scale: scale as f32, offset: offset as f32 }
    }

    /// The calibrated log-odds.
    pub fn log_odds(self, log_odds: f32) -> f32 {
        self.scale * log_odds + self.offset
    }

    /// The probability.
    pub fn probability(self, log_odds: f32) -> f32 {
        sigmoid(self.log_odds(log_odds))
    }
}

/// Calibration of both probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Of churn.
    pub churn: Platt,
    /// Of purchase.
    pub purchase: Platt,
}

/// `1 / (1 + e^−x)` without overflow.
pub(crate) fn sigmoid(x: f32) -> f32 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overconfident_log_odds_are_pulled_back() {
        // Outcomes follow σ(x/2 + 1) while the log-odds claim x.
        let mut pairs = Vec::new();
        for step in -40_i16..=40 {
            let x = f32::from(step) / 8.0;
            let share = sigmoid(0.5 * x + 1.0);
            pairs.extend((0..100_u8).map(|place| (x, f32::from(place) + 0.5 < 100.0 * share)));
        }
        let fitted = Platt::fit(&pairs);
        assert!((fitted.scale - 0.5).abs() < 0.02 && (fitted.offset - 1.0).abs() < 0.03, "{fitted:?}");
    }

    #[test]
    fn one_outcome_changes_nothing() {
        assert_eq!(Platt::fit(&[(0.3, true), (2.0, true)]), Platt::default());
        assert_eq!(Platt::fit(&[]), Platt::default());
    }
}
