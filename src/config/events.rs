//! Keys that decide what an event is and how much of a user is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What to do when a product line has no price or quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriceRule {
    /// Leave it absent: the line counts, its value is 0.
    #[default]
    Absent,
    /// Take the median of the item's known prices in this partition.
    Median,
    /// Take the item's last known price in this partition.
    LastSeen,
}

/// Decoding, mapping and cleaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// The sender's own event names and the kind each means: `view`, `search`, `cart_add`, `cart_remove`, `purchase` or
    /// `other`. Added to the built-in names of Segment, GA4 and Snowplow, and stronger than they are. Empty by default.
    pub mapping: BTreeMap<String, String>,
    /// Kinds that count as activity: a user without any of them for the churn horizon has churned. `other` is left out
    /// by default, because it often holds what the shop does to the user, not what the user does.
    pub activity: Vec<String>,
    /// What stands in for a missing price: `absent`, `median` or `last_seen`. `absent` by default, because a guessed
    /// price is still a guess.
    pub missing_price: PriceRule,
    /// Largest record in bytes; larger ones become dead letters. 256 KiB by default: an order of a few hundred lines.
    /// Must not be above `stream.max_bytes` nor `http.max_body_bytes`.
    pub max_record_bytes: usize,
    /// An event stamped further than this after the moment the log took it is refused, in milliseconds. One day by
    /// default: wider than any honest clock error or time-zone slip.
    pub max_future_ms: i64,
    /// An event before this moment is refused as absurd, in milliseconds since the Unix epoch. 2000-01-01 by default.
    pub min_time_ms: i64,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            mapping: BTreeMap::new(),
            activity: ["view", "search", "cart_add", "cart_remove", "purchase"].map(str::to_owned).to_vec(),
            missing_price: PriceRule::Absent,
            max_record_bytes: 256 * 1024,
            max_future_ms: 86_400_000,
            min_time_ms: 946_684_800_000,
        }
    }
}

/// Bounds of one user's graph. A change of any of them changes the state: the daemon then refuses older snapshots and
/// rebuilds from the input log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GraphConfig {
    /// Recent product lines kept a view; also the window in which a repeated event id is noticed. 128 by default.
    pub ring_capacity: usize,
    /// Item nodes kept a view. 512 by default: a household's regular basket with room for a year of change.
    pub item_capacity_nodes: usize,
    /// Category nodes kept a view. 128 by default.
    pub category_capacity_nodes: usize,
    /// Query nodes kept a view. 64 by default.
    pub query_capacity_nodes: usize,
    /// Transitions kept a view. 128 by default.
    pub edge_capacity: usize,
    /// Half-life of the fast decayed count in days. 14 by default. Must be below `graph.half_life_long_days`.
    pub half_life_short_days: f32,
    /// Half-life of the slow decayed count in days. 90 by default.
    pub half_life_long_days: f32,
    /// A gap longer than this ends a session when senders give no session id, in milliseconds. 30 minutes by default,
    /// as in most web analytics.
    pub session_gap_ms: i64,
    /// An event older than the user's newest of the same view by more than this is late and not folded, in
    /// milliseconds. 400 days by default.
    pub late_limit_ms: i64,
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
        }
    }
}
