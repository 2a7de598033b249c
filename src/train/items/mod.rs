//! Trains the item model: tables from purchases before a moment, rankers from what was bought after earlier moments.

mod alike;
mod common;
mod fit;
mod inverse;
mod lists;
mod near;
mod regression;
mod stats;

pub use fit::{RankerOptions, RankerReport, fit_ranker};
pub use lists::{ListKind, RankExamples};
pub use stats::{TableBuilder, TableOptions};

use crate::model::items::{ItemTables, Links};

/// The best links of some rows, one after the other.
#[derive(Debug, Default)]
struct LinkPiece {
    rows: Vec<u32>,
    weights: Vec<f32>,
}

impl LinkPiece {
    /// Appends the `count` best of `scored` (weight, row), and unused places where there are fewer.
    fn push_best(&mut self, scored: &mut Vec<(f32, u32)>, count: usize) {
        let best_first = |left: &(f32, u32), right: &(f32, u32)| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1));
        if scored.len() > count {
            scored.select_nth_unstable_by(count.saturating_sub(1), best_first);
            scored.truncate(count);
        }
        scored.sort_unstable_by(best_first);
        let unused = count - scored.len();
        self.rows.extend(scored.iter().map(|(_, row)| *row));
        self.weights.extend(scored.iter().map(|(weight, _)| Links::rounded(*weight)));
        self.rows.extend(std::iter::repeat_n(ItemTables::NO_ROW, unused));
        self.weights.extend(std::iter::repeat_n(0.0, unused));
    }

    /// All pieces in order.
    fn join(pieces: impl IntoIterator<Item = Self>, count: usize) -> Links {
        let mut links = Links { count, ..Links::default() };
        for piece in pieces {
            links.rows.extend(piece.rows);
            links.weights.extend(piece.weights);
        }
        links
    }
}
