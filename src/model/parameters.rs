//! The network's parameters as plain named arrays: what is initialised, optimised, stored and copied to devices.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{GraphForm, NetworkConfig};
use crate::features::{CONTEXT_WIDTH, EVENT_KINDS, EVENT_NUMBERS, NODE_KINDS, NODE_NUMBERS};
use crate::score::ATTENTION_NAMES;

/// Name of the item table, which training treats row by row.
pub const ITEM_TABLE: &str = "item.table";

/// Tasks with a learned loss weight: churn, purchase, next item, next event kind.
pub const TASKS: usize = 4;

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

/// All parameters by name. The order of names is the order everywhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters(BTreeMap<String, Parameter>);

/// How a parameter starts.
#[derive(Debug, Clone, Copy)]
enum Start {
    Constant(f32),
    /// Normal with this deviation.
    Normal(f32),
}

impl Parameters {
    /// Fresh parameters for `config`, the same for the same seed.
    pub fn initialise(config: &NetworkConfig, seed: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self::build(config, &mut |start, length| match start {
            Start::Constant(value) => vec![value; length],
            Start::Normal(deviation) => (0..length).map(|_| deviation * normal(&mut random)).collect(),
        })
    }

    /// Names and shapes a network of this configuration has.
    pub fn shapes(config: &NetworkConfig) -> BTreeMap<String, Vec<usize>> {
        let all = Self::build(config, &mut |_, _| Vec::new());
        all.0.into_iter().map(|(name, parameter)| (name, parameter.shape)).collect()
    }

    /// From stored arrays; the caller checks names and shapes against [`shapes`](Self::shapes).
    pub fn from_map(map: BTreeMap<String, Parameter>) -> Self {
        Self(map)
    }

    /// All parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Parameter)> {
        self.0.iter().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// All parameters in order, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Parameter)> {
        self.0.iter_mut().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0.get(name)
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.0.values().map(|parameter| parameter.values.len()).sum()
    }

    /// The first parameter with a value that is not finite.
    pub fn first_not_finite(&self) -> Option<&str> {
        self.iter().find(|(_, parameter)| parameter.values.iter().any(|value| !value.is_finite())).map(|(name, _)| name)
    }

    fn build(config: &NetworkConfig, fill: &mut dyn FnMut(Start, usize) -> Vec<f32>) -> Self {
        let mut map = BTreeMap::new();
        let mut add = |name: String, shape: &[usize], start: Start| {
            let values = fill(start, shape.iter().product());
            map.insert(name, Parameter { shape: shape.to_vec(), values });
        };
        let d = config.hidden;
        add(ITEM_TABLE.to_owned(), &[config.item_rows, d], Start::Normal(0.1));
        add("category.table".to_owned(), &[config.category_rows, d], Start::Normal(0.1));
        add("node.kind".to_owned(), &[NODE_KINDS, d], Start::Normal(0.1));
        linear(&mut add, "node.numbers", NODE_NUMBERS, d);
        for layer in 0..config.layers {
            graph_layer(&mut add, config, layer);
        }
        normalisation(&mut add, "graph.norm", d);
        add("event.kind".to_owned(), &[EVENT_KINDS, d], Start::Normal(0.1));
        linear(&mut add, "event.numbers", EVENT_NUMBERS, d);
        linear(&mut add, "sequence.query", d, d);
        linear(&mut add, "sequence.key_value", d, 2 * d);
        linear(&mut add, "sequence.out", d, d);
        add("sequence.kind_bias".to_owned(), &[EVENT_KINDS, config.heads], Start::Constant(0.0));
        // Older events count less from the start; each head learns how fast.
        add("sequence.age_slope".to_owned(), &[config.heads], Start::Constant(-1.0));
        linear(&mut add, "features.hidden", 2 * config.features, config.feature_hidden);
        linear(&mut add, "features.out", config.feature_hidden, d);
        add("wide.weight".to_owned(), &[2 * config.features, 2], Start::Constant(0.0));
        add("wide.bias".to_owned(), &[2], Start::Constant(0.0));
        linear(&mut add, "context", CONTEXT_WIDTH, d);
        let views = ATTENTION_NAMES.len();
        add("fusion.kind".to_owned(), &[views, d], Start::Normal(0.1));
        add("fusion.query".to_owned(), &[d], Start::Normal(0.1));
        add("fusion.bias".to_owned(), &[views], Start::Constant(0.0));
        normalisation(&mut add, "trunk.norm", d);
        linear(&mut add, "trunk", d, d);
        // Small heads: the first scores are the wide path's, and the deep path earns its say.
        add("head.binary.weight".to_owned(), &[d, 2], Start::Normal(0.02));
        linear(&mut add, "head.kind", d, EVENT_KINDS);
        linear(&mut add, "head.query", d, d);
        add("loss.log_variance".to_owned(), &[TASKS], Start::Constant(0.0));
        Self(map)
    }
}

type Add<'a> = dyn FnMut(String, &[usize], Start) + 'a;

#[expect(clippy::cast_precision_loss, reason = "widths are small")]
fn linear(add: &mut Add<'_>, name: &str, inputs: usize, outputs: usize) {
    add(format!("{name}.weight"), &[inputs, outputs], Start::Normal((inputs as f32).sqrt().recip()));
    add(format!("{name}.bias"), &[outputs], Start::Constant(0.0));
}

fn normalisation(add: &mut Add<'_>, name: &str, width: usize) {
    add(format!("{name}.scale"), &[width], Start::Constant(1.0));
    add(format!("{name}.shift"), &[width], Start::Constant(0.0));
}

fn graph_layer(add: &mut Add<'_>, config: &NetworkConfig, layer: usize) {
    let d = config.hidden;
    let rows = NetworkConfig::edge_rows();
    let name = format!("graph.{layer}");
    normalisation(add, &format!("{name}.norm1"), d);
    match config.graph_form {
        GraphForm::TypedBias => {
            linear(add, &format!("{name}.query_key_value"), d, 3 * d);
            add(format!("{name}.edge_bias"), &[rows, config.heads], Start::Constant(0.0));
        }
        GraphForm::Gated => {
            linear(add, &format!("{name}.target"), d, d);
            add(format!("{name}.source.weight"), &[d, d], Start::Normal(0.15));
            add(format!("{name}.edge"), &[rows, d], Start::Normal(0.1));
            linear(add, &format!("{name}.message"), d, d);
            linear(add, &format!("{name}.gate_target"), d, d);
            add(format!("{name}.gate_source.weight"), &[d, d], Start::Normal(0.15));
            add(format!("{name}.gate_edge"), &[rows, d], Start::Normal(0.1));
            linear(add, &format!("{name}.gate"), d, 1);
        }
    }
    linear(add, &format!("{name}.out"), d, d);
    normalisation(add, &format!("{name}.norm2"), d);
    linear(add, &format!("{name}.feed_forward1"), d, config.feed_forward);
    linear(add, &format!("{name}.feed_forward2"), config.feed_forward, d);
}

/// A standard normal number (Box–Muller, one of the pair).
fn normal(random: &mut impl Rng) -> f32 {
    let radius = (-2.0 * (1.0 - random.random::<f32>()).ln()).sqrt();
    radius * (random.random::<f32>() * std::f32::consts::TAU).cos()
}
