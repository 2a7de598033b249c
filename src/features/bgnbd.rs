//! The BG/NBD model of repeat activity (Fader, Hardie & Lee 2005): closed forms for one user.
//!
//! While alive a user is active by a Poisson process of rate λ ~ Gamma(r, α); after each activity the user leaves with
//! probability p ~ Beta(a, b). Fitting lives with training.

use serde::{Deserialize, Serialize};

/// Fitted parameters; times are in days.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BgNbd {
    /// Shape of the rate's gamma distribution.
    pub r: f64,
    /// Its inverse scale, days.
    pub alpha: f64,
    /// First parameter of the dropout's beta distribution.
    pub a: f64,
    /// Second parameter of the dropout's beta distribution.
    pub b: f64,
}

/// What BG/NBD needs to know of a user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RepeatHistory {
    /// Active days after the first.
    pub repeats: f64,
    /// Days from the first to the last active day.
    pub last_days: f64,
    /// Days from the first active day to the moment.
    pub age_days: f64,
}

impl BgNbd {
    /// P(the user has not left yet). 1 for a user without repeats: the model lets nobody leave before one.
    pub fn alive_probability(&self, history: RepeatHistory) -> f64 {
        let RepeatHistory { repeats, last_days, age_days } = history;
        if repeats <= 0.0 {
            return 1.0;
        }
        let log_odds_left = (self.a / (self.b + repeats - 1.0).max(1e-9)).ln()
            + (self.r + repeats) * ((self.alpha + age_days) / (self.alpha + last_days)).ln();
        1.0 / (1.0 + log_odds_left.exp())
    }

    /// P(no activity in the next `horizon_days`).
    pub fn silent_probability(&self, history: RepeatHistory, horizon_days: f64) -> f64 {
        let alive = self.alive_probability(history);
        let base = (self.alpha + history.age_days) / (self.alpha + history.age_days + horizon_days);
        let quiet = base.powf(self.r + history.repeats);
        (1.0 - alive + alive * quiet).clamp(0.0, 1.0)
    }

    /// Expected active days in the next `horizon_days`, at most one a day.
    pub fn expected_days(&self, history: RepeatHistory, horizon_days: f64) -> f64 {
        let x = history.repeats;
        // The formula has removable poles at a = 1 and c = 0; half a millionth off is far below the fit's own error.
        let a = if (self.a - 1.0).abs() < 1e-6 { 1.0 + 1e-6 } else { self.a };
        let c = a + self.b + x - 1.0;
        let c = if c.abs() < 1e-6 { 1e-6 } else { c };
        let z = horizon_days / (self.alpha + history.age_days + horizon_days);
        // Euler's transformation keeps the series short for users with many repeats.
        let tail = (1.0 - z).powf(a - 1.0) * hypergeometric(c - self.r - x, a - 1.0, c, z);
        let expected = c / (a - 1.0) * (1.0 - tail) * self.alive_probability(history);
        if expected.is_finite() { expected.clamp(0.0, horizon_days) } else { 0.0 }
    }
}

/// Gauss' hypergeometric series for `0 <= z < 1`.
fn hypergeometric(a: f64, b: f64, c: f64, z: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for step in 0..2_000 {
        let n = f64::from(step);
        term *= (a + n) * (b + n) / ((c + n) * (n + 1.0)) * z;
        sum += term;
        if term.abs() < 1e-12 * sum.abs() {
            break;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The CDNOW fit of the paper (weeks, so horizons and times below are weeks).
    const CDNOW: BgNbd = BgNbd { r: 0.243, alpha: 4.414, a: 0.793, b: 2.426 };

    #[test]
    fn the_papers_example_customer() {
        // Fader, Hardie & Lee: x = 2, t_x = 30.43, T = 38.86 → 1.226 expected in the next 39 weeks.
        let history = RepeatHistory { repeats: 2.0, last_days: 30.43, age_days: 38.86 };
        let expected = CDNOW.expected_days(history, 39.0);
        assert!((expected - 1.226).abs() < 2e-3, "{expected}");
    }

    #[test]
    fn silence_is_more_likely_after_longer_silence() {
        let recent = RepeatHistory { repeats: 5.0, last_days: 37.0, age_days: 38.0 };
        let gone = RepeatHistory { repeats: 5.0, last_days: 10.0, age_days: 38.0 };
        assert!(CDNOW.silent_probability(recent, 4.0) < CDNOW.silent_probability(gone, 4.0));
        assert!(CDNOW.alive_probability(recent) > 0.85);
        assert!(CDNOW.alive_probability(gone) < 0.3);
    }

    #[test]
    fn extremes_stay_finite() {
        for repeats in [0.0, 1.0, 500.0] {
            for (last_days, age_days) in [(0.0, 0.0), (0.0, 4_000.0), (511.0, 511.0)] {
                let history = RepeatHistory { repeats, last_days, age_days };
                let model = BgNbd { r: 0.9, alpha: 5.0, a: 1.0, b: 0.01 };
                for value in [model.silent_probability(history, 30.0), model.expected_days(history, 30.0) / 30.0] {
                    assert!((0.0..=1.0).contains(&value), "{history:?} {value}");
                }
            }
        }
    }
}
