//! Links by title: items whose titles share rare words, so that an item nobody bought yet has neighbours.

#![expect(clippy::cast_precision_loss, reason = "counts of items")]

use std::collections::HashMap;

use super::LinkPiece;
use crate::{model::items::Links, train::parallel};

/// Words in more of the items than this say nothing.
const MAX_SHARE: f32 = 0.1;
/// Items a word leads to at most.
const MAX_ITEMS_A_WORD: usize = 2_000;
/// Cosine of two titles at least.
const MIN_COSINE: f32 = 0.2;
/// Rows one thread takes at a time.
const ROWS_A_PIECE: usize = 256;

/// Finds up to `count` links of each title by the cosine of their words, rare words weighing more. Without any title there
/// are no links.
pub(super) fn find(titles: &[&str], count: usize, threads: usize) -> Links {
    if titles.iter().all(|title| title.is_empty()) {
        return Links::default();
    }
    let mut rows_of: HashMap<String, Vec<u32>> = HashMap::new();
    for (row, title) in (0..).zip(titles) {
        for word in words(title) {
            let rows = rows_of.entry(word).or_default();
            if rows.last() != Some(&row) {
                rows.push(row);
            }
        }
    }
    let total = titles.len() as f32;
    // In the order of the words, so that sums are made in one order.
    let mut known: Vec<(String, Vec<u32>)> = rows_of
        .into_iter()
        .filter(|(_, rows)| {
            rows.len() > 1 && rows.len() <= MAX_ITEMS_A_WORD && rows.len() as f32 <= MAX_SHARE * total + 1.0
        })
        .collect();
    known.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    let mut words_of: Vec<Vec<(usize, f32)>> = vec![Vec::new(); titles.len()];
    for (word, (_, rows)) in known.iter().enumerate() {
        let rarity = (total / rows.len() as f32).ln_1p();
        for row in rows {
            words_of[*row as usize].push((word, rarity));
        }
    }
    for words in &mut words_of {
        let length = words.iter().map(|(_, weight)| weight * weight).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        for (_, weight) in words {
            *weight /= length;
        }
    }
    let pieces = parallel::map(threads, titles.len().div_ceil(ROWS_A_PIECE), |piece| {
        let (mut sums, mut found) = (vec![0.0_f32; titles.len()], LinkPiece::default());
        for row in piece * ROWS_A_PIECE..((piece + 1) * ROWS_A_PIECE).min(titles.len()) {
            let mut touched = Vec::new();
            for (word, weight) in &words_of[row] {
                for other in &known[*word].1 {
                    let theirs = words_of[*other as usize].iter().find(|(known, _)| known == word);
                    let sum = &mut sums[*other as usize];
                    if *sum == 0.0 {
                        touched.push(*other);
                    }
                    *sum += weight * theirs.map_or(0.0, |(_, weight)| *weight);
                }
            }
            let cosines = touched.into_iter().map(|other| (std::mem::take(&mut sums[other as usize]), other));
            let mut scored: Vec<(f32, u32)> =
                cosines.filter(|(cosine, other)| *cosine >= MIN_COSINE && *other as usize != row).collect();
            found.push_best(&mut scored, count);
        }
        found
    });
    LinkPiece::join(pieces, count)
}

fn words(title: &str) -> impl Iterator<Item = String> + '_ {
    title.split(|letter: char| !letter.is_alphanumeric()).filter(|word| word.len() > 1).map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_link_titles() {
        let titles = ["Green tea, 50 bags", "green TEA (loose)", "Black coffee", "coffee beans", "", "screws"];
        let mut more: Vec<String> = (0..40).map(|number| format!("thing{number} other{number}")).collect();
        more.splice(0..0, titles.map(str::to_owned));
        let links = find(&more.iter().map(String::as_str).collect::<Vec<_>>(), 3, 2);
        let to = |row| links.of(row).map(|(row, _)| row).collect::<Vec<_>>();
        assert_eq!((to(0), to(1), to(2), to(3)), (vec![1], vec![0], vec![3], vec![2]));
        assert!(to(4).is_empty() && to(5).is_empty());
        assert_eq!(find(&["", ""], 3, 1).count, 0);
    }
}
