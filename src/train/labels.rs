//! What happened after a moment, read from a later graph of the same user: one mechanism for files and snapshots.

use std::collections::HashSet;

use crate::{
    event::{NameHash, NameKind, View},
    graph::{GraphParams, UserGraph},
};

/// Counters of a user at a moment. Two marks say what happened between their moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LabelMark {
    /// Events ever that count as activity.
    pub activity_count: u64,
    /// Purchase events ever.
    pub purchase_count: u64,
}

impl LabelMark {
    /// The mark of a graph.
    pub fn of(graph: &UserGraph) -> Self {
        Self { activity_count: graph.activity_count(), purchase_count: graph.purchase_count() }
    }

    /// Whether nothing that counts as activity happened between this mark and a later one.
    pub fn churned_until(&self, later: &Self) -> bool {
        later.activity_count <= self.activity_count
    }

    /// Whether something was bought between this mark and a later one.
    pub fn purchased_until(&self, later: &Self) -> bool {
        later.purchase_count > self.purchase_count
    }
}

/// Items bought at or after `since_ms`, by a later graph.
pub fn items_bought_since(graph: &UserGraph, since_ms: i64, params: &GraphParams) -> HashSet<NameHash> {
    let Some(view) = graph.view(View::Purchase) else { return HashSet::new() };
    if view.summary().last_ms < since_ms {
        return HashSet::new();
    }
    let expanded = view.expand(params);
    let since_s = since_ms.div_euclid(1_000);
    let bought = expanded.nodes_of(NameKind::Item).iter().filter(|node| i64::from(node.last_s) >= since_s);
    bought.map(|node| node.name).collect()
}

/// Whether the user was active in the `history_ms` before `moment_ms`, and so is one to score and to train on.
pub fn is_eligible(graph: &UserGraph, moment_ms: i64, history_ms: i64) -> bool {
    graph.last_activity_ms().is_some_and(|last_ms| last_ms >= moment_ms - history_ms)
}
