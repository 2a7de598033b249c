//! The loop of one stream thread: collect, fold, score, decide, commit, publish.
//!
//! Everything between two polls is in local values, so an abort or a death drops it whole (OWN-2, TXN-2). One call of
//! [`StreamThread::step_blocking`] is one turn of the loop: the simulation drives the same code turn by turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    BatchLimits, Disposition, LogError, PartitionHandle, Partitions, Phase, Polled, RecordBatch, Sink, SnapshotStore,
    Source, StreamError, StreamParams, StreamStatus,
    fold::FoldContext,
    guard::{self, Guard},
    report::{self, Stopwatch},
    restore::{read_scores_blocking, restore_blocking},
    timers::Timers,
};
use crate::{
    clock::Clock,
    decision::DecisionParams,
    event::{Decoder, PartitionId, Positions},
    graph::NameLookup,
    metrics as names,
    scoring::Scorer,
};

/// What a stream thread is made of. All of it is shared with or handed over by the daemon.
pub struct StreamParts<L> {
    /// The log, owned by the thread.
    pub log: L,
    /// Scores users; shared by all threads.
    pub scorer: Arc<dyn Scorer>,
    /// Wall-clock time, for live use and for the lag.
    pub clock: Arc<dyn Clock>,
    /// Decodes records.
    pub decoder: Decoder,
    /// Where the partitions of this thread can be read.
    pub partitions: Arc<Partitions>,
    /// Where states come from and go to.
    pub snapshots: Box<dyn SnapshotStore>,
    /// How scores become alerts.
    pub decision: DecisionParams,
    /// Texts of items that may be recommended and are in no graph: the bundle's catalogue.
    pub catalogue: Arc<dyn NameLookup + Send + Sync>,
    /// Settings of the loop.
    pub params: StreamParams,
}

/// One stream thread: the owner of some partitions.
pub struct StreamThread<L> {
    pub(super) parts: StreamParts<L>,
    pub(super) owned: BTreeMap<PartitionId, Owned>,
    /// Assigned and not restored yet.
    pub(super) pending: BTreeSet<PartitionId>,
    /// Revoked, kept for when they come back at the same position.
    parked: BTreeMap<PartitionId, Owned>,
    /// Records of the current batch; empty between two turns.
    pub(super) batch: RecordBatch,
    pub(super) status: watch::Sender<StreamStatus>,
    /// Calls that answered 'retry' or 'abort' in a row.
    failures_in_row: u32,
    /// Whether users are due that the last batch had no room for.
    pub(super) has_backlog: bool,
    lag_seen_ms: Option<i64>,
}

/// A partition of this thread.
pub(super) struct Owned {
    pub(super) handle: Arc<PartitionHandle>,
    pub(super) timers: Timers,
    /// Names in the table after the last sweep.
    pub(super) swept_name_count: usize,
    /// Whether scores may be in the log that are not in the book. The graphs are a function of the positions and need no
    /// such mark; scores are not, because silent users are scored while the positions stand still.
    pub(super) are_scores_stale: bool,
}

/// What one turn of the loop did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing came and nobody was due.
    Idle,
    /// A micro-batch was committed and published.
    Committed,
    /// These partitions will be restored in the next turns.
    Assigned(Vec<PartitionId>),
    /// One partition was restored.
    Restored(PartitionId),
    /// These partitions were given up.
    Revoked(Vec<PartitionId>),
    /// Something failed in a way that is tried again; nothing is lost.
    Again,
}

impl<L: Source + Sink> StreamThread<L> {
    /// A thread without partitions: the log assigns them at the first turns.
    pub fn new(parts: StreamParts<L>) -> Self {
        Self {
            parts,
            owned: BTreeMap::new(),
            pending: BTreeSet::new(),
            parked: BTreeMap::new(),
            batch: RecordBatch::default(),
            status: watch::Sender::new(StreamStatus::default()),
            failures_in_row: 0,
            has_backlog: false,
            lag_seen_ms: None,
        }
    }

    /// What the thread says of itself.
    pub fn status(&self) -> watch::Receiver<StreamStatus> {
        self.status.subscribe()
    }

    /// The log, for those who drive the thread turn by turn.
    pub fn log_mut(&mut self) -> &mut L {
        &mut self.parts.log
    }

    /// Runs until `stop` is cancelled or an error is fatal. The flag is looked at between micro-batches: what was scored
    /// is committed, and then every partition gets its last chance of a snapshot.
    pub fn run_blocking(mut self, stop: &CancellationToken) -> Result<(), StreamError> {
        while !stop.is_cancelled() {
            match self.step_blocking() {
                Ok(_) => {}
                // The pool closes after the threads; that it is closed while we stop is no failure.
                Err(StreamError::Scoring(_)) if stop.is_cancelled() => break,
                Err(error) => {
                    error!(%error, "the stream thread ends");
                    self.status.send_modify(|status| {
                        status.phase = Phase::Failed;
                        status.last_error = Some(error.to_string());
                    });
                    return Err(error);
                }
            }
        }
        for owned in self.owned.values() {
            self.parts.snapshots.closing(&owned.handle);
        }
        self.status.send_modify(|status| status.phase = Phase::Stopped);
        Ok(())
    }

    /// One turn of the loop. An error ends the thread.
    pub fn step_blocking(&mut self) -> Result<Step, StreamError> {
        self.batch.clear();
        if let Some(partition) = self.pending.first().copied()
            && self.restore_pending_blocking(partition)?
        {
            return Ok(Step::Restored(partition));
        }
        let limits = self.limits();
        let step = match self.parts.log.poll_blocking(&limits, &mut self.batch) {
            Ok(Polled::Records | Polled::Idle) => self.batch_blocking()?,
            Ok(Polled::Assigned(partitions)) => self.assign(partitions),
            Ok(Polled::Revoked(partitions)) => self.revoke(partitions),
            Err(error) => return self.go_on_after(error),
        };
        if step != Step::Again {
            self.failures_in_row = 0;
            self.look_at_lag();
        }
        Ok(step)
    }

    /// Decides how to go on after an error of the log outside of a restore.
    pub(super) fn go_on_after(&mut self, error: LogError) -> Result<Step, StreamError> {
        self.note_failure(&error);
        match error.disposition() {
            Disposition::Fatal => return Err(error.into()),
            Disposition::Retry => {}
            Disposition::Abort => {
                metrics::counter!(names::STREAM_ABORTS).increment(1);
                self.status.send_modify(|status| status.abort_count += 1);
                self.seek_back();
            }
        }
        self.back_off(error)
    }

    /// Waits a little after a failure; gives up after too many in a row.
    fn back_off(&mut self, error: LogError) -> Result<Step, StreamError> {
        self.failures_in_row += 1;
        let attempts = self.failures_in_row;
        if attempts >= self.parts.params.retry_attempts.get() {
            return Err(StreamError::RetriesExhausted { attempts, source: error });
        }
        if self.parts.params.retry_backoff_ms > 0 {
            std::thread::sleep(Duration::from_millis(self.parts.params.retry_backoff_ms));
        }
        Ok(Step::Again)
    }

    /// Makes `call` until it answers something else than 'retry'.
    pub(super) fn with_retries<T>(
        &mut self,
        mut call: impl FnMut(&mut L) -> Result<T, LogError>,
    ) -> Result<Result<T, LogError>, StreamError> {
        loop {
            match call(&mut self.parts.log) {
                Err(error) if error.disposition() == Disposition::Retry => {
                    self.note_failure(&error);
                    self.back_off(error)?;
                }
                outcome => return Ok(outcome),
            }
        }
    }

    /// Restores everything again from what is committed. The write set is gone by now; a state that still stands at the
    /// committed positions is taken over as it is.
    fn seek_back(&mut self) {
        for (partition, owned) in std::mem::take(&mut self.owned) {
            self.parked.insert(partition, owned);
            self.pending.insert(partition);
        }
    }

    fn assign(&mut self, partitions: Vec<PartitionId>) -> Step {
        info!(?partitions, "partitions assigned");
        self.pending.extend(&partitions);
        self.status.send_modify(|status| {
            status.phase = Phase::Restoring;
            status.restoring = self.pending.iter().copied().collect();
        });
        Step::Assigned(partitions)
    }

    fn revoke(&mut self, partitions: Vec<PartitionId>) -> Step {
        info!(?partitions, "partitions revoked");
        for &partition in &partitions {
            self.pending.remove(&partition);
            // Also one that an abort has set aside.
            if let Some(mut owned) = self.owned.remove(&partition).or_else(|| self.parked.remove(&partition)) {
                owned.are_scores_stale = true;
                self.park(partition, owned);
            }
            // Another member may write snapshots of it meanwhile, and delete old ones.
            self.parts.snapshots.forget(partition);
        }
        self.show_partitions();
        Step::Revoked(partitions)
    }

    /// Keeps a state that may come back, out of the readers' sight.
    fn park(&mut self, partition: PartitionId, owned: Owned) {
        self.parts.partitions.remove(&owned.handle);
        if self.parked.len() < self.parts.params.parked_capacity {
            self.parked.insert(partition, owned);
        }
    }

    /// Tries to restore one partition; false when it must be tried again after a poll.
    fn restore_pending_blocking(&mut self, partition: PartitionId) -> Result<bool, StreamError> {
        match self.restored_blocking(partition) {
            Ok((owned, committed)) => {
                self.pending.remove(&partition);
                debug_assert_eq!(owned.handle.state.progress().next_offsets, committed, "POS-2");
                self.parts.partitions.insert(&owned.handle);
                self.owned.insert(partition, owned);
                self.has_backlog = true;
                self.show_partitions();
                Ok(true)
            }
            Err(StreamError::Log(error)) if error.disposition() != Disposition::Fatal => {
                self.note_failure(&error);
                self.back_off(error)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn restored_blocking(&mut self, partition: PartitionId) -> Result<(Owned, Positions), StreamError> {
        let committed = self.parts.log.committed_blocking(partition)?;
        if let Some(mut parked) = self.parked.remove(&partition) {
            let stands_there = parked.handle.state.progress().next_offsets == committed;
            if stands_there || !guard::holds(Guard::ParkedAtCommitted) {
                return match self.take_over_blocking(&mut parked, committed) {
                    Ok(()) => Ok((parked, committed)),
                    Err(error) => {
                        self.parked.insert(partition, parked);
                        Err(error)
                    }
                };
            }
            // Another member went on with it meanwhile, or a commit went through that was reported as failed.
            self.parts.partitions.remove(&parked.handle);
            self.parts.snapshots.forget(partition);
        }
        let watch = Stopwatch::start();
        let fold = FoldContext { decoder: &self.parts.decoder, params: &self.parts.params.graph };
        let restored = restore_blocking(
            &mut self.parts.log,
            self.parts.snapshots.as_mut(),
            fold,
            &self.parts.params,
            partition,
            committed,
        )?;
        self.parts.log.start_at(partition, restored.start)?;
        let seconds = watch.seconds();
        metrics::histogram!(names::STREAM_RESTORE_SECONDS).record(seconds);
        metrics::counter!(names::STREAM_RESTORED_RECORDS).increment(restored.record_count);
        if restored.unreadable_score_count > 0 {
            let count = restored.unreadable_score_count;
            warn!(%partition, count, "stored scores that cannot be read: their users are scored again");
        }
        info!(
            %partition, next_offsets = %committed, users = restored.handle.state.graphs.len(),
            records = restored.record_count, from_snapshot = restored.from_snapshot, seconds, "partition restored"
        );
        let swept_name_count = restored.handle.state.names.len();
        let (handle, timers) = (Arc::new(restored.handle), restored.timers);
        Ok((Owned { handle, timers, swept_name_count, are_scores_stale: false }, committed))
    }

    /// Goes on with a state that stands at the committed positions.
    fn take_over_blocking(&mut self, parked: &mut Owned, committed: Positions) -> Result<(), StreamError> {
        if parked.are_scores_stale && guard::holds(Guard::ParkedScoresReadAgain) {
            let (timers, _) = read_scores_blocking(&mut self.parts.log, &parked.handle)?;
            parked.timers = timers;
            parked.are_scores_stale = false;
        }
        Ok(self.parts.log.start_at(parked.handle.state.partition(), committed)?)
    }

    fn limits(&self) -> BatchLimits {
        let mut limits = self.parts.params.batch;
        if self.has_backlog || !self.pending.is_empty() {
            limits.idle_wait_ms = 0;
        }
        limits
    }

    fn note_failure(&self, error: &LogError) {
        warn!(disposition = ?error.disposition(), %error, "the log failed");
        self.status.send_modify(|status| status.last_error = Some(error.to_string()));
    }

    /// Asks for the ends of the log now and then.
    fn look_at_lag(&mut self) {
        let now_ms = self.parts.clock.now_ms();
        let interval_ms = self.parts.params.lag_interval_ms;
        if self.lag_seen_ms.is_some_and(|seen_ms| (seen_ms..seen_ms.saturating_add(interval_ms)).contains(&now_ms)) {
            return;
        }
        self.lag_seen_ms = Some(now_ms);
        let mut ends = BTreeMap::new();
        for &partition in self.owned.keys() {
            match self.parts.log.known_end_blocking(partition) {
                Ok(end) => {
                    ends.insert(partition, end);
                }
                // Only a number for people: what is really wrong with the log, reading and committing say.
                Err(error) => warn!(%partition, %error, "the lag is unknown"),
            }
        }
        let trouble = self.parts.log.trouble();
        self.status.send_modify(|status| {
            status.trouble = trouble;
            for (partition, end) in ends {
                if let Some(shown) = status.partitions.get_mut(&partition) {
                    shown.end_offsets = end;
                }
            }
        });
        report::record_gauges(&self.status.borrow(), now_ms);
    }

    /// Shows which partitions there are and where they stand.
    pub(super) fn show_partitions(&self) {
        self.status.send_modify(|status| {
            let mut shown = std::mem::take(&mut status.partitions);
            for (&partition, owned) in &self.owned {
                let mut entry = shown.remove(&partition).unwrap_or_default();
                entry.next_offsets = owned.handle.state.progress().next_offsets;
                entry.watermark_ms = owned.handle.watermark_ms();
                entry.user_count = owned.handle.state.graphs.len();
                status.partitions.insert(partition, entry);
            }
            status.restoring = self.pending.iter().copied().collect();
            status.phase = if self.pending.is_empty() { Phase::Running } else { Phase::Restoring };
        });
    }
}

impl<L> Drop for StreamThread<L> {
    /// However the thread ends, nobody must read its partitions as if they were kept up to date.
    fn drop(&mut self) {
        for owned in self.owned.values() {
            self.parts.partitions.remove(&owned.handle);
        }
    }
}
