//! The stream threads: started by name, watched, and joined within a deadline.

use std::{
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::stream::{Sink, Source, StreamError, StreamParts, StreamStatus, StreamThread};

/// A stream thread that ended.
#[derive(Debug)]
pub struct ThreadEnd {
    /// Its name.
    pub name: String,
    /// How it ended; `None` after a panic.
    pub outcome: Option<Result<(), StreamError>>,
}

impl ThreadEnd {
    /// Whether it ended as it was asked to.
    pub fn is_clean(&self) -> bool {
        matches!(self.outcome, Some(Ok(())))
    }

    /// What happened, in words.
    pub fn describe(&self) -> String {
        match &self.outcome {
            Some(Ok(())) => format!("`{}` stopped", self.name),
            Some(Err(error)) => format!("`{}` failed: {error}", self.name),
            None => format!("`{}` panicked; this is a bug, please report it with the lines above", self.name),
        }
    }
}

/// All stream threads of the process.
pub struct StreamThreads {
    stop: CancellationToken,
    handles: Vec<JoinHandle<()>>,
    statuses: Vec<watch::Receiver<StreamStatus>>,
    /// One place a thread, so that sending an end never blocks. Closed when every thread has ended.
    ends: mpsc::Receiver<ThreadEnd>,
    ends_sender: mpsc::Sender<ThreadEnd>,
    running: usize,
}

/// Says that a thread ended, also when it panics.
struct Watcher {
    name: String,
    ends: mpsc::Sender<ThreadEnd>,
    outcome: Option<Result<(), StreamError>>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let end = ThreadEnd { name: std::mem::take(&mut self.name), outcome: self.outcome.take() };
        // The channel has a place for every thread; it is closed only when nobody waits any more.
        if let Err(unheard) = self.ends.try_send(end) {
            error!(end = ?unheard, "a stream thread ended and nobody listens");
        }
    }
}

impl StreamThreads {
    /// Room for `count` threads.
    pub fn new(count: usize) -> Self {
        let (ends_sender, ends) = mpsc::channel(count.max(1));
        Self {
            stop: CancellationToken::new(),
            handles: Vec::new(),
            statuses: Vec::new(),
            ends,
            ends_sender,
            running: 0,
        }
    }

    /// Starts one thread on its own log.
    pub fn start<L: Source + Sink + Send + 'static>(&mut self, parts: StreamParts<L>) -> anyhow::Result<()> {
        let name = format!("stream-{}", self.handles.len());
        let thread = StreamThread::new(parts);
        self.statuses.push(thread.status());
        let stop = self.stop.clone();
        let mut watcher = Watcher { name: name.clone(), ends: self.ends_sender.clone(), outcome: None };
        let handle = Builder::new()
            .name(name)
            .spawn(move || {
                watcher.outcome = Some(thread.run_blocking(&stop));
                drop(watcher);
            })
            .context("cannot start a stream thread")?;
        self.handles.push(handle);
        self.running += 1;
        Ok(())
    }

    /// What each thread says of itself.
    pub fn statuses(&self) -> &[watch::Receiver<StreamStatus>] {
        &self.statuses
    }

    /// Waits for the next thread to end. Cancel-safe.
    pub async fn next_end(&mut self) -> Option<ThreadEnd> {
        if self.running == 0 {
            return None;
        }
        let end = self.ends.recv().await;
        self.running = self.running.saturating_sub(usize::from(end.is_some()));
        end
    }

    /// Asks every thread to end after its current micro-batch, and waits for them until `deadline` has passed. An error
    /// names the threads that failed or did not make it; what they had in hand is not committed, so nothing is lost.
    pub async fn stop(mut self, deadline: Duration) -> anyhow::Result<()> {
        self.stop.cancel();
        let mut failures = Vec::new();
        let drained = tokio::time::timeout(deadline, async {
            while let Some(end) = self.next_end().await {
                info!(thread = end.name, clean = end.is_clean(), "stream thread ended");
                if !end.is_clean() {
                    failures.push(end.describe());
                }
            }
        })
        .await;
        if drained.is_err() {
            failures.push(format!("{} stream threads did not stop within {} ms", self.running, deadline.as_millis()));
        } else {
            for handle in self.handles {
                if handle.join().is_err() {
                    failures.push("a stream thread panicked".to_owned());
                }
            }
        }
        if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
    }

    /// The flag the threads look at; cancelling it begins the drain.
    pub fn stop_flag(&self) -> CancellationToken {
        self.stop.clone()
    }
}

/// Sums of all threads' statuses, for lines and pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Records committed.
    pub record_count: u64,
    /// Scores committed.
    pub score_count: u64,
    /// Alerts committed.
    pub alert_count: u64,
    /// Micro-batches committed.
    pub batch_count: u64,
    /// Records that went to the dead letters.
    pub dead_letter_count: u64,
    /// Newest event time of any partition, milliseconds since the Unix epoch.
    pub watermark_ms: Option<i64>,
}

/// Adds up what the threads say of themselves.
pub fn totals(statuses: &[watch::Receiver<StreamStatus>]) -> Totals {
    let mut sum = Totals::default();
    for status in statuses {
        let status = status.borrow();
        sum.record_count += status.record_count;
        sum.score_count += status.score_count;
        sum.alert_count += status.alert_count;
        sum.batch_count += status.batch_count;
        sum.dead_letter_count += status.dead_letter_count;
        let newest = status.partitions.values().filter_map(|partition| partition.watermark_ms).max();
        sum.watermark_ms = sum.watermark_ms.max(newest);
    }
    sum
}

/// A shared scorer, as every thread takes it.
pub type SharedScorer = Arc<dyn crate::scoring::Scorer>;
