//! Small building blocks. All of them keep the gradient: candle's fused layer norm and softmax have no backward and cut
//! the graph silently, so the slow forms are used.

use candle_core::{D, Result, Tensor};

/// Finds a parameter by name.
pub(super) trait Lookup {
    /// The parameter's tensor.
    fn tensor(&self, name: &str) -> Result<Tensor>;

    /// `{name}.{part}`.
    fn part(&self, name: &str, part: &str) -> Result<Tensor> {
        self.tensor(&format!("{name}.{part}"))
    }
}

/// `x · W + b` with `W: [inputs, outputs]`.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn load(lookup: &dyn Lookup, name: &str) -> Result<Self> {
        Ok(Self { weight: lookup.part(name, "weight")?, bias: Some(lookup.part(name, "bias")?) })
    }

    pub(super) fn load_without_bias(lookup: &dyn Lookup, name: &str) -> Result<Self> {
        Ok(Self { weight: lookup.part(name, "weight")?, bias: None })
    }

    /// `[rows, inputs]` → `[rows, outputs]`
    pub(super) fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let product = rows.matmul(&self.weight)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// Layer normalisation over the last dimension.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    scale: Tensor,
    shift: Tensor,
}

/// Added to the variance.
pub(super) const NORM_EPSILON: f32 = 1e-5;

impl Norm {
    pub(super) fn load(lookup: &dyn Lookup, name: &str) -> Result<Self> {
        Ok(Self { scale: lookup.part(name, "scale")?, shift: lookup.part(name, "shift")? })
    }

    pub(super) fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm_slow(rows, &self.scale, &self.shift, NORM_EPSILON)
    }
}

/// Softmax over the last dimension.
pub(super) fn softmax(scores: &Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax(scores, D::Minus1)
}

/// `[B·M, H·d]` → `[B, H, M, d]`
pub(super) fn split_heads(rows: &Tensor, users: usize, heads: usize) -> Result<Tensor> {
    let (all, width) = rows.dims2()?;
    rows.reshape((users, all / users, heads, width / heads))?.transpose(1, 2)?.contiguous()
}

/// `[B, H, M, d]` → `[B·M, H·d]`
pub(super) fn join_heads(heads: &Tensor) -> Result<Tensor> {
    let (users, count, places, width) = heads.dims4()?;
    heads.transpose(1, 2)?.contiguous()?.reshape((users * places, count * width))
}
