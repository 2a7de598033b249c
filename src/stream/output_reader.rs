//! Reading an output topic in order, by somebody who remembers in the log how far he has got.

use std::collections::BTreeSet;

use super::LogError;
use crate::event::{Offset, PartitionId};

/// A committed record of an output topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOutput {
    /// The partition.
    pub partition: PartitionId,
    /// The record's own offset.
    pub offset: Offset,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
}

/// Where a reader that never stored a position begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderStart {
    /// With the oldest record still there.
    Beginning,
    /// With what is committed after the reader was opened for the first time.
    End,
}

/// A named reader of one output topic. Positions are stored in the log, a partition each, by name.
pub trait OutputReader: Send {
    /// Follows `partitions` and no others from now on. One that was not followed before begins at its stored position. Records that
    /// retention dropped before they were read are passed over, told and counted.
    fn follow_blocking(&mut self, partitions: &BTreeSet<PartitionId>) -> Result<(), LogError>;

    /// The next records of those followed partitions that are in `wanted`; none when there are none yet.
    fn read_blocking(&mut self, wanted: &BTreeSet<PartitionId>) -> Result<Vec<CommittedOutput>, LogError>;

    /// Remembers, durably, that everything below `next` is done with.
    fn store_blocking(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError>;

    /// Follows nothing any more.
    fn forget(&mut self);
}
