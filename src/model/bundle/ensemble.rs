//! Boosted trees, weights and calibrations of the heads, to and from a bundle's files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    BundleError, CONFIG_FILE, TREES_FILE,
    tensors::{self, Array},
};
use crate::model::{Blend, Curve, Ensemble, Forest, ForestParts, Habit, Weights};

/// Everything but the trees; part of `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredEnsemble {
    churn: StoredBlend,
    purchase: StoredBlend,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredBlend {
    weights: Weights,
    curve: Curve,
    habit: Option<Habit>,
    /// Log-odds before any tree.
    trees_base: f32,
}

impl StoredEnsemble {
    pub(super) fn of(ensemble: &Ensemble) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the base of a mean forest is single precision")]
        let stored = |blend: &Blend| StoredBlend {
            weights: blend.weights,
            curve: blend.curve,
            habit: blend.habit,
            trees_base: blend.forest.base() as f32,
        };
        Self { churn: stored(&ensemble.churn), purchase: stored(&ensemble.purchase) }
    }

    /// Reads the trees for rows of `features` features.
    pub(super) fn with_trees(self, bytes: &[u8], features: usize) -> Result<Ensemble, BundleError> {
        let mut arrays = tensors::read(TREES_FILE, bytes)?;
        let mut blend = |head: &str, stored: StoredBlend| -> Result<Blend, BundleError> {
            let parts = ForestParts {
                base: f64::from(stored.trees_base),
                width: 2 * features,
                roots: integers(&mut arrays, &format!("{head}.roots"))?,
                features: integers(&mut arrays, &format!("{head}.features"))?,
                thresholds: match arrays.remove(&format!("{head}.thresholds")) {
                    Some((_, Array::Floats(values))) => values,
                    _ => return Err(missing(&format!("{head}.thresholds"), "F32")),
                },
                lefts: integers(&mut arrays, &format!("{head}.lefts"))?,
            };
            let forest = Forest::from_parts(&parts)?;
            let blend = Blend { forest, habit: stored.habit, weights: stored.weights, curve: stored.curve };
            match blend.problem(features) {
                Some(message) => Err(BundleError::Malformed { file: CONFIG_FILE, message }),
                None => Ok(blend),
            }
        };
        let ensemble = Ensemble { churn: blend("churn", self.churn)?, purchase: blend("purchase", self.purchase)? };
        match arrays.into_keys().next() {
            Some(name) => {
                Err(BundleError::Malformed { file: TREES_FILE, message: format!("tensor `{name}` is unknown") })
            }
            None => Ok(ensemble),
        }
    }
}

/// The trees of both heads.
pub(super) fn trees_to_bytes(ensemble: &Ensemble) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let mut arrays = BTreeMap::new();
    for (head, blend) in [("churn", &ensemble.churn), ("purchase", &ensemble.purchase)] {
        let ForestParts { roots, features, thresholds, lefts, .. } = blend.forest.to_parts();
        for (name, words) in [("roots", roots), ("features", features), ("lefts", lefts)] {
            arrays.insert(format!("{head}.{name}"), (vec![words.len()], Array::Integers(words)));
        }
        arrays.insert(format!("{head}.thresholds"), (vec![thresholds.len()], Array::Floats(thresholds)));
    }
    tensors::write(&arrays)
}

fn integers(arrays: &mut BTreeMap<String, (Vec<usize>, Array)>, name: &str) -> Result<Vec<u32>, BundleError> {
    match arrays.remove(name) {
        Some((_, Array::Integers(values))) => Ok(values),
        _ => Err(missing(name, "U32")),
    }
}

fn missing(name: &str, kind: &str) -> BundleError {
    BundleError::Malformed { file: TREES_FILE, message: format!("tensor `{name}` of type {kind} is missing") }
}
