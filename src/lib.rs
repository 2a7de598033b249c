//! Undercurrent reads what users do (views, searches, carts, purchases) from Kafka or an embedded log, folds it into
//! one behaviour graph per user, scores every changed and every silent user with a multi-view graph-and-attention
//! model, and writes churn alerts, scores and recommendations back, exactly once.
//!
//! *The state of a partition is a fold of its input log up to a position, and outputs are committed together with that
//! position.* `ARCHITECTURE.md` is the map.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod decision;
pub mod event;
pub mod features;
pub mod generate;
pub mod graph;
pub mod metrics;
pub mod model;
pub mod score;
pub mod scoring;
pub mod snapshot;
pub mod stream;
pub mod train;
pub mod webhook;
