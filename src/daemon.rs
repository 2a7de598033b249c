//! Puts the parts together: reads the configuration, starts threads in order, stops them in the reverse one.

pub mod feed;
pub mod params;
