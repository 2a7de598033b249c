//! Arrow snapshots of partition states.
