//! Keys that decide what an event is and how much of a user is kept.

use std::{
    collections::BTreeMap,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// What stands in for a missing price or quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingNumber {
    /// Nothing: no price, quantity 1.
    #[default]
    Absent,
    /// The median of the item's last ones.
    Median,
    /// The item's newest.
    LastSeen,
}

/// What becomes of an event without a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingTime {
    /// It is refused.
    #[default]
    Reject,
    /// It takes the moment at which the log took it.
    RecordTime,
}

/// Decoding, mapping and cleaning. `docs/events.md` has the table of all rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// The sender's own event names and the kind each means: `view`, `search`, `cart_add`, `cart_remove`, `purchase` or `other`
    /// (`clickout = "view"`). Added to the built-in names of Segment, GA4 and Snowplow, and stronger than they are.
    pub mapping: BTreeMap<String, String>,
    /// The kind of every event whose name is not known; without it such an event is refused.
    pub unknown: Option<String>,
    /// Kinds that count as activity: a user without any of them for the churn horizon has churned. `other` is left out, because it
    /// often holds what the shop does to the user, not what the user does.
    pub activity: Vec<String>,
    /// What becomes of an event without a time: `reject` or `record_time`.
    pub missing_time: MissingTime,
    /// What stands in for a missing price of a known item: `absent`, `median` or `last_seen`. Applied where events enter (HTTP,
    /// `send`, files) and written into the record, so that the fold stays a function of the record alone.
    pub missing_price: MissingNumber,
    /// What stands in for a missing quantity, in the same words.
    pub missing_quantity: MissingNumber,
    /// CSV of items (`item_id,title,category`): a product without a category gets the one of its item. Applied where events enter
    /// (HTTP, `send`, files) and written into the record, so give `train` the same file.
    pub items: Option<PathBuf>,
    /// Largest record in bytes; larger ones become dead letters. Must not be above `stream.max_bytes` nor `http.max_body_bytes`.
    pub max_record_bytes: usize,
    /// Longest user id, item id, category or query in bytes.
    pub max_text_bytes: usize,
    /// An event stamped further than this after the moment the log took it is refused, in milliseconds. One day: wider than any
    /// honest clock error or time-zone slip.
    pub max_future_ms: i64,
    /// An event before this moment is refused as absurd, in milliseconds since the Unix epoch. 1990-01-01.
    pub earliest_ms: i64,
}

impl Default for EventsConfig {
    fn default() -> Self {
        let params = crate::event::CleaningParams::default();
        Self {
            mapping: BTreeMap::new(),
            unknown: None,
            activity: ["view", "search", "cart_add", "cart_remove", "purchase"].map(str::to_owned).to_vec(),
            missing_time: MissingTime::Reject,
            missing_price: MissingNumber::Absent,
            missing_quantity: MissingNumber::Absent,
            items: None,
            max_record_bytes: params.max_record_bytes,
            max_text_bytes: params.max_text_bytes,
            max_future_ms: params.max_future_ms,
            earliest_ms: params.earliest_ms,
        }
    }
}

/// Bounds of one user's graph. A change of any of them changes the state: the daemon then refuses older snapshots and
/// rebuilds from the input log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GraphConfig {
    /// Recent product lines kept a view; also the window in which a repeated event id is noticed..
    pub ring_capacity: usize,
    /// Item nodes kept a view. The default is a household's regular basket with room for a year of change.
    pub item_capacity_nodes: usize,
    /// Category nodes kept a view.
    pub category_capacity_nodes: usize,
    /// Query nodes kept a view.
    pub query_capacity_nodes: usize,
    /// Transitions kept a view.
    pub edge_capacity: usize,
    /// Half-life of the fast decayed count in days. Must be below `graph.half_life_long_days`.
    pub half_life_short_days: f32,
    /// Half-life of the slow decayed count in days.
    pub half_life_long_days: f32,
    /// A gap longer than this ends a session when senders give no session id, in milliseconds. 30 minutes,
    /// as in most web analytics.
    pub session_gap_ms: i64,
    /// An event older than the user's newest of the same view by more than this is late and not folded, in
    /// milliseconds.
    pub late_limit_ms: i64,
    /// How long the erasure of a user is remembered, in milliseconds of event time of its topic: an event older than the erasure that
    /// comes until then does not bring the user back. 400 days.
    pub erasure_memory_ms: i64,
    /// Users kept in each view of each partition; absent: all. When there are more, the one whose newest event is the oldest is
    /// evicted from the view; a user in no view is forgotten.
    pub user_capacity: Option<NonZeroUsize>,
    /// Bytes kept in each view of each partition; absent: all. Counted by content, the same on every machine: 988 for a user with one
    /// event in the view, 32 for each further one up to `graph.ring_capacity`, 56 for each node and 24 for each transition. Users are
    /// evicted in the same order as with `graph.user_capacity`. [How much memory](operations.md#how-much-memory) that makes.
    pub view_capacity_bytes: Option<NonZeroU64>,
}

impl Default for GraphConfig {
    fn default() -> Self {
        let params = crate::graph::GraphParams::default();
        Self {
            ring_capacity: params.ring_capacity,
            item_capacity_nodes: params.item_capacity_nodes,
            category_capacity_nodes: params.category_capacity_nodes,
            query_capacity_nodes: params.query_capacity_nodes,
            edge_capacity: params.edge_capacity,
            half_life_short_days: params.half_life_short_days,
            half_life_long_days: params.half_life_long_days,
            session_gap_ms: params.session_gap_ms,
            late_limit_ms: params.late_limit_ms,
            erasure_memory_ms: params.erasure_memory_ms,
            user_capacity: params.user_capacity,
            view_capacity_bytes: params.view_capacity_bytes,
        }
    }
}
