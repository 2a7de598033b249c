//! Puts the parts together: reads the configuration, starts threads in order, stops them in the reverse one.

pub mod audit;
mod champion;
pub mod drift;
pub mod engine;
pub mod feed;
pub mod letters;
pub mod models;
pub mod output_log;
pub mod params;
pub mod pool;
pub mod readiness;
pub mod replay;
pub mod retrain;
pub mod shadow;
pub mod signals;
mod supervisor;
pub mod threads;
pub mod upkeep;
pub mod verify;
mod webhook;

pub use supervisor::run_blocking;
