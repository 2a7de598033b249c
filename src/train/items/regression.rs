//! Links by regression: each item on all items of a user, in closed form (EASE, Steck 2019).
//!
//! With X the users' items, `B = −P / diag P` off the diagonal and `P = (XᵀX + λ)⁻¹`. Where there are more items than users,
//! `P = (1 − Xᵀ (XXᵀ + λ)⁻¹ X) / λ` needs an inverse of the size of the users only.

#![expect(clippy::cast_precision_loss, reason = "counts of users and rows")]

use candle_core::Result;

use super::{LinkPiece, inverse::invert};
use crate::{
    model::items::{ItemTables, Links},
    train::parallel,
};

/// Largest matrix inverted: users beyond are thinned evenly.
const MAX_SIZE: usize = 4_096;
/// Rows that links lead from and to: those with the most buyers, which come first. The cost grows with their square.
const MAX_ROWS: usize = 10_000;
/// λ in units of the mean squared length of a row's column.
const RIDGE: f32 = 8.0;
const MIN_RIDGE: f32 = 10.0;
/// Rows one thread takes at a time.
const ROWS_A_PIECE: usize = 64;

/// Finds the `count` largest positive weights of each row as a source. `baskets` are each user's ascending rows with
/// weights in (0, 1].
pub(super) fn find(baskets: &[Vec<(u32, f32)>], row_count: usize, count: usize, threads: usize) -> Result<Links> {
    if row_count == 0 || count == 0 {
        return Ok(Links::default());
    }
    let linked = row_count.min(MAX_ROWS);
    let mut links = if linked <= MAX_SIZE && linked <= baskets.len() {
        by_items(baskets, linked, count, threads)?
    } else {
        let step = baskets.len().div_ceil(MAX_SIZE).max(1);
        let frequent = |basket: &Vec<(u32, f32)>| {
            basket.iter().copied().filter(|(row, _)| (*row as usize) < linked).collect::<Vec<_>>()
        };
        let kept: Vec<Vec<(u32, f32)>> = baskets.iter().step_by(step).map(frequent).collect();
        by_users(&kept, linked, count, threads)?
    };
    links.rows.resize(row_count * count, ItemTables::NO_ROW);
    links.weights.resize(row_count * count, 0.0);
    Ok(links)
}

fn ridge(square_sum: f32, row_count: usize) -> f32 {
    (RIDGE * square_sum / row_count as f32).max(MIN_RIDGE)
}

fn by_items(baskets: &[Vec<(u32, f32)>], n: usize, count: usize, threads: usize) -> Result<Links> {
    let mut matrix = vec![0.0_f32; n * n];
    for basket in baskets {
        for (row, weight) in basket {
            let line = &mut matrix[*row as usize * n..(*row as usize + 1) * n];
            for (other, other_weight) in basket {
                line[*other as usize] += weight * other_weight;
            }
        }
    }
    let square_sum: f32 = (0..n).map(|row| matrix[row * n + row]).sum();
    let ridge = ridge(square_sum, n);
    for row in 0..n {
        matrix[row * n + row] += ridge;
    }
    invert(&mut matrix, n, threads)?;
    let pieces = parallel::map(threads, n.div_ceil(ROWS_A_PIECE), |piece| {
        let mut found = LinkPiece::default();
        for row in piece * ROWS_A_PIECE..((piece + 1) * ROWS_A_PIECE).min(n) {
            let line = (0_u32..).zip(&matrix[row * n..(row + 1) * n]);
            let weights = line.map(|(other, value)| (-value / matrix[other as usize * (n + 1)], other));
            let mut scored: Vec<(f32, u32)> =
                weights.filter(|(weight, other)| *weight > 0.0 && *other as usize != row).collect();
            found.push_best(&mut scored, count);
        }
        found
    });
    Ok(LinkPiece::join(pieces, count))
}

fn by_users(baskets: &[Vec<(u32, f32)>], row_count: usize, count: usize, threads: usize) -> Result<Links> {
    let n = baskets.len();
    // Users of each row with their weights, one row after the other.
    let mut users_of: Vec<Vec<(u32, f32)>> = vec![Vec::new(); row_count];
    for (user, basket) in (0..).zip(baskets) {
        for (row, weight) in basket {
            users_of[*row as usize].push((user, *weight));
        }
    }
    let mut matrix = vec![0.0_f32; n * n];
    let mut square_sum = 0.0;
    for users in &users_of {
        for (user, weight) in users {
            square_sum += weight * weight;
            let line = &mut matrix[*user as usize * n..(*user as usize + 1) * n];
            for (other, other_weight) in users {
                line[*other as usize] += weight * other_weight;
            }
        }
    }
    let ridge = ridge(square_sum, row_count);
    for user in 0..n {
        matrix[user * n + user] += ridge;
    }
    invert(&mut matrix, n, threads)?;
    // Column of the row in M X: what each user weighs for it.
    let spread = |row: usize, into: &mut [f32]| {
        into.fill(0.0);
        for (user, weight) in &users_of[row] {
            let line = &matrix[*user as usize * n..(*user as usize + 1) * n];
            for (into, value) in into.iter_mut().zip(line) {
                *into += weight * value;
            }
        }
    };
    let dot = |row: usize, spread: &[f32]| {
        users_of[row].iter().map(|(user, weight)| weight * spread[*user as usize]).sum::<f32>()
    };
    let pieces = row_count.div_ceil(ROWS_A_PIECE);
    let rows_of = |piece: usize| piece * ROWS_A_PIECE..((piece + 1) * ROWS_A_PIECE).min(row_count);
    let diagonal: Vec<f32> = parallel::map(threads, pieces, |piece| {
        let mut line = vec![0.0; n];
        let own = |row: usize| {
            spread(row, &mut line);
            (1.0 - dot(row, &line)).max(1e-6)
        };
        rows_of(piece).map(own).collect::<Vec<f32>>()
    })
    .into_iter()
    .flatten()
    .collect();
    let pieces = parallel::map(threads, pieces, |piece| {
        let (mut line, mut scored) = (vec![0.0; n], Vec::new());
        let mut found = LinkPiece::default();
        for row in rows_of(piece) {
            scored.clear();
            if users_of[row].len() > 1 {
                spread(row, &mut line);
                for (other, scale) in (0..).zip(&diagonal) {
                    let weight = dot(other as usize, &line) / scale;
                    if weight > 0.0 && other as usize != row {
                        scored.push((weight, other));
                    }
                }
            }
            found.push_best(&mut scored, count);
        }
        found
    });
    Ok(LinkPiece::join(pieces, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Users of two tastes with six items each; the newest item of a taste is what its others speak for.
    fn baskets() -> Vec<Vec<(u32, f32)>> {
        let basket = |user: u32| {
            let taste = user % 2 * 6;
            (0..6).filter(|item| !(user / 2 + item).is_multiple_of(3)).map(|item| (taste + item, 1.0)).collect()
        };
        (0..60).map(basket).collect()
    }

    #[test]
    fn both_sides_give_the_same_weights() {
        let baskets = baskets();
        let (items, users) = (by_items(&baskets, 12, 4, 1).unwrap(), by_users(&baskets, 12, 4, 2).unwrap());
        for row in 0..12 {
            let weights = |links: &Links| links.of(row).collect::<Vec<_>>();
            let (items, users) = (weights(&items), weights(&users));
            assert_eq!(items.len(), users.len(), "row {row}");
            assert!(!items.is_empty());
            for (left, right) in items.iter().zip(&users) {
                assert!((left.1 - right.1).abs() < 1e-2 * left.1.abs().max(1e-2), "{items:?} {users:?}");
                assert_eq!(left.0 / 6, row / 6, "links stay within the taste");
            }
        }
    }
}
