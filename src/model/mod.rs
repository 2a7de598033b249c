//! The multi-view network and its bundle.
//!
//! `features` turns a user's graph into plain numbers; here they become tensors, scores and, after training, a bundle on
//! disk. Shape letters are those of [`crate::features`].

mod batch;
mod bundle;
mod calibration;
mod config;
mod ensemble;
mod fused;
mod graph_layer;
pub mod items;
mod lanes;
mod layers;
mod loss;
mod network;
mod parameters;
mod prediction;
pub mod text;
mod trees;

pub use batch::{Batch, BatchEdges, Dropout, Padding};
pub use bundle::{Bundle, BundleError, BundleParts, MAX_BUNDLE_BYTES, Probe, References};
pub use calibration::{Calibration, Platt};
pub use config::{GraphForm, NetworkConfig};
pub use ensemble::{Blend, Curve, Ensemble, Habit, HeadLanes, Weights, forest_row};
pub use fused::{FusedError, FusedForward};
pub use lanes::LaneForest;
pub use loss::{ItemTargets, Losses, Targets, losses};
pub use network::{Network, Output};
pub use parameters::{ITEM_TABLE, Parameter, Parameters, TASKS};
pub use prediction::{CandleForward, Model, Prediction, probability_of};
pub use trees::{Forest, ForestError, ForestParts, TreeNode};
