//! The configuration tree: file, then environment, then flags.
