//! A bundle's own proof: a few encoded users and what the network said of them when it was stored. Loading a bundle
//! runs them again, so a bundle that computes something else on this machine is refused before it scores anyone.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "numbers are stored as 32-bit words"
)]

use std::collections::BTreeMap;

use super::{
    BundleError, PROBE_FILE,
    tensors::{self, Array},
};
use crate::{
    event::{EventKind, NameHash, View},
    features::{
        CATEGORY_BUCKETS, CONTEXT_WIDTH, EDGE_KINDS, EVENT_NUMBERS, EdgeToken, EncodedUser, EventToken, GAP_BUCKETS,
        NODE_KINDS, NODE_NUMBERS, NodeToken,
    },
    model::{NetworkConfig, Prediction},
    score::ATTENTION_NAMES,
};

/// Largest difference, relative to 1 + the stored number.
const TOLERANCE: f32 = 1e-3;
const NODE_WORDS: usize = 6;
const EDGE_WORDS: usize = 5;
const EVENT_WORDS: usize = 5;

/// Users and the answers expected for them.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Inputs.
    pub users: Vec<EncodedUser>,
    /// What the network said, in their order.
    pub answers: Vec<Prediction>,
}

impl Probe {
    /// Says which user's answer differs from the stored one, if any does.
    pub fn first_difference(&self, answers: &[Prediction]) -> Option<usize> {
        if answers.len() != self.answers.len() {
            return Some(answers.len().min(self.answers.len()));
        }
        let numbers = |prediction: &Prediction| {
            let mut all = vec![prediction.churn_log_odds, prediction.purchase_log_odds];
            all.extend(prediction.attention);
            all.extend(prediction.kind);
            all.extend(&prediction.query);
            all
        };
        self.answers.iter().zip(answers).position(|(stored, found)| {
            let close = |left: f32, right: f32| (left - right).abs() <= TOLERANCE * (1.0 + left.abs());
            !numbers(stored).into_iter().zip(numbers(found)).all(|(left, right)| close(left, right))
        })
    }

    /// The stored form.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let mut arrays = BTreeMap::new();
        let mut floats = |name: &str, width: usize, values: Vec<f32>| {
            arrays.insert(name.to_owned(), (vec![values.len() / width.max(1), width], Array::Floats(values)));
        };
        let width = self.users.first().map_or(0, |user| user.features.len());
        floats("features", width, self.users.iter().flat_map(|user| user.features.clone()).collect());
        floats("raw", width, self.users.iter().flat_map(|user| user.raw.clone()).collect());
        floats("context", CONTEXT_WIDTH, self.users.iter().flat_map(|user| user.context).collect());
        let nodes = || self.users.iter().flat_map(|user| &user.nodes);
        floats("node.numbers", NODE_NUMBERS, nodes().flat_map(|node| node.numbers).collect());
        let events = || self.users.iter().flat_map(|user| &user.events);
        floats("event.numbers", EVENT_NUMBERS, events().flat_map(|event| event.numbers).collect());
        floats("answer.binary", 2, self.answers.iter().flat_map(|p| [p.churn_log_odds, p.purchase_log_odds]).collect());
        floats("answer.attention", ATTENTION_NAMES.len(), self.answers.iter().flat_map(|p| p.attention).collect());
        floats("answer.kind", EventKind::ALL.len(), self.answers.iter().flat_map(|p| p.kind).collect());
        let hidden = self.answers.first().map_or(0, |answer| answer.query.len());
        floats("answer.query", hidden, self.answers.iter().flat_map(|p| p.query.clone()).collect());
        let mut words = |name: &str, width: usize, values: Vec<u32>| {
            arrays.insert(name.to_owned(), (vec![values.len() / width, width], Array::Integers(values)));
        };
        let sizes = self.users.iter().flat_map(|user| {
            let moment = user.as_of_ms as u64;
            let [nodes, edges, events] =
                [user.nodes.len(), user.edges.len(), user.events.len()].map(|length| length as u32);
            [moment as u32, (moment >> 32) as u32, nodes, edges, events]
        });
        words("sizes", 5, sizes.collect());
        let node = |node: &NodeToken| {
            let NodeToken { name, item_row, category_row, view, kind, numbers: _ } = *node;
            [name.0 as u32, (name.0 >> 32) as u32, item_row, category_row, view as u32, u32::from(kind)]
        };
        words("node", NODE_WORDS, nodes().flat_map(node).collect());
        let edges = self.users.iter().flat_map(|user| &user.edges).flat_map(|edge| {
            [edge.from, edge.to, edge.kind, edge.gap].map(u32::from).into_iter().chain([u32::from(edge.count)])
        });
        words("edge", EDGE_WORDS, edges.collect());
        let event = |event: &EventToken| {
            let name = event.name.map_or(0, |name| name.0);
            [name as u32, (name >> 32) as u32, event.time_s, event.item_row, event.kind as u32]
        };
        words("event", EVENT_WORDS, events().flat_map(event).collect());
        debug_assert_eq!(self.users.len(), self.answers.len());
        tensors::write(&arrays)
    }

    /// Reads the stored form; every index is checked against `config`, because the network trusts them.
    pub(super) fn from_bytes(bytes: &[u8], config: &NetworkConfig) -> Result<Self, BundleError> {
        let mut arrays = Arrays(tensors::read(PROBE_FILE, bytes)?);
        let sizes = arrays.integers("sizes")?;
        let (mut features, mut raw) = (arrays.floats("features")?, arrays.floats("raw")?);
        let (mut context, mut node_numbers) = (arrays.floats("context")?, arrays.floats("node.numbers")?);
        let (mut nodes, mut edges, mut events) =
            (arrays.integers("node")?, arrays.integers("edge")?, arrays.integers("event")?);
        let mut event_numbers = arrays.floats("event.numbers")?;
        let (mut binary, mut attention) = (arrays.floats("answer.binary")?, arrays.floats("answer.attention")?);
        let (mut kind, mut query) = (arrays.floats("answer.kind")?, arrays.floats("answer.query")?);
        let mut probe = Self { users: Vec::new(), answers: Vec::new() };
        for size in sizes.0.chunks_exact(5) {
            let counts = [size[2], size[3], size[4]].map(|count| count as usize);
            let mut user = EncodedUser {
                as_of_ms: (u64::from(size[0]) | u64::from(size[1]) << 32) as i64,
                raw: raw.take(config.features)?,
                features: features.take(config.features)?,
                nodes: Vec::new(),
                edges: Vec::new(),
                events: Vec::new(),
                context: context.array()?,
            };
            for _ in 0..counts[0] {
                user.nodes.push(node(nodes.array()?, node_numbers.array()?, config)?);
            }
            for _ in 0..counts[1] {
                user.edges.push(edge(edges.array()?, counts[0])?);
            }
            for _ in 0..counts[2] {
                user.events.push(event(events.array()?, event_numbers.array()?, config)?);
            }
            let [churn_log_odds, purchase_log_odds] = binary.array()?;
            let (attention, kind) = (attention.array()?, kind.array()?);
            let query = query.take(config.hidden)?;
            probe.users.push(user);
            probe.answers.push(Prediction { churn_log_odds, purchase_log_odds, attention, kind, query });
        }
        Ok(probe)
    }
}

fn malformed(message: impl Into<String>) -> BundleError {
    BundleError::Malformed { file: PROBE_FILE, message: message.into() }
}

fn node(
    words: [u32; NODE_WORDS],
    numbers: [f32; NODE_NUMBERS],
    config: &NetworkConfig,
) -> Result<NodeToken, BundleError> {
    let [low, high, item_row, category_row, view, kind] = words;
    let view = View::ALL.get(view as usize).copied().ok_or_else(|| malformed(format!("`{view}` is no view")))?;
    let inside = (item_row as usize) < config.item_rows
        && (category_row as usize) < config.category_rows
        && category_row < CATEGORY_BUCKETS
        && (kind as usize) < NODE_KINDS;
    if !inside {
        return Err(malformed("a node points outside the tables"));
    }
    let name = NameHash(u64::from(low) | u64::from(high) << 32);
    Ok(NodeToken { name, item_row, category_row, view, kind: kind as u8, numbers })
}

fn edge(words: [u32; EDGE_WORDS], node_count: usize) -> Result<EdgeToken, BundleError> {
    let [from, to, kind, gap, count] = words;
    let inside = (from.max(to) as usize) < node_count && (kind as usize) < EDGE_KINDS && (gap as usize) < GAP_BUCKETS;
    if !inside || kind as usize * 2 >= EDGE_KINDS + 2 {
        return Err(malformed("an edge points outside its user's nodes or kinds"));
    }
    Ok(EdgeToken { from: from as u8, to: to as u8, kind: kind as u8, gap: gap as u8, count: count as u16 })
}

fn event(
    words: [u32; EVENT_WORDS],
    numbers: [f32; EVENT_NUMBERS],
    config: &NetworkConfig,
) -> Result<EventToken, BundleError> {
    let [low, high, time_s, item_row, kind] = words;
    let kind =
        EventKind::ALL.get(kind as usize).copied().ok_or_else(|| malformed(format!("`{kind}` is no event kind")))?;
    if item_row as usize >= config.item_rows {
        return Err(malformed("an event points outside the item table"));
    }
    let name = u64::from(low) | u64::from(high) << 32;
    Ok(EventToken { name: (name != 0).then_some(NameHash(name)), time_s, item_row, kind, numbers })
}

/// Arrays of the file, taken out by name.
struct Arrays(BTreeMap<String, (Vec<usize>, Array)>);

/// Values taken from the front.
struct Values<T>(Vec<T>, usize);

impl Arrays {
    fn floats(&mut self, name: &str) -> Result<Values<f32>, BundleError> {
        match self.0.remove(name) {
            Some((_, Array::Floats(values))) => Ok(Values(values, 0)),
            _ => Err(malformed(format!("tensor `{name}` of type F32 is missing"))),
        }
    }

    fn integers(&mut self, name: &str) -> Result<Values<u32>, BundleError> {
        match self.0.remove(name) {
            Some((_, Array::Integers(values))) => Ok(Values(values, 0)),
            _ => Err(malformed(format!("tensor `{name}` of type U32 is missing"))),
        }
    }
}

impl<T: Copy> Values<T> {
    fn take(&mut self, count: usize) -> Result<Vec<T>, BundleError> {
        let taken = self.0.get(self.1..self.1 + count).ok_or_else(|| malformed("an array ends too early"))?.to_vec();
        self.1 += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[T; N], BundleError> {
        self.take(N)?.try_into().map_err(|_| malformed("an array ends too early"))
    }
}
