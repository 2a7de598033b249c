//! The behaviour graph of one user and the committed versions of all users of a partition.
//!
//! A [`ViewGraph`] is a fold of one topic, by event time only, so the interleaving of topics cannot change it (DET-1).
//! Anything that needs several views (last activity, due times, cross-view edges) is derived when it is read.
//! Versions are immutable: a [`WriteSet`] works on copies and [`GraphStore`] swaps them in after the commit (TXN-2).

mod days;
mod params;
mod user;
mod view;

pub use days::DayBits;
pub use params::{GraphParams, KindSet};
pub use user::UserGraph;
pub use view::{Edge, FoldOutcome, Node, RingEntry, Totals, ViewGraph};
