//! Plays the file into the embedded log in order of event time, and notes what happened on the way.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::history::History;
use crate::{
    clock::{Clock, SystemClock},
    daemon::feed::{EventBatch, append_blocking},
    event::{CleaningCounts, DAY_MS, Edge, RowReader},
    stream::embedded::EmbeddedLog,
};

/// Events written together.
const BATCH_EVENTS: usize = 1_000;

/// How far the file was played, and whether to stop; shared with the thread that watches.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Events appended, warm-up included.
    pub(super) fed: AtomicU64,
    /// Records the stream threads have committed since the warm-up; kept up to date by the watcher.
    pub(super) committed: AtomicU64,
    /// Time of the newest appended event, milliseconds since the Unix epoch.
    pub(super) event_ms: AtomicI64,
    /// Cancelled by Ctrl-C, and when a stream thread ends.
    pub(super) stop: CancellationToken,
}

/// The file and the log it is played into.
pub(super) struct Feeder {
    log: Arc<EmbeddedLog>,
    reader: RowReader,
    edge: Edge,
    batch: EventBatch,
    counts: CleaningCounts,
    warm_up_count: u64,
    /// What really happened, as far as it was played.
    pub(super) history: History,
    pub(super) progress: Arc<Progress>,
}

/// How the rest of the file is played.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Events in the log that the stream has not committed yet, at most: bounds how far event time jumps in a batch.
    pub(super) max_lag_events: u64,
    /// Days of event time a second at most; without it as fast as scoring goes.
    pub(super) days_per_second: Option<f64>,
}

impl Feeder {
    /// Opens the file.
    pub(super) fn open(
        file: &Path,
        log: Arc<EmbeddedLog>,
        edge: Edge,
        progress: Arc<Progress>,
    ) -> anyhow::Result<Self> {
        let reader = RowReader::open(file).with_context(|| format!("cannot play `{}`", file.display()))?;
        Ok(Self {
            log,
            reader,
            edge,
            batch: EventBatch::default(),
            counts: CleaningCounts::default(),
            warm_up_count: 0,
            history: History::default(),
            progress,
        })
    }

    /// Appends everything before `until_ms` and returns how many events that is. The first later event waits in the batch.
    pub(super) fn warm_up_blocking(&mut self, until_ms: i64) -> anyhow::Result<u64> {
        while !self.progress.stop.is_cancelled() {
            let Some(row) = self.reader.next_row()? else { break };
            let Ok(admitted) = self.edge.admit_row(&row, &mut self.counts) else { continue };
            let is_later = admitted.event.time_ms >= until_ms;
            if is_later || self.batch.len() >= BATCH_EVENTS {
                append_blocking(&self.log, &self.batch)?;
                self.warm_up_count += self.batch.len() as u64;
                self.batch.clear();
            }
            self.history.record(&admitted.event);
            self.progress.event_ms.store(admitted.event.time_ms, Ordering::Relaxed);
            self.batch.push(&admitted);
            if is_later {
                break;
            }
        }
        self.progress.fed.store(self.warm_up_count, Ordering::Relaxed);
        Ok(self.warm_up_count)
    }

    /// Plays the rest, never further ahead of the stream than `pace` says.
    pub(super) fn play_blocking(mut self, pace: Pace) -> anyhow::Result<History> {
        let clock = SystemClock;
        let (start_ms, first_event_ms) = (clock.now_ms(), self.history.end_ms);
        while !self.progress.stop.is_cancelled() {
            let event_ms = {
                let Some(row) = self.reader.next_row()? else { break };
                let Ok(admitted) = self.edge.admit_row(&row, &mut self.counts) else { continue };
                self.history.record(&admitted.event);
                self.batch.push(&admitted);
                admitted.event.time_ms
            };
            if self.batch.len() >= BATCH_EVENTS {
                self.flush_blocking(event_ms)?;
                self.wait(pace, event_ms - first_event_ms, start_ms, clock);
            }
        }
        let end_ms = self.history.end_ms;
        self.flush_blocking(end_ms)?;
        Ok(self.history)
    }

    fn flush_blocking(&mut self, event_ms: i64) -> anyhow::Result<()> {
        append_blocking(&self.log, &self.batch)?;
        self.progress.fed.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
        self.progress.event_ms.store(event_ms, Ordering::Relaxed);
        self.batch.clear();
        Ok(())
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a pace for people")]
    fn wait(&self, pace: Pace, played_ms: i64, start_ms: i64, clock: SystemClock) {
        let is_stopped = || self.progress.stop.is_cancelled();
        let lag = || {
            let fed = self.progress.fed.load(Ordering::Relaxed).saturating_sub(self.warm_up_count);
            fed.saturating_sub(self.progress.committed.load(Ordering::Relaxed))
        };
        while lag() > pace.max_lag_events && !is_stopped() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(days_per_second) = pace.days_per_second {
            let due_ms = start_ms + (played_ms as f64 / DAY_MS as f64 / days_per_second * 1_000.0) as i64;
            while clock.now_ms() < due_ms && !is_stopped() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
