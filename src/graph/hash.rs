//! Hashers for the maps of this module, and the state hash that tests and `snapshots verify` compare.

use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::{DayBits, Totals, UserGraph, ViewGraph, ViewSummary};

/// For keys that are hashes already: spreads 48 bits over 64.
#[derive(Debug, Default, Clone, Copy)]
pub struct NameHasher(u64);

/// Builds [`NameHasher`]s.
pub type NameHashBuilder = BuildHasherDefault<NameHasher>;

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing: maps take their shard and their control byte from the high bits.
        self.0 = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Accumulates fields of a state in a fixed order.
#[derive(Default)]
pub(super) struct StateHasher(Xxh3);

impl StateHasher {
    pub(super) fn finish(&self) -> u64 {
        self.0.digest()
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    pub(super) fn count(&mut self, count: usize) {
        self.0.update(&(count as u64).to_le_bytes());
    }

    pub(super) fn integer(&mut self, value: impl Into<i128>) {
        self.0.update(&value.into().to_le_bytes());
    }

    fn integers<T: Into<i128> + Copy>(&mut self, values: &[T]) {
        self.count(values.len());
        for value in values {
            self.integer(*value);
        }
    }

    pub(super) fn user_graph(&mut self, graph: &UserGraph) {
        for (view, graph) in graph.views() {
            self.integer(view.index() as u64);
            self.view_graph(graph);
        }
    }

    fn view_graph(&mut self, view: &ViewGraph) {
        self.count(view.packed_ring().len());
        for entry in view.packed_ring() {
            for word in entry.words() {
                self.0.update(&word.to_le_bytes());
            }
        }
        self.days(view.days());
        self.summary(view.summary());
        let Some(settled) = view.settled() else { return };
        self.count(settled.nodes.len());
        for node in &settled.nodes {
            self.integer(node.name.0);
            self.integer(node.kind as u8);
            self.integer(node.category.0);
            self.integer(node.count);
            self.integer(node.first_s);
            self.integer(node.last_s);
            self.integer(node.weight_short.to_bits());
            self.integer(node.weight_long.to_bits());
            self.integer(node.value_minor);
        }
        self.count(settled.edges.len());
        for edge in &settled.edges {
            self.integer(edge.from.0);
            self.integer(edge.to.0);
            self.integer(edge.count);
            self.integer(edge.gap_bucket);
            self.integer(edge.last_s);
        }
        self.totals(&settled.totals);
    }

    fn days(&mut self, days: &DayBits) {
        self.integer(days.newest_day().unwrap_or(0));
        self.integers(days.words());
    }

    fn summary(&mut self, summary: &ViewSummary) {
        self.integer(summary.first_ms);
        self.integer(summary.last_ms);
        self.integer(summary.last_activity_ms);
        self.integer(summary.event_count);
        self.integer(summary.activity_count);
        self.integer(summary.day_count);
    }

    fn totals(&mut self, totals: &Totals) {
        self.integer(totals.event_count);
        self.integer(totals.line_count);
        self.integer(totals.quantity);
        self.integer(totals.value_minor);
        self.integers(&totals.kind_count);
        self.integers(&totals.weekday_count);
        self.integers(&totals.daypart_count);
        self.integer(totals.week_newest);
        self.integers(&totals.week_value_minor);
        self.integers(&totals.week_event_count);
    }
}

impl UserGraph {
    /// A hash of every bit of the graph.
    pub fn state_hash(&self) -> u64 {
        let mut hasher = StateHasher::default();
        hasher.user_graph(self);
        hasher.finish()
    }
}
