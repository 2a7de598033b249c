//! The encoder: a user's graph at a moment becomes the network's inputs.

#![expect(clippy::cast_precision_loss, reason = "day numbers become angles")]

use std::f32::consts::TAU;

use super::{
    EdgeToken, EventToken, FeatureInfo, FeatureSettings, FeatureSpec, NodeToken, habits, history,
    rhythm::{self, DecayTables, Rhythm},
    row::Row,
    tokens,
};
use crate::{
    event::{DAY_MS, View},
    graph::{ExpandedGraph, GraphParams, UserGraph},
};

/// Context values: hour (2), weekday (7), day of the month by its 30.44-day cycle (2), day of the year (2).
pub const CONTEXT_WIDTH: usize = 13;

/// Recent events that are merged over the views for cross-view edges.
const MERGED_EVENTS: usize = 64;

/// One user at one moment, as the network takes it. Plain numbers, no tensors.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EncodedUser {
    /// The moment, milliseconds since the Unix epoch.
    pub as_of_ms: i64,
    /// Raw values of the user features in the specification's order; NaN where missing and nothing stands for it.
    pub raw: Vec<f32>,
    /// The same as normal scores; 0 where missing.
    pub features: Vec<f32>,
    /// Nodes, most useful first.
    pub nodes: Vec<NodeToken>,
    /// Edges between the nodes.
    pub edges: Vec<EdgeToken>,
    /// Recent events, newest first.
    pub events: Vec<EventToken>,
    /// The moment's place in the day, week, month and year.
    pub context: [f32; CONTEXT_WIDTH],
}

impl EncodedUser {
    /// Whether the feature at `place` is missing for this user (1.0) or present (0.0).
    pub fn missing_bit(&self, place: usize) -> f32 {
        f32::from(u8::from(self.raw[place].is_nan()))
    }
}

/// Encodes graphs by one specification.
#[derive(Debug, Clone)]
pub struct Encoder {
    spec: FeatureSpec,
    decay: DecayTables,
    graph: GraphParams,
}

impl Encoder {
    /// An encoder for `spec`.
    pub fn new(spec: FeatureSpec) -> Self {
        let graph = spec.settings.graph_params();
        Self { spec, decay: DecayTables::new(), graph }
    }

    /// The specification.
    pub fn spec(&self) -> &FeatureSpec {
        &self.spec
    }

    /// Encodes `graph` as of `as_of_ms`, which must be at or after every event in it.
    pub fn encode(&self, graph: &UserGraph, as_of_ms: i64) -> EncodedUser {
        self.encode_expanded(&self.expand(graph), as_of_ms)
    }

    /// Expands a graph with the parameters it was folded with.
    pub fn expand(&self, graph: &UserGraph) -> ExpandedGraph {
        graph.expand(&self.graph)
    }

    /// The same as [`encode`](Self::encode) for a graph that is expanded already.
    pub fn encode_expanded(&self, graph: &ExpandedGraph, as_of_ms: i64) -> EncodedUser {
        let raw = self.raw_of(graph, as_of_ms);
        let transformed = self.spec.features().iter().zip(&raw).map(|(feature, value)| feature.knots.apply(*value));
        // A feature never seen in training is missing even when this user has it.
        let (features, raw) = transformed
            .zip(&raw)
            .map(|(score, value)| (score.unwrap_or(0.0), score.map_or(f32::NAN, |_| *value)))
            .unzip();
        let merged = tokens::merged_rings(graph, MERGED_EVENTS.max(self.spec.settings.sequence_capacity));
        let nodes = tokens::nodes(graph, &self.spec.settings, self.spec.vocabulary(), as_of_ms);
        EncodedUser {
            as_of_ms,
            features,
            raw,
            edges: tokens::edges(graph, &nodes, &merged, &self.spec.settings),
            events: tokens::events(&merged, &self.spec.settings, self.spec.vocabulary(), as_of_ms),
            nodes,
            context: context(as_of_ms),
        }
    }

    /// The raw user features alone, NaN where missing and nothing stands for it: what the quantile knots are fitted on.
    pub fn raw(&self, graph: &UserGraph, as_of_ms: i64) -> Vec<f32> {
        self.raw_of(&graph.expand(&self.graph), as_of_ms)
    }

    fn raw_of(&self, graph: &ExpandedGraph, as_of_ms: i64) -> Vec<f32> {
        let mut row = Row::with_capacity(self.spec.features().len());
        put_all(&mut row, graph, as_of_ms, &self.spec, &self.decay);
        let mut values = row.into_values();
        self.spec.fill(&mut values);
        values
    }
}

/// Purchase value expected in `horizon_days` from `as_of_ms` on at the pace of the last 16 weeks (or since the first
/// purchase, but at least two weeks), in minor units: what is at stake if the user leaves.
pub fn expected_value_minor(graph: &ExpandedGraph, as_of_ms: i64, horizon_days: i32) -> u64 {
    history::expected_value_minor(graph, as_of_ms, horizon_days)
}

/// The features in the encoder's order.
pub(super) fn describe(settings: &FeatureSettings) -> Vec<FeatureInfo> {
    let spec = FeatureSpec::empty(settings.clone());
    let mut row = Row::describing();
    put_all(&mut row, &ExpandedGraph::default(), 0, &spec, &DecayTables::new());
    row.into_infos()
}

fn put_all(row: &mut Row, graph: &ExpandedGraph, as_of_ms: i64, spec: &FeatureSpec, decay: &DecayTables) {
    let settings = &spec.settings;
    let activity = rhythm_of(graph, &View::ALL, as_of_ms);
    rhythm::put(row, "activity", activity.as_ref(), settings, decay);
    rhythm::put_bgnbd(row, "activity", activity.as_ref(), spec.bgnbd_activity.as_ref(), settings);
    for view in View::ALL {
        let rhythm = rhythm_of(graph, &[view], as_of_ms);
        rhythm::put(row, view.name(), rhythm.as_ref(), settings, decay);
        if view == View::Purchase {
            rhythm::put_bgnbd(row, view.name(), rhythm.as_ref(), spec.bgnbd_purchase.as_ref(), settings);
        }
    }
    history::put(row, graph, as_of_ms);
    habits::put(row, graph, settings, as_of_ms);
}

/// The active days of `views` together.
fn rhythm_of(graph: &ExpandedGraph, views: &[View], as_of_ms: i64) -> Option<Rhythm> {
    let mut days = Vec::with_capacity(64);
    let (mut day_count, mut first_ms, mut last_ms) = (0, i64::MAX, i64::MIN);
    for view in views.iter().filter_map(|view| graph.view(*view)) {
        let summary = view.summary();
        if summary.day_count == 0 {
            continue;
        }
        days.extend(view.days().iter());
        day_count = day_count.max(summary.day_count);
        first_ms = first_ms.min(summary.first_ms);
        last_ms = last_ms.max(summary.last_activity_ms);
    }
    Rhythm::new(days, day_count, first_ms, last_ms, as_of_ms)
}

fn context(as_of_ms: i64) -> [f32; CONTEXT_WIDTH] {
    let mut context = [0.0; CONTEXT_WIDTH];
    let day_ms = as_of_ms.rem_euclid(DAY_MS);
    let days = as_of_ms.div_euclid(DAY_MS) as f32;
    let cycles = [day_ms as f32 / DAY_MS as f32, days / 30.436_87, days / 365.242_2];
    for (place, cycle) in [0, 9, 11].into_iter().zip(cycles) {
        context[place] = (cycle * TAU).sin();
        context[place + 1] = (cycle * TAU).cos();
    }
    context[2 + history::weekday(as_of_ms)] = 1.0;
    context
}
