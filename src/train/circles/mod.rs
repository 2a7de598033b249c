//! The social view: circles of users who choose alike, interests as groups of items chosen together, what both are worth,
//! and whether leaving runs in circles. Recomputed from a history; memory is bounded by users × neighbours.

mod files;
mod found;
mod judge;
mod leiden;
mod similar;

pub use files::{FoundCircles, find_circles};
pub use found::{Circle, CircleOptions, Circles, Interest, find};
use judge::judge;
pub use judge::{Contagion, Discovery, Judged};
pub use leiden::{WeightedGraph, leiden, modularity};
pub use similar::{SparseRows, similarity_graph, transposed};
