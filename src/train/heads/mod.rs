//! Trains what predicts churn and purchase: baselines, a logistic regression over ranked features, the network, boosted
//! trees, and the blend of them that is served.
//!
//! The regression reads the same inputs as the network's linear path, so the mean of both log-odds is a network again:
//! the linear paths are averaged and the deep path is halved. Trees and BG/NBD are served beside it.

mod baselines;
mod blend;
mod folds;
mod forests;
mod judge;
mod network;
mod parts;
mod training;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
};

use serde::{Deserialize, Serialize};

use self::{baselines::Baselines, training::Training};
pub use self::{folds::TreeFolds, forests::TreeSettings, parts::HeadPart};
use super::{
    Pretraining, TrainError,
    examples::{Moment, purchase_history, repeat_history},
    history::{History, HistoryError},
    logistic::sigmoid,
    metrics::BinaryMetrics,
    parallel, predict_all,
    schedule::{Horizons, Schedule},
};
use crate::{
    features::{EncodedUser, Encoder, FeatureSpec, Missing, RepeatHistory},
    graph::UserGraph,
    model::{Blend, Ensemble, FusedForward, Model, Prediction, References, forest_row, probability_of},
};

/// Why heads cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    /// The history is too short or too small.
    #[error("there is nothing to learn from: {0}")]
    TooLittle(String),
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The network cannot be trained.
    #[error(transparent)]
    Network(#[from] TrainError),
}

/// A probability that is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// No activity in the churn horizon.
    Churn,
    /// A purchase in the purchase horizon.
    Purchase,
}

impl Head {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Churn, Self::Purchase];

    fn label(self, example: &Moment) -> Option<bool> {
        match self {
            Self::Churn => example.churned,
            Self::Purchase => example.purchased,
        }
    }

    fn horizon_ms(self, horizons: &Horizons) -> i64 {
        match self {
            Self::Churn => horizons.churn_ms(),
            Self::Purchase => horizons.purchase_ms(),
        }
    }
}

/// Effort spent on training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadOptions {
    /// Seed of everything random.
    pub seed: u64,
    /// Threads.
    pub threads: NonZeroUsize,
    /// Examples kept at most.
    pub max_examples: usize,
    /// Of these, examples the network is trained on at most.
    pub max_network_examples: usize,
    /// Passes of the network at most.
    pub max_epochs: usize,
    /// What the network's sequence encoder learns first.
    pub pretraining: Pretraining,
    /// Items with embeddings of their own at most.
    pub max_vocabulary: usize,
    /// How trees are grown.
    pub trees: TreeSettings,
    /// What stands for missing values.
    pub missing: Missing,
    /// A part to leave out, to see what it is worth.
    pub without: Option<HeadPart>,
}

impl Default for HeadOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            max_examples: 150_000,
            max_network_examples: 16_000,
            max_epochs: 8,
            pretraining: Pretraining::None,
            max_vocabulary: 8_000,
            trees: TreeSettings::default(),
            missing: Missing::Learned,
            without: None,
        }
    }
}

/// Everything that predicts churn and purchase.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Features with the quantiles of the newest moment.
    pub spec: FeatureSpec,
    /// The served network.
    pub model: Model,
    /// What is made of it and the other members.
    pub ensemble: Ensemble,
    /// Best-F1 thresholds on validation, of the served model: churn, purchase.
    pub thresholds: [f64; 2],
    /// Metrics on the validation window by name, before the refit: churn, purchase.
    pub validation: [BTreeMap<String, BinaryMetrics>; 2],
    /// The served model's metrics on the same window by segment (see [`SEGMENTS`]), of those with users enough: churn, purchase.
    pub segments: [BTreeMap<&'static str, BinaryMetrics>; 2],
    /// How features and served probabilities were distributed.
    pub references: References,
    baselines: [Baselines; 2],
    baseline_thresholds: [HashMap<&'static str, f64>; 2],
    horizons: Horizons,
}

/// One user as the heads take it.
#[derive(Debug, Clone)]
pub struct HeadInput {
    /// The encoded user.
    pub encoded: EncodedUser,
    /// Active days.
    pub activity: RepeatHistory,
    /// Purchase days.
    pub purchase: Option<RepeatHistory>,
}

impl HeadInput {
    /// Encodes a user.
    pub fn of(encoder: &Encoder, graph: &UserGraph, at_ms: i64) -> Self {
        let none = RepeatHistory { repeats: 0.0, last_days: 0.0, age_days: 0.0 };
        Self {
            encoded: encoder.encode(graph, at_ms),
            activity: repeat_history(graph.activity_days().iter(), at_ms).unwrap_or(none),
            purchase: purchase_history(graph, at_ms),
        }
    }
}

/// What is said of one user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadPrediction {
    /// Served probabilities: churn, purchase.
    pub probabilities: [f64; 2],
    /// Probabilities of each member alone, not calibrated, by head: see [`MEMBERS`].
    pub members: [[f64; MEMBERS.len()]; 2],
}

impl HeadPrediction {
    fn of(ensemble: &Ensemble, prediction: &Prediction, user: &EncodedUser) -> Self {
        let row = forest_row(user);
        let of = |blend: &Blend, network: f32| {
            let members = blend.members(network, user, &row);
            let member = |log_odds: f32| sigmoid(f64::from(log_odds));
            (f64::from(probability_of(blend.blend(members))), [member(members[0]), member(members[1])])
        };
        let (churn, churn_members) = of(&ensemble.churn, prediction.churn_log_odds);
        let (purchase, purchase_members) = of(&ensemble.purchase, prediction.purchase_log_odds);
        Self { probabilities: [churn, purchase], members: [churn_members, purchase_members] }
    }
}

/// Names of the members of what is served that are reported apart; BG/NBD is among the [`BASELINES`].
pub const MEMBERS: [&str; 2] = ["network", "trees"];

/// Groups of users that metrics are told for: known for less than 60 days; of the others, those of the upper quarter by days with
/// a purchase, and the rest.
pub const SEGMENTS: [&str; 3] = ["new", "heavy", "regular"];

/// Names of the baselines of the heads.
pub const BASELINES: [&str; 4] = ["recency", "frequency", "bg_nbd", "logistic"];

impl Heads {
    /// Trains on everything the schedule knows. `report` hears what is being done.
    pub fn train(
        history: &impl History,
        schedule: &Schedule,
        options: &HeadOptions,
        report: &mut dyn FnMut(&str),
    ) -> Result<Self, HeadsError> {
        Training::new(history, schedule, options, report)?.run(report)
    }

    /// Calibrated probabilities of what is served, by the same forward pass as serving: churn and purchase of each user.
    pub fn predict(&self, users: &[&EncodedUser], threads: NonZeroUsize) -> Result<Vec<[f64; 2]>, HeadsError> {
        Ok(self.predict_members(users, threads)?.into_iter().map(|user| user.probabilities).collect())
    }

    /// The same with what each member says alone.
    pub fn predict_members(
        &self,
        users: &[&EncodedUser],
        threads: NonZeroUsize,
    ) -> Result<Vec<HeadPrediction>, HeadsError> {
        let predictions = self.forward(users, threads)?;
        let chunk = users.len().div_ceil(threads.get()).max(1);
        let pieces = parallel::map(threads.get(), users.len().div_ceil(chunk), |piece| {
            let range = piece * chunk..((piece + 1) * chunk).min(users.len());
            let of = |place: usize| HeadPrediction::of(&self.ensemble, &predictions[place], users[place]);
            range.map(of).collect::<Vec<_>>()
        });
        Ok(pieces.into_iter().flatten().collect())
    }

    fn forward(&self, users: &[&EncodedUser], threads: NonZeroUsize) -> Result<Vec<Prediction>, HeadsError> {
        let Ok(fused) = FusedForward::new(&self.model) else { return Ok(predict_all(&self.model, users, threads)?) };
        let chunk = users.len().div_ceil(threads.get()).max(1);
        let pieces = parallel::map(threads.get(), users.len().div_ceil(chunk), |piece| {
            fused.clone().predict(&users[piece * chunk..((piece + 1) * chunk).min(users.len())])
        });
        Ok(pieces.into_iter().flatten().collect())
    }

    /// Probabilities of a baseline of [`BASELINES`]; `None` when it could not be fitted.
    pub fn baseline(&self, name: &str, head: Head, user: &HeadInput) -> Option<f64> {
        let missing = user.encoded.raw.iter().map(|value| value.is_nan());
        let baselines = &self.baselines[head as usize];
        baselines.probability(name, head, &self.horizons, user.activity, user.purchase, &user.encoded.features, missing)
    }

    /// The validation threshold of a baseline.
    pub fn baseline_threshold(&self, name: &str, head: Head) -> f64 {
        self.baseline_thresholds[head as usize].get(name).copied().unwrap_or(0.5)
    }
}
