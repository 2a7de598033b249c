//! What the model is held against: rules of one input, BG/NBD, and the logistic regression over all features.

use super::{
    super::{
        logistic::{Examples, Logistic, sigmoid},
        schedule::Horizons,
    },
    Head,
};
use crate::features::{BgNbd, RepeatHistory};

/// A logistic regression over one input per user: a baseline.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Single(Logistic);

impl Single {
    pub(super) fn fit(inputs: &[f32], labels: &[bool]) -> Self {
        Self(Logistic::fit(Examples { inputs, width: 1, labels }, 1e-6))
    }

    pub(super) fn probability(&self, input: f32) -> f64 {
        sigmoid(f64::from(self.0.logit(&[input])))
    }
}

/// The baselines of one head.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Baselines {
    pub(super) recency: Single,
    pub(super) frequency: Single,
    pub(super) bgnbd: Option<BgNbd>,
    pub(super) logistic: Wide,
}

/// Weights of the network's linear path: of each feature's score, then of each missing bit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wide {
    pub(super) weights: Vec<f32>,
    pub(super) bias: f32,
}

impl Wide {
    pub(super) fn logit(&self, scores: &[f32], missing: impl Iterator<Item = bool>) -> f32 {
        let width = scores.len();
        let mut sum = self.bias;
        for (weight, score) in self.weights.iter().zip(scores) {
            sum += weight * score;
        }
        for (weight, missing) in self.weights[width..].iter().zip(missing) {
            if missing {
                sum += weight;
            }
        }
        sum
    }
}

impl Baselines {
    #[expect(clippy::too_many_arguments, reason = "each baseline reads something else of the user")]
    pub(super) fn probability(
        &self,
        name: &str,
        head: Head,
        horizons: &Horizons,
        activity: RepeatHistory,
        purchase: Option<RepeatHistory>,
        scores: &[f32],
        missing: impl Iterator<Item = bool>,
    ) -> Option<f64> {
        let own = own_history(head, activity, purchase);
        Some(match name {
            "recency" => self.recency.probability(silence_log(own)),
            "frequency" => self.frequency.probability(frequency_log(own)),
            "bg_nbd" => {
                let model = self.bgnbd?;
                match (head, own) {
                    (Head::Churn, Some(own)) => model.silent_probability(own, f64::from(horizons.churn_days)),
                    (Head::Churn, None) => 1.0,
                    (Head::Purchase, Some(own)) => {
                        1.0 - model.silent_probability(own, f64::from(horizons.purchase_days))
                    }
                    (Head::Purchase, None) => 0.0,
                }
            }
            "logistic" => sigmoid(f64::from(self.logistic.logit(scores, missing))),
            _ => return None,
        })
    }
}

pub(super) fn own_history(
    head: Head,
    activity: RepeatHistory,
    purchase: Option<RepeatHistory>,
) -> Option<RepeatHistory> {
    match head {
        Head::Churn => Some(activity),
        Head::Purchase => purchase,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "days need few digits")]
pub(super) fn silence_log(history: Option<RepeatHistory>) -> f32 {
    history.map_or(8.0, |history| (history.age_days - history.last_days).ln_1p() as f32)
}

#[expect(clippy::cast_possible_truncation, reason = "counts of days need few digits")]
pub(super) fn frequency_log(history: Option<RepeatHistory>) -> f32 {
    history.map_or(0.0, |history| (history.repeats + 1.0).ln_1p() as f32)
}
