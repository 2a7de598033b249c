//! Whether the daemon is ready, by one rule: `/readyz` and the gauge both ask here.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;

use crate::{
    clock::Clock,
    scoring::Pool,
    stream::{Phase, StreamStatus},
};

/// Ready while events are read and scored: partitions assigned, all of them restored, a model that answers, no drain.
#[derive(Clone)]
pub struct Readiness {
    streams: Vec<watch::Receiver<StreamStatus>>,
    /// `None` where a rule scores: it needs no model.
    pool: Option<Arc<Pool>>,
    draining: Arc<AtomicBool>,
    clock: Arc<dyn Clock>,
}

impl Readiness {
    /// Watches these parts.
    pub fn new(streams: Vec<watch::Receiver<StreamStatus>>, pool: Option<Arc<Pool>>, clock: Arc<dyn Clock>) -> Self {
        Self { streams, pool, draining: Arc::default(), clock }
    }

    /// From now on not ready: the daemon stops.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Why the daemon is not ready, in words; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("the daemon is stopping".to_owned());
        }
        if self.pool.as_ref().is_some_and(|pool| !pool.is_serving()) {
            reasons.push("no model is loaded: the scoring workers have ended".to_owned());
        }
        reasons.extend(streams_not_ready(&self.streams, self.clock.now_ms()));
        reasons
    }
}

fn streams_not_ready(streams: &[watch::Receiver<StreamStatus>], now_ms: i64) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut is_running = false;
    for (thread, status) in streams.iter().enumerate() {
        let status = status.borrow();
        match status.phase {
            Phase::Running => {
                is_running = true;
                reasons.extend(what_it_waits_for(thread, &status, now_ms));
            }
            // A group with more threads than partitions leaves some without: one that runs is enough.
            Phase::Starting => {}
            Phase::Restoring => {
                let partitions: Vec<String> = status.restoring.iter().map(ToString::to_string).collect();
                reasons.push(format!("stream thread {thread} restores partitions {}", partitions.join(", ")));
            }
            Phase::Stopped => reasons.push(format!("stream thread {thread} has stopped")),
            Phase::Failed => {
                let error = status.last_error.as_deref().unwrap_or("no reason known");
                reasons.push(format!("stream thread {thread} failed: {error}"));
            }
        }
    }
    if !is_running && reasons.is_empty() {
        reasons.push("no partition is assigned yet".to_owned());
    }
    reasons
}

/// Milliseconds a commit may take before the daemon says that it waits for one: far above any that goes well.
const LONG_COMMIT_MS: i64 = 5_000;

/// Why a thread that runs gets nowhere, if so.
fn what_it_waits_for(thread: usize, status: &StreamStatus, now_ms: i64) -> Option<String> {
    let committing_ms = status.committing_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
    if committing_ms >= LONG_COMMIT_MS {
        return Some(format!("stream thread {thread} waits for its commit since {} s", committing_ms / 1_000));
    }
    status.trouble.as_ref().map(|trouble| format!("stream thread {thread} waits: {trouble}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::ManualClock, event::PartitionId};

    fn check(phases: &[Phase], drains: bool, expected: &[&str]) {
        let senders: Vec<_> = phases
            .iter()
            .map(|&phase| {
                let restoring = vec![PartitionId(3)];
                watch::Sender::new(StreamStatus { phase, restoring, ..StreamStatus::default() })
            })
            .collect();
        let readiness =
            Readiness::new(senders.iter().map(watch::Sender::subscribe).collect(), None, Arc::new(ManualClock::at(0)));
        if drains {
            readiness.drain();
        }
        assert_eq!(readiness.reasons(), expected, "{phases:?}");
    }

    #[test]
    fn ready_is_when_one_thread_runs_and_none_is_in_trouble() {
        check(&[Phase::Running], false, &[]);
        check(&[Phase::Running, Phase::Starting], false, &[]);
        check(&[Phase::Starting], false, &["no partition is assigned yet"]);
        check(&[Phase::Running, Phase::Restoring], false, &["stream thread 1 restores partitions 3"]);
        check(&[Phase::Failed], false, &["stream thread 0 failed: no reason known"]);
        check(&[Phase::Stopped], true, &["the daemon is stopping", "stream thread 0 has stopped"]);
    }
}
