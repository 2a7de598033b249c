//! Puts the parts together: reads the configuration, starts threads in order, stops them in the reverse one.

mod champion;
pub mod engine;
pub mod feed;
pub mod models;
pub mod params;
pub mod pool;
pub mod replay;
pub mod retrain;
pub mod signals;
mod supervisor;
pub mod threads;
pub mod upkeep;

pub use supervisor::run_blocking;
