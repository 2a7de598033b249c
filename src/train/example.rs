//! What a user looked like at a cutoff, and what happened next.

use crate::{
    event::{EventKind, NameHash},
    features::EncodedUser,
};

/// One user at one cutoff with labels from after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The user as of the cutoff.
    pub encoded: EncodedUser,
    /// No activity in the churn horizon after the cutoff.
    pub churned: bool,
    /// At least one purchase in the purchase horizon after the cutoff.
    pub purchased: bool,
    /// Items taken in the purchase horizon after the cutoff, each once; empty when there are none.
    pub next_items: Vec<NameHash>,
    /// Kind of the first event after the cutoff, where there is one.
    pub next_kind: Option<EventKind>,
    /// The cutoff, milliseconds since the Unix epoch: the features end here (inclusive), the labels begin after it.
    pub cutoff_ms: i64,
}
