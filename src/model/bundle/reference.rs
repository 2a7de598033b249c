//! How features and scores were distributed in training, part of `metrics.json`: what drift is measured against.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Bundle;
use crate::features::{FeatureSpec, Reference};

/// The distributions of a bundle's training.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct References {
    /// Of every feature in the specification's order, among the users of the newest moment; `None` where it was never present.
    pub features: Vec<Option<Reference>>,
    /// Of the served churn and purchase probabilities on validation; `None` in bundles that do not hold them.
    pub scores: [Option<Reference>; 2],
}

/// The stored form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    features: BTreeMap<String, Reference>,
    churn: Option<Reference>,
    purchase: Option<Reference>,
}

/// The key in `metrics.json`.
const KEY: &str = "reference";

impl References {
    /// What goes into `metrics.json` under the key `reference`.
    pub fn to_json(&self, spec: &FeatureSpec) -> serde_json::Value {
        let named = spec.features().iter().zip(&self.features);
        let features = named.filter_map(|(feature, reference)| Some((feature.name.clone(), reference.clone()?)));
        let [churn, purchase] = self.scores.clone();
        serde_json::json!(Stored { features: features.collect(), churn, purchase })
    }
}

impl Bundle {
    /// How features and scores were distributed in training. A bundle that does not say so knows quantiles of its features, and
    /// nothing of its scores.
    pub fn references(&self) -> References {
        let features = self.spec.features().iter();
        match stored(&self.metrics) {
            Ok(Some(mut stored)) => References {
                features: features.map(|feature| stored.features.remove(&feature.name)).collect(),
                scores: [stored.churn, stored.purchase],
            },
            // Loading refuses what is malformed.
            Ok(None) | Err(_) => References {
                features: features.map(|feature| Reference::of_knots(&feature.knots)).collect(),
                scores: [None, None],
            },
        }
    }
}

/// What is wrong with the distributions of a bundle, if anything.
pub(super) fn problem(metrics: &serde_json::Value) -> Option<String> {
    let stored = match stored(metrics) {
        Ok(stored) => stored?,
        Err(error) => return Some(format!("`{KEY}`: {error}")),
    };
    let scores = [("churn", &stored.churn), ("purchase", &stored.purchase)];
    let scores = scores.into_iter().filter_map(|(name, reference)| Some((name, reference.as_ref()?)));
    let features = stored.features.iter().map(|(name, reference)| (name.as_str(), reference));
    features.chain(scores).find_map(|(name, reference)| Some(format!("`{KEY}` of `{name}`: {}", reference.problem()?)))
}

fn stored(metrics: &serde_json::Value) -> Result<Option<Stored>, serde_json::Error> {
    metrics.get(KEY).map(Stored::deserialize).transpose()
}
