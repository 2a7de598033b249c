//! Gradient-boosted decision trees over binned features: probabilities and rankings by one learner.
//!
//! Histogram trees grown leaf by leaf as in `LightGBM` (Ke et al. 2017): features are cut into at most 255 bins once, a
//! leaf's sums of gradients are kept by bin, and a child's sums are its parent's less its sibling's. Missing values have a
//! bin of their own and go where they gain more. The same seed gives the same trees on any number of threads: a feature's
//! sums are always made by one thread in one order.

mod bins;
mod boost;
mod grow;
mod objective;

pub use bins::Bins;
pub use boost::{BoostSettings, Boosted, Sample, Watch, boost};
pub use objective::{LambdaRank, LogLoss, Objective};
