//! What the members of a group share: input logs, output logs, committed positions, transactions and the group itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    event::{Offset, Origin, PartitionId, Positions, View},
    stream::{OutputRecord, OutputTopic, RecordBatch},
};

/// A broker in memory: input topics × partitions, output topics, one consumer group, transactions.
pub struct MemoryBroker {
    partition_count: u32,
    /// Guards everything below. Held for the length of one call, never while anything is waited for except `arrived`.
    state: Mutex<BrokerState>,
    /// Signalled at every append and every change of the group.
    arrived: Condvar,
}

pub(super) struct BrokerState {
    inputs: BTreeMap<(PartitionId, View), InputLog>,
    outputs: BTreeMap<(OutputTopic, PartitionId), Vec<StoredOutput>>,
    committed: BTreeMap<PartitionId, Positions>,
    next_sequence: u64,
    next_transaction: u64,
    open: BTreeMap<u64, OpenTransaction>,
    aborted: BTreeSet<u64>,
    /// Ends of transactions that are still on their way, sent by members that died since.
    late: Vec<(u64, BTreeMap<PartitionId, Positions>)>,
    pub(super) broken: Option<BrokenRule>,
    pub(super) generation: u64,
    /// Epoch of every live member, by instance name.
    members: BTreeMap<String, u64>,
    /// The newest epoch of every instance that ever joined.
    epochs: BTreeMap<String, u64>,
}

/// A transaction that was begun and has not ended.
struct OpenTransaction {
    owner: String,
    /// Partitions whose positions were sent in it: nobody else reads them until it ends.
    pending: Vec<PartitionId>,
}

/// A rule of the broker that a test can break, to prove that it would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenRule {
    /// Members that were fenced or thrown out commit on.
    Fences,
    /// Records of aborted transactions are delivered.
    AbortedRecords,
    /// Committed positions are read although a transaction with newer ones is open.
    OpenTransactions,
    /// The end of a transaction counts although it was aborted before.
    LateEnds,
}

/// An output record as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOutput {
    transaction: u64,
    /// The record.
    pub record: OutputRecord,
}

/// One topic partition: payloads in one arena.
#[derive(Default)]
pub(super) struct InputLog {
    arena: Vec<u8>,
    entries: Vec<InputEntry>,
    earliest: usize,
}

struct InputEntry {
    sequence: u64,
    timestamp_ms: i64,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    /// False for a record of an aborted transaction: it takes an offset and is never delivered.
    visible: bool,
}

impl MemoryBroker {
    /// Creates empty topics of `partition_count` partitions.
    pub fn new(partition_count: u32) -> Self {
        Self {
            partition_count,
            state: Mutex::new(BrokerState {
                inputs: BTreeMap::new(),
                outputs: BTreeMap::new(),
                committed: BTreeMap::new(),
                next_sequence: 0,
                next_transaction: 0,
                open: BTreeMap::new(),
                aborted: BTreeSet::new(),
                late: Vec::new(),
                broken: None,
                generation: 0,
                members: BTreeMap::new(),
                epochs: BTreeMap::new(),
            }),
            arrived: Condvar::new(),
        }
    }

    /// Number of partitions of every topic.
    pub fn partition_count(&self) -> u32 {
        self.partition_count
    }

    /// All partitions.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partition_count).map(|number| PartitionId(number.cast_signed()))
    }

    /// Appends one record to the topic of `view` and returns its offset.
    pub fn append(
        &self,
        view: View,
        partition: PartitionId,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
    ) -> Offset {
        self.append_visible(view, partition, timestamp_ms, key, payload, true)
    }

    /// Appends a record of a transaction that was aborted: it takes an offset and is never delivered.
    pub fn append_aborted(&self, view: View, partition: PartitionId, payload: &[u8]) -> Offset {
        self.append_visible(view, partition, 0, None, Some(payload), false)
    }

    /// Drops records below `earliest`, as retention does.
    pub fn trim(&self, view: View, partition: PartitionId, earliest: Offset) {
        let mut state = self.lock();
        let log = state.inputs.entry((partition, view)).or_default();
        log.earliest = log.earliest.max(index_of(earliest)).min(log.entries.len());
    }

    /// Makes the topic of `view` anew: empty, its offsets from 0. What was committed stays.
    pub fn recreate(&self, view: View, partition: PartitionId) {
        self.lock().inputs.remove(&(partition, view));
    }

    /// Breaks `rule` from now on.
    pub fn break_rule(&self, rule: BrokenRule) {
        self.lock().broken = Some(rule);
    }

    /// Delivers the ends of transactions whose members died after sending them ([`CrashLate`](super::Fault::CrashLate)).
    /// One that was aborted meanwhile stays aborted.
    pub fn deliver_late(&self) {
        let mut state = self.lock();
        for (transaction, positions) in std::mem::take(&mut state.late) {
            if state.broken == Some(BrokenRule::LateEnds) && state.aborted.remove(&transaction) {
                state.committed.extend(positions);
            } else {
                state.end(transaction, &positions);
            }
        }
        drop(state);
        self.arrived.notify_all();
    }

    /// Records of `topic` from place `from` on as a consumer gets them that reads committed records only: up to the first
    /// open transaction, without aborted ones. Also the place to go on from.
    pub fn read_committed(
        &self,
        topic: OutputTopic,
        partition: PartitionId,
        from: usize,
    ) -> (Vec<OutputRecord>, usize) {
        let state = self.lock();
        let (mut records, mut next) = (Vec::new(), from);
        for stored in state.outputs.get(&(topic, partition)).into_iter().flatten().skip(from) {
            if state.open.contains_key(&stored.transaction) {
                break;
            }
            next += 1;
            if !state.aborted.contains(&stored.transaction) {
                records.push(stored.record.clone());
            }
        }
        (records, next)
    }

    /// Every record of a committed transaction in `topic` of `partition`, in order.
    pub fn committed_outputs(&self, topic: OutputTopic, partition: PartitionId) -> Vec<OutputRecord> {
        let state = self.lock();
        state.visible_outputs(topic, partition).cloned().collect()
    }

    /// The group's committed positions of `partition`.
    pub fn committed(&self, partition: PartitionId) -> Positions {
        self.lock().committed(partition)
    }

    /// The ends of the input topics of `partition` (exclusive).
    pub fn ends(&self, partition: PartitionId) -> Positions {
        self.lock().ends(partition)
    }

    /// Removes a member from the group, as its session timeout does.
    pub fn expire(&self, instance: &str) {
        let mut state = self.lock();
        if state.members.remove(instance).is_some() {
            state.abort_transactions_of(instance);
            state.generation += 1;
        }
        drop(state);
        self.arrived.notify_all();
    }

    /// Starts a rebalance without a change of members.
    pub fn rebalance(&self) {
        self.lock().generation += 1;
        self.arrived.notify_all();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BrokerState> {
        // A panic inside a test must not hide behind a second one here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(
        &self,
        guard: MutexGuard<'a, BrokerState>,
        timeout: Duration,
    ) -> MutexGuard<'a, BrokerState> {
        self.arrived.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn join(&self, instance: &str) -> u64 {
        let mut state = self.lock();
        state.abort_transactions_of(instance);
        let epoch = state.epochs.get(instance).map_or(1, |epoch| epoch + 1);
        state.epochs.insert(instance.to_owned(), epoch);
        state.members.insert(instance.to_owned(), epoch);
        state.generation += 1;
        drop(state);
        self.arrived.notify_all();
        epoch
    }

    fn append_visible(
        &self,
        view: View,
        partition: PartitionId,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        visible: bool,
    ) -> Offset {
        let mut state = self.lock();
        let sequence = state.next_sequence;
        state.next_sequence += 1;
        let log = state.inputs.entry((partition, view)).or_default();
        let key = key.map(|bytes| log.copy(bytes));
        let payload = payload.map(|bytes| log.copy(bytes));
        log.entries.push(InputEntry { sequence, timestamp_ms, key, payload, visible });
        let offset = offset_of(log.entries.len() - 1);
        drop(state);
        self.arrived.notify_all();
        offset
    }
}

impl BrokerState {
    pub(super) fn committed(&self, partition: PartitionId) -> Positions {
        self.committed.get(&partition).copied().unwrap_or_default()
    }

    pub(super) fn ends(&self, partition: PartitionId) -> Positions {
        Positions(
            View::ALL
                .map(|view| self.inputs.get(&(partition, view)).map_or(Offset(0), |log| offset_of(log.entries.len()))),
        )
    }

    pub(super) fn earliest(&self, partition: PartitionId) -> Positions {
        Positions(
            View::ALL.map(|view| self.inputs.get(&(partition, view)).map_or(Offset(0), |log| offset_of(log.earliest))),
        )
    }

    /// The partitions of `instance` by the range assignor: whole runs, in the order of instance names.
    pub(super) fn assignment(&self, instance: &str, partition_count: u32) -> Vec<PartitionId> {
        let member_count = self.members.len().max(1);
        let Some(place) = self.members.keys().position(|name| name == instance) else { return Vec::new() };
        let count = partition_count as usize;
        let (share, extra) = (count / member_count, count % member_count);
        let start = place * share + place.min(extra);
        let end = start + share + usize::from(place < extra);
        (start..end).filter_map(|number| i32::try_from(number).ok()).map(PartitionId).collect()
    }

    pub(super) fn is_fenced(&self, instance: &str, epoch: u64) -> bool {
        self.broken != Some(BrokenRule::Fences) && self.epochs.get(instance) != Some(&epoch)
    }

    /// Whether the positions of `partition` may change by a transaction of another member that is still open.
    pub(super) fn is_unstable(&self, partition: PartitionId, instance: &str) -> bool {
        let mut open = self.open.values();
        self.broken != Some(BrokenRule::OpenTransactions)
            && open.any(|open| open.owner != instance && open.pending.contains(&partition))
    }

    pub(super) fn is_member(&self, instance: &str, epoch: u64) -> bool {
        self.members.get(instance) == Some(&epoch)
    }

    /// Takes a member back that the session timeout threw out.
    pub(super) fn rejoin(&mut self, instance: &str, epoch: u64) {
        if !self.is_member(instance, epoch) {
            self.members.insert(instance.to_owned(), epoch);
            self.generation += 1;
        }
    }

    pub(super) fn begin(&mut self, instance: &str) -> u64 {
        self.abort_transactions_of(instance);
        let transaction = self.next_transaction;
        self.next_transaction += 1;
        self.open.insert(transaction, OpenTransaction { owner: instance.to_owned(), pending: Vec::new() });
        transaction
    }

    pub(super) fn send_positions<'a>(&mut self, transaction: u64, partitions: impl Iterator<Item = &'a PartitionId>) {
        if let Some(open) = self.open.get_mut(&transaction) {
            open.pending.extend(partitions);
        }
    }

    pub(super) fn end_late(&mut self, transaction: u64, positions: &BTreeMap<PartitionId, Positions>) {
        self.late.push((transaction, positions.clone()));
    }

    pub(super) fn send(&mut self, transaction: u64, record: &OutputRecord) {
        let log = self.outputs.entry((record.topic, record.partition)).or_default();
        log.push(StoredOutput { transaction, record: record.clone() });
    }

    pub(super) fn end(&mut self, transaction: u64, positions: &BTreeMap<PartitionId, Positions>) {
        if self.open.remove(&transaction).is_some() {
            self.committed.extend(positions);
        }
    }

    pub(super) fn abort(&mut self, transaction: u64) {
        if self.open.remove(&transaction).is_some() {
            self.aborted.insert(transaction);
        }
    }

    fn abort_transactions_of(&mut self, instance: &str) {
        let dangling: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.owner == instance).map(|(id, _)| *id).collect();
        for transaction in dangling {
            self.abort(transaction);
        }
    }

    pub(super) fn visible_outputs(
        &self,
        topic: OutputTopic,
        partition: PartitionId,
    ) -> impl Iterator<Item = &OutputRecord> {
        self.outputs
            .get(&(topic, partition))
            .into_iter()
            .flatten()
            .filter(|stored| {
                !self.open.contains_key(&stored.transaction) && !self.aborted.contains(&stored.transaction)
            })
            .map(|stored| &stored.record)
    }

    /// The arrival number of the record at `next`, if there is one.
    pub(super) fn sequence_at(&self, partition: PartitionId, view: View, next: Offset) -> Option<u64> {
        let log = self.inputs.get(&(partition, view))?;
        log.entries.get(index_of(next).max(log.earliest)).map(|entry| entry.sequence)
    }

    /// Copies records of one log from `next` (exclusive end `end`) into `batch` while `go_on` says so, and returns the
    /// offset to read next.
    pub(super) fn read(
        &self,
        (partition, view): (PartitionId, View),
        (next, end): (Offset, Offset),
        batch: &mut RecordBatch,
        mut go_on: impl FnMut(&RecordBatch, u64) -> bool,
    ) -> Offset {
        let Some(log) = self.inputs.get(&(partition, view)) else { return next };
        let mut index = index_of(next).max(log.earliest);
        let end = index_of(end).min(log.entries.len());
        while index < end {
            let entry = &log.entries[index];
            if !go_on(batch, entry.sequence) {
                break;
            }
            if entry.visible || self.broken == Some(BrokenRule::AbortedRecords) {
                let origin = Origin { view, partition, offset: offset_of(index) };
                let key = entry.key.clone().map(|range| &log.arena[range]);
                let payload = entry.payload.clone().map(|range| &log.arena[range]);
                batch.push(origin, entry.timestamp_ms, key, payload);
            }
            index += 1;
        }
        offset_of(index)
    }
}

impl InputLog {
    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }
}

fn index_of(offset: Offset) -> usize {
    usize::try_from(offset.0).unwrap_or(0)
}

fn offset_of(index: usize) -> Offset {
    Offset(i64::try_from(index).unwrap_or(i64::MAX))
}
