//! Links by common buyers: the nearest of each item.

#![expect(clippy::cast_precision_loss, reason = "counts of users")]

use super::LinkPiece;
use crate::{model::items::Links, train::parallel};

/// Users in common an item's neighbour has at least.
const MIN_COMMON: u32 = 2;
/// Exponent of the source's frequency in the similarity; the target's is one minus it. Below a half, frequent targets are
/// favoured: they are bought more often.
const SOURCE_EXPONENT: f32 = 0.3;
/// Added to both frequencies, so that two buyers in common are no proof.
const SHRINKAGE: f32 = 10.0;

/// Rows one thread takes at a time.
const ROWS_A_PIECE: usize = 256;

/// Links all rows by the users (`baskets`: ascending rows of each, with a weight that does not matter here) they have in
/// common.
pub(super) fn find(baskets: &[Vec<(u32, f32)>], row_count: usize, count: usize, threads: usize) -> Links {
    let mut users_of: Vec<Vec<u32>> = vec![Vec::new(); row_count];
    for (user, basket) in (0..).zip(baskets) {
        for (row, _) in basket {
            users_of[*row as usize].push(user);
        }
    }
    let weight: Vec<f32> = users_of.iter().map(|users| users.len() as f32 + SHRINKAGE).collect();
    let pieces = parallel::map(threads, row_count.div_ceil(ROWS_A_PIECE), |piece| {
        let start = piece * ROWS_A_PIECE;
        let mut common = vec![0_u32; row_count];
        let mut found = LinkPiece::default();
        for row in start..(start + ROWS_A_PIECE).min(row_count) {
            nearest(row, &users_of, baskets, &weight, count, &mut common, &mut found);
        }
        found
    });
    LinkPiece::join(pieces, count)
}

fn nearest(
    row: usize,
    users_of: &[Vec<u32>],
    baskets: &[Vec<(u32, f32)>],
    weight: &[f32],
    count: usize,
    common: &mut [u32],
    found: &mut LinkPiece,
) {
    let mut touched = Vec::new();
    for user in &users_of[row] {
        for (other, _) in &baskets[*user as usize] {
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
    found.push_best(&mut scored, count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::items::ItemTables;

    #[test]
    fn items_of_the_same_users_are_near() {
        let basket = |rows: [u32; 2]| rows.map(|row| (row, 1.0)).to_vec();
        let mut baskets = vec![basket([0, 1]); 30];
        baskets.extend(vec![basket([2, 3]); 30]);
        baskets.push(basket([1, 2]));
        let found = find(&baskets, 4, 2, 2);
        let none = ItemTables::NO_ROW;
        assert_eq!(found.rows, [1, none, 0, none, 3, none, 2, none]);
        assert!(found.weights[0] > 0.7 && found.weights[1] == 0.0);
        assert_eq!(found, find(&baskets, 4, 2, 1));
    }
}
