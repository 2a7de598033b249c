//! Encoded users to padded tensors, with masks so that padding never matters.

#![expect(clippy::cast_possible_truncation, reason = "bounded indices")]

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor};
use rand::Rng;

use super::{GraphForm, NetworkConfig};
use crate::{
    event::View,
    features::{
        CONTEXT_WIDTH, EDGE_NONE, EDGE_SELF, EVENT_NUMBERS, EncodedUser, GAP_BUCKETS, NODE_NUMBERS, edge_kind_reversed,
    },
    score::ATTENTION_NAMES,
};

/// Added to the attention score of a padded place.
pub(super) const MASKED: f32 = -1e9;

/// Padded sizes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Padding {
    /// Padded nodes `N`, at least 1.
    pub nodes: usize,
    /// Padded events `L`, at least 1.
    pub events: usize,
}

impl Padding {
    /// The padding a user belongs to: a function of the user alone, so that company cannot change a score (SCO-1).
    pub fn of(user: &EncodedUser, config: &NetworkConfig) -> Self {
        let bucket = |count: usize, capacity: usize| count.max(1).next_multiple_of(8).min(capacity);
        Self {
            nodes: bucket(user.nodes.len(), config.node_capacity),
            events: bucket(user.events.len(), config.sequence_capacity),
        }
    }

    /// The smallest padding that holds both.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { nodes: self.nodes.max(other.nodes), events: self.events.max(other.events) }
    }

    /// Cost of one user relative to others: padded places.
    pub fn cost(self) -> usize {
        self.nodes + self.events
    }
}

/// Hides inputs at random in training: a hidden feature looks missing.
pub struct Dropout<'a, R> {
    /// Where chance comes from.
    pub random: &'a mut R,
    /// Share of features hidden.
    pub feature_share: f32,
    /// Share of users whose whole graph, or whole sequence, is hidden.
    pub view_share: f32,
}

/// Users as tensors. Integer tensors are `u32`, flat over the padded places.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Users `B`.
    pub users: usize,
    /// Padded sizes.
    pub padding: Padding,
    /// Rows of the item table this batch needs, each once; item indices below point into this list.
    pub item_rows: Vec<u32>,
    /// `[B, 2F]`: scores, then missing bits.
    pub features: Tensor,
    /// `[B, C]`
    pub context: Tensor,
    /// `[B·N]`
    pub node_items: Tensor,
    /// `[B·N]`
    pub node_categories: Tensor,
    /// `[B·N]`
    pub node_kinds: Tensor,
    /// `[B·N, 8]`
    pub node_numbers: Tensor,
    /// `[B, 1, 1, N]`, 0 or `MASKED`.
    pub node_mask: Tensor,
    /// `[B, V, N]`: 1 / nodes of the view where the node is of the view.
    pub view_pool: Tensor,
    /// Edges in the form the configuration asks for.
    pub edges: BatchEdges,
    /// `[B·L]`
    pub event_items: Tensor,
    /// `[B·L]`
    pub event_kinds: Tensor,
    /// `[B·L, 3]`
    pub event_numbers: Tensor,
    /// `[B, 1, 1, L]`, 0 or `MASKED`.
    pub event_mask: Tensor,
    /// `[B, 1, 1, L]`, the scaled log age of each event.
    pub event_age: Tensor,
    /// `[B, 6]`, 0 or `MASKED`: inputs the user does not have.
    pub fusion_mask: Tensor,
}

/// Edges of a batch.
#[derive(Debug, Clone)]
pub enum BatchEdges {
    /// `[B·N·N]`: the (kind, gap) row of every pair, target-major.
    Dense(Tensor),
    /// The edge list, both directions and every node's own.
    List {
        /// Flat index of the node that sends.
        source: Tensor,
        /// Flat index of the node that receives.
        target: Tensor,
        /// (kind, gap) row.
        row: Tensor,
    },
}

impl Batch {
    /// Builds the tensors of `users`, padded to `padding` (longer lists are cut). `extra_rows` are item rows needed
    /// besides; they are appended to `item_rows` when new.
    pub fn build<R: Rng>(
        users: &[&EncodedUser],
        padding: Padding,
        config: &NetworkConfig,
        extra_rows: &[u32],
        mut dropout: Option<Dropout<'_, R>>,
        device: &Device,
    ) -> Result<Self> {
        let (b, n, l) = (users.len(), padding.nodes, padding.events);
        let mut plain = Plain::new(b, padding, config);
        for (place, user) in users.iter().enumerate() {
            plain.add(place, user, dropout.as_mut());
        }
        let mut local = LocalRows::default();
        let node_items: Vec<u32> = plain.node_items.iter().map(|row| local.of(*row)).collect();
        let event_items: Vec<u32> = plain.event_items.iter().map(|row| local.of(*row)).collect();
        for row in extra_rows {
            local.of(*row);
        }
        let tensor = |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, device);
        let index = |values: Vec<u32>| {
            let length = values.len();
            Tensor::from_vec(values, length, device)
        };
        let edges = match config.graph_form {
            GraphForm::TypedBias => BatchEdges::Dense(index(plain.dense)?),
            GraphForm::Gated => BatchEdges::List {
                source: index(plain.list.iter().map(|edge| edge[0]).collect())?,
                target: index(plain.list.iter().map(|edge| edge[1]).collect())?,
                row: index(plain.list.iter().map(|edge| edge[2]).collect())?,
            },
        };
        Ok(Self {
            users: b,
            padding,
            item_rows: local.rows,
            features: tensor(plain.features, &[b, 2 * config.features])?,
            context: tensor(plain.context, &[b, CONTEXT_WIDTH])?,
            node_items: index(node_items)?,
            node_categories: index(plain.node_categories)?,
            node_kinds: index(plain.node_kinds)?,
            node_numbers: tensor(plain.node_numbers, &[b * n, NODE_NUMBERS])?,
            node_mask: tensor(plain.node_mask, &[b, 1, 1, n])?,
            view_pool: tensor(plain.view_pool, &[b, View::COUNT, n])?,
            edges,
            event_items: index(event_items)?,
            event_kinds: index(plain.event_kinds)?,
            event_numbers: tensor(plain.event_numbers, &[b * l, EVENT_NUMBERS])?,
            event_mask: tensor(plain.event_mask, &[b, 1, 1, l])?,
            event_age: tensor(plain.event_age, &[b, 1, 1, l])?,
            fusion_mask: tensor(plain.fusion_mask, &[b, ATTENTION_NAMES.len()])?,
        })
    }

    /// Place in [`item_rows`](Self::item_rows) of a row that the batch was built with.
    pub fn local_row(&self, row: u32) -> Option<u32> {
        self.item_rows.iter().position(|known| *known == row).map(|place| place as u32)
    }
}

/// Rows in order of first use.
#[derive(Default)]
struct LocalRows {
    rows: Vec<u32>,
    place: HashMap<u32, u32>,
}

impl LocalRows {
    fn of(&mut self, row: u32) -> u32 {
        *self.place.entry(row).or_insert_with(|| {
            self.rows.push(row);
            self.rows.len() as u32 - 1
        })
    }
}

/// The same as plain arrays.
struct Plain<'a> {
    config: &'a NetworkConfig,
    padding: Padding,
    features: Vec<f32>,
    context: Vec<f32>,
    node_items: Vec<u32>,
    node_categories: Vec<u32>,
    node_kinds: Vec<u32>,
    node_numbers: Vec<f32>,
    node_mask: Vec<f32>,
    view_pool: Vec<f32>,
    dense: Vec<u32>,
    list: Vec<[u32; 3]>,
    event_items: Vec<u32>,
    event_kinds: Vec<u32>,
    event_numbers: Vec<f32>,
    event_mask: Vec<f32>,
    event_age: Vec<f32>,
    fusion_mask: Vec<f32>,
}

impl<'a> Plain<'a> {
    fn new(users: usize, padding: Padding, config: &'a NetworkConfig) -> Self {
        let (n, l) = (users * padding.nodes, users * padding.events);
        let dense = if config.graph_form == GraphForm::TypedBias { n * padding.nodes } else { 0 };
        Self {
            config,
            padding,
            features: vec![0.0; users * 2 * config.features],
            context: vec![0.0; users * CONTEXT_WIDTH],
            node_items: vec![0; n],
            node_categories: vec![0; n],
            node_kinds: vec![0; n],
            node_numbers: vec![0.0; n * NODE_NUMBERS],
            node_mask: vec![MASKED; n],
            view_pool: vec![0.0; n * View::COUNT],
            dense: vec![edge_row(EDGE_NONE, 0); dense],
            list: Vec::new(),
            event_items: vec![0; l],
            event_kinds: vec![0; l],
            event_numbers: vec![0.0; l * EVENT_NUMBERS],
            event_mask: vec![MASKED; l],
            event_age: vec![0.0; l],
            fusion_mask: vec![0.0; users * ATTENTION_NAMES.len()],
        }
    }

    fn add<R: Rng>(&mut self, place: usize, user: &EncodedUser, mut dropout: Option<&mut Dropout<'_, R>>) {
        let hidden = |dropout: &mut Option<&mut Dropout<'_, R>>| {
            dropout.as_mut().is_some_and(|dropout| dropout.random.random::<f32>() < dropout.view_share)
        };
        let (hide_graph, hide_events) = (hidden(&mut dropout), hidden(&mut dropout));
        self.add_features(place, user, dropout);
        self.context[place * CONTEXT_WIDTH..][..CONTEXT_WIDTH].copy_from_slice(&user.context);
        let nodes = if hide_graph { 0 } else { user.nodes.len().min(self.padding.nodes) };
        let events = if hide_events { 0 } else { user.events.len().min(self.padding.events) };
        self.add_nodes(place, user, nodes);
        self.add_edges(place, user, nodes);
        self.add_events(place, user, events);
        let mask = &mut self.fusion_mask[place * ATTENTION_NAMES.len()..][..ATTENTION_NAMES.len()];
        for view in View::ALL {
            if !user.nodes[..nodes].iter().any(|node| node.view == view) {
                mask[view.index()] = MASKED;
            }
        }
        if events == 0 {
            mask[View::COUNT] = MASKED;
        }
    }

    fn add_features<R: Rng>(&mut self, place: usize, user: &EncodedUser, mut dropout: Option<&mut Dropout<'_, R>>) {
        let count = self.config.features;
        let (scores, missing) = self.features[place * 2 * count..][..2 * count].split_at_mut(count);
        for feature in 0..count {
            let hide = dropout.as_mut().is_some_and(|dropout| dropout.random.random::<f32>() < dropout.feature_share);
            if hide {
                missing[feature] = 1.0;
            } else {
                scores[feature] = user.features[feature];
                missing[feature] = user.missing_bit(feature);
            }
        }
    }

    fn add_nodes(&mut self, place: usize, user: &EncodedUser, count: usize) {
        let n = self.padding.nodes;
        let mut view_count = [0.0_f32; View::COUNT];
        for node in &user.nodes[..count] {
            view_count[node.view.index()] += 1.0;
        }
        for (index, node) in user.nodes[..count].iter().enumerate() {
            let flat = place * n + index;
            self.node_items[flat] = node.item_row;
            self.node_categories[flat] = node.category_row;
            self.node_kinds[flat] = u32::from(node.kind);
            self.node_numbers[flat * NODE_NUMBERS..][..NODE_NUMBERS].copy_from_slice(&node.numbers);
            self.node_mask[flat] = 0.0;
            let view = node.view.index();
            self.view_pool[(place * View::COUNT + view) * n + index] = view_count[view].recip();
        }
    }

    fn add_edges(&mut self, place: usize, user: &EncodedUser, count: usize) {
        let n = self.padding.nodes;
        let base = place * n;
        let mut add = |source: usize, target: usize, row: u32| match self.config.graph_form {
            GraphForm::TypedBias => self.dense[(base + target) * n + source] = row,
            GraphForm::Gated => self.list.push([(base + source) as u32, (base + target) as u32, row]),
        };
        // Padded nodes get their own edge too, so that every node receives something in both forms.
        for node in 0..n {
            add(node, node, edge_row(EDGE_SELF, 0));
        }
        for edge in &user.edges {
            let (from, to) = (usize::from(edge.from), usize::from(edge.to));
            if from < count && to < count {
                add(from, to, edge_row(edge.kind, edge.gap));
                add(to, from, edge_row(edge_kind_reversed(edge.kind), edge.gap));
            }
        }
    }

    fn add_events(&mut self, place: usize, user: &EncodedUser, count: usize) {
        for (index, event) in user.events[..count].iter().enumerate() {
            let flat = place * self.padding.events + index;
            self.event_items[flat] = event.item_row;
            self.event_kinds[flat] = event.kind as u32;
            self.event_numbers[flat * EVENT_NUMBERS..][..EVENT_NUMBERS].copy_from_slice(&event.numbers);
            self.event_mask[flat] = 0.0;
            self.event_age[flat] = event.numbers[0];
        }
    }
}

/// Row of (edge kind, gap bucket).
pub(super) fn edge_row(kind: u8, gap: u8) -> u32 {
    u32::from(kind) * GAP_BUCKETS as u32 + u32::from(gap)
}
