//! `X_g`: the nodes, edges and events of a user given to the network.

#![expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "bounded indices and ages")]

use super::{
    FeatureSettings, ItemVocabulary,
    vocabulary::{category_row, low},
};
use crate::{
    event::{EventKind, NameHash, NameKind, View},
    graph::{ExpandedGraph, Node, RingEntry},
};

/// Node kinds: view × name kind.
pub const NODE_KINDS: usize = View::COUNT * NameKind::ALL.len();
/// Event kinds of the sequence.
pub const EVENT_KINDS: usize = EventKind::ALL.len();
/// Numbers that describe a node.
pub const NODE_NUMBERS: usize = 8;
/// Numbers that describe an event of the sequence.
pub const EVENT_NUMBERS: usize = 3;
/// Buckets of an edge's time gap.
pub const GAP_BUCKETS: usize = 8;
/// Edge kinds: none, self, and each of the walked kinds in both directions.
pub const EDGE_KINDS: usize = 2 + 2 * WALKED_KINDS;
/// Transitions within each view, four across views, same item, item of category.
const WALKED_KINDS: usize = 9;

/// Edge kind of a pair without an edge.
pub(crate) const EDGE_NONE: u8 = 0;
/// Edge kind of a node and itself.
pub(crate) const EDGE_SELF: u8 = 1;
const EDGE_WITHIN_VIEW: u8 = 2;
const EDGE_SEARCH_TO_CLICK: u8 = 5;
const EDGE_TO_PURCHASE: u8 = 6;
const EDGE_ACROSS_OTHER: u8 = 8;
const EDGE_SAME_ITEM: u8 = 9;
const EDGE_CATEGORY: u8 = 10;

/// The kind of the same edge seen from its target.
pub fn edge_kind_reversed(kind: u8) -> u8 {
    if kind <= EDGE_SELF { kind } else { kind + WALKED_KINDS as u8 }
}

/// A node of the behaviour graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NodeToken {
    /// The name, for explanations.
    pub name: NameHash,
    /// Row of the item table (0 none).
    pub item_row: u32,
    /// Row of the category table (0 none).
    pub category_row: u32,
    /// Its view.
    pub view: View,
    /// View × name kind, below [`NODE_KINDS`].
    pub kind: u8,
    /// Scaled numbers: log count, short and long decayed weight, recency, age, value, overdue ratio, share of the view.
    pub numbers: [f32; NODE_NUMBERS],
}

/// An edge between two nodes, stored in its own direction only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeToken {
    /// Index of the source node.
    pub from: u8,
    /// Index of the target node.
    pub to: u8,
    /// Kind, between 2 and 1 + walked kinds.
    pub kind: u8,
    /// Bucket of the time gap, below [`GAP_BUCKETS`].
    pub gap: u8,
    /// Times walked.
    pub count: u16,
}

/// An event of the sequence, newest first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EventToken {
    /// The item or query, for explanations.
    pub name: Option<NameHash>,
    /// Seconds since the Unix epoch.
    pub time_s: u32,
    /// Row of the item table (0 none).
    pub item_row: u32,
    /// What was done.
    pub kind: EventKind,
    /// Scaled numbers: log age, log gap to the next newer event (or the moment), log value.
    pub numbers: [f32; EVENT_NUMBERS],
}

/// The most useful nodes over all views, most useful first; ties by view and hash, so the choice is deterministic.
pub(super) fn nodes(
    graph: &ExpandedGraph,
    settings: &FeatureSettings,
    vocabulary: &ItemVocabulary,
    as_of_ms: i64,
) -> Vec<NodeToken> {
    let now_s = as_of_ms / 1_000;
    let mut ranked: Vec<Ranked<'_>> = Vec::new();
    let mut view_weight = [0.0_f32; View::COUNT];
    for view in View::ALL {
        let Some(view_graph) = graph.view(view) else { continue };
        for node in view_graph.nodes() {
            let age_days = (now_s - i64::from(node.last_s)).max(0) as f32 / 86_400.0;
            let short = node.weight_short * (-age_days / settings.half_life_short_days).exp2();
            let long = node.weight_long * (-age_days / settings.half_life_long_days).exp2();
            if node.kind != NameKind::Category {
                view_weight[view.index()] += long;
            }
            ranked.push(Ranked { view, node, age_days, short, long });
        }
    }
    let by_use = |left: &Ranked<'_>, right: &Ranked<'_>| {
        right
            .usefulness()
            .total_cmp(&left.usefulness())
            .then(left.view.cmp(&right.view))
            .then(left.node.name.cmp(&right.node.name))
            .then(left.node.kind.cmp(&right.node.kind))
    };
    if ranked.len() > settings.node_capacity {
        ranked.select_nth_unstable_by(settings.node_capacity, by_use);
        ranked.truncate(settings.node_capacity);
    }
    ranked.sort_unstable_by(by_use);
    ranked.iter().map(|ranked| ranked.token(vocabulary, view_weight[ranked.view.index()])).collect()
}

struct Ranked<'a> {
    view: View,
    node: &'a Node,
    age_days: f32,
    short: f32,
    long: f32,
}

impl Ranked<'_> {
    /// Categories sum many items, so they count half: the table should not fill with them.
    fn usefulness(&self) -> f32 {
        let weight = self.short + self.long;
        if self.node.kind == NameKind::Category { 0.5 * weight } else { weight }
    }

    fn token(&self, vocabulary: &ItemVocabulary, view_weight: f32) -> NodeToken {
        let Self { view, node, age_days, short, long } = *self;
        let span_days = node.last_s.saturating_sub(node.first_s) as f32 / 86_400.0;
        let mean_gap_days = span_days / node.count.saturating_sub(1).max(1) as f32;
        let overdue = if node.count > 1 { age_days / mean_gap_days.max(0.25) } else { 0.0 };
        NodeToken {
            name: node.name,
            item_row: vocabulary.row_of_low(node.kind, low(node.name)),
            category_row: category_row(if node.kind == NameKind::Category { node.name } else { node.category }),
            view,
            kind: view as u8 * NameKind::ALL.len() as u8 + node.kind as u8,
            numbers: [
                (node.count as f32).ln_1p() * 0.5,
                short.ln_1p(),
                long.ln_1p(),
                age_days.ln_1p() * 0.3,
                (age_days + span_days).ln_1p() * 0.3,
                (node.value_minor as f32).ln_1p() * 0.1,
                overdue.min(20.0).ln_1p() * 0.5,
                if view_weight > 0.0 { (long / view_weight).min(1.0) } else { 0.0 },
            ],
        }
    }
}

/// The newest events of all views, newest first.
pub(super) fn events(
    merged: &[(View, RingEntry)],
    settings: &FeatureSettings,
    vocabulary: &ItemVocabulary,
    as_of_ms: i64,
) -> Vec<EventToken> {
    let now_s = as_of_ms / 1_000;
    let mut newer_s = now_s;
    let take = merged.iter().rev().take(settings.sequence_capacity);
    take.map(|(_, entry)| {
        let time_s = i64::from(entry.time_s);
        let log_hours = |seconds: i64| (seconds.max(0) as f32 / 3_600.0).ln_1p() * 0.2;
        let numbers =
            [log_hours(now_s - time_s), log_hours(newer_s - time_s), (entry.value_minor as f32).ln_1p() * 0.1];
        newer_s = time_s;
        EventToken {
            name: entry.name,
            time_s: entry.time_s,
            item_row: vocabulary.row_of_low(entry.name_kind(), entry.name.map_or(0, low)),
            kind: entry.kind,
            numbers,
        }
    })
    .collect()
}

/// Recent events of all views by time; ties by view, then by their order in the ring. At most `limit`, the newest.
pub(super) fn merged_rings(graph: &ExpandedGraph, limit: usize) -> Vec<(View, RingEntry)> {
    let mut merged = Vec::with_capacity(limit * View::COUNT);
    for view in View::ALL {
        if let Some(view_graph) = graph.view(view) {
            let ring = view_graph.ring();
            merged.extend(ring[ring.len().saturating_sub(limit)..].iter().map(|entry| (view, *entry)));
        }
    }
    merged.sort_by_key(|(view, entry)| (entry.time_s, *view));
    merged.drain(..merged.len().saturating_sub(limit));
    merged
}

/// Edges between the chosen nodes, most telling kinds first; at most one a pair of nodes.
pub(super) fn edges(
    graph: &ExpandedGraph,
    nodes: &[NodeToken],
    merged: &[(View, RingEntry)],
    settings: &FeatureSettings,
) -> Vec<EdgeToken> {
    let mut edges = Edges { kept: Vec::new(), taken: vec![false; nodes.len() * nodes.len()], width: nodes.len() };
    let place = |view: View, name: NameHash| {
        nodes.iter().position(|node| {
            node.view == view && node.name == name && node.kind % NameKind::ALL.len() as u8 != NameKind::Category as u8
        })
    };
    for pair in merged.windows(2).rev() {
        let [(from_view, from), (to_view, to)] = pair else { continue };
        let gap_s = to.time_s.saturating_sub(from.time_s);
        let Some((from_name, to_name)) = from.name.zip(to.name) else { continue };
        if from_view == to_view || gap_s > 86_400 {
            continue;
        }
        let kind = match (from_view, to_view) {
            (View::Search, View::Click) => EDGE_SEARCH_TO_CLICK,
            (View::Click, View::Purchase) => EDGE_TO_PURCHASE,
            (View::Search, View::Purchase) => EDGE_TO_PURCHASE + 1,
            _ => EDGE_ACROSS_OTHER,
        };
        if let Some((from, to)) = place(*from_view, from_name).zip(place(*to_view, to_name)) {
            edges.add(from, to, kind, gap_bucket(u64::from(gap_s).max(1).ilog2()), 1);
        }
    }
    for view in View::ALL {
        for edge in graph.view(view).map_or(&[][..], |view| view.edges()) {
            if let Some((from, to)) = place(view, edge.from).zip(place(view, edge.to)) {
                edges.add(
                    from,
                    to,
                    EDGE_WITHIN_VIEW + view as u8,
                    gap_bucket(u32::from(edge.gap_bucket).saturating_sub(1)),
                    edge.count,
                );
            }
        }
    }
    for (from, click) in nodes.iter().enumerate().filter(|(_, node)| node.view == View::Click) {
        let same = |node: &NodeToken| node.view == View::Purchase && node.name == click.name;
        if let Some(to) = nodes.iter().position(same) {
            edges.add(from, to, EDGE_SAME_ITEM, 0, 1);
        }
    }
    for (from, item) in nodes.iter().enumerate().filter(|(_, node)| node.category_row > 0 && node.item_row > 0) {
        let category =
            |node: &NodeToken| node.view == item.view && node.item_row == 0 && node.category_row == item.category_row;
        if let Some(to) = nodes.iter().position(category) {
            edges.add(from, to, EDGE_CATEGORY, 0, 1);
        }
    }
    edges.kept.truncate(settings.edge_capacity);
    edges.kept
}

struct Edges {
    kept: Vec<EdgeToken>,
    taken: Vec<bool>,
    width: usize,
}

impl Edges {
    /// Keeps the edge unless the pair has one already in either direction.
    fn add(&mut self, from: usize, to: usize, kind: u8, gap: u8, count: u16) {
        if from == to || self.taken[from * self.width + to] || self.taken[to * self.width + from] {
            return;
        }
        self.taken[from * self.width + to] = true;
        self.kept.push(EdgeToken { from: from as u8, to: to as u8, kind, gap, count });
    }
}

/// log2 of seconds to one of [`GAP_BUCKETS`]: a second, 8 seconds, a minute, 9 minutes, an hour, 9 hours, days, weeks.
fn gap_bucket(log2_seconds: u32) -> u8 {
    (log2_seconds / 3).min(GAP_BUCKETS as u32 - 1) as u8
}
