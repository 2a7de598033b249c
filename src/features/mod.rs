//! Graph to model inputs, the same for training and serving.
//!
//! [`Encoder::encode`] is a pure function of a user's graph, a moment and a [`FeatureSpec`]; it reads no clock. Its
//! answer, [`EncodedUser`], holds the three inputs of the network: the behaviour graph and the event sequence (`X_g`), the
//! user features (`X_h`) and the context of the moment (`X_c`).
//!
//! # Shape letters used in tensor code
//! `B` users, `V` views, `N` padded nodes, `E` padded edges, `L` padded events of the sequence, `F` user features, `D`
//! hidden width, `H` heads, `C` context values, `K` candidate items.

mod bgnbd;
mod encode;
mod habits;
mod history;
mod missing;
mod reference;
mod rhythm;
mod row;
#[cfg(test)]
pub(crate) mod samples;
mod spec;
mod tokens;
mod transform;
mod vocabulary;

pub use bgnbd::{BgNbd, RepeatHistory};
pub use encode::{CONTEXT_WIDTH, EncodedUser, Encoder, expected_value_minor};
pub use missing::Missing;
pub use reference::Reference;
pub use row::FeatureInfo;
pub use spec::{Feature, FeatureSettings, FeatureSpec, SpecError};
pub use tokens::{
    EDGE_KINDS, EVENT_KINDS, EVENT_NUMBERS, EdgeToken, EventToken, GAP_BUCKETS, NODE_KINDS, NODE_NUMBERS, NodeToken,
    edge_kind_reversed,
};
pub(crate) use tokens::{EDGE_NONE, EDGE_SELF};
pub use transform::Knots;
pub use vocabulary::{CATEGORY_BUCKETS, ItemVocabulary, QUERY_BUCKETS, UNSEEN_BUCKETS};
