//! Who resembles whom: for each row of a sparse table the rows with the highest cosine.

#![expect(clippy::cast_possible_truncation, reason = "rows and columns are numbered with 32 bits")]
#![expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]

use super::leiden::WeightedGraph;
use crate::train::parallel;

/// Rows a column is compared through at most: a column nearly everybody has says little, and costs its square.
const COLUMN_ROWS: usize = 2_000;

/// Rows a thread takes at once.
const ROWS_A_PIECE: usize = 256;

/// Columns and counts of each row.
pub type SparseRows = Vec<Vec<(u32, f32)>>;

/// The graph of nearest rows: `neighbours` a row at most, cosine of `ln(1 + count)` times inverse document frequency. Memory
/// is bounded by rows × neighbours.
pub fn similarity_graph(rows: &SparseRows, column_count: usize, neighbours: usize, threads: usize) -> WeightedGraph {
    let mut columns: Vec<Vec<u32>> = vec![Vec::new(); column_count];
    for (row, cells) in rows.iter().enumerate() {
        for (column, _) in cells {
            columns[*column as usize].push(row as u32);
        }
    }
    let rarity: Vec<f32> =
        columns.iter().map(|rows_of| ((1.0 + rows.len() as f64) / (1.0 + rows_of.len() as f64)).ln() as f32).collect();
    let unit: SparseRows = rows
        .iter()
        .map(|cells| {
            let weighted: Vec<(u32, f32)> =
                cells.iter().map(|(column, count)| (*column, count.ln_1p() * rarity[*column as usize])).collect();
            let length = weighted.iter().map(|(_, weight)| weight * weight).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            weighted.into_iter().map(|(column, weight)| (column, weight / length)).collect()
        })
        .collect();
    let mut holders: Vec<Vec<(u32, f32)>> = vec![Vec::new(); column_count];
    for (row, cells) in unit.iter().enumerate() {
        for (column, weight) in cells {
            holders[*column as usize].push((row as u32, *weight));
        }
    }
    for held in &mut holders {
        // Those to whom the column means most, ties by number.
        held.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        held.truncate(COLUMN_ROWS);
    }
    let pieces = parallel::map(threads, rows.len().div_ceil(ROWS_A_PIECE), |piece| {
        let mut dots = vec![0.0_f32; rows.len()];
        let mut touched: Vec<u32> = Vec::new();
        let mut found = Vec::new();
        for (row, cells) in unit.iter().enumerate().skip(piece * ROWS_A_PIECE).take(ROWS_A_PIECE) {
            for (column, weight) in cells {
                for (other, theirs) in &holders[*column as usize] {
                    if dots[*other as usize] == 0.0 {
                        touched.push(*other);
                    }
                    dots[*other as usize] += weight * theirs;
                }
            }
            let mut nearest: Vec<(f32, u32)> = touched
                .iter()
                .filter(|other| **other as usize != row)
                .map(|other| (dots[*other as usize], *other))
                .filter(|(dot, _)| *dot > 0.0)
                .collect();
            nearest.sort_unstable_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
            nearest.truncate(neighbours);
            found.extend(nearest.into_iter().map(|(dot, other)| (row as u32, other, f64::from(dot))));
            for other in touched.drain(..) {
                dots[other as usize] = 0.0;
            }
        }
        found
    });
    WeightedGraph::from_edges(rows.len(), &pieces.into_iter().flatten().collect::<Vec<_>>())
}

/// The table with rows and columns exchanged.
pub fn transposed(rows: &SparseRows, column_count: usize) -> SparseRows {
    let mut columns: SparseRows = vec![Vec::new(); column_count];
    for (row, cells) in rows.iter().enumerate() {
        for (column, value) in cells {
            columns[*column as usize].push((row as u32, *value));
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::circles::leiden::leiden;

    #[test]
    fn those_who_share_rare_columns_are_one_circle() {
        // Column 0 is everybody's; 1..4 belong to the first half, 5..8 to the second.
        let row = |first: u32| (0..3).map(move |step| (first + step, 2.0));
        let rows: SparseRows = (0..20_u32)
            .map(|index| std::iter::once((0, 9.0)).chain(row(if index < 10 { 1 } else { 5 })).collect())
            .collect();
        for threads in [1, 3] {
            let graph = similarity_graph(&rows, 9, 5, threads);
            let circles = leiden(&graph, 1.0);
            assert!(circles[..10].iter().all(|circle| !circles[10..].contains(circle)));
        }
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let rows: SparseRows = vec![vec![(0, 1.0), (2, 3.0)], vec![], vec![(1, 2.0)]];
        assert_eq!(transposed(&transposed(&rows, 3), 3), rows);
    }
}
