//! The arithmetic of the fused forward: small loops that the compiler turns into vector code.
//!
//! Everything here is `inline(always)`, so that it is compiled with the instruction set of the caller that
//! [`pulp::Arch`] chose. Every output row is summed in one order whatever stands beside it, so a user's score has the
//! same bits in any batch (SCO-1).

#![expect(clippy::inline_always, reason = "the instruction set is the caller's, and only inlined code gets it")]

/// Columns of a panel: two AVX registers, four of SSE or NEON.
pub(super) const PANEL: usize = 16;

/// Whether products and sums may be fused into one rounding: where the machine does it in one instruction.
pub(super) trait Arithmetic: Copy {
    /// `a · b + c`
    fn multiply_add(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding.
#[derive(Clone, Copy)]
pub(super) struct Fused;

/// Two roundings, for machines where a fused product is a library call.
#[derive(Clone, Copy)]
pub(super) struct Split;

impl Arithmetic for Fused {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Arithmetic for Split {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// A matrix `[inputs, outputs]` cut into panels of [`PANEL`] columns, each stored row after row; padded with zeros.
#[derive(Debug, Clone, Default)]
pub(super) struct Panels {
    inputs: usize,
    outputs: usize,
    data: Vec<[f32; PANEL]>,
    bias: Vec<[f32; PANEL]>,
}

impl Panels {
    /// Packs a row-major matrix and an optional bias.
    pub(super) fn new(matrix: &[f32], inputs: usize, outputs: usize, bias: Option<&[f32]>) -> Self {
        let mut panels = Self::default();
        panels.reset(inputs, outputs);
        for (row, values) in matrix.chunks_exact(outputs).enumerate() {
            panels.set_row(row, values);
        }
        for (column, value) in bias.unwrap_or_default().iter().enumerate() {
            panels.bias[column / PANEL][column % PANEL] = *value;
        }
        panels
    }

    /// Makes room for another matrix; all zeros.
    #[inline(always)]
    pub(super) fn reset(&mut self, inputs: usize, outputs: usize) {
        let count = outputs.div_ceil(PANEL);
        (self.inputs, self.outputs) = (inputs, outputs);
        self.data.clear();
        self.data.resize(count * inputs, [0.0; PANEL]);
        self.bias.clear();
        self.bias.resize(count, [0.0; PANEL]);
    }

    /// Sets row `row`.
    #[inline(always)]
    pub(super) fn set_row(&mut self, row: usize, values: &[f32]) {
        for (panel, part) in values.chunks(PANEL).enumerate() {
            self.data[panel * self.inputs + row][..part.len()].copy_from_slice(part);
        }
    }

    /// Sets column `column`.
    #[inline(always)]
    pub(super) fn set_column(&mut self, column: usize, values: &[f32]) {
        let (panel, place) = (column / PANEL, column % PANEL);
        for (row, value) in self.data[panel * self.inputs..][..self.inputs].iter_mut().zip(values) {
            row[place] = *value;
        }
    }
}

/// Rows of a matrix inside a larger one: `width` values from `offset` on, every `stride`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) offset: usize,
}

impl<'a> Rows<'a> {
    /// Rows that follow each other.
    #[inline(always)]
    pub(super) fn dense(values: &'a [f32], width: usize) -> Self {
        Self { values, stride: width, offset: 0 }
    }

    #[inline(always)]
    fn row(&self, row: usize, width: usize) -> &'a [f32] {
        &self.values[row * self.stride + self.offset..][..width]
    }
}

/// What becomes of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Store,
    StoreRectified,
    Add,
}

/// `out = rows · panels + bias` for `count` rows; `out` has rows of `out_stride`, written from `out_offset` on.
#[inline(always)]
pub(super) fn multiply<A: Arithmetic>(
    rows: Rows<'_>,
    count: usize,
    panels: &Panels,
    out: &mut [f32],
    out_stride: usize,
    out_offset: usize,
    then: Then,
) {
    let inputs = panels.inputs;
    for (panel, bias) in panels.bias.iter().enumerate() {
        let weights = &panels.data[panel * inputs..][..inputs];
        let width = PANEL.min(panels.outputs - panel * PANEL);
        let column = out_offset + panel * PANEL;
        let mut row = 0;
        while row + 4 <= count {
            let sums = block::<A, 4>(std::array::from_fn(|place| rows.row(row + place, inputs)), weights, bias);
            for (place, sum) in sums.iter().enumerate() {
                finish(sum, &mut out[(row + place) * out_stride + column..][..width], then);
            }
            row += 4;
        }
        while row < count {
            let [sum] = block::<A, 1>([rows.row(row, inputs)], weights, bias);
            finish(&sum, &mut out[row * out_stride + column..][..width], then);
            row += 1;
        }
    }
}

/// `R` rows against one panel. Each element is summed from the first input to the last.
#[inline(always)]
fn block<A: Arithmetic, const R: usize>(
    rows: [&[f32]; R],
    weights: &[[f32; PANEL]],
    bias: &[f32; PANEL],
) -> [[f32; PANEL]; R] {
    let mut sums = [*bias; R];
    for (input, weight) in weights.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(&rows) {
            let value = row[input];
            for (sum, weight) in sum.iter_mut().zip(weight) {
                *sum = A::multiply_add(value, *weight, *sum);
            }
        }
    }
    sums
}

#[inline(always)]
fn finish(sums: &[f32; PANEL], out: &mut [f32], then: Then) {
    match then {
        Then::Store => out.copy_from_slice(&sums[..out.len()]),
        Then::StoreRectified => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum.max(0.0)),
        Then::Add => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
    }
}

/// Sum of the products of two rows, in [`PANEL`] interleaved partial sums.
#[inline(always)]
pub(super) fn dot<A: Arithmetic>(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; PANEL];
    let (left_chunks, left_rest) = left.as_chunks::<PANEL>();
    let (right_chunks, right_rest) = right.as_chunks::<PANEL>();
    for (left, right) in left_chunks.iter().zip(right_chunks) {
        for place in 0..PANEL {
            sums[place] = A::multiply_add(left[place], right[place], sums[place]);
        }
    }
    let rest = left_rest.iter().zip(right_rest).fold(0.0, |sum, (left, right)| A::multiply_add(*left, *right, sum));
    total(&sums) + rest
}

/// Sum of a panel by halves.
#[inline(always)]
fn total(sums: &[f32; PANEL]) -> f32 {
    let mut sums = *sums;
    let mut half = PANEL / 2;
    while half > 0 {
        for place in 0..half {
            sums[place] += sums[place + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Sum of a row, in [`PANEL`] interleaved partial sums.
#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0_f32; PANEL];
    let (chunks, rest) = values.as_chunks::<PANEL>();
    for chunk in chunks {
        for place in 0..PANEL {
            sums[place] += chunk[place];
        }
    }
    total(&sums) + rest.iter().sum::<f32>()
}

/// Layer normalisation of each row of `width`.
#[inline(always)]
pub(super) fn normalise<A: Arithmetic>(
    rows: &[f32],
    width: usize,
    scale: &[f32],
    shift: &[f32],
    epsilon: f32,
    out: &mut [f32],
) {
    #[expect(clippy::cast_precision_loss, reason = "widths are small")]
    let share = 1.0 / width as f32;
    for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = sum(row) * share;
        for (out, value) in out.iter_mut().zip(row) {
            *out = value - mean;
        }
        let spread = (dot::<A>(out, out) * share + epsilon).sqrt().recip();
        for ((out, scale), shift) in out.iter_mut().zip(scale).zip(shift) {
            *out = A::multiply_add(*out * spread, *scale, *shift);
        }
    }
}

/// Softmax of one row in place.
#[inline(always)]
pub(super) fn softmax<A: Arithmetic>(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::MIN, f32::max);
    for value in row.iter_mut() {
        *value = exponential::<A>(*value - largest);
    }
    let share = sum(row).recip();
    for value in row {
        *value *= share;
    }
}

/// `e^x` for `x <= 0`, relative error below 3e-7; exactly 0 below −87.
#[inline(always)]
pub(super) fn exponential<A: Arithmetic>(x: f32) -> f32 {
    // Adding 1.5·2^23 leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let shifted = A::multiply_add(x.max(-87.5), std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = A::multiply_add(whole, -0.693_359_4, x.max(-87.5));
    let rest = A::multiply_add(whole, 2.121_944_4e-4, rest);
    let mut power = 1.987_569_2e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        power = A::multiply_add(power, rest, coefficient);
    }
    let power = A::multiply_add(power, rest * rest, rest) + 1.0;
    let exponent = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { power * exponent }
}

/// `out += factor · row`
#[inline(always)]
pub(super) fn add_scaled<A: Arithmetic>(out: &mut [f32], row: &[f32], factor: f32) {
    for (out, value) in out.iter_mut().zip(row) {
        *out = A::multiply_add(factor, *value, *out);
    }
}

/// `out += row`
#[inline(always)]
pub(super) fn add(out: &mut [f32], row: &[f32]) {
    for (out, value) in out.iter_mut().zip(row) {
        *out += value;
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_close_everywhere() {
        for step in 0..87_000_u32 {
            let x = -(step as f32) / 1_000.0;
            let expected = x.exp();
            for found in [exponential::<Fused>(x), exponential::<Split>(x)] {
                assert!((found - expected).abs() <= 3e-7 * expected, "{x}: {found} against {expected}");
            }
        }
        assert!(exponential::<Fused>(-1e9) == 0.0);
    }

    #[test]
    fn products_match_the_plain_sum_for_any_shape() {
        for (count, inputs, outputs) in [(1, 3, 2), (4, 32, 96), (7, 33, 17), (9, 1, 16)] {
            let rows: Vec<f32> = (0..count * inputs).map(|place| (place % 7) as f32 - 3.0).collect();
            let matrix: Vec<f32> = (0..inputs * outputs).map(|place| (place % 5) as f32 - 2.0).collect();
            let bias: Vec<f32> = (0..outputs).map(|place| place as f32).collect();
            let panels = Panels::new(&matrix, inputs, outputs, Some(&bias));
            let mut out = vec![1.0; count * (outputs + 1)];
            multiply::<Fused>(Rows::dense(&rows, inputs), count, &panels, &mut out, outputs + 1, 1, Then::Add);
            for row in 0..count {
                for column in 0..outputs {
                    let product = |input: usize| rows[row * inputs + input] * matrix[input * outputs + column];
                    let expected = 1.0 + bias[column] + (0..inputs).map(product).sum::<f32>();
                    assert!((out[row * (outputs + 1) + 1 + column] - expected).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn softmax_and_normalisation() {
        let mut row: Vec<f32> = (0..19).map(|place| place as f32 * 0.3).collect();
        softmax::<Fused>(&mut row);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let rows: Vec<f32> = (0..40).map(|place| (place * place % 13) as f32).collect();
        let mut out = vec![0.0; 40];
        normalise::<Fused>(&rows, 20, &[1.0; 20], &[0.0; 20], 0.0, &mut out);
        assert!(out[..20].iter().sum::<f32>().abs() < 1e-4);
        assert!((out[..20].iter().map(|value| value * value).sum::<f32>() - 20.0).abs() < 1e-3);
    }
}
