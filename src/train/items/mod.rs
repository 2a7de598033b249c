//! Trains the item model: tables from purchases before a moment, rankers from what was bought after earlier moments.

mod neighbours;
mod rank;
mod stats;

pub use rank::{RankExamples, RankerOptions, fit_ranker};
pub use stats::{TableBuilder, TableOptions};
