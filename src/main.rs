//! Undercurrent.
fn main() {}
