//! The newest event ids, to recognise a batch that was sent again after a lost answer.

use std::collections::{HashSet, VecDeque};

use super::{
    EmbeddedError, EmbeddedLog,
    chunk::ChunkReader,
    store::{Topic, chunk_key, reader_of},
};
use crate::event::{Offset, PartitionId, View};

/// A set of the last `capacity` ids.
#[derive(Debug)]
pub struct RecentIds {
    capacity: usize,
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl RecentIds {
    /// An empty set.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), known: HashSet::new() }
    }

    /// Whether `id` is among them.
    pub fn contains(&self, id: u64) -> bool {
        self.known.contains(&id)
    }

    /// Adds `id`; the oldest goes when there are too many.
    pub fn insert(&mut self, id: u64) {
        if self.capacity == 0 || !self.known.insert(id) {
            return;
        }
        if self.order.len() == self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(id);
    }
}

impl EmbeddedLog {
    /// Fills `recent` from the tails of the input logs and returns the newest sequence number of all.
    pub(super) fn recover_recent(&self, recent: &mut RecentIds) -> Result<Option<u64>, EmbeddedError> {
        let mut tails = Vec::new();
        for view in View::ALL {
            for partition in self.partitions() {
                tails.push(Tail::open(self, view, partition)?);
            }
        }
        let newest = tails.iter().filter_map(Tail::newest).max();
        // Backwards, always from the log whose unread chunk ends last, until there are enough.
        let mut found: Vec<(u64, u64)> = Vec::new();
        while found.len() < recent.capacity {
            let Some(tail) = tails.iter_mut().filter(|tail| tail.chunk.is_some()).max_by_key(|tail| tail.newest())
            else {
                break;
            };
            tail.take(self, &mut found)?;
        }
        found.sort_unstable();
        for (_, id) in found {
            recent.insert(id);
        }
        Ok(newest)
    }
}

/// One input log, read backwards by chunks.
struct Tail {
    view: View,
    partition: PartitionId,
    /// Ids (0 for none) with their sequence numbers, of the newest chunk not taken yet, and its base.
    chunk: Option<(Offset, Vec<(u64, u64)>)>,
}

impl Tail {
    fn open(log: &EmbeddedLog, view: View, partition: PartitionId) -> Result<Self, EmbeddedError> {
        let mut tail = Self { view, partition, chunk: None };
        tail.load(log, Offset(i64::MAX))?;
        Ok(tail)
    }

    fn newest(&self) -> Option<u64> {
        self.chunk.as_ref().and_then(|(_, ids)| ids.last()).map(|(sequence, _)| *sequence)
    }

    fn take(&mut self, log: &EmbeddedLog, found: &mut Vec<(u64, u64)>) -> Result<(), EmbeddedError> {
        if let Some((base, ids)) = self.chunk.take() {
            found.extend(ids.into_iter().filter(|(_, id)| *id != 0));
            self.load(log, base)?;
        }
        Ok(())
    }

    fn load(&mut self, log: &EmbeddedLog, before: Offset) -> Result<(), EmbeddedError> {
        let range = chunk_key(self.partition, Offset(0))..chunk_key(self.partition, before);
        let Some(guard) = log.keyspace(Topic::Input(self.view)).range(range).next_back() else { return Ok(()) };
        let mut reader: ChunkReader = reader_of(guard)?;
        let base = reader.base();
        let mut ids = Vec::new();
        reader.each(|record| ids.push((record.sequence, record.event_id)))?;
        self.chunk = Some((base, ids));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_ids_are_known() {
        let mut recent = RecentIds::new(2);
        for id in [1, 2, 2, 3] {
            recent.insert(id);
        }
        assert_eq!([1, 2, 3].map(|id| recent.contains(id)), [false, true, true]);
    }
}
