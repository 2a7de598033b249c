//! The forward pass for CPU serving, written by hand: the same arithmetic as [`Network`](super::Network), without
//! padding, without allocation per operation, in tiles of users that stay in the cache. Instruction sets are chosen when
//! the program runs. Held against candle by a parity test.

#![expect(clippy::inline_always, reason = "the instruction set is the caller's, and only inlined code gets it")]

mod kernels;

use std::sync::Arc;

use kernels::{Arithmetic, Fused, Panels, Rows, Split, Then, add, add_scaled, dot, multiply, normalise, softmax};

use super::{GraphForm, ITEM_TABLE, Model, NetworkConfig, Prediction, batch::edge_row, layers::NORM_EPSILON};
use crate::{
    event::View,
    features::{
        CONTEXT_WIDTH, EDGE_NONE, EDGE_SELF, EVENT_KINDS, EVENT_NUMBERS, EncodedUser, NODE_NUMBERS, edge_kind_reversed,
    },
    score::ATTENTION_NAMES,
};

/// Inputs of the fusion.
const PARTS: usize = ATTENTION_NAMES.len();

/// Users of a tile: their states fit the second-level cache beside the weights.
const TILE_USERS: usize = 16;

/// Why a model has no fused form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FusedError {
    /// The graph layer's form is served by candle only.
    #[error("the fused forward serves the typed-bias graph layer, the model has the gated one")]
    Form,
    /// A parameter is absent.
    #[error("parameter `{0}` is missing")]
    Missing(String),
}

/// Weights packed for the kernels. Immutable, shared by workers.
#[derive(Debug)]
struct Weights {
    config: NetworkConfig,
    items: Vec<f32>,
    categories: Vec<f32>,
    node_kind: Vec<f32>,
    node_numbers: Panels,
    layers: Vec<Layer>,
    graph_norm: Norm,
    event_kind: Vec<f32>,
    event_numbers: Panels,
    sequence_query: Panels,
    sequence_key_value: Panels,
    sequence_out: Panels,
    kind_bias: Vec<f32>,
    age_slope: Vec<f32>,
    features_hidden: Panels,
    features_out: Panels,
    wide: Panels,
    context: Panels,
    fusion_kind: Vec<f32>,
    fusion_query: Vec<f32>,
    fusion_bias: Vec<f32>,
    trunk_norm: Norm,
    trunk: Panels,
    head_binary: Panels,
    head_kind: Panels,
    head_query: Panels,
}

#[derive(Debug)]
struct Norm {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    norm1: Norm,
    query_key_value: Panels,
    edge_bias: Vec<f32>,
    out: Panels,
    norm2: Norm,
    feed_forward1: Panels,
    feed_forward2: Panels,
}

impl Weights {
    fn new(model: &Model) -> Result<Self, FusedError> {
        let config = &model.config;
        if config.graph_form != GraphForm::TypedBias {
            return Err(FusedError::Form);
        }
        let values = |name: &str| -> Result<Vec<f32>, FusedError> {
            let parameter = model.parameters.get(name).ok_or_else(|| FusedError::Missing(name.to_owned()))?;
            Ok(parameter.values.clone())
        };
        let linear = |name: &str| -> Result<Panels, FusedError> {
            let weight = format!("{name}.weight");
            let parameter = model.parameters.get(&weight).ok_or(FusedError::Missing(weight))?;
            let bias = model.parameters.get(&format!("{name}.bias"));
            let bias = bias.map(|bias| bias.values.as_slice());
            Ok(Panels::new(&parameter.values, parameter.shape[0], parameter.shape[1], bias))
        };
        let norm = |name: &str| -> Result<Norm, FusedError> {
            Ok(Norm { scale: values(&format!("{name}.scale"))?, shift: values(&format!("{name}.shift"))? })
        };
        let layer = |layer: usize| -> Result<Layer, FusedError> {
            let sub = |part: &str| format!("graph.{layer}.{part}");
            Ok(Layer {
                norm1: norm(&sub("norm1"))?,
                query_key_value: linear(&sub("query_key_value"))?,
                edge_bias: values(&sub("edge_bias"))?,
                out: linear(&sub("out"))?,
                norm2: norm(&sub("norm2"))?,
                feed_forward1: linear(&sub("feed_forward1"))?,
                feed_forward2: linear(&sub("feed_forward2"))?,
            })
        };
        Ok(Self {
            items: values(ITEM_TABLE)?,
            categories: values("category.table")?,
            node_kind: values("node.kind")?,
            node_numbers: linear("node.numbers")?,
            layers: (0..config.layers).map(layer).collect::<Result<_, _>>()?,
            graph_norm: norm("graph.norm")?,
            event_kind: values("event.kind")?,
            event_numbers: linear("event.numbers")?,
            sequence_query: linear("sequence.query")?,
            sequence_key_value: linear("sequence.key_value")?,
            sequence_out: linear("sequence.out")?,
            kind_bias: values("sequence.kind_bias")?,
            age_slope: values("sequence.age_slope")?,
            features_hidden: linear("features.hidden")?,
            features_out: linear("features.out")?,
            wide: linear("wide")?,
            context: linear("context")?,
            fusion_kind: values("fusion.kind")?,
            fusion_query: values("fusion.query")?,
            fusion_bias: values("fusion.bias")?,
            trunk_norm: norm("trunk.norm")?,
            trunk: linear("trunk")?,
            head_binary: linear("head.binary")?,
            head_kind: linear("head.kind")?,
            head_query: linear("head.query")?,
            config: config.clone(),
        })
    }
}

/// The fused forward with its working memory. One a thread; weights are shared between clones.
#[derive(Debug, Clone)]
pub struct FusedForward {
    weights: Arc<Weights>,
    work: Work,
}

impl FusedForward {
    /// Packs the weights of `model`.
    pub fn new(model: &Model) -> Result<Self, FusedError> {
        Ok(Self { weights: Arc::new(Weights::new(model)?), work: Work::default() })
    }

    /// Scores `users` in order. Every user's numbers have the same bits whoever else is there.
    pub fn predict(&mut self, users: &[&EncodedUser]) -> Vec<Prediction> {
        let mut answers = Vec::with_capacity(users.len());
        let arch = pulp::Arch::new();
        for tile in users.chunks(TILE_USERS) {
            let pass = Pass { weights: &self.weights, work: &mut self.work, users: tile, answers: &mut answers };
            match arch {
                pulp::Arch::Scalar => pass.work.forward::<Split>(pass.weights, pass.users, pass.answers),
                _ => arch.dispatch(pass),
            }
        }
        answers
    }
}

/// One tile's pass. A type and no closure, because all of it must be inlined into the function that has the wider
/// instruction set; what stays outside would call a library for every fused product.
struct Pass<'a> {
    weights: &'a Weights,
    work: &'a mut Work,
    users: &'a [&'a EncodedUser],
    answers: &'a mut Vec<Prediction>,
}

impl pulp::WithSimd for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.work.forward::<Fused>(self.weights, self.users, self.answers);
    }
}

/// Buffers of a tile; rows of all its users follow each other without padding.
#[derive(Debug, Clone, Default)]
struct Work {
    nodes: Vec<f32>,
    normed: Vec<f32>,
    query_key_value: Vec<f32>,
    mixed: Vec<f32>,
    inner: Vec<f32>,
    numbers: Vec<f32>,
    keys: Panels,
    values: Panels,
    scores: Vec<f32>,
    events: Vec<f32>,
    key_value: Vec<f32>,
    features: Vec<f32>,
    hidden: Vec<f32>,
    query: Vec<f32>,
    parts: Vec<f32>,
    context: Vec<f32>,
    fused: Vec<f32>,
    trunk: Vec<f32>,
    binary: Vec<f32>,
    kind: Vec<f32>,
}

/// A buffer of `length` zeros.
#[inline(always)]
fn zeroed(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    buffer.clear();
    buffer.resize(length, 0.0);
    buffer
}

/// Row `index` of a table of `width`.
#[inline(always)]
fn row(table: &[f32], index: usize, width: usize) -> &[f32] {
    &table[index * width..][..width]
}

impl Work {
    #[inline(always)]
    fn forward<A: Arithmetic>(&mut self, weights: &Weights, users: &[&EncodedUser], answers: &mut Vec<Prediction>) {
        let d = weights.config.hidden;
        zeroed(&mut self.parts, users.len() * PARTS * d);
        self.graph::<A>(weights, users);
        self.user_features::<A>(weights, users);
        self.sequence::<A>(weights, users);
        self.context::<A>(weights, users);
        self.fuse::<A>(weights, users, answers);
    }

    /// Node states through the layers, then one mean a view into the parts.
    #[inline(always)]
    fn graph<A: Arithmetic>(&mut self, weights: &Weights, users: &[&EncodedUser]) {
        let config = &weights.config;
        let d = config.hidden;
        let count: usize = users.iter().map(|user| user.nodes.len().min(config.node_capacity)).sum();
        let nodes = zeroed(&mut self.nodes, count * d);
        self.numbers.clear();
        let tokens = users.iter().flat_map(|user| user.nodes.iter().take(config.node_capacity));
        for (token, state) in tokens.zip(nodes.chunks_exact_mut(d)) {
            state.copy_from_slice(row(&weights.items, token.item_row as usize, d));
            add(state, row(&weights.categories, token.category_row as usize, d));
            add(state, row(&weights.node_kind, usize::from(token.kind), d));
            self.numbers.extend_from_slice(&token.numbers);
        }
        multiply::<A>(Rows::dense(&self.numbers, NODE_NUMBERS), count, &weights.node_numbers, nodes, d, 0, Then::Add);
        for layer in &weights.layers {
            self.layer::<A>(layer, config, users, count);
        }
        let normed = zeroed(&mut self.normed, count * d);
        let norm = &weights.graph_norm;
        normalise::<A>(&self.nodes, d, &norm.scale, &norm.shift, NORM_EPSILON, normed);
        let mut rows = self.normed.chunks_exact(d);
        for (user, parts) in users.iter().zip(self.parts.chunks_exact_mut(PARTS * d)) {
            let tokens = &user.nodes[..user.nodes.len().min(config.node_capacity)];
            let mut view_count = [0.0_f32; View::COUNT];
            for token in tokens {
                view_count[token.view.index()] += 1.0;
            }
            for (token, state) in tokens.iter().zip(&mut rows) {
                let view = token.view.index();
                add_scaled::<A>(&mut parts[view * d..][..d], state, view_count[view].recip());
            }
        }
    }

    #[inline(always)]
    fn layer<A: Arithmetic>(&mut self, layer: &Layer, config: &NetworkConfig, users: &[&EncodedUser], count: usize) {
        let d = config.hidden;
        let normed = zeroed(&mut self.normed, count * d);
        normalise::<A>(&self.nodes, d, &layer.norm1.scale, &layer.norm1.shift, NORM_EPSILON, normed);
        let all = zeroed(&mut self.query_key_value, count * 3 * d);
        multiply::<A>(Rows::dense(&self.normed, d), count, &layer.query_key_value, all, 3 * d, 0, Then::Store);
        zeroed(&mut self.mixed, count * d);
        let mut first = 0;
        for user in users.iter().filter(|user| !user.nodes.is_empty()) {
            let n = user.nodes.len().min(config.node_capacity);
            for head in 0..config.heads {
                self.attend::<A>(layer, config, user, first, n, head);
            }
            first += n;
        }
        let nodes = &mut self.nodes[..];
        multiply::<A>(Rows::dense(&self.mixed, d), count, &layer.out, nodes, d, 0, Then::Add);
        normalise::<A>(&self.nodes, d, &layer.norm2.scale, &layer.norm2.shift, NORM_EPSILON, &mut self.normed);
        let width = config.feed_forward;
        let inner = zeroed(&mut self.inner, count * width);
        multiply::<A>(Rows::dense(&self.normed, d), count, &layer.feed_forward1, inner, width, 0, Then::StoreRectified);
        multiply::<A>(Rows::dense(&self.inner, width), count, &layer.feed_forward2, &mut self.nodes, d, 0, Then::Add);
    }

    /// One head of one user: `n` nodes from row `first` on.
    #[inline(always)]
    fn attend<A: Arithmetic>(
        &mut self,
        layer: &Layer,
        config: &NetworkConfig,
        user: &EncodedUser,
        first: usize,
        n: usize,
        head: usize,
    ) {
        let d = config.hidden;
        let width = d / config.heads;
        let all = &self.query_key_value[first * 3 * d..][..n * 3 * d];
        self.keys.reset(width, n);
        self.values.reset(n, width);
        for (node, states) in all.chunks_exact(3 * d).enumerate() {
            self.keys.set_column(node, &states[d + head * width..][..width]);
            self.values.set_row(node, &states[2 * d + head * width..][..width]);
        }
        let scores = zeroed(&mut self.scores, n * n);
        let queries = Rows { values: all, stride: 3 * d, offset: head * width };
        multiply::<A>(queries, n, &self.keys, scores, n, 0, Then::Store);
        let bias = |kind: u8, gap: u8| layer.edge_bias[edge_row(kind, gap) as usize * config.heads + head];
        let none = bias(EDGE_NONE, 0);
        let scale = scale_of(width);
        for score in scores.iter_mut() {
            *score = A::multiply_add(*score, scale, none);
        }
        for node in 0..n {
            scores[node * n + node] += bias(EDGE_SELF, 0) - none;
        }
        for edge in &user.edges {
            let (from, to) = (usize::from(edge.from), usize::from(edge.to));
            if from < n && to < n {
                scores[to * n + from] += bias(edge.kind, edge.gap) - none;
                scores[from * n + to] += bias(edge_kind_reversed(edge.kind), edge.gap) - none;
            }
        }
        for scores in scores.chunks_exact_mut(n) {
            softmax::<A>(scores);
        }
        let mixed = &mut self.mixed[first * d..][..n * d];
        multiply::<A>(Rows::dense(&self.scores, n), n, &self.values, mixed, d, head * width, Then::Store);
    }

    /// Scores and missing bits through the hidden layer into the parts; the linear path into the binary log-odds.
    #[inline(always)]
    fn user_features<A: Arithmetic>(&mut self, weights: &Weights, users: &[&EncodedUser]) {
        let config = &weights.config;
        let (d, width, count) = (config.hidden, 2 * config.features, users.len());
        self.features.clear();
        for user in users {
            self.features.extend_from_slice(&user.features);
            self.features.extend(user.raw.iter().map(|value| f32::from(u8::from(value.is_nan()))));
        }
        let rows = Rows::dense(&self.features, width);
        let hidden = zeroed(&mut self.hidden, count * config.feature_hidden);
        multiply::<A>(rows, count, &weights.features_hidden, hidden, config.feature_hidden, 0, Then::StoreRectified);
        let rows = Rows::dense(&self.hidden, config.feature_hidden);
        let place = (View::COUNT + 1) * d;
        multiply::<A>(rows, count, &weights.features_out, &mut self.parts, PARTS * d, place, Then::Store);
        let binary = zeroed(&mut self.binary, count * 2);
        multiply::<A>(Rows::dense(&self.features, width), count, &weights.wide, binary, 2, 0, Then::Store);
    }

    /// Attention of the features' query over the user's events.
    #[inline(always)]
    fn sequence<A: Arithmetic>(&mut self, weights: &Weights, users: &[&EncodedUser]) {
        let config = &weights.config;
        let d = config.hidden;
        let width = d / config.heads;
        let length = |user: &EncodedUser| user.events.len().min(config.sequence_capacity);
        let count: usize = users.iter().map(|user| length(user)).sum();
        let events = zeroed(&mut self.events, count * d);
        self.numbers.clear();
        let tokens = users.iter().flat_map(|user| &user.events[..length(user)]);
        for (token, state) in tokens.zip(events.chunks_exact_mut(d)) {
            state.copy_from_slice(row(&weights.items, token.item_row as usize, d));
            add(state, row(&weights.event_kind, token.kind as usize, d));
            self.numbers.extend_from_slice(&token.numbers);
        }
        let numbers = Rows::dense(&self.numbers, EVENT_NUMBERS);
        multiply::<A>(numbers, count, &weights.event_numbers, events, d, 0, Then::Add);
        let key_value = zeroed(&mut self.key_value, count * 2 * d);
        let events = Rows::dense(&self.events, d);
        multiply::<A>(events, count, &weights.sequence_key_value, key_value, 2 * d, 0, Then::Store);
        let features = Rows { values: &self.parts, stride: PARTS * d, offset: (View::COUNT + 1) * d };
        let query = zeroed(&mut self.query, users.len() * d);
        multiply::<A>(features, users.len(), &weights.sequence_query, query, d, 0, Then::Store);
        let mixed = zeroed(&mut self.mixed, users.len() * d);
        let (scale, mut first) = (scale_of(width), 0);
        for (user, (query, mixed)) in users.iter().zip(self.query.chunks_exact(d).zip(mixed.chunks_exact_mut(d))) {
            let states = &self.key_value[first * 2 * d..][..length(user) * 2 * d];
            first += length(user);
            for head in 0..config.heads {
                let query = &query[head * width..][..width];
                self.scores.clear();
                for (token, state) in user.events.iter().zip(states.chunks_exact(2 * d)) {
                    let score = dot::<A>(query, &state[head * width..][..width]) * scale;
                    let kind = weights.kind_bias[token.kind as usize * config.heads + head];
                    self.scores.push(score + kind + token.numbers[0] * weights.age_slope[head]);
                }
                softmax::<A>(&mut self.scores);
                let mixed = &mut mixed[head * width..][..width];
                for (weight, state) in self.scores.iter().zip(states.chunks_exact(2 * d)) {
                    add_scaled::<A>(mixed, &state[d + head * width..][..width], *weight);
                }
            }
        }
        let mixed = Rows::dense(&self.mixed, d);
        let place = View::COUNT * d;
        multiply::<A>(mixed, users.len(), &weights.sequence_out, &mut self.parts, PARTS * d, place, Then::Store);
    }

    #[inline(always)]
    fn context<A: Arithmetic>(&mut self, weights: &Weights, users: &[&EncodedUser]) {
        let d = weights.config.hidden;
        self.context.clear();
        for user in users {
            self.context.extend_from_slice(&user.context);
        }
        let rows = Rows::dense(&self.context, CONTEXT_WIDTH);
        let place = (View::COUNT + 2) * d;
        multiply::<A>(rows, users.len(), &weights.context, &mut self.parts, PARTS * d, place, Then::StoreRectified);
    }

    /// Attention over the parts, the trunk and the heads.
    #[inline(always)]
    fn fuse<A: Arithmetic>(&mut self, weights: &Weights, users: &[&EncodedUser], answers: &mut Vec<Prediction>) {
        let config = &weights.config;
        let (d, count) = (config.hidden, users.len());
        let fused = zeroed(&mut self.fused, count * d);
        let mut attention = Vec::with_capacity(count);
        let scale = scale_of(d);
        for (user, (parts, fused)) in
            users.iter().zip(self.parts.chunks_exact_mut(PARTS * d).zip(fused.chunks_exact_mut(d)))
        {
            add(parts, &weights.fusion_kind);
            let present = present(user, config);
            let mut scores: [f32; PARTS] = std::array::from_fn(|part| {
                let score =
                    dot::<A>(&parts[part * d..][..d], &weights.fusion_query) * scale + weights.fusion_bias[part];
                if present[part] { score } else { f32::MIN }
            });
            softmax::<A>(&mut scores);
            for (part, weight) in scores.iter().enumerate() {
                add_scaled::<A>(fused, &parts[part * d..][..d], *weight);
            }
            attention.push(scores);
        }
        let normed = zeroed(&mut self.normed, count * d);
        let norm = &weights.trunk_norm;
        normalise::<A>(&self.fused, d, &norm.scale, &norm.shift, NORM_EPSILON, normed);
        let trunk = zeroed(&mut self.trunk, count * d);
        multiply::<A>(Rows::dense(&self.normed, d), count, &weights.trunk, trunk, d, 0, Then::StoreRectified);
        let trunk = Rows::dense(&self.trunk, d);
        multiply::<A>(trunk, count, &weights.head_binary, &mut self.binary, 2, 0, Then::Add);
        let kind = zeroed(&mut self.kind, count * EVENT_KINDS);
        multiply::<A>(trunk, count, &weights.head_kind, kind, EVENT_KINDS, 0, Then::Store);
        let query = zeroed(&mut self.query, count * d);
        multiply::<A>(trunk, count, &weights.head_query, query, d, 0, Then::Store);
        for (place, attention) in attention.into_iter().enumerate() {
            answers.push(Prediction {
                churn_log_odds: self.binary[2 * place],
                purchase_log_odds: self.binary[2 * place + 1],
                attention,
                kind: std::array::from_fn(|kind| self.kind[place * EVENT_KINDS + kind]),
                query: row(&self.query, place, d).to_vec(),
            });
        }
    }
}

/// Which inputs of the fusion the user has.
fn present(user: &EncodedUser, config: &NetworkConfig) -> [bool; PARTS] {
    let mut present = [true; PARTS];
    for view in View::ALL {
        present[view.index()] = user.nodes.iter().take(config.node_capacity).any(|node| node.view == view);
    }
    present[View::COUNT] = !user.events.is_empty();
    present
}

/// `1 / √d`
#[expect(clippy::cast_precision_loss, reason = "widths are small")]
fn scale_of(width: usize) -> f32 {
    (width as f32).sqrt().recip()
}

#[cfg(test)]
mod tests;
