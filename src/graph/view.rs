//! One view of a user's graph: a fold of one topic, bounded.
//!
//! Recent lines are kept as they came, in the ring, sorted by second (lines of one second keep the order of the topic).
//! When the ring is full its oldest quarter moves on into the [`Settled`] part: nodes, transitions and totals. So a user
//! with a short history is nothing but a ring; a new version of a long one shares its settled part with the old version;
//! and the cost of an event does not grow with history. Readers call [`ViewGraph::expand`], which merges the two.

use std::sync::Arc;

use super::{
    DayBits, GraphParams, RingEntry,
    ring::PackedEntry,
    table::{Edge, Node, evict_edges, evict_nodes, merge_edges, merge_nodes},
    totals::Totals,
};
use crate::event::{DAY_MS, Event, NameHash, NameKind};

/// What the fold did with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoldOutcome {
    /// It changed the view.
    Folded,
    /// Its id is among the recent events: nothing changed.
    Duplicate,
    /// It is older than an erasure of its user: nothing changed.
    Erased,
    /// It is older than `late_limit_ms` behind the view's newest event: nothing changed.
    Late,
}

/// What left the ring: shared between versions of a graph until the ring spills again.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settled {
    /// Nodes, sorted by kind and hash.
    pub nodes: Vec<Node>,
    /// Transitions, sorted by their ends.
    pub edges: Vec<Edge>,
    /// Aggregates of the lines that left the ring.
    pub totals: Totals,
}

/// A view as readers want it: all nodes, transitions and totals, those of recent events included.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExpandedView {
    ring: Vec<RingEntry>,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    totals: Totals,
    days: DayBits,
    summary: ViewSummary,
}

impl ExpandedView {
    /// Recent lines, oldest first.
    pub fn ring(&self) -> &[RingEntry] {
        &self.ring
    }

    /// Nodes, sorted by kind and hash; at most the capacities plus what the ring holds.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Transitions, sorted by their ends; at most the capacity plus what the ring holds.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Long-horizon aggregates.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Days with activity.
    pub fn days(&self) -> &DayBits {
        &self.days
    }

    /// Counters and instants.
    pub fn summary(&self) -> &ViewSummary {
        &self.summary
    }

    /// The node of this kind and name.
    pub fn node(&self, kind: NameKind, name: NameHash) -> Option<&Node> {
        let place = self.nodes.binary_search_by_key(&(kind, name), |node| (node.kind, node.name)).ok()?;
        self.nodes.get(place)
    }

    /// Nodes of one kind, sorted by hash.
    pub fn nodes_of(&self, kind: NameKind) -> &[Node] {
        let start = self.nodes.partition_point(|node| node.kind < kind);
        let end = self.nodes.partition_point(|node| node.kind <= kind);
        &self.nodes[start..end]
    }
}

/// Everything a view holds, in the plain form that snapshots store.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ViewParts {
    /// Recent lines, oldest first.
    pub ring: Vec<RingEntry>,
    /// What left the ring; `None` while nothing did.
    pub settled: Option<Arc<Settled>>,
    /// Days with activity.
    pub days: DayBits,
    /// Counters and instants.
    pub summary: ViewSummary,
}

/// Counters and instants of a view that readers want without expanding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewSummary {
    /// First event, milliseconds since the Unix epoch.
    pub first_ms: i64,
    /// Newest event, milliseconds since the Unix epoch.
    pub last_ms: i64,
    /// Newest event whose kind counts as activity; [`NEVER_MS`](Self::NEVER_MS) without one.
    pub last_activity_ms: i64,
    /// Events folded, saturating.
    pub event_count: u32,
    /// Events whose kind counts as activity, saturating.
    pub activity_count: u32,
    /// Active days ever, also those that left the day bits (days that arrive out of order, older than the bits reach,
    /// are not counted).
    pub day_count: u32,
}

impl ViewSummary {
    /// Before every event.
    pub const NEVER_MS: i64 = i64::MIN;
}

impl Default for ViewSummary {
    fn default() -> Self {
        Self {
            first_ms: i64::MAX,
            last_ms: Self::NEVER_MS,
            last_activity_ms: Self::NEVER_MS,
            event_count: 0,
            activity_count: 0,
            day_count: 0,
        }
    }
}

/// One view of a user's graph.
#[derive(Debug, PartialEq, Default)]
pub struct ViewGraph {
    ring: Vec<PackedEntry>,
    settled: Option<Arc<Settled>>,
    days: DayBits,
    summary: ViewSummary,
}

/// What [`ViewGraph::weight_bytes`] counts for a user with a view, whatever is in it.
const USER_BYTES: u64 = 896;
/// For a place of the ring.
const LINE_BYTES: u64 = 28;
/// For a node.
const NODE_BYTES: u64 = 56;
/// For a transition.
const EDGE_BYTES: u64 = 24;
/// For 64 days.
const DAY_WORD_BYTES: u64 = 8;
/// For the totals of what left the ring.
const SETTLED_BYTES: u64 = 320;

/// Free places in the ring of a fresh copy, for the events it was copied for.
const COPY_ROOM: usize = 2;

impl Clone for ViewGraph {
    fn clone(&self) -> Self {
        let mut ring = Vec::with_capacity(self.ring.len() + COPY_ROOM);
        ring.extend_from_slice(&self.ring);
        Self { ring, settled: self.settled.clone(), days: self.days.clone(), summary: self.summary }
    }
}

impl ViewGraph {
    /// Folds one event of this view's topic. Depends on the view and the event only (DET-1).
    pub fn fold(&mut self, event: &Event<'_>, params: &GraphParams) -> FoldOutcome {
        match self.refusal(event, params) {
            Some(refusal) => refusal,
            None => self.fold_admitted(event, params),
        }
    }

    /// [`fold`](Self::fold) for an event that has no [`refusal`](Self::refusal).
    pub(super) fn fold_admitted(&mut self, event: &Event<'_>, params: &GraphParams) -> FoldOutcome {
        self.summarize(event, params);
        let mut entry = RingEntry {
            time_s: seconds(event.time_ms),
            kind: event.kind,
            opens_event: true,
            name: None,
            category: None,
            event_id: low_half(event.event_id),
            value_minor: 0,
            quantity: 0,
            session: event.session.map(RingEntry::session_of),
            is_query: false,
        };
        if let Some(query) = &event.query {
            self.insert(&RingEntry { name: Some(query.hash), is_query: true, ..entry }, params);
            entry.opens_event = false;
        } else if event.lines.is_empty() {
            self.insert(&entry, params);
        }
        for line in &event.lines {
            entry.name = line.item.as_ref().map(|item| item.hash);
            entry.category = line.category.as_ref().map(|category| category.hash);
            entry.value_minor = line.value_minor;
            entry.quantity = u16::try_from(line.quantity).unwrap_or(u16::MAX).min(RingEntry::MAX_QUANTITY);
            self.insert(&entry, params);
            entry.opens_event = false;
        }
        FoldOutcome::Folded
    }

    /// Why [`fold`](Self::fold) would leave the view as it is, if it would: costs no copy.
    pub fn refusal(&self, event: &Event<'_>, params: &GraphParams) -> Option<FoldOutcome> {
        let event_id = low_half(event.event_id);
        if self.ring.iter().any(|entry| entry.event_id() == event_id) {
            return Some(FoldOutcome::Duplicate);
        }
        (event.time_ms < self.summary.last_ms.saturating_sub(params.late_limit_ms)).then_some(FoldOutcome::Late)
    }

    /// Recent lines, oldest first.
    pub fn ring(&self) -> impl ExactSizeIterator<Item = RingEntry> + DoubleEndedIterator + Clone + '_ {
        self.ring.iter().map(PackedEntry::unpack)
    }

    /// What left the ring.
    pub fn settled(&self) -> Option<&Arc<Settled>> {
        self.settled.as_ref()
    }

    /// Days with activity.
    pub fn days(&self) -> &DayBits {
        &self.days
    }

    /// Counters and instants.
    pub fn summary(&self) -> &ViewSummary {
        &self.summary
    }

    /// The view with all nodes, transitions and totals. Costs microseconds: call it once a score.
    pub fn expand(&self, params: &GraphParams) -> ExpandedView {
        let ring: Vec<RingEntry> = self.ring().collect();
        let nothing = Settled::default();
        let settled = self.settled.as_deref().unwrap_or(&nothing);
        ExpandedView {
            nodes: merge_nodes(&settled.nodes, &ring, params),
            edges: merge_edges(&settled.edges, &ring, params),
            totals: self.totals(),
            days: self.days.clone(),
            summary: self.summary,
            ring,
        }
    }

    /// Long-horizon aggregates, those of recent events included. Walks the ring.
    pub fn totals(&self) -> Totals {
        let mut totals = self.settled.as_ref().map_or_else(Totals::default, |settled| settled.totals.clone());
        for entry in self.ring() {
            totals.add(&entry);
        }
        totals
    }

    /// Everything the view holds, in the plain form.
    pub fn to_parts(&self) -> ViewParts {
        ViewParts {
            ring: self.ring().collect(),
            settled: self.settled.clone(),
            days: self.days.clone(),
            summary: self.summary,
        }
    }

    /// Rebuilds a view; the inverse of [`to_parts`](Self::to_parts).
    pub fn from_parts(parts: ViewParts) -> Self {
        debug_assert!(parts.ring.is_sorted_by_key(|entry| entry.time_s), "a ring is sorted by time");
        Self {
            ring: parts.ring.iter().map(PackedEntry::pack).collect(),
            settled: parts.settled,
            days: parts.days,
            summary: parts.summary,
        }
    }

    /// Heap and inline bytes of this view, free capacity included, without the allocator's own overhead.
    pub fn byte_count(&self) -> usize {
        let settled = self.settled.as_deref().map_or(0, |settled| {
            size_of::<Settled>()
                + settled.nodes.capacity() * size_of::<Node>()
                + settled.edges.capacity() * size_of::<Edge>()
        });
        size_of::<Self>() + self.ring.capacity() * size_of::<PackedEntry>() + self.days.heap_byte_count() + settled
    }

    /// What this view costs, bytes: its lines, nodes, transitions and days, and its user's share of everything else (id, maps, score,
    /// timers). A function of the content alone, equal on every machine and in every release, because
    /// [`GraphParams::view_capacity_bytes`] decides by it who is evicted; that it is no less than the truth is for tests to see.
    pub fn weight_bytes(&self) -> u64 {
        let of = |count: usize, bytes: u64| count as u64 * bytes;
        let settled = self.settled.as_deref().map_or(0, |settled| {
            SETTLED_BYTES + of(settled.nodes.len(), NODE_BYTES) + of(settled.edges.len(), EDGE_BYTES)
        });
        // Free places of the ring: see `insert`.
        let places = self.ring.len() + (self.ring.len() / 8).max(COPY_ROOM);
        USER_BYTES + of(places, LINE_BYTES) + of(self.days.words().len(), DAY_WORD_BYTES) + settled
    }

    pub(super) fn packed_ring(&self) -> &[PackedEntry] {
        &self.ring
    }

    fn summarize(&mut self, event: &Event<'_>, params: &GraphParams) {
        let summary = &mut self.summary;
        summary.first_ms = summary.first_ms.min(event.time_ms);
        summary.last_ms = summary.last_ms.max(event.time_ms);
        summary.event_count = summary.event_count.saturating_add(1);
        if params.activity.contains(event.kind) {
            summary.activity_count = summary.activity_count.saturating_add(1);
            summary.last_activity_ms = summary.last_activity_ms.max(event.time_ms);
            if self.days.set(day_of(event.time_ms)) {
                summary.day_count = summary.day_count.saturating_add(1);
            }
        }
    }

    fn insert(&mut self, entry: &RingEntry, params: &GraphParams) {
        if self.ring.len() >= params.ring_capacity {
            self.spill(params);
        }
        if self.ring.len() == self.ring.capacity() {
            // Not doubling: most users never get another event in this batch, and every byte is kept a user.
            self.ring.reserve_exact((self.ring.len() / 8).max(COPY_ROOM));
        }
        let place = self.ring.iter().rposition(|known| known.time_s() <= entry.time_s).map_or(0, |before| before + 1);
        self.ring.insert(place, PackedEntry::pack(entry));
    }

    /// Moves the oldest quarter of the ring into the settled part.
    fn spill(&mut self, params: &GraphParams) {
        let spill_count = (params.ring_capacity / 4).max(1).min(self.ring.len());
        // The first line that stays ends the last transition that settles.
        let seen = (spill_count + 1).min(self.ring.len());
        let entries: Vec<RingEntry> = self.ring[..seen].iter().map(PackedEntry::unpack).collect();
        let nothing = Settled::default();
        let settled = self.settled.as_deref().unwrap_or(&nothing);
        let mut totals = settled.totals.clone();
        for entry in &entries[..spill_count] {
            totals.add(entry);
        }
        let mut nodes = merge_nodes(&settled.nodes, &entries[..spill_count], params);
        evict_nodes(&mut nodes, params);
        nodes.shrink_to_fit();
        let mut edges = merge_edges(&settled.edges, &entries, params);
        evict_edges(&mut edges, params);
        edges.shrink_to_fit();
        self.settled = Some(Arc::new(Settled { nodes, edges, totals }));
        self.ring.drain(..spill_count);
    }
}

/// Whole seconds since the Unix epoch; times outside `u32` stick to its ends (the codec refuses them before).
pub(super) fn seconds(time_ms: i64) -> u32 {
    u32::try_from(time_ms.div_euclid(1_000).max(0)).unwrap_or(u32::MAX)
}

/// Days since the Unix epoch, UTC.
pub fn day_of(time_ms: i64) -> i32 {
    i32::try_from(time_ms.div_euclid(DAY_MS)).unwrap_or(if time_ms < 0 { i32::MIN } else { i32::MAX })
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
fn low_half(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_of_a_view_is_no_less_than_its_bytes() {
        assert!(size_of::<PackedEntry>() as u64 <= LINE_BYTES);
        assert!(size_of::<Node>() as u64 <= NODE_BYTES);
        assert!(size_of::<Edge>() as u64 <= EDGE_BYTES);
        assert!((size_of::<Settled>() + 2 * size_of::<usize>()) as u64 <= SETTLED_BYTES);
        assert!(
            (size_of::<ViewGraph>() + 2 * size_of::<usize>()) as u64 <= USER_BYTES / 4,
            "most of it is not the graph"
        );
    }
}
