//! The network's shape.

use serde::{Deserialize, Serialize};

use crate::features::{CATEGORY_BUCKETS, EDGE_KINDS, FeatureSpec, GAP_BUCKETS};

/// Form of the graph layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraphForm {
    /// Dot-product attention between all nodes of a user with a learned bias per (edge kind, gap bucket) and head.
    TypedBias,
    /// Messages `h_ij = σ(θ·f(h_i, h_j, E_ij))` weighted by `a_ij = σ(θ·tanh(W·[h_i, h_j, E_ij]))` over the edge list.
    Gated,
}

/// The network's shape; together with the parameters it is the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// User features `F`; each enters as a value and a missing bit.
    pub features: usize,
    /// Rows of the item table.
    pub item_rows: usize,
    /// Rows of the category table.
    pub category_rows: usize,
    /// Hidden width `D`; a multiple of `heads`.
    pub hidden: usize,
    /// Attention heads `H`.
    pub heads: usize,
    /// Width of the feed-forward part of a graph layer.
    pub feed_forward: usize,
    /// Width of the hidden layer over the user features.
    pub feature_hidden: usize,
    /// Graph layers.
    pub layers: usize,
    /// Form of the graph layers.
    pub graph_form: GraphForm,
    /// Largest padded number of nodes.
    pub node_capacity: usize,
    /// Largest padded number of events.
    pub sequence_capacity: usize,
}

impl NetworkConfig {
    /// The small default for a specification.
    pub fn for_spec(spec: &FeatureSpec) -> Self {
        Self {
            features: spec.features().len(),
            item_rows: spec.vocabulary().table_rows(),
            category_rows: CATEGORY_BUCKETS as usize,
            hidden: 32,
            heads: 2,
            feed_forward: 64,
            feature_hidden: 64,
            layers: 1,
            graph_form: GraphForm::TypedBias,
            node_capacity: spec.settings.node_capacity,
            sequence_capacity: spec.settings.sequence_capacity,
        }
    }

    /// Rows of the tables indexed by (edge kind, gap bucket).
    pub fn edge_rows() -> usize {
        EDGE_KINDS * GAP_BUCKETS
    }

    /// Says what is wrong with the shape, if anything.
    pub fn problem(&self) -> Option<String> {
        let sizes = [self.hidden, self.heads, self.feed_forward, self.feature_hidden, self.layers, self.features];
        if sizes.contains(&0) {
            return Some("every width must be at least 1".to_owned());
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Some(format!("hidden `{}` is no multiple of heads `{}`", self.hidden, self.heads));
        }
        if self.node_capacity == 0 || self.node_capacity > 255 || self.sequence_capacity == 0 {
            return Some("node_capacity must be 1 to 255 and sequence_capacity at least 1".to_owned());
        }
        (self.item_rows < 2 || self.category_rows < 2).then(|| "the tables need at least 2 rows".to_owned())
    }
}
