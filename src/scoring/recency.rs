//! The cheapest scorer: how long the user has been silent, in the user's own rhythm. No weights, and no items but those
//! of a bundle it may be given.
//!
//! For measuring what everything but the model costs, for simulation, and as the rule that models are held against. Its
//! arithmetic is a handful of exactly rounded operations, so every machine computes equal bits.

use std::sync::Arc;

use super::{ScoreError, Scorer};
use crate::{
    event::{NameHash, NameKind, View},
    graph::{UserGraph, due},
    model::items::{ItemModel, LIST_LENGTH},
    score::{ATTENTION_NAMES, Evidence, ItemReason, ModelInfo, Probability, RankedItem, Reason, ScoreRequest, Scored},
};

/// The name its scores carry as model version.
pub const RECENCY_VERSION: &str = "recency";

/// Scores by silence alone: `s / (1 + s)` with `s` the silence in typical gaps of the user.
#[derive(Debug, Clone)]
pub struct RecencyScorer {
    model: Arc<ModelInfo>,
    /// Popular items to fill the lists with. Immutable, so that a list depends on the user's graph alone (DET-1).
    items: Option<Arc<ItemModel>>,
}

impl RecencyScorer {
    /// A scorer whose scores speak of the next `churn_days` and `purchase_days`.
    pub fn new(churn_days: u32, purchase_days: u32) -> Self {
        // Two typical gaps of silence.
        let churn_threshold = silence_probability(2.0);
        let model = ModelInfo { version: Arc::from(RECENCY_VERSION), churn_days, purchase_days, churn_threshold };
        Self { model: Arc::new(model), items: None }
    }

    /// The same with a bundle's items: without them nothing is known but what is in the user's own graph, and
    /// `discoveries` is empty for a user who never looked at anything unbought.
    #[must_use]
    pub fn with_items(self, items: Arc<ItemModel>) -> Self {
        Self { items: Some(items), ..self }
    }

    fn score(&self, request: &ScoreRequest<UserGraph>) -> Scored {
        let graph = &request.graph;
        let gaps = silence_in_gaps(graph, request.as_of_ms);
        let purchase_share = ratio(graph.purchase_count(), graph.event_count().max(1)).clamp(0.0, 1.0);
        let (items, discoveries) = self.lists(graph);
        Scored {
            churn_probability: silence_probability(gaps),
            purchase_probability: probability(purchase_share / (1.0 + gaps)),
            attention: ATTENTION,
            top_factors: Vec::new(),
            value_at_stake_minor: graph.purchase_value_minor() / graph.purchase_count().max(1),
            items,
            discoveries,
            model: Arc::clone(&self.model),
        }
    }
}

impl RecencyScorer {
    /// The user's oldest choice, then what is popular; both change rarely, so the lists are rarely written again.
    fn lists(&self, graph: &UserGraph) -> (Vec<RankedItem>, Vec<RankedItem>) {
        let anything = |_: NameHash| true;
        let unbought = |item: NameHash| !is_bought(graph, item);
        let own = first_item(graph, View::Purchase, &anything).or_else(|| first_item(graph, View::Click, &anything));
        let seen = first_item(graph, View::Click, &unbought);
        let fill = |first: Option<RankedItem>, wanted: &dyn Fn(NameHash) -> bool| {
            let mut list: Vec<RankedItem> = first.into_iter().collect();
            let taken = first.map(|place| place.item);
            let tables = self.items.as_ref().map(|items| items.tables());
            let popular =
                tables.into_iter().flat_map(|tables| tables.popular().iter().map(|row| &tables.rows()[*row as usize]));
            let fresh = popular.filter(|row| Some(row.item) != taken && wanted(row.item));
            list.extend(fresh.take(LIST_LENGTH - list.len()).map(|row| RankedItem {
                item: row.item,
                // Below the user's own, which has 1.
                score: row.popularity() / (1.0 + row.popularity()),
                reason: ItemReason::Popularity,
            }));
            list
        };
        (fill(own, &anything), fill(seen, &unbought))
    }
}

impl Default for RecencyScorer {
    fn default() -> Self {
        Self::new(30, 7)
    }
}

impl Scorer for RecencyScorer {
    fn score_blocking(&self, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Scored>, ScoreError> {
        Ok(requests.iter().map(|request| self.score(request)).collect())
    }

    fn explain_blocking(&self, request: &ScoreRequest<UserGraph>, limit: usize) -> Result<Vec<Reason>, ScoreError> {
        let gaps = silence_in_gaps(&request.graph, request.as_of_ms);
        let evidence = Evidence::Feature { name: Arc::from("silence_in_typical_gaps"), value: gaps };
        // The log-odds of s / (1 + s) are ln s; without the silence s is the smallest there is.
        let effect = gaps.max(f32::EPSILON).ln();
        Ok(std::iter::once(Reason { evidence, effect }).take(limit).collect())
    }
}

/// Recency is a user feature.
const ATTENTION: [f32; ATTENTION_NAMES.len()] = [0.0, 0.0, 0.0, 0.0, 1.0, 0.0];

fn silence_in_gaps(graph: &UserGraph, as_of_ms: i64) -> f32 {
    let last_ms = graph.last_activity_ms().or_else(|| graph.last_event_ms()).unwrap_or(as_of_ms);
    let silence_ms = u64::try_from(as_of_ms.saturating_sub(last_ms)).unwrap_or(0);
    ratio(silence_ms, u64::try_from(due::typical_gap_ms(graph)).unwrap_or(0).max(1))
}

fn silence_probability(gaps: f32) -> Probability {
    probability(gaps / (1.0 + gaps))
}

/// The oldest item still remembered in `view` that is `wanted`.
fn first_item(graph: &UserGraph, view: View, wanted: &dyn Fn(NameHash) -> bool) -> Option<RankedItem> {
    let mut items = graph.view(view)?.ring().filter(|entry| !entry.is_query).filter_map(|entry| entry.name);
    items.find(|item| wanted(*item)).map(|item| RankedItem { item, score: 1.0, reason: ItemReason::Habit })
}

/// Whether the user bought an item, as far as the graph remembers.
fn is_bought(graph: &UserGraph, item: NameHash) -> bool {
    let Some(view) = graph.view(View::Purchase) else { return false };
    let settled = view.settled().is_some_and(|settled| {
        settled.nodes.binary_search_by_key(&(NameKind::Item, item), |node| (node.kind, node.name)).is_ok()
    });
    settled || view.ring().any(|entry| !entry.is_query && entry.name == Some(item))
}

#[expect(clippy::cast_precision_loss, reason = "both are rounded to nearest, on every machine alike")]
fn ratio(part: u64, whole: u64) -> f32 {
    part as f32 / whole as f32
}

fn probability(value: f32) -> Probability {
    debug_assert!((0.0..=1.0).contains(&value), "`{value}` is no probability");
    Probability::clamped(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::DAY_MS;

    fn check(silence_days: i64, expected_churn: f32) {
        let graph = graph_of_days(&[0, 10, 20]);
        let request = ScoreRequest { graph, as_of_ms: (20 + silence_days) * DAY_MS };
        let scored = RecencyScorer::default().score_blocking(&[request]).unwrap();
        let churn = scored[0].churn_probability.get();
        assert_eq!(churn.to_bits(), expected_churn.to_bits(), "{churn} after {silence_days} days");
    }

    fn graph_of_days(days: &[i64]) -> Arc<UserGraph> {
        let params = crate::graph::GraphParams::default();
        let mut graph = UserGraph::default();
        for day in days {
            let event = crate::event::Event {
                user: "u".into(),
                kind: crate::event::EventKind::Purchase,
                time_ms: day * DAY_MS,
                event_id: day.unsigned_abs(),
                session: None,
                query: None,
                lines: smallvec::SmallVec::new(),
            };
            graph.view_mut(View::Purchase).fold(&event, &params);
        }
        Arc::new(graph)
    }

    #[test]
    fn risk_grows_with_silence_in_typical_gaps() {
        check(0, 0.0);
        check(10, 0.5);
        check(30, 0.75);
    }

    #[test]
    fn the_reason_is_the_silence() {
        let request = ScoreRequest { graph: graph_of_days(&[0, 10, 20]), as_of_ms: 40 * DAY_MS };
        let reasons = RecencyScorer::default().explain_blocking(&request, 5).unwrap();
        assert_eq!(reasons.len(), 1);
        assert!(reasons[0].effect > 0.0);
    }
}
