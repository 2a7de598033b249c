//! A bundle made ready to serve: encoder, names and linear effects prepared once for all workers.

use std::sync::Arc;

use candle_core::Device;

use super::{ScoreError, lists};
use crate::graph::UserGraph;
use crate::{
    features::{EncodedUser, Encoder, expected_value_minor},
    graph::ExpandedGraph,
    model::{
        Bundle, CandleForward, FusedError, FusedForward, HeadLanes, Prediction, items::CandidateWork, probability_of,
    },
    score::{Factor, ModelInfo, Probability, ScoreRequest, Scored},
};

/// Top factors reported with a score.
const FACTORS: usize = 5;

/// A bundle and what serving it needs.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) bundle: Arc<Bundle>,
    pub(super) info: Arc<ModelInfo>,
    /// The heads' trees, made ready for batches.
    pub(super) lanes: Option<HeadLanes>,
    encoder: Encoder,
    feature_names: Vec<Arc<str>>,
    /// Shared weights of the CPU form; absent where only candle serves the network.
    fused: Option<FusedForward>,
}

impl Served {
    pub(super) fn new(bundle: Arc<Bundle>) -> Result<Self, ScoreError> {
        let fused = match FusedForward::new(&bundle.model) {
            Ok(fused) => Some(fused),
            Err(FusedError::Form) => None,
            Err(error) => return Err(failed(&bundle.version, &error)),
        };
        Ok(Self {
            info: Arc::new(bundle.info()),
            lanes: bundle.lanes(),
            encoder: Encoder::new(bundle.spec.clone()),
            feature_names: bundle.spec.features().iter().map(|feature| Arc::from(feature.name.as_str())).collect(),
            fused,
            bundle,
        })
    }

    /// A forward pass of one worker's own on `device`.
    pub(super) fn forward(&self, device: &Device) -> Result<Forward, ScoreError> {
        let network = if let (Some(fused), Device::Cpu) = (&self.fused, device) {
            Network::Fused(Box::new(fused.clone()))
        } else {
            let candle = CandleForward::new(&self.bundle.model, device.clone());
            Network::Candle(Box::new(candle.map_err(|error| failed(&self.info.version, &error))?))
        };
        Ok(Forward { network, candidates: CandidateWork::default() })
    }

    pub(super) fn expand(&self, graph: &UserGraph) -> ExpandedGraph {
        self.encoder.expand(graph)
    }

    pub(super) fn encode(&self, graph: &ExpandedGraph, as_of_ms: i64) -> EncodedUser {
        self.encoder.encode_expanded(graph, as_of_ms)
    }

    /// Scores `requests` in order. The first failure names its place plus `first`.
    pub(super) fn score(
        &self,
        forward: &mut Forward,
        requests: &[ScoreRequest<UserGraph>],
        first: usize,
    ) -> Result<Vec<Scored>, ScoreError> {
        let graphs: Vec<ExpandedGraph> = requests.iter().map(|request| self.expand(&request.graph)).collect();
        let users: Vec<EncodedUser> =
            graphs.iter().zip(requests).map(|(graph, request)| self.encode(graph, request.as_of_ms)).collect();
        let references: Vec<&EncodedUser> = users.iter().collect();
        let predictions = self.predict(forward, &references)?;
        let log_odds = self.bundle.log_odds_of(self.lanes.as_ref(), &predictions, &references);
        let mut scores = Vec::with_capacity(requests.len());
        for (place, prediction) in predictions.iter().enumerate() {
            let work = &mut forward.candidates;
            let score = self.scored(&graphs[place], &users[place], prediction, log_odds[place], work);
            let not_finite =
                || ScoreError::User { index: first + place, message: "the score is not finite".to_owned() };
            scores.push(score.ok_or_else(not_finite)?);
        }
        Ok(scores)
    }

    /// Runs the network.
    pub(super) fn predict(&self, forward: &mut Forward, users: &[&EncodedUser]) -> Result<Vec<Prediction>, ScoreError> {
        match &mut forward.network {
            Network::Fused(fused) => Ok(fused.predict(users)),
            Network::Candle(candle) => candle.predict(users).map_err(|error| failed(&self.info.version, &error)),
        }
    }

    /// Everything said of one user; `None` when any number is not finite.
    fn scored(
        &self,
        graph: &ExpandedGraph,
        user: &EncodedUser,
        prediction: &Prediction,
        log_odds: [f32; 2],
        work: &mut CandidateWork,
    ) -> Option<Scored> {
        if !prediction.is_finite() {
            return None;
        }
        let [churn, purchase] = log_odds.map(probability_of);
        let lists = lists::of(&self.bundle, graph, prediction, user.as_of_ms, work);
        Some(Scored {
            churn_probability: Probability::new(churn)?,
            purchase_probability: Probability::new(purchase)?,
            attention: prediction.attention,
            top_factors: self.factors(user),
            value_at_stake_minor: expected_value_minor(graph, user.as_of_ms, self.bundle.spec.settings.churn_days),
            items: lists.items,
            discoveries: lists.discoveries,
            model: Arc::clone(&self.info),
        })
    }

    /// The features with the largest linear effects on the churn log-odds, strongest first; ties by place.
    fn factors(&self, user: &EncodedUser) -> Vec<Factor> {
        let mut strongest: Vec<(f32, usize)> = Vec::with_capacity(FACTORS + 1);
        for (place, effect) in self.bundle.wide_effects(user).enumerate() {
            let rank = strongest.partition_point(|(known, _)| known.abs() >= effect.abs());
            if rank < FACTORS && effect != 0.0 {
                strongest.insert(rank, (effect, place));
                strongest.truncate(FACTORS);
            }
        }
        strongest
            .into_iter()
            .map(|(effect, place)| Factor { name: self.feature_name(place), value: Self::value(user, place), effect })
            .collect()
    }

    pub(super) fn feature_name(&self, place: usize) -> Arc<str> {
        Arc::clone(&self.feature_names[place])
    }

    /// The raw value, `None` when missing.
    pub(super) fn value(user: &EncodedUser, place: usize) -> Option<f32> {
        Some(user.raw[place]).filter(|value| value.is_finite())
    }
}

/// A worker's forward pass, with its working memory.
pub(super) struct Forward {
    network: Network,
    candidates: CandidateWork,
}

enum Network {
    Fused(Box<FusedForward>),
    Candle(Box<CandleForward>),
}

pub(super) fn failed(version: &str, error: &dyn std::fmt::Display) -> ScoreError {
    ScoreError::Model { model_version: version.to_owned(), message: error.to_string() }
}
