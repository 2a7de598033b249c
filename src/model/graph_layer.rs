//! One layer over a user's nodes and edges, in two forms, followed by a feed-forward part; both with a skip.

use candle_core::{Result, Tensor};

use super::{
    Batch, BatchEdges, GraphForm, NetworkConfig,
    layers::{Linear, Lookup, Norm, join_heads, softmax, split_heads},
};

/// One graph layer.
#[derive(Debug, Clone)]
pub(super) struct GraphLayer {
    norm1: Norm,
    mixing: Mixing,
    out: Linear,
    norm2: Norm,
    feed_forward1: Linear,
    feed_forward2: Linear,
}

/// How nodes hear of each other.
#[derive(Debug, Clone)]
enum Mixing {
    TypedBias { query_key_value: Linear, edge_bias: Tensor, heads: usize },
    Gated(Box<Gated>),
}

#[derive(Debug, Clone)]
struct Gated {
    target: Linear,
    source: Linear,
    edge: Tensor,
    message: Linear,
    gate_target: Linear,
    gate_source: Linear,
    gate_edge: Tensor,
    gate: Linear,
}

/// Keeps the sum of gates away from zero.
const GATE_EPSILON: f64 = 1e-6;

impl GraphLayer {
    pub(super) fn load(lookup: &dyn Lookup, config: &NetworkConfig, layer: usize) -> Result<Self> {
        let name = format!("graph.{layer}");
        let sub = |part: &str| format!("{name}.{part}");
        let mixing = match config.graph_form {
            GraphForm::TypedBias => Mixing::TypedBias {
                query_key_value: Linear::load(lookup, &sub("query_key_value"))?,
                edge_bias: lookup.tensor(&sub("edge_bias"))?,
                heads: config.heads,
            },
            GraphForm::Gated => Mixing::Gated(Box::new(Gated {
                target: Linear::load(lookup, &sub("target"))?,
                source: Linear::load_without_bias(lookup, &sub("source"))?,
                edge: lookup.tensor(&sub("edge"))?,
                message: Linear::load(lookup, &sub("message"))?,
                gate_target: Linear::load(lookup, &sub("gate_target"))?,
                gate_source: Linear::load_without_bias(lookup, &sub("gate_source"))?,
                gate_edge: lookup.tensor(&sub("gate_edge"))?,
                gate: Linear::load(lookup, &sub("gate"))?,
            })),
        };
        Ok(Self {
            norm1: Norm::load(lookup, &sub("norm1"))?,
            mixing,
            out: Linear::load(lookup, &sub("out"))?,
            norm2: Norm::load(lookup, &sub("norm2"))?,
            feed_forward1: Linear::load(lookup, &sub("feed_forward1"))?,
            feed_forward2: Linear::load(lookup, &sub("feed_forward2"))?,
        })
    }

    /// Node states `[B·N, D]` → `[B·N, D]`.
    pub(super) fn forward(&self, nodes: &Tensor, batch: &Batch) -> Result<Tensor> {
        let normed = self.norm1.forward(nodes)?;
        let mixed = match (&self.mixing, &batch.edges) {
            (Mixing::TypedBias { query_key_value, edge_bias, heads }, BatchEdges::Dense(rows)) => {
                typed_bias(&query_key_value.forward(&normed)?, edge_bias, rows, *heads, batch)?
            }
            (Mixing::Gated(gated), BatchEdges::List { source, target, row }) => {
                gated.forward(&normed, source, target, row)?
            }
            _ => candle_core::bail!("the batch holds edges in another form than the network's"),
        };
        let nodes = (nodes + self.out.forward(&mixed)?)?;
        let inner = self.feed_forward1.forward(&self.norm2.forward(&nodes)?)?.relu()?;
        nodes + self.feed_forward2.forward(&inner)?
    }
}

/// Dot-product attention among a user's nodes with a bias per (edge kind, gap bucket) and head.
///
/// # Shapes
/// - `query_key_value`: `[B·N, 3D]`
/// - `edge_bias`: `[rows, H]`
/// - `rows`: `[B·N·N]`, target-major
/// - returns `[B·N, D]`
fn typed_bias(
    query_key_value: &Tensor,
    edge_bias: &Tensor,
    rows: &Tensor,
    heads: usize,
    batch: &Batch,
) -> Result<Tensor> {
    let (b, n) = (batch.users, batch.padding.nodes);
    let width = query_key_value.dim(1)? / 3;
    let part = |index: usize| split_heads(&query_key_value.narrow(1, index * width, width)?.contiguous()?, b, heads);
    let (query, key, value) = (part(0)?, part(1)?, part(2)?);
    let scale = head_scale(width / heads);
    let scores = (query.matmul(&key.transpose(2, 3)?.contiguous()?)? * scale)?;
    let bias = edge_bias.index_select(rows, 0)?.reshape((b, n, n, heads))?.permute((0, 3, 1, 2))?.contiguous()?;
    let weights = softmax(&(scores + bias)?.broadcast_add(&batch.node_mask)?)?;
    join_heads(&weights.matmul(&value)?)
}

/// `1 / √d`
#[expect(clippy::cast_precision_loss, reason = "widths are small")]
pub(super) fn head_scale(head_width: usize) -> f64 {
    (head_width as f64).sqrt().recip()
}

impl Gated {
    /// The literal form over the edge list: `h_ij = σ(θ·f(h_i, h_j, E_ij))` with `f` a rectified linear map, weighted by
    /// `a_ij = σ(θ·tanh(W·[h_i, h_j, E_ij]))` and normalised by the sum of the weights of the node's edges.
    ///
    /// # Shapes
    /// - `nodes`: `[B·N, D]`; `source`, `target`, `row`: `[E]`
    /// - returns `[B·N, D]`
    fn forward(&self, nodes: &Tensor, source: &Tensor, target: &Tensor, row: &Tensor) -> Result<Tensor> {
        let at_target = |rows: Tensor| rows.index_select(target, 0);
        let at_source = |rows: Tensor| rows.index_select(source, 0);
        let joined = (at_target(self.target.forward(nodes)?)? + at_source(self.source.forward(nodes)?)?)?;
        let joined = (joined + self.edge.index_select(row, 0)?)?.relu()?;
        let message = candle_nn::ops::sigmoid(&self.message.forward(&joined)?)?;
        let gate = (at_target(self.gate_target.forward(nodes)?)? + at_source(self.gate_source.forward(nodes)?)?)?;
        let gate = (gate + self.gate_edge.index_select(row, 0)?)?.tanh()?;
        let gate = candle_nn::ops::sigmoid(&self.gate.forward(&gate)?)?;
        let sum = nodes.zeros_like()?.index_add(target, &message.broadcast_mul(&gate)?, 0)?;
        let total = gate.zeros_like()?.narrow(0, 0, 1)?.broadcast_as((nodes.dim(0)?, 1))?.contiguous()?;
        let total = (total.index_add(target, &gate, 0)? + GATE_EPSILON)?;
        sum.broadcast_div(&total)
    }
}
