//! The behaviour graph of one user and the committed versions of all users of a partition.
//!
//! A [`ViewGraph`] is a fold of one topic, by event time only, so the interleaving of topics cannot change it (DET-1).
//! Anything that needs several views (last activity, due times, cross-view edges) is derived when it is read.
//! Versions are immutable: a [`WriteSet`] works on copies and [`GraphStore`] swaps them in after the commit (TXN-2).

mod activity;
mod days;
mod decay;
pub mod due;
mod erasures;
mod hash;
mod names;
mod params;
mod partition;
mod places;
mod residents;
mod ring;
mod store;
mod table;
mod timeline;
mod totals;
mod user;
mod view;
mod write_set;

pub use activity::first_activity_ms;
pub use days::DayBits;
pub use erasures::{ErasureEntry, Erasures};
pub use hash::{NameHashBuilder, NameHasher};
pub use names::{NameLookup, NameTable, visit_names};
pub use params::{GraphParams, KindSet};
pub use partition::{PartitionState, Progress};
pub use ring::RingEntry;
pub use store::GraphStore;
pub use table::{Edge, Node, gap_bucket};
pub use timeline::{CrossEdge, CrossKind, TimelineEntry, cross_edges};
pub use totals::{Totals, WEEKS};
pub use user::{ExpandedGraph, UserGraph};
pub use view::{ExpandedView, FoldOutcome, Settled, ViewGraph, ViewParts, ViewSummary, day_of};
pub use write_set::{BatchNames, WriteSet};
