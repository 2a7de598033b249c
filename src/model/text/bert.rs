//! The encoder itself (Devlin et al., *BERT*, 2018), for inference only: fused operations that cut gradients are welcome here.
//!
//! `T` texts, `L` tokens of the longest, `D` width, `H` heads.

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor, bail};
use candle_nn::ops::{layer_norm, softmax_last_dim};
use serde::Deserialize;

use super::normalised;
use crate::model::layers::{Lookup, join_heads, split_heads};

/// What `config.json` says of the shape.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct BertConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    pub(super) max_position_embeddings: usize,
    layer_norm_eps: f64,
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

fn absolute() -> String {
    "absolute".to_owned()
}

impl BertConfig {
    /// What this program cannot run of it, if anything.
    pub(super) fn problem(&self) -> Option<String> {
        if self.hidden_act != "gelu" {
            return Some(format!("`hidden_act` is `{}`, only `gelu` is known", self.hidden_act));
        }
        if self.position_embedding_type != "absolute" {
            let found = &self.position_embedding_type;
            return Some(format!("`position_embedding_type` is `{found}`, only `absolute` is known"));
        }
        let sizes = [self.hidden_size, self.num_hidden_layers, self.num_attention_heads, self.max_position_embeddings];
        if sizes.contains(&0) || !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Some("sizes must be at least 1, and `hidden_size` a multiple of `num_attention_heads`".to_owned());
        }
        None
    }
}

/// `x · Wᵀ + b`, as `PyTorch` stores it.
struct Dense {
    /// Transposed: `[inputs, outputs]`.
    weight: Tensor,
    bias: Tensor,
}

impl Dense {
    fn load(lookup: &dyn Lookup, name: &str) -> Result<Self> {
        Ok(Self { weight: lookup.part(name, "weight")?.t()?.contiguous()?, bias: lookup.part(name, "bias")? })
    }

    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        rows.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

struct Norm {
    scale: Tensor,
    shift: Tensor,
    epsilon: f32,
}

impl Norm {
    #[expect(clippy::cast_possible_truncation, reason = "a tiny number")]
    fn load(lookup: &dyn Lookup, name: &str, config: &BertConfig) -> Result<Self> {
        let (scale, shift) = (lookup.part(name, "weight")?, lookup.part(name, "bias")?);
        Ok(Self { scale, shift, epsilon: config.layer_norm_eps as f32 })
    }

    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        layer_norm(&rows.contiguous()?, &self.scale, &self.shift, self.epsilon)
    }
}

struct Layer {
    query: Dense,
    key: Dense,
    value: Dense,
    attended: Dense,
    attended_norm: Norm,
    wide: Dense,
    narrow: Dense,
    out_norm: Norm,
}

impl Layer {
    fn load(lookup: &dyn Lookup, config: &BertConfig, number: usize) -> Result<Self> {
        let name = |part: &str| format!("encoder.layer.{number}.{part}");
        let dense = |part: &str| Dense::load(lookup, &name(part));
        Ok(Self {
            query: dense("attention.self.query")?,
            key: dense("attention.self.key")?,
            value: dense("attention.self.value")?,
            attended: dense("attention.output.dense")?,
            attended_norm: Norm::load(lookup, &name("attention.output.LayerNorm"), config)?,
            wide: dense("intermediate.dense")?,
            narrow: dense("output.dense")?,
            out_norm: Norm::load(lookup, &name("output.LayerNorm"), config)?,
        })
    }

    /// `rows: [T·L, D]`, `mask: [T, 1, 1, L]` → `[T·L, D]`
    fn forward(&self, rows: &Tensor, mask: &Tensor, heads: usize) -> Result<Tensor> {
        let (texts, width) = (mask.dim(0)?, rows.dim(1)?);
        let [query, key, value] = [&self.query, &self.key, &self.value]
            .map(|dense| dense.forward(rows).and_then(|rows| split_heads(&rows, texts, heads)));
        #[expect(clippy::cast_precision_loss, reason = "the width of a head")]
        let scale = 1.0 / ((width / heads) as f64).sqrt();
        let scores = (query?.matmul(&key?.transpose(2, 3)?.contiguous()?)? * scale)?.broadcast_add(mask)?;
        let attended = join_heads(&softmax_last_dim(&scores)?.matmul(&value?)?)?;
        let rows = self.attended_norm.forward(&(rows + self.attended.forward(&attended)?)?)?;
        let wide = self.wide.forward(&rows)?.gelu_erf()?;
        self.out_norm.forward(&(&rows + self.narrow.forward(&wide)?)?)
    }
}

/// Weights on the CPU.
pub(super) struct Bert {
    words: Tensor,
    /// Position embeddings with the one text kind added that there is here.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
}

impl Bert {
    pub(super) fn load(tensors: &HashMap<String, Tensor>, config: &BertConfig) -> Result<Self> {
        let lookup: &dyn Lookup = tensors;
        let words = lookup.tensor("embeddings.word_embeddings.weight")?;
        let positions = lookup.tensor("embeddings.position_embeddings.weight")?;
        let kinds = lookup.tensor("embeddings.token_type_embeddings.weight")?;
        for (name, table) in [("word", &words), ("position", &positions), ("token type", &kinds)] {
            if table.dims().get(1) != Some(&config.hidden_size) {
                bail!("{name} embeddings have the shape {:?}, the width is {}", table.dims(), config.hidden_size);
            }
        }
        if positions.dim(0)? < config.max_position_embeddings {
            bail!("there are {} position embeddings of {}", positions.dim(0)?, config.max_position_embeddings);
        }
        Ok(Self {
            words,
            positions: positions.broadcast_add(&kinds.narrow(0, 0, 1)?)?,
            norm: Norm::load(lookup, "embeddings.LayerNorm", config)?,
            layers: (0..config.num_hidden_layers)
                .map(|number| Layer::load(lookup, config, number))
                .collect::<Result<_>>()?,
            heads: config.num_attention_heads,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.words.dims()[1]
    }

    /// Mean of the token states of each text, of length 1: `[T, D]`. Every text has a token.
    pub(super) fn pooled(&self, texts: &[&[u32]]) -> Result<Tensor> {
        const HIDDEN: f32 = -1e9;
        let length = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let (count, width, device) = (texts.len(), self.width(), &Device::Cpu);
        let (mut ids, mut hides, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for text in texts {
            #[expect(clippy::cast_precision_loss, reason = "at most a few hundred tokens")]
            let share = 1.0 / text.len() as f32;
            for place in 0..length {
                ids.push(text.get(place).copied().unwrap_or(0));
                hides.push(if place < text.len() { 0.0 } else { HIDDEN });
                weights.push(if place < text.len() { share } else { 0.0 });
            }
        }
        let words = self.words.index_select(&Tensor::from_vec(ids, count * length, device)?, 0)?;
        let words = words.reshape((count, length, width))?.broadcast_add(&self.positions.narrow(0, 0, length)?)?;
        let mut rows = self.norm.forward(&words.reshape((count * length, width))?)?;
        let mask = Tensor::from_vec(hides, (count, 1, 1, length), device)?;
        for layer in &self.layers {
            rows = layer.forward(&rows, &mask, self.heads)?;
        }
        let weights = Tensor::from_vec(weights, (count, 1, length), device)?;
        normalised(&weights.matmul(&rows.reshape((count, length, width))?)?.squeeze(1)?)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    const WIDTH: usize = 8;
    const HEADS: usize = 2;
    const WIDE: usize = 12;
    const WORDS: usize = 20;

    fn config() -> BertConfig {
        BertConfig {
            hidden_size: WIDTH,
            num_hidden_layers: 2,
            num_attention_heads: HEADS,
            max_position_embeddings: 10,
            layer_norm_eps: 1e-12,
            hidden_act: "gelu".to_owned(),
            position_embedding_type: absolute(),
        }
    }

    type Arrays = HashMap<String, (Vec<usize>, Vec<f32>)>;

    fn random_weights() -> Arrays {
        let mut shapes: Vec<(String, Vec<usize>)> = vec![
            ("embeddings.word_embeddings.weight".to_owned(), vec![WORDS, WIDTH]),
            ("embeddings.position_embeddings.weight".to_owned(), vec![10, WIDTH]),
            ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, WIDTH]),
        ];
        let mut pair = |name: String, inputs: Option<usize>, outputs: usize| {
            shapes
                .push((format!("{name}.weight"), inputs.map_or_else(|| vec![outputs], |inputs| vec![outputs, inputs])));
            shapes.push((format!("{name}.bias"), vec![outputs]));
        };
        pair("embeddings.LayerNorm".to_owned(), None, WIDTH);
        for layer in 0..2 {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
            {
                pair(name(part), Some(WIDTH), WIDTH);
            }
            pair(name("attention.output.LayerNorm"), None, WIDTH);
            pair(name("intermediate.dense"), Some(WIDTH), WIDE);
            pair(name("output.dense"), Some(WIDE), WIDTH);
            pair(name("output.LayerNorm"), None, WIDTH);
        }
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut values =
            |shape: &[usize]| (0..shape.iter().product()).map(|_| random.random_range(-0.9..0.9)).collect();
        shapes.into_iter().map(|(name, shape)| (name, (shape.clone(), values(&shape)))).collect()
    }

    /// The same in plain loops over one text, with double precision and an error function by its series.
    struct Plain<'a>(&'a Arrays);

    impl Plain<'_> {
        fn row(&self, name: &str, row: usize) -> Vec<f64> {
            let (shape, values) = &self.0[name];
            let width = shape[shape.len() - 1];
            values[row * width..(row + 1) * width].iter().map(|value| f64::from(*value)).collect()
        }

        fn dense(&self, name: &str, input: &[f64]) -> Vec<f64> {
            let outputs = self.0[&format!("{name}.weight")].0[0];
            let bias = self.row(&format!("{name}.bias"), 0);
            let product = |output: usize| -> f64 {
                self.row(&format!("{name}.weight"), output)
                    .iter()
                    .zip(input)
                    .map(|(weight, value)| weight * value)
                    .sum()
            };
            (0..outputs).map(|output| product(output) + bias[output]).collect()
        }

        fn norm(&self, name: &str, input: &[f64]) -> Vec<f64> {
            let count = f64::from(u8::try_from(input.len()).unwrap());
            let mean = input.iter().sum::<f64>() / count;
            let variance = input.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            let (scale, shift) = (self.row(&format!("{name}.weight"), 0), self.row(&format!("{name}.bias"), 0));
            (0..input.len()).map(|at| (input[at] - mean) / (variance + 1e-12).sqrt() * scale[at] + shift[at]).collect()
        }

        fn pooled(&self, text: &[u32]) -> Vec<f64> {
            let add =
                |left: &[f64], right: &[f64]| -> Vec<f64> { left.iter().zip(right).map(|(a, b)| a + b).collect() };
            let kind = self.row("embeddings.token_type_embeddings.weight", 0);
            let mut states: Vec<Vec<f64>> = (0..text.len())
                .map(|at| {
                    let word = self.row("embeddings.word_embeddings.weight", text[at] as usize);
                    let position = self.row("embeddings.position_embeddings.weight", at);
                    self.norm("embeddings.LayerNorm", &add(&add(&word, &position), &kind))
                })
                .collect();
            for layer in 0..2 {
                let name = |part: &str| format!("encoder.layer.{layer}.{part}");
                let all = |part: &str| -> Vec<Vec<f64>> {
                    states.iter().map(|state| self.dense(&name(part), state)).collect()
                };
                let [query, key, value] = ["query", "key", "value"].map(|part| all(&format!("attention.self.{part}")));
                let head_width = WIDTH / HEADS;
                states = (0..text.len())
                    .map(|at| {
                        let mut attended = vec![0.0; WIDTH];
                        for head in 0..HEADS {
                            let range = head * head_width..(head + 1) * head_width;
                            let score = |other: usize| -> f64 {
                                let products = query[at][range.clone()].iter().zip(&key[other][range.clone()]);
                                products.map(|(left, right)| left * right).sum::<f64>() / 2.0
                            };
                            let weights: Vec<f64> = (0..text.len()).map(|other| score(other).exp()).collect();
                            let total: f64 = weights.iter().sum();
                            for (other, weight) in weights.iter().enumerate() {
                                for place in range.clone() {
                                    attended[place] += weight / total * value[other][place];
                                }
                            }
                        }
                        let attended = self.dense(&name("attention.output.dense"), &attended);
                        let state = self.norm(&name("attention.output.LayerNorm"), &add(&states[at], &attended));
                        let wide = self.dense(&name("intermediate.dense"), &state);
                        let wide: Vec<f64> = wide.iter().map(|value| gelu(*value)).collect();
                        self.norm(&name("output.LayerNorm"), &add(&state, &self.dense(&name("output.dense"), &wide)))
                    })
                    .collect();
            }
            let mut sum = vec![0.0; WIDTH];
            for state in &states {
                sum = add(&sum, state);
            }
            let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
            sum.iter().map(|value| value / length).collect()
        }
    }

    fn gelu(value: f64) -> f64 {
        let at = value / std::f64::consts::SQRT_2;
        let (mut term, mut sum) = (at, at);
        for number in 1..80 {
            let number = f64::from(number);
            term *= -at * at / number;
            sum += term / (2.0 * number + 1.0);
        }
        0.5 * value * (1.0 + 2.0 / std::f64::consts::PI.sqrt() * sum)
    }

    #[test]
    fn texts_in_a_batch_come_out_as_in_plain_loops_over_each() {
        let weights = random_weights();
        let tensor = |(shape, values): &(Vec<usize>, Vec<f32>)| {
            Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap()
        };
        let tensors = weights.iter().map(|(name, array)| (name.clone(), tensor(array))).collect();
        let bert = Bert::load(&tensors, &config()).unwrap();
        let texts: [&[u32]; 4] = [&[1, 5, 2], &[1, 2], &[1, 19, 7, 7, 3, 11, 0, 2], &[4]];
        let found = bert.pooled(&texts).unwrap().to_vec2::<f32>().unwrap();
        for (text, found) in texts.iter().zip(found) {
            for (found, expected) in found.iter().zip(Plain(&weights).pooled(text)) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{text:?}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn a_shape_that_is_not_known_is_refused_by_name() {
        let check = |change: fn(&mut BertConfig), part: &str| {
            let mut config = config();
            change(&mut config);
            assert!(config.problem().is_some_and(|problem| problem.contains(part)), "{part}");
        };
        assert_eq!(config().problem(), None);
        check(|config| "relu".clone_into(&mut config.hidden_act), "hidden_act");
        check(|config| "rotary".clone_into(&mut config.position_embedding_type), "position_embedding_type");
        check(|config| config.num_attention_heads = 3, "multiple");
        let missing = Bert::load(&HashMap::new(), &config());
        assert!(missing.is_err_and(|error| error.to_string().contains("embeddings.word_embeddings.weight")));
    }
}
