//! The inverse of a symmetric positive definite matrix, by blocks (Gauss–Jordan without pivoting).

use candle_core::{Device, Result, Tensor};

/// Rows and columns of a block: large enough for fast products, small enough for a plain inverse.
const BLOCK: usize = 96;

/// Replaces the `n × n` matrix, row by row, by its inverse. It must be symmetric and positive definite, which makes every
/// pivot positive.
pub(super) fn invert(matrix: &mut [f32], n: usize, threads: usize) -> Result<()> {
    for start in (0..n).step_by(BLOCK) {
        let size = BLOCK.min(n - start);
        let mut pivot = vec![0.0_f64; size * size];
        for (row, into) in pivot.chunks_exact_mut(size).enumerate() {
            let from = (start + row) * n + start;
            for (into, from) in into.iter_mut().zip(&matrix[from..from + size]) {
                *into = f64::from(*from);
            }
        }
        invert_small(&mut pivot, size);
        #[expect(clippy::cast_possible_truncation, reason = "products are single precision")]
        let pivot: Vec<f32> = pivot.into_iter().map(|value| value as f32).collect();
        let pivot = Tensor::from_vec(pivot, (size, size), &Device::Cpu)?;
        // The block's rows times the inverse of the pivot; in the pivot's own columns that inverse itself.
        let rows = Tensor::from_slice(&matrix[start * n..(start + size) * n], (size, n), &Device::Cpu)?;
        let mut scaled = pivot.matmul(&rows)?.flatten_all()?.to_vec1::<f32>()?;
        let own: Vec<f32> = pivot.flatten_all()?.to_vec1()?;
        for (row, own) in scaled.chunks_exact_mut(n).zip(own.chunks_exact(size)) {
            row[start..start + size].copy_from_slice(own);
        }
        let scaled_tensor = Tensor::from_slice(&scaled, (size, n), &Device::Cpu)?;
        let above_and_below = [(0, start), (start + size, n)];
        for (from, to) in above_and_below {
            eliminate(&mut matrix[from * n..to * n], n, start, size, &scaled_tensor, threads)?;
        }
        matrix[start * n..(start + size) * n].copy_from_slice(&scaled);
    }
    Ok(())
}

/// Takes the block's rows out of `rows`: each row less its entries in the block's columns times the scaled block.
fn eliminate(rows: &mut [f32], n: usize, start: usize, size: usize, scaled: &Tensor, threads: usize) -> Result<()> {
    let row_count = rows.len() / n;
    if row_count == 0 {
        return Ok(());
    }
    let piece = |rows: &mut [f32]| -> Result<()> {
        let count = rows.len() / n;
        let mut entries = Vec::with_capacity(count * size);
        for row in rows.chunks_exact_mut(n) {
            entries.extend_from_slice(&row[start..start + size]);
            row[start..start + size].fill(0.0);
        }
        let taken = Tensor::from_vec(entries, (count, size), &Device::Cpu)?.matmul(scaled)?;
        for (value, taken) in rows.iter_mut().zip(taken.flatten_all()?.to_vec1::<f32>()?) {
            *value -= taken;
        }
        Ok(())
    };
    let rows_a_thread = row_count.div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        let handles: Vec<_> = rows
            .chunks_mut(rows_a_thread * n)
            .map(|rows| std::thread::Builder::new().name("invert".to_owned()).spawn_scoped(scope, || piece(rows)))
            .collect();
        for handle in handles {
            // A panic of a piece is passed on.
            handle?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}

/// Gauss–Jordan in double precision.
fn invert_small(matrix: &mut [f64], n: usize) {
    for pivot in 0..n {
        let scale = 1.0 / matrix[pivot * n + pivot];
        matrix[pivot * n + pivot] = 1.0;
        for value in &mut matrix[pivot * n..(pivot + 1) * n] {
            *value *= scale;
        }
        let pivot_row = matrix[pivot * n..(pivot + 1) * n].to_vec();
        for row in (0..n).filter(|row| *row != pivot) {
            let factor = std::mem::take(&mut matrix[row * n + pivot]);
            for (value, pivot) in matrix[row * n..(row + 1) * n].iter_mut().zip(&pivot_row) {
                *value -= factor * pivot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_the_matrix_is_the_identity() {
        let n = 2 * BLOCK + 17;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let mut matrix: Vec<f32> =
            (0..n * n).map(|place| 0.5 / (1.0 + (place / n).abs_diff(place % n) as f32)).collect();
        for place in 0..n {
            matrix[place * n + place] += 2.0;
        }
        let original = matrix.clone();
        invert(&mut matrix, n, 2).unwrap();
        for row in (0..n).step_by(7) {
            for column in (0..n).step_by(5) {
                let product: f32 = (0..n).map(|k| original[row * n + k] * matrix[k * n + column]).sum();
                let expected = if row == column { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-4, "{row} {column}: {product}");
            }
        }
    }
}
