//! One view of a user's graph: recent events, nodes, transitions and long-horizon totals, all bounded.

use super::DayBits;
use crate::event::{EventKind, NameHash, NameKind};

/// What the fold did with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoldOutcome {
    /// It changed the view.
    Folded,
    /// Its id is among the recent events: nothing changed.
    Duplicate,
    /// It is older than `late_limit_ms` behind the view's newest event: nothing changed.
    Late,
}

/// One recent product line or search, 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingEntry {
    /// Seconds since the Unix epoch.
    pub time_s: u32,
    /// Low half of the item's (or query's) hash; 0 when there is none. Finds the node in this view's table.
    pub name: u32,
    /// Low half of the event id; lines of one event share it.
    pub event_id: u32,
    /// Value of the line in minor units.
    pub value_minor: u32,
    /// Low 16 bits of the session id's hash; 0 when there is none.
    pub session: u16,
    /// Units, saturating.
    pub quantity: u16,
    /// What was done.
    pub kind: EventKind,
}

/// An item, category or query of one view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// The name's hash.
    pub name: NameHash,
    /// What it names.
    pub kind: NameKind,
    /// The item's category; `NameHash(0)` when unknown or when this is no item.
    pub category: NameHash,
    /// Times seen, saturating.
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

/// A transition between two nodes of one view within a session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// Low half of the source node's hash.
    pub from: u32,
    /// Low half of the target node's hash.
    pub to: u32,
    /// Times walked, saturating.
    pub count: u16,
    /// log2 bucket of the newest time gap in seconds.
    pub gap_bucket: u8,
    /// The newest walk, seconds since the Unix epoch.
    pub last_s: u32,
}

/// Long-horizon aggregates of a view. Integers, so exact.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Totals {
    /// Events folded.
    pub event_count: u64,
    /// Events whose kind counts as activity.
    pub activity_count: u64,
    /// Product lines folded.
    pub line_count: u64,
    /// Units.
    pub quantity: u64,
    /// Value in minor units.
    pub value_minor: u64,
    /// First event, milliseconds since the Unix epoch.
    pub first_ms: i64,
    /// Newest event, milliseconds since the Unix epoch.
    pub last_ms: i64,
    /// Active days ever (also those that left the bits).
    pub day_count: u32,
    /// Events by kind, indexed by the kind's numeric value, saturating.
    pub kind_count: [u32; 6],
    /// Events by weekday (Monday 0), saturating.
    pub weekday_count: [u32; 7],
    /// Events by six-hour part of the day (UTC), saturating.
    pub daypart_count: [u32; 4],
    /// Searches without a later event of the session, saturating (search view) — 0 elsewhere.
    pub week_newest: i32,
    /// Value in minor units of each of the last 16 weeks, newest (`week_newest`) first, saturating.
    pub week_value_minor: [u32; 16],
    /// Events of each of the last 16 weeks, newest first, saturating.
    pub week_event_count: [u16; 16],
}

/// One view of a user's graph.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ViewGraph {
    pub(super) ring: Vec<RingEntry>,
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
    pub(super) days: DayBits,
    pub(super) totals: Totals,
}

impl ViewGraph {
    /// Recent events, oldest first (by time, then event id).
    pub fn ring(&self) -> &[RingEntry] {
        &self.ring
    }

    /// Nodes, in order of first appearance (evicted places are reused).
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Transitions, in order of first appearance (evicted places are reused).
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Days with activity.
    pub fn days(&self) -> &DayBits {
        &self.days
    }

    /// Long-horizon aggregates.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }
}
