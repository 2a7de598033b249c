//! Nodes and transitions, and how recent entries are merged into them.

use super::{GraphParams, RingEntry, decay::decay};
use crate::event::{NameHash, NameKind};

/// An item, category or query of one view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// The name's hash.
    pub name: NameHash,
    /// What it names.
    pub kind: NameKind,
    /// The item's category; `NameHash(0)` when unknown or when this is no item.
    pub category: NameHash,
    /// Lines seen, saturating.
    pub count: u32,
    /// Seconds since the Unix epoch of the first event.
    pub first_s: u32,
    /// Seconds since the Unix epoch of the newest event; the reference time of both weights.
    pub last_s: u32,
    /// Exponentially decayed count at `last_s`, short half-life.
    pub weight_short: f32,
    /// Exponentially decayed count at `last_s`, long half-life.
    pub weight_long: f32,
    /// Value of all lines in minor units, saturating.
    pub value_minor: u32,
}

impl Node {
    /// The short and the long weight decayed to `time_s` (at or after `last_s`; earlier counts as `last_s`).
    #[expect(clippy::cast_possible_truncation, reason = "weights are single precision")]
    pub fn weights_at(&self, time_s: u32, params: &GraphParams) -> (f32, f32) {
        let age_s = time_s.saturating_sub(self.last_s);
        let short = f64::from(self.weight_short) * decay(age_s, params.half_life_short_s());
        let long = f64::from(self.weight_long) * decay(age_s, params.half_life_long_s());
        (short as f32, long as f32)
    }

    fn key(&self) -> (NameKind, NameHash) {
        (self.kind, self.name)
    }

    fn absorb(&mut self, touch: &Touch, params: &GraphParams) {
        self.count = self.count.saturating_add(1);
        self.value_minor = self.value_minor.saturating_add(touch.value_minor);
        self.first_s = self.first_s.min(touch.time_s);
        if touch.category.0 != 0 {
            self.category = touch.category;
        }
        let (short_s, long_s) = (params.half_life_short_s(), params.half_life_long_s());
        let age_s = touch.time_s.abs_diff(self.last_s);
        if touch.time_s >= self.last_s {
            self.weight_short = decayed_plus(self.weight_short, decay(age_s, short_s), 1.0);
            self.weight_long = decayed_plus(self.weight_long, decay(age_s, long_s), 1.0);
            self.last_s = touch.time_s;
        } else {
            self.weight_short = decayed_plus(self.weight_short, 1.0, decay(age_s, short_s));
            self.weight_long = decayed_plus(self.weight_long, 1.0, decay(age_s, long_s));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "weights are single precision")]
fn decayed_plus(weight: f32, factor: f64, addend: f64) -> f32 {
    (f64::from(weight) * factor + addend) as f32
}

/// A transition between two nodes of one view within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// The source: an item or a query.
    pub from: NameHash,
    /// The target: an item or a query.
    pub to: NameHash,
    /// Times walked, saturating.
    pub count: u16,
    /// [`gap_bucket`] of the newest walk.
    pub gap_bucket: u8,
    /// The newest walk, seconds since the Unix epoch.
    pub last_s: u32,
}

impl Edge {
    fn key(&self) -> (NameHash, NameHash) {
        (self.from, self.to)
    }
}

/// The log2 bucket of a time gap: 0 for the same second, 1 for one second, 2 for 2–3 s, 3 for 4–7 s … at most 31.
pub fn gap_bucket(gap_s: u32) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "at most 32")]
    let bucket = (u32::BITS - gap_s.leading_zeros()) as u8;
    bucket.min(31)
}

/// One line's contribution to a node.
#[derive(Debug, Clone, Copy)]
struct Touch {
    kind: NameKind,
    name: NameHash,
    category: NameHash,
    time_s: u32,
    value_minor: u32,
}

/// Merges `entries` (oldest first) into `base` (sorted by kind and name); the result is sorted the same way.
pub(super) fn merge_nodes(base: &[Node], entries: &[RingEntry], params: &GraphParams) -> Vec<Node> {
    let mut touches = Vec::with_capacity(entries.len() * 2);
    for entry in entries {
        let category = entry.category.unwrap_or(NameHash(0));
        let touch = Touch {
            kind: entry.name_kind(),
            name: NameHash(0),
            category,
            time_s: entry.time_s,
            value_minor: entry.value_minor,
        };
        if let Some(name) = entry.name {
            touches.push(Touch { name, ..touch });
        }
        if category.0 != 0 {
            touches.push(Touch { kind: NameKind::Category, name: category, category: NameHash(0), ..touch });
        }
    }
    // Stable: touches of one node stay in time order, which fixes the bits of its weights.
    touches.sort_by_key(|touch| (touch.kind, touch.name));

    let mut merged = Vec::with_capacity(base.len() + touches.len().min(entries.len()));
    let mut rest = base;
    for group in touches.chunk_by(|left, right| (left.kind, left.name) == (right.kind, right.name)) {
        let key = (group[0].kind, group[0].name);
        let before = rest.partition_point(|node| node.key() < key);
        merged.extend_from_slice(&rest[..before]);
        rest = &rest[before..];
        let mut node = match rest.first() {
            Some(known) if known.key() == key => {
                rest = &rest[1..];
                *known
            }
            _ => Node {
                name: key.1,
                kind: key.0,
                category: NameHash(0),
                count: 0,
                first_s: group[0].time_s,
                last_s: group[0].time_s,
                weight_short: 0.0,
                weight_long: 0.0,
                value_minor: 0,
            },
        };
        for touch in group {
            node.absorb(touch, params);
        }
        merged.push(node);
    }
    merged.extend_from_slice(rest);
    merged
}

/// Drops the least useful nodes of every kind that is over its capacity, down to seven eighths of it, so that the cost
/// of choosing is spread over many events. Least useful: lowest long weight decayed to a common time; ties go by
/// `last_s` (older first), then by hash.
pub(super) fn evict_nodes(nodes: &mut Vec<Node>, params: &GraphParams) {
    for (kind, capacity) in [
        (NameKind::Item, params.item_capacity_nodes),
        (NameKind::Category, params.category_capacity_nodes),
        (NameKind::Query, params.query_capacity_nodes),
    ] {
        let start = nodes.partition_point(|node| node.kind < kind);
        let length = nodes[start..].partition_point(|node| node.kind == kind);
        if length <= capacity {
            continue;
        }
        let range = start..start + length;
        let newest_s = nodes[range.clone()].iter().map(|node| node.last_s).max().unwrap_or(0);
        let mut ranks: Vec<(f64, u32, NameHash)> = nodes[range.clone()]
            .iter()
            .map(|node| {
                let factor = decay(newest_s - node.last_s, params.half_life_long_s());
                (f64::from(node.weight_long) * factor, node.last_s, node.name)
            })
            .collect();
        let drop_count = length - (capacity - capacity / 8);
        let order = |left: &(f64, u32, NameHash), right: &(f64, u32, NameHash)| {
            left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)).then(left.2.cmp(&right.2))
        };
        ranks.select_nth_unstable_by(drop_count - 1, order);
        let mut dropped: Vec<NameHash> = ranks[..drop_count].iter().map(|rank| rank.2).collect();
        dropped.sort_unstable();
        nodes.retain(|node| node.kind != kind || dropped.binary_search(&node.name).is_err());
    }
}

/// Merges the transitions among `entries` (oldest first) into `base` (sorted by ends). `entries[0]` is only a source:
/// the transition into it was merged before.
pub(super) fn merge_edges(base: &[Edge], entries: &[RingEntry], params: &GraphParams) -> Vec<Edge> {
    let session_gap_s = params.session_gap_s();
    let mut walks: Vec<Edge> = entries
        .windows(2)
        .filter(|pair| pair[0].continues_into(&pair[1], session_gap_s))
        .filter_map(|pair| {
            let (from, to) = (pair[0].name?, pair[1].name?);
            let gap_s = pair[1].time_s.saturating_sub(pair[0].time_s);
            (from != to).then_some(Edge { from, to, count: 1, gap_bucket: gap_bucket(gap_s), last_s: pair[1].time_s })
        })
        .collect();
    walks.sort_by_key(Edge::key);

    let mut merged = Vec::with_capacity(base.len() + walks.len());
    let mut rest = base;
    for group in walks.chunk_by(|left, right| left.key() == right.key()) {
        let key = group[0].key();
        let before = rest.partition_point(|edge| edge.key() < key);
        merged.extend_from_slice(&rest[..before]);
        rest = &rest[before..];
        let mut edge = group[0];
        let mut others = &group[1..];
        if let Some(known) = rest.first().filter(|known| known.key() == key) {
            edge = *known;
            others = group;
            rest = &rest[1..];
        }
        for walk in others {
            edge.count = edge.count.saturating_add(1);
            if walk.last_s >= edge.last_s {
                (edge.last_s, edge.gap_bucket) = (walk.last_s, walk.gap_bucket);
            }
        }
        merged.push(edge);
    }
    merged.extend_from_slice(rest);
    merged
}

/// Drops the transitions walked longest ago (ties: fewer walks, then by ends), down to seven eighths of the capacity,
/// when there are more than the capacity.
pub(super) fn evict_edges(edges: &mut Vec<Edge>, params: &GraphParams) {
    let capacity = params.edge_capacity;
    if edges.len() <= capacity {
        return;
    }
    let keep = capacity - capacity / 8;
    if keep == 0 {
        edges.clear();
        return;
    }
    let drop_count = edges.len() - keep;
    edges.select_nth_unstable_by_key(drop_count, |edge| (edge.last_s, edge.count, edge.from, edge.to));
    edges.drain(..drop_count);
    edges.sort_unstable_by_key(Edge::key);
}
