//! What a scorer answers: plain numbers and hashes, no tensors.

use std::sync::Arc;

use crate::event::{EventKind, NameHash, View};

/// A finite number in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Probability(f32);

impl Probability {
    /// `None` when `value` is not finite or outside `[0, 1]`.
    pub fn new(value: f32) -> Option<Self> {
        (value.is_finite() && (0.0..=1.0).contains(&value)).then_some(Self(value))
    }

    /// The nearest number in `[0, 1]`; 0 for 'not a number'.
    pub fn clamped(value: f32) -> Self {
        if value.is_nan() { Self(0.0) } else { Self(value.clamp(0.0, 1.0)) }
    }

    /// The number.
    pub fn get(self) -> f32 {
        self.0
    }
}

/// What the fusion layer attends to. The order is the order of [`Scored::attention`].
pub const ATTENTION_NAMES: [&str; 6] =
    ["click_graph", "search_graph", "purchase_graph", "sequence", "user_features", "context"];

/// A named input and how far it moved a score.
#[derive(Debug, Clone, PartialEq)]
pub struct Factor {
    /// The feature's name as in `features.json`.
    pub name: Arc<str>,
    /// The feature's value in its own unit; `None` when it is missing for this user.
    pub value: Option<f32>,
    /// Change of the churn log-odds against the training median of this feature.
    pub effect: f32,
}

/// Where a recommended item comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemReason {
    /// The user's own repeated choice.
    Habit,
    /// Chosen by users who chose what this user chose.
    Neighbours,
    /// Popular in a category this user buys in.
    Category,
    /// Popular with everyone.
    Popularity,
    /// The network's query against the item table.
    Model,
}

impl ItemReason {
    /// The name used on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Habit => "habit",
            Self::Neighbours => "neighbours",
            Self::Category => "category",
            Self::Popularity => "popularity",
            Self::Model => "model",
        }
    }
}

/// One place of a recommendation list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankedItem {
    /// The item; its text is in the name table or in the bundle's catalogue.
    pub item: NameHash,
    /// Ranking score, comparable within one list only.
    pub score: f32,
    /// The source that contributed most to this place.
    pub reason: ItemReason,
}

/// Everything the model says of one user at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// P(no activity in the churn horizon after the moment).
    pub churn_probability: Probability,
    /// P(at least one purchase in the purchase horizon after the moment).
    pub purchase_probability: Probability,
    /// Weights of the fusion layer, in the order of [`ATTENTION_NAMES`]; they sum to 1.
    pub attention: [f32; ATTENTION_NAMES.len()],
    /// The features that moved the churn score most, strongest first (at most 5).
    pub top_factors: Vec<Factor>,
    /// Value expected in the churn horizon if the user stays, in minor currency units.
    pub value_at_stake_minor: u64,
    /// What the user is likely to want next, repeats allowed, best first; never empty.
    pub items: Vec<RankedItem>,
    /// The same among items the user never bought; never empty.
    pub discoveries: Vec<RankedItem>,
    /// The bundle that answered.
    pub model: Arc<ModelInfo>,
}

/// What outputs must say of the bundle that answered. Travels with each score, because a bundle can be swapped between
/// two batches.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The bundle's version.
    pub version: Arc<str>,
    /// Days after the moment that the churn probability is about.
    pub churn_days: u32,
    /// Days after the moment that the purchase probability is about.
    pub purchase_days: u32,
    /// The churn probability with the best F1 on the bundle's validation window: the default threshold of alerts.
    pub churn_threshold: Probability,
}

/// One part of the user's own history that moved the churn score.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// What it is.
    pub evidence: Evidence,
    /// Change of the churn log-odds when this piece is taken out of the input: positive means it raised the risk.
    pub effect: f32,
}

/// A piece of a user's history.
#[derive(Debug, Clone, PartialEq)]
pub enum Evidence {
    /// One recent event.
    Event {
        /// Its kind.
        kind: EventKind,
        /// When, milliseconds since the Unix epoch.
        time_ms: i64,
        /// Item or query, where there is one.
        name: Option<NameHash>,
    },
    /// An edge of the user graph.
    Edge {
        /// The view of the edge's source.
        view: View,
        /// From this node.
        from: NameHash,
        /// To this node.
        to: NameHash,
        /// Times it was walked.
        count: u32,
    },
    /// A habit measured over the whole history.
    Feature {
        /// The feature's name as in `features.json`.
        name: Arc<str>,
        /// Its value in its own unit.
        value: f32,
    },
}

/// One user to score.
#[derive(Debug, Clone)]
pub struct ScoreRequest<G> {
    /// The graph to score.
    pub graph: Arc<G>,
    /// The moment to score for: milliseconds since the Unix epoch, at or after every event in the graph.
    pub as_of_ms: i64,
}
