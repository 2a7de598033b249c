//! Links by meaning: items whose titles have near vectors.

use std::{collections::HashMap, sync::Arc};

use candle_core::{Device, Result, Tensor};

use super::LinkPiece;
use crate::{model::items::Links, train::parallel};

/// Cosine of two titles at least.
const MIN_COSINE: f32 = 0.5;
/// Titles that one thread takes at a time.
const TITLES_A_PIECE: usize = 256;

/// Links each row to up to `count` others by the cosine of their vectors (of length 1; `None` for a row without a title); of
/// rows with the same title those before others. Equal titles are compared once.
pub(super) fn find(vectors: &[Option<Arc<[f32]>>], count: usize, threads: usize) -> Result<Links> {
    let mut title_of: HashMap<*const f32, usize> = HashMap::new();
    let (mut titles, mut rows_of): (Vec<&Arc<[f32]>>, Vec<Vec<u32>>) = (Vec::new(), Vec::new());
    let own: Vec<Option<usize>> = (0..)
        .zip(vectors)
        .map(|(row, vector)| {
            let vector = vector.as_ref()?;
            let title = *title_of.entry(vector.as_ptr()).or_insert_with(|| {
                titles.push(vector);
                rows_of.push(Vec::new());
                titles.len() - 1
            });
            rows_of[title].push(row);
            Some(title)
        })
        .collect();
    let Some(width) = titles.first().map(|vector| vector.len()) else { return Ok(Links::default()) };
    let flat: Vec<f32> = titles.iter().flat_map(|vector| vector.iter().copied()).collect();
    let all = Tensor::from_vec(flat, (titles.len(), width), &Device::Cpu)?;
    let across = all.t()?.contiguous()?;
    gemm::set_threading_threshold(usize::MAX);
    let pieces =
        parallel::map(threads, titles.len().div_ceil(TITLES_A_PIECE), |piece| -> Result<Vec<Vec<(f32, u32)>>> {
            let start = piece * TITLES_A_PIECE;
            let length = TITLES_A_PIECE.min(titles.len() - start);
            let cosines = all.narrow(0, start, length)?.matmul(&across)?.to_vec2::<f32>()?;
            Ok((start..).zip(cosines).map(|(title, cosines)| nearest(title, &cosines, &rows_of, count)).collect())
        });
    let near: Vec<Vec<(f32, u32)>> = pieces.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let mut found = LinkPiece::default();
    for (row, title) in (0..).zip(own) {
        let mut scored: Vec<(f32, u32)> = title
            .map_or_else(Vec::new, |title| near[title].iter().filter(|(_, other)| *other != row).copied().collect());
        found.push_best(&mut scored, count);
    }
    Ok(LinkPiece::join([found], count))
}

/// The rows nearest to a title, its own included: one more than are kept, because a row is no link of itself.
fn nearest(title: usize, cosines: &[f32], rows_of: &[Vec<u32>], count: usize) -> Vec<(f32, u32)> {
    let mut near: Vec<(f32, usize)> =
        cosines.iter().copied().zip(0..).filter(|(cosine, other)| *cosine >= MIN_COSINE && *other != title).collect();
    let best_first = |left: &(f32, usize), right: &(f32, usize)| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1));
    if near.len() > count {
        near.select_nth_unstable_by(count, best_first);
        near.truncate(count);
    }
    near.sort_unstable_by(best_first);
    let mut rows: Vec<(f32, u32)> = rows_of[title].iter().take(count + 1).map(|row| (1.0, *row)).collect();
    for (cosine, other) in near {
        if rows.len() > count {
            break;
        }
        // Above the cosine of equal titles nothing is, whatever the rounding.
        rows.extend(rows_of[other].iter().take(count + 1 - rows.len()).map(|row| (cosine.min(1.0), *row)));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_title_are_nearest_and_then_those_of_near_ones() {
        let at = |degrees: f32| -> Option<Arc<[f32]>> {
            let (sine, cosine) = degrees.to_radians().sin_cos();
            Some(Arc::from([cosine, sine]))
        };
        let (tea, herbs, far) = (at(0.0), at(20.0), at(100.0));
        let rows = [tea.clone(), herbs.clone(), None, tea.clone(), far, at(50.0)];
        let links = find(&rows, 2, 2).unwrap();
        let to = |row| links.of(row).map(|(row, _)| row).collect::<Vec<_>>();
        assert_eq!((to(0), to(3)), (vec![3, 1], vec![0, 1]));
        // Its nearest are at 20 degrees (both teas), then at 30.
        assert_eq!(to(1), [0, 3]);
        assert!(to(2).is_empty());
        assert_eq!(to(4), [5], "only what is near enough");
        assert!(links.of(0).all(|(_, weight)| weight > 0.0 && weight <= 1.0));
        assert_eq!(links, find(&rows, 2, 1).unwrap(), "whatever the threads");
        assert_eq!(find(&[None, None], 2, 1).unwrap(), Links::default());
    }
}
