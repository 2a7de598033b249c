//! Which items are bought by the same users: the nearest of each item.

#![expect(clippy::cast_precision_loss, reason = "counts of users")]

use crate::{model::items::ItemTables, train::parallel};

/// Neighbours of every row, best first, `count` places a row.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Neighbours {
    /// Row of each neighbour; [`ItemTables::NO_ROW`] in unused places.
    pub(super) rows: Vec<u32>,
    /// Similarity of each; 0 in unused places.
    pub(super) similarities: Vec<f32>,
}

/// Users in common an item's neighbour has at least.
const MIN_COMMON: u32 = 2;
/// Exponent of the source's frequency in the similarity; the target's is one minus it. Below a half, frequent targets are
/// favoured: they are bought more often.
const SOURCE_EXPONENT: f32 = 0.3;
/// Added to both frequencies, so that two buyers in common are no proof.
const SHRINKAGE: f32 = 10.0;

/// Rows one thread takes at a time.
const ROWS_A_PIECE: usize = 256;

/// Finds the neighbours of all rows by the users (`baskets`: ascending rows of each) they have in common.
pub(super) fn find(baskets: &[Vec<u32>], row_count: usize, count: usize, threads: usize) -> Neighbours {
    let mut users_of: Vec<Vec<u32>> = vec![Vec::new(); row_count];
    for (user, basket) in (0..).zip(baskets) {
        for row in basket {
            users_of[*row as usize].push(user);
        }
    }
    let weight: Vec<f32> = users_of.iter().map(|users| users.len() as f32 + SHRINKAGE).collect();
    let pieces = parallel::map(threads, row_count.div_ceil(ROWS_A_PIECE), |piece| {
        let start = piece * ROWS_A_PIECE;
        let mut common = vec![0_u32; row_count];
        let mut found = Neighbours::default();
        for row in start..(start + ROWS_A_PIECE).min(row_count) {
            nearest(row, &users_of, baskets, &weight, count, &mut common, &mut found);
        }
        found
    });
    let mut all = Neighbours::default();
    for piece in pieces {
        all.rows.extend(piece.rows);
        all.similarities.extend(piece.similarities);
    }
    all
}

fn nearest(
    row: usize,
    users_of: &[Vec<u32>],
    baskets: &[Vec<u32>],
    weight: &[f32],
    count: usize,
    common: &mut [u32],
    found: &mut Neighbours,
) {
    let mut touched = Vec::new();
    for user in &users_of[row] {
        for other in &baskets[*user as usize] {
            let seen = &mut common[*other as usize];
            if *seen == 0 {
                touched.push(*other);
            }
            *seen += 1;
        }
    }
    let mut scored: Vec<(f32, u32)> = Vec::with_capacity(touched.len());
    for other in touched {
        let shared = std::mem::take(&mut common[other as usize]);
        if shared >= MIN_COMMON && other as usize != row {
            let scale = weight[row].powf(SOURCE_EXPONENT) * weight[other as usize].powf(1.0 - SOURCE_EXPONENT);
            scored.push((shared as f32 / scale, other));
        }
    }
    let best_first = |left: &(f32, u32), right: &(f32, u32)| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1));
    if scored.len() > count {
        scored.select_nth_unstable_by(count.saturating_sub(1), best_first);
        scored.truncate(count);
    }
    scored.sort_unstable_by(best_first);
    let unused = count - scored.len();
    found.rows.extend(scored.iter().map(|(_, other)| *other));
    found.similarities.extend(scored.iter().map(|(similarity, _)| *similarity));
    found.rows.extend(std::iter::repeat_n(ItemTables::NO_ROW, unused));
    found.similarities.extend(std::iter::repeat_n(0.0, unused));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_the_same_users_are_near() {
        let mut baskets = vec![vec![0, 1]; 30];
        baskets.extend(vec![vec![2, 3]; 30]);
        baskets.push(vec![1, 2]);
        let found = find(&baskets, 4, 2, 2);
        assert_eq!(
            found.rows,
            [1, ItemTables::NO_ROW, 0, ItemTables::NO_ROW, 3, ItemTables::NO_ROW, 2, ItemTables::NO_ROW]
        );
        assert!(found.similarities[0] > 0.7 && found.similarities[1] == 0.0);
        assert_eq!(found, find(&baskets, 4, 2, 1));
    }
}
