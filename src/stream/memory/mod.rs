//! A log in memory with a consumer group, transactions and fault points: for simulation, benches and `replay`.
//!
//! It keeps the rules that the loop leans on in Kafka: offsets of aborted records are taken but never delivered, outputs
//! of an open or aborted transaction are invisible, a member of an old generation cannot commit, and a newer instance of
//! the same name fences the older one.

mod broker;
mod faults;

pub use broker::{BrokenRule, MemoryBroker, StoredOutput};
pub use faults::{Fault, FaultPlan, NoFaults, Step};

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{BatchLimits, Commit, Disposition, LogError, OutputTopic, Polled, RecordBatch, Sink, Source};
use crate::event::{Offset, PartitionId, Positions, View};

/// Calls of an unresolved commit before the log gives up: a plan that fails for ever must not hang a test.
const MAX_END_ATTEMPTS: u32 = 100;
/// Records a replay hands out at once.
const REPLAY_BATCH_RECORDS: usize = 1024;

/// One member of the group: the [`Source`] and [`Sink`] of one stream thread.
pub struct MemoryLog {
    broker: Arc<MemoryBroker>,
    instance: String,
    epoch: u64,
    generation: u64,
    /// Next offsets of the partitions that were started; a partition that is assigned and not started delivers nothing.
    cursors: BTreeMap<PartitionId, Positions>,
    owned: Vec<PartitionId>,
    faults: Box<dyn FaultPlan>,
}

impl MemoryLog {
    /// Joins the group as `instance`. An older member of the same name is fenced and its open transaction aborted.
    pub fn join(broker: &Arc<MemoryBroker>, instance: &str, faults: Box<dyn FaultPlan>) -> Self {
        let epoch = broker.join(instance);
        Self {
            broker: Arc::clone(broker),
            instance: instance.to_owned(),
            epoch,
            generation: 0,
            cursors: BTreeMap::new(),
            owned: Vec::new(),
            faults,
        }
    }

    fn check(&mut self, step: Step, action: &str) -> Result<Fault, LogError> {
        match self.faults.at(step) {
            Fault::Crash | Fault::CrashLate => Err(crash(action)),
            Fault::Fail(disposition) => Err(failure(action, "injected failure", disposition)),
            other => Ok(other),
        }
    }

    /// A call without an effect on the broker: a fault after it is the same as one before it.
    fn check_read(&mut self, step: Step, action: &str) -> Result<(), LogError> {
        match self.check(step, action)? {
            Fault::CrashAfter => Err(crash(action)),
            Fault::FailAfter(disposition) => Err(failure(action, "injected failure", disposition)),
            _ => Ok(()),
        }
    }

    /// Whether the group takes commits of this member: it is neither fenced nor of an older generation.
    pub fn is_current(&self) -> bool {
        let state = self.broker.lock();
        !state.is_fenced(&self.instance, self.epoch)
            && state.is_member(&self.instance, self.epoch)
            && state.generation == self.generation
    }

    fn check_membership(&self, action: &str) -> Result<(), LogError> {
        let state = self.broker.lock();
        if state.is_fenced(&self.instance, self.epoch) {
            return Err(failure(action, "fenced by a newer instance of the same name", Disposition::Fatal));
        }
        let is_current = state.is_member(&self.instance, self.epoch) && state.generation == self.generation;
        if !is_current && state.broken != Some(BrokenRule::Fences) {
            return Err(failure(action, "the group has moved to a newer generation", Disposition::Abort));
        }
        Ok(())
    }

    fn rebalanced(&mut self) -> Result<Option<Polled>, LogError> {
        let broker = Arc::clone(&self.broker);
        let mut state = broker.lock();
        if state.is_fenced(&self.instance, self.epoch) {
            return Err(failure("poll", "fenced by a newer instance of the same name", Disposition::Fatal));
        }
        if state.generation == self.generation {
            return Ok(None);
        }
        self.cursors.clear();
        if !self.owned.is_empty() {
            return Ok(Some(Polled::Revoked(std::mem::take(&mut self.owned))));
        }
        // A member that was thrown out joins again with what it still holds in memory.
        state.rejoin(&self.instance, self.epoch);
        self.generation = state.generation;
        self.owned = state.assignment(&self.instance, broker.partition_count());
        Ok((!self.owned.is_empty()).then(|| Polled::Assigned(self.owned.clone())))
    }

    /// Copies what is there into `batch`; true when a bound of the batch was reached.
    fn collect(&mut self, limits: &BatchLimits, batch: &mut RecordBatch) -> bool {
        let max_records = self.faults.batch_records(limits.max_records);
        let broker = Arc::clone(&self.broker);
        let state = broker.lock();
        loop {
            let mut waiting: Vec<(u64, PartitionId, View)> = Vec::new();
            for (&partition, positions) in &self.cursors {
                for view in View::ALL {
                    if let Some(sequence) = state.sequence_at(partition, view, positions.get(view)) {
                        waiting.push((sequence, partition, view));
                    }
                }
            }
            waiting.sort_unstable();
            if batch.len() >= max_records || batch.byte_count() >= limits.max_bytes {
                return true;
            }
            let Some(&(_, partition, view)) = (match self.faults.next_log(waiting.len()) {
                Some(place) if !waiting.is_empty() => waiting.get(place % waiting.len()),
                _ => waiting.first(),
            }) else {
                return false;
            };
            // Up to the first record that came later than the head of another log.
            let until = waiting.iter().map(|(sequence, ..)| *sequence).filter(|other| *other > waiting[0].0).min();
            let in_order = waiting[0].1 == partition && waiting[0].2 == view;
            let mut taken = 0_usize;
            let Some(positions) = self.cursors.get_mut(&partition) else { return false };
            let next =
                state.read((partition, view), (positions.get(view), Offset(i64::MAX)), batch, |batch, sequence| {
                    let in_turn = if in_order { until.is_none_or(|until| sequence < until) } else { taken == 0 };
                    taken += 1;
                    in_turn && batch.len() < max_records && batch.byte_count() < limits.max_bytes
                });
            positions.set(view, next);
        }
    }
}

impl Source for MemoryLog {
    fn poll_blocking(&mut self, limits: &BatchLimits, batch: &mut RecordBatch) -> Result<Polled, LogError> {
        self.check_read(Step::Poll, "poll")?;
        if let Some(event) = self.rebalanced()? {
            return Ok(event);
        }
        let full = self.collect(limits, batch);
        if !full && batch.is_empty() && limits.idle_wait_ms > 0 {
            let broker = Arc::clone(&self.broker);
            drop(broker.wait(broker.lock(), Duration::from_millis(limits.idle_wait_ms)));
            if let Some(event) = self.rebalanced()? {
                return Ok(event);
            }
            self.collect(limits, batch);
        }
        Ok(if batch.is_empty() { Polled::Idle } else { Polled::Records })
    }

    fn committed_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        let action = "read committed positions";
        self.check_read(Step::Committed, action)?;
        if self.broker.lock().is_unstable(partition, &self.instance) {
            return Err(failure(action, "a transaction with newer ones is open", Disposition::Retry));
        }
        Ok(self.broker.committed(partition))
    }

    fn earliest_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        self.check_read(Step::Earliest, "read first offsets")?;
        Ok(self.broker.lock().earliest(partition))
    }

    fn end_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        self.check_read(Step::End, "read end offsets")?;
        Ok(self.broker.ends(partition))
    }

    fn replay_blocking(
        &mut self,
        partition: PartitionId,
        from: Positions,
        to: Positions,
        visit: &mut dyn FnMut(&RecordBatch),
    ) -> Result<(), LogError> {
        let mut batch = RecordBatch::default();
        for view in View::ALL {
            let (mut next, end) = (from.get(view), to.get(view));
            while next < end {
                self.check_read(Step::Replay, "replay")?;
                batch.clear();
                let state = self.broker.lock();
                let read = state
                    .read((partition, view), (next, end), &mut batch, |batch, _| batch.len() < REPLAY_BATCH_RECORDS);
                drop(state);
                if read <= next {
                    let message = format!("offset {next} of partition {partition} is behind the end of the log");
                    return Err(failure("replay", &message, Disposition::Fatal));
                }
                next = read;
                visit(&batch);
            }
        }
        Ok(())
    }

    fn start_at(&mut self, partition: PartitionId, positions: Positions) -> Result<(), LogError> {
        self.check_read(Step::StartAt, "move the read position")?;
        if self.owned.contains(&partition) {
            self.cursors.insert(partition, positions);
        }
        Ok(())
    }
}

impl Sink for MemoryLog {
    fn commit_blocking(&mut self, commit: &Commit) -> Result<(), LogError> {
        let begun = self.check(Step::CommitBegin, "begin a transaction")?;
        self.check_membership("begin a transaction")?;
        let transaction = self.broker.lock().begin(&self.instance);
        self.after(begun, transaction, "begin a transaction")?;
        for record in &commit.outputs {
            let sent = self.check(Step::CommitSend, "send").inspect_err(|error| self.give_up(transaction, error))?;
            self.broker.lock().send(transaction, record);
            self.after(sent, transaction, "send")?;
        }
        let added = self.check(Step::CommitOffsets, "send positions").inspect_err(|e| self.give_up(transaction, e))?;
        self.check_membership("send positions").inspect_err(|error| self.give_up(transaction, error))?;
        if let Some(stranger) = commit.positions.keys().find(|partition| !self.owned.contains(partition)) {
            self.broker.lock().abort(transaction);
            let message = format!("partition {stranger} is not assigned to this member");
            return Err(failure("send positions", &message, Disposition::Abort));
        }
        self.broker.lock().send_positions(transaction, commit.positions.keys());
        self.after(added, transaction, "send positions")?;
        self.end(transaction, commit)
    }

    fn read_scores_blocking(
        &mut self,
        partition: PartitionId,
        visit: &mut dyn FnMut(&[u8], Option<&[u8]>),
    ) -> Result<(), LogError> {
        self.check_read(Step::ReadScores, "read scores")?;
        let scores = self.broker.committed_outputs(OutputTopic::Scores, partition);
        for record in &scores {
            visit(&record.key, record.payload.as_deref());
        }
        Ok(())
    }
}

impl MemoryLog {
    /// Ends the transaction. A timeout (`Retry`) leaves the outcome unknown, so the same call is made again until the
    /// broker answers: it answers for the transaction that it may have ended already.
    fn end(&mut self, transaction: u64, commit: &Commit) -> Result<(), LogError> {
        let action = "end the transaction";
        for _ in 0..MAX_END_ATTEMPTS {
            match self.faults.at(Step::CommitEnd) {
                Fault::Crash => return Err(crash(action)),
                Fault::CrashLate => {
                    self.broker.lock().end_late(transaction, &commit.positions);
                    return Err(crash(action));
                }
                Fault::Fail(Disposition::Retry) => {}
                Fault::Fail(disposition) => {
                    self.broker.lock().abort(transaction);
                    return Err(failure(action, "injected failure", disposition));
                }
                after => {
                    self.broker.lock().end(transaction, &commit.positions);
                    match after {
                        Fault::FailAfter(Disposition::Retry) => {}
                        Fault::FailAfter(disposition) => {
                            return Err(failure(action, "injected failure after the end", disposition));
                        }
                        Fault::CrashAfter => return Err(crash(action)),
                        _ => return Ok(()),
                    }
                }
            }
        }
        Err(failure(action, "no answer", Disposition::Fatal))
    }

    fn after(&mut self, fault: Fault, transaction: u64, action: &str) -> Result<(), LogError> {
        let error = match fault {
            Fault::CrashAfter => crash(action),
            Fault::FailAfter(disposition) => failure(action, "injected failure", disposition),
            _ => return Ok(()),
        };
        self.give_up(transaction, &error);
        Err(error)
    }

    /// Aborts the transaction, unless the process just died: then it stays open until a successor or the session
    /// timeout ends it.
    fn give_up(&self, transaction: u64, error: &LogError) {
        if error.message != CRASH {
            self.broker.lock().abort(transaction);
        }
    }
}

const CRASH: &str = "the process died";

/// Whether `error` stands for the death of the process (only this log makes such errors).
pub fn is_crash(error: &LogError) -> bool {
    error.message == CRASH
}

fn crash(action: &str) -> LogError {
    failure(action, CRASH, Disposition::Fatal)
}

fn failure(action: &str, message: &str, disposition: Disposition) -> LogError {
    LogError { action: action.to_owned(), message: message.to_owned(), disposition }
}

#[cfg(test)]
mod tests;
