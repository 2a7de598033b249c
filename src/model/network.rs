//! The multi-view network: graph, sequence, user features and context, fused by attention, read by four heads.

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor};

use super::{
    Batch, ITEM_TABLE, NetworkConfig, Parameters,
    graph_layer::{GraphLayer, head_scale},
    layers::{Linear, Lookup, Norm, join_heads, softmax, split_heads},
};

/// What the network says of a batch.
#[derive(Debug, Clone)]
pub struct Output {
    /// `[B, 2]`: churn and purchase log-odds, not calibrated.
    pub binary: Tensor,
    /// `[B, 6]`: next event kind, log weights.
    pub kind: Tensor,
    /// `[B, D]`: the query against the item table.
    pub query: Tensor,
    /// `[B, 6]`: fusion weights in the order of [`ATTENTION_NAMES`](crate::score::ATTENTION_NAMES).
    pub attention: Tensor,
}

/// The network on one device. The item table stays outside: a caller hands in the rows a batch needs.
#[derive(Debug, Clone)]
pub struct Network {
    config: NetworkConfig,
    category_table: Tensor,
    node_kind: Tensor,
    node_numbers: Linear,
    layers: Vec<GraphLayer>,
    graph_norm: Norm,
    sequence: Sequence,
    features_hidden: Linear,
    features_out: Linear,
    wide: Linear,
    context: Linear,
    fusion: Fusion,
    trunk_norm: Norm,
    trunk: Linear,
    head_binary: Tensor,
    head_kind: Linear,
    head_query: Linear,
    /// `[4]`: learned log variance of each task's loss.
    pub(super) log_variance: Tensor,
}

impl Network {
    /// Copies `parameters` to `device`, without gradients.
    pub fn from_parameters(parameters: &Parameters, config: &NetworkConfig, device: &Device) -> Result<Self> {
        let mut tensors = HashMap::new();
        for (name, parameter) in parameters.iter().filter(|(name, _)| *name != ITEM_TABLE) {
            let tensor = Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), device)?;
            tensors.insert(name.to_owned(), tensor);
        }
        Self::from_tensors(&tensors, config)
    }

    /// Wires tensors (or variables, when gradients are wanted) by their names.
    pub fn from_tensors(tensors: &HashMap<String, Tensor>, config: &NetworkConfig) -> Result<Self> {
        Self::load(tensors, config)
    }

    fn load(lookup: &dyn Lookup, config: &NetworkConfig) -> Result<Self> {
        Ok(Self {
            category_table: lookup.tensor("category.table")?,
            node_kind: lookup.tensor("node.kind")?,
            node_numbers: Linear::load(lookup, "node.numbers")?,
            layers: (0..config.layers).map(|layer| GraphLayer::load(lookup, config, layer)).collect::<Result<_>>()?,
            graph_norm: Norm::load(lookup, "graph.norm")?,
            sequence: Sequence::load(lookup, config)?,
            features_hidden: Linear::load(lookup, "features.hidden")?,
            features_out: Linear::load(lookup, "features.out")?,
            wide: Linear::load(lookup, "wide")?,
            context: Linear::load(lookup, "context")?,
            fusion: Fusion::load(lookup)?,
            trunk_norm: Norm::load(lookup, "trunk.norm")?,
            trunk: Linear::load(lookup, "trunk")?,
            head_binary: lookup.tensor("head.binary.weight")?,
            head_kind: Linear::load(lookup, "head.kind")?,
            head_query: Linear::load(lookup, "head.query")?,
            log_variance: lookup.tensor("loss.log_variance")?,
            config: config.clone(),
        })
    }

    /// The shape.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Scores a batch. `items: [rows, D]` are the item table's rows of [`Batch::item_rows`], in that order.
    pub fn forward(&self, batch: &Batch, items: &Tensor) -> Result<Output> {
        let views = self.graph(batch, items)?;
        let features = self.features_out.forward(&self.features_hidden.forward(&batch.features)?.relu()?)?;
        let sequence = self.sequence.forward(batch, items, &features)?;
        let context = self.context.forward(&batch.context)?.relu()?;
        let parts = Tensor::cat(&[views, sequence.unsqueeze(1)?, features.unsqueeze(1)?, context.unsqueeze(1)?], 1)?;
        let (fused, attention) = self.fusion.forward(&parts, &batch.fusion_mask)?;
        let trunk = self.trunk.forward(&self.trunk_norm.forward(&fused)?)?.relu()?;
        Ok(Output {
            binary: (self.wide.forward(&batch.features)? + trunk.matmul(&self.head_binary)?)?,
            kind: self.head_kind.forward(&trunk)?,
            query: self.head_query.forward(&trunk)?,
            attention,
        })
    }

    /// One vector a view, `[B, V, D]`; a view without nodes is all zeros.
    fn graph(&self, batch: &Batch, items: &Tensor) -> Result<Tensor> {
        let (b, n) = (batch.users, batch.padding.nodes);
        let mut nodes = (items.index_select(&batch.node_items, 0)?
            + self.category_table.index_select(&batch.node_categories, 0)?)?;
        nodes = (nodes + self.node_kind.index_select(&batch.node_kinds, 0)?)?;
        nodes = (nodes + self.node_numbers.forward(&batch.node_numbers)?)?;
        for layer in &self.layers {
            nodes = layer.forward(&nodes, batch)?;
        }
        let nodes = self.graph_norm.forward(&nodes)?.reshape((b, n, self.config.hidden))?;
        batch.view_pool.matmul(&nodes)
    }
}

/// Attention of one query, made from the user features, over the recent events; older events count less.
#[derive(Debug, Clone)]
struct Sequence {
    heads: usize,
    event_kind: Tensor,
    event_numbers: Linear,
    query: Linear,
    key_value: Linear,
    out: Linear,
    kind_bias: Tensor,
    age_slope: Tensor,
}

impl Sequence {
    fn load(lookup: &dyn Lookup, config: &NetworkConfig) -> Result<Self> {
        Ok(Self {
            heads: config.heads,
            event_kind: lookup.tensor("event.kind")?,
            event_numbers: Linear::load(lookup, "event.numbers")?,
            query: Linear::load(lookup, "sequence.query")?,
            key_value: Linear::load(lookup, "sequence.key_value")?,
            out: Linear::load(lookup, "sequence.out")?,
            kind_bias: lookup.tensor("sequence.kind_bias")?,
            age_slope: lookup.tensor("sequence.age_slope")?,
        })
    }

    /// `features: [B, D]` → `[B, D]`; what a user without events gets is masked in the fusion.
    fn forward(&self, batch: &Batch, items: &Tensor, features: &Tensor) -> Result<Tensor> {
        let (b, l, heads) = (batch.users, batch.padding.events, self.heads);
        let mut events =
            (items.index_select(&batch.event_items, 0)? + self.event_kind.index_select(&batch.event_kinds, 0)?)?;
        events = (events + self.event_numbers.forward(&batch.event_numbers)?)?;
        let key_value = self.key_value.forward(&events)?;
        let width = key_value.dim(1)? / 2;
        let part = |index: usize| split_heads(&key_value.narrow(1, index * width, width)?.contiguous()?, b, heads);
        let (key, value) = (part(0)?, part(1)?);
        let query = split_heads(&self.query.forward(features)?, b, heads)?;
        let scores = (query.matmul(&key.transpose(2, 3)?.contiguous()?)? * head_scale(width / heads))?;
        let kind = self.kind_bias.index_select(&batch.event_kinds, 0)?.reshape((b, l, heads, 1))?;
        let kind = kind.permute((0, 2, 3, 1))?.contiguous()?;
        let age = batch.event_age.broadcast_mul(&self.age_slope.reshape((1, heads, 1, 1))?)?;
        let scores = ((scores + kind)? + age)?.broadcast_add(&batch.event_mask)?;
        self.out.forward(&join_heads(&softmax(&scores)?.matmul(&value)?)?)
    }
}

/// Attention over the six inputs.
#[derive(Debug, Clone)]
struct Fusion {
    kind: Tensor,
    query: Tensor,
    bias: Tensor,
}

impl Fusion {
    fn load(lookup: &dyn Lookup) -> Result<Self> {
        Ok(Self {
            kind: lookup.tensor("fusion.kind")?,
            query: lookup.tensor("fusion.query")?,
            bias: lookup.tensor("fusion.bias")?,
        })
    }

    /// `parts: [B, 6, D]` → the fused vector `[B, D]` and the weights `[B, 6]`.
    fn forward(&self, parts: &Tensor, mask: &Tensor) -> Result<(Tensor, Tensor)> {
        let parts = parts.broadcast_add(&self.kind)?;
        let (b, count, width) = parts.dims3()?;
        let scores = parts.reshape((b * count, width))?.matmul(&self.query.reshape((width, 1))?)?;
        let scores = (scores.reshape((b, count))? * head_scale(width))?;
        let weights = softmax(&(scores.broadcast_add(&self.bias)? + mask)?)?;
        let fused = weights.unsqueeze(1)?.matmul(&parts)?.squeeze(1)?;
        Ok((fused, weights))
    }
}

impl Lookup for HashMap<String, Tensor> {
    fn tensor(&self, name: &str) -> Result<Tensor> {
        match self.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("parameter `{name}` is missing"),
        }
    }
}
