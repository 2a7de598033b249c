//! Bounds and constants of the fold. A change of any of them changes the state, so they are part of a snapshot's manifest.

use std::num::{NonZeroU64, NonZeroUsize};

use crate::event::EventKind;

/// A set of event kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindSet(u8);

impl KindSet {
    /// The set of `kinds`.
    pub fn of(kinds: &[EventKind]) -> Self {
        Self(kinds.iter().fold(0, |bits, kind| bits | 1 << (*kind as u8)))
    }

    /// Whether `kind` is in the set.
    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & (1 << (kind as u8)) != 0
    }

    /// The set as bits, bit `k` for the kind of numeric value `k`.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The set with these [`bits`](Self::bits).
    pub fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

/// Bounds and constants of the fold (LIM-1).
#[derive(Debug, Clone, PartialEq)]
pub struct GraphParams {
    /// Recent product lines and searches kept a view; also the window in which a repeated event id is a duplicate.
    /// When it is full the oldest quarter moves on into nodes, transitions and totals.
    pub ring_capacity: usize,
    /// Item nodes kept a view, besides those of the ring. The same holds for the other capacities.
    pub item_capacity_nodes: usize,
    /// Category nodes kept a view.
    pub category_capacity_nodes: usize,
    /// Query nodes kept a view.
    pub query_capacity_nodes: usize,
    /// Transitions kept a view.
    pub edge_capacity: usize,
    /// Half-life of [`Node::weight_short`](super::Node::weight_short), days.
    pub half_life_short_days: f32,
    /// Half-life of [`Node::weight_long`](super::Node::weight_long), days.
    pub half_life_long_days: f32,
    /// A gap between two events of one view longer than this ends a session (when senders give no session id).
    pub session_gap_ms: i64,
    /// An event older than the user's newest in the view by more than this is late: counted, not folded.
    pub late_limit_ms: i64,
    /// How far the event time of a topic may go past an erasure before it is forgotten, milliseconds: events older than the
    /// erasure that come until then are refused.
    pub erasure_memory_ms: i64,
    /// Users that a view keeps, a partition; the one whose newest event is the oldest goes first. `None` keeps all.
    pub user_capacity: Option<NonZeroUsize>,
    /// Bytes that a view keeps, a partition, counted by [`ViewGraph::weight_bytes`](super::ViewGraph::weight_bytes); who goes is decided
    /// in the same way. `None` keeps all.
    pub view_capacity_bytes: Option<NonZeroU64>,
    /// The kinds that count as activity: a user without them for the churn horizon has churned.
    pub activity: KindSet,
}

impl GraphParams {
    /// Whether users may have to go to make room for others.
    pub(super) fn is_bounded(&self) -> bool {
        self.user_capacity.is_some() || self.view_capacity_bytes.is_some()
    }

    pub(super) fn half_life_short_s(&self) -> f64 {
        f64::from(self.half_life_short_days) * 86_400.0
    }

    pub(super) fn half_life_long_s(&self) -> f64 {
        f64::from(self.half_life_long_days) * 86_400.0
    }

    pub(super) fn session_gap_s(&self) -> u32 {
        u32::try_from(self.session_gap_ms.max(0) / 1_000).unwrap_or(u32::MAX)
    }
}

impl Default for GraphParams {
    fn default() -> Self {
        Self {
            ring_capacity: 128,
            item_capacity_nodes: 512,
            category_capacity_nodes: 128,
            query_capacity_nodes: 64,
            edge_capacity: 128,
            half_life_short_days: 14.0,
            half_life_long_days: 90.0,
            session_gap_ms: 30 * 60_000,
            late_limit_ms: 400 * crate::event::DAY_MS,
            erasure_memory_ms: 400 * crate::event::DAY_MS,
            user_capacity: None,
            view_capacity_bytes: None,
            activity: KindSet::of(&[
                EventKind::View,
                EventKind::Search,
                EventKind::CartAdd,
                EventKind::CartRemove,
                EventKind::Purchase,
            ]),
        }
    }
}
