//! The thread that writes snapshots while the stream goes on.
//!
//! A stream thread asks what is [`wanted`](SnapshotWriter::wanted), hands over `Arc`s and never waits: while a snapshot of
//! its partition is still being written the answer is "nothing", and changed users keep adding up for the next delta.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{Manifest, SnapshotKind, SnapshotRequest, Snapshots};
use crate::{event::PartitionId, metrics as names};

/// What the writer has done so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WriterStatus {
    /// Snapshots written.
    pub written_count: u64,
    /// Snapshots that failed; the next one of the same partition is a base.
    pub failed_count: u64,
    /// Snapshots put off because the queue was full.
    pub busy_count: u64,
    /// Snapshots deleted by the retention.
    pub deleted_count: u64,
    /// The newest failure, in words.
    pub last_error: Option<String>,
    /// The newest snapshot of each partition.
    pub newest: BTreeMap<PartitionId, Arc<Manifest>>,
}

/// Hands snapshots to a thread of its own.
#[derive(Debug)]
pub struct SnapshotWriter {
    /// Closed by [`finish_blocking`](Self::finish_blocking), which ends the thread. Locked for a `try_send`.
    queue: Mutex<Option<Queue>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where requests go.
#[derive(Debug)]
enum Queue {
    /// To the writer's thread.
    Thread(SyncSender<SnapshotRequest>),
    /// Nowhere: they are written by the caller.
    Inline,
}

#[derive(Debug)]
struct Shared {
    snapshots: Snapshots,
    /// Short sections only, never held during I/O.
    chains: Mutex<HashMap<PartitionId, Chain>>,
    /// Signalled after every snapshot, and when the thread ends.
    done: Condvar,
    status: watch::Sender<WriterStatus>,
}

/// What the next snapshot of a partition can build on.
#[derive(Debug, Default, Clone)]
struct Chain {
    newest: Option<Arc<Manifest>>,
    delta_count: usize,
    in_flight: bool,
}

impl SnapshotWriter {
    /// Starts the thread. At most `queue_capacity` snapshots wait, one of each partition: their `Arc`s hold memory.
    pub fn start(snapshots: Snapshots, queue_capacity: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(snapshots));
        let (queue, requests) = sync_channel(queue_capacity);
        let for_thread = Arc::clone(&shared);
        let thread = Builder::new().name("snapshot-writer".to_owned()).spawn(move || for_thread.run(&requests))?;
        Ok(Self { queue: Mutex::new(Some(Queue::Thread(queue))), shared, thread: Mutex::new(Some(thread)) })
    }

    /// Writes each snapshot inside [`submit`](Self::submit), on the caller's thread: for simulation, where the order of all
    /// that happens is the point.
    pub fn inline(snapshots: Snapshots) -> Self {
        let shared = Arc::new(Shared::new(snapshots));
        Self { queue: Mutex::new(Some(Queue::Inline)), shared, thread: Mutex::new(None) }
    }

    /// What may be [submitted](Self::submit) for `partition` now; `None` while its last one is still being written.
    pub fn wanted(&self, partition: PartitionId) -> Option<SnapshotKind> {
        let chains = self.shared.chains();
        let Some(chain) = chains.get(&partition) else { return Some(SnapshotKind::Base) };
        let deltas_full = chain.delta_count >= self.shared.snapshots.options().deltas_per_base;
        match chain {
            Chain { in_flight: true, .. } => None,
            Chain { newest: Some(_), .. } if !deltas_full => Some(SnapshotKind::Delta),
            _ => Some(SnapshotKind::Base),
        }
    }

    /// Whether a snapshot of any partition is being written by the thread or waits for it. Never when callers write themselves.
    pub fn is_busy(&self) -> bool {
        let has_thread = matches!(lock(&self.queue).as_ref(), Some(Queue::Thread(_)));
        has_thread && self.shared.chains().values().any(|chain| chain.in_flight)
    }

    /// Waits until the snapshot of `partition` that is being written is done, if there is one.
    pub fn wait_blocking(&self, partition: PartitionId) {
        let is_writing =
            |chains: &mut HashMap<PartitionId, Chain>| chains.get(&partition).is_some_and(|chain| chain.in_flight);
        drop(self.shared.done.wait_while(self.shared.chains(), is_writing));
    }

    /// Queues `request`, of the kind that was [wanted](Self::wanted). Never blocks; gives it back when the queue is full,
    /// so that the changed users in it are not forgotten.
    pub fn submit(&self, request: SnapshotRequest) -> Result<(), Box<SnapshotRequest>> {
        let partition = request.partition;
        let queue = lock(&self.queue);
        let Some(queue) = queue.as_ref() else { return Err(Box::new(request)) };
        self.shared.chains().entry(partition).or_default().in_flight = true;
        let queue = match queue {
            Queue::Thread(queue) => queue,
            Queue::Inline => {
                self.shared.write(request);
                return Ok(());
            }
        };
        match queue.try_send(request) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) => {
                self.shared.chains().entry(partition).or_default().in_flight = false;
                self.shared.status.send_modify(|status| status.busy_count += 1);
                Err(Box::new(request))
            }
        }
    }

    /// Says that `partition` was restored from `manifest`: the next delta, of all users changed since, builds on it.
    pub fn restored(&self, manifest: &Manifest) {
        let chain =
            Chain { newest: Some(Arc::new(manifest.clone())), delta_count: manifest.delta_number, in_flight: false };
        self.shared.chains().insert(manifest.partition(), chain);
    }

    /// Says that `partition` is no longer ours, or was built anew: its next snapshot is a base.
    pub fn forget(&self, partition: PartitionId) {
        self.shared.chains().remove(&partition);
    }

    /// What the writer has done so far.
    pub fn status(&self) -> watch::Receiver<WriterStatus> {
        self.shared.status.subscribe()
    }

    /// Writes what is queued and ends the thread. What is submitted later is given back.
    pub fn finish_blocking(&self) {
        drop(lock(&self.queue).take());
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            warn!("the snapshot writer panicked");
        }
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        self.finish_blocking();
    }
}

impl Shared {
    fn new(snapshots: Snapshots) -> Self {
        Self {
            snapshots,
            chains: Mutex::default(),
            done: Condvar::new(),
            status: watch::Sender::new(WriterStatus::default()),
        }
    }

    fn chains(&self) -> MutexGuard<'_, HashMap<PartitionId, Chain>> {
        lock(&self.chains)
    }

    fn run(&self, requests: &Receiver<SnapshotRequest>) {
        /// Leaves nobody waiting for a thread that has ended, by a panic too.
        struct Ended<'a>(&'a Shared);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.chains().values_mut().for_each(|chain| chain.in_flight = false);
                self.0.done.notify_all();
            }
        }
        let _ended = Ended(self);
        for request in requests {
            self.write(request);
            self.done.notify_all();
        }
    }

    fn write(&self, request: SnapshotRequest) {
        let partition = request.partition;
        let previous = self.chains().get(&partition).and_then(|chain| chain.newest.clone());
        let started_ms = self.snapshots.clock.now_ms();
        match self.snapshots.write_blocking(request, previous.as_deref()) {
            Ok(manifest) => self.wrote(manifest, started_ms),
            Err(error) => {
                metrics::counter!(names::SNAPSHOT_FAILURES).increment(1);
                Self::show_failing(partition, true);
                error!(%partition, %error, "no snapshot can be written; the one before stays, and the next one will be a base");
                // The users it held are in no file: only a base is complete again.
                self.chains().remove(&partition);
                self.status.send_modify(|status| {
                    status.failed_count += 1;
                    status.last_error = Some(error.to_string());
                });
            }
        }
    }

    /// The gauge that an alarm stands on: the log must keep what the last snapshot does not have.
    fn show_failing(partition: PartitionId, is_failing: bool) {
        let failing = if is_failing { 1.0 } else { 0.0 };
        metrics::gauge!(names::SNAPSHOT_FAILING, "partition" => partition.to_string()).set(failing);
    }

    fn wrote(&self, manifest: Manifest, started_ms: i64) {
        let partition = manifest.partition();
        Self::show_failing(partition, false);
        let kind = match manifest.kind {
            SnapshotKind::Base => "base",
            SnapshotKind::Delta => "delta",
        };
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        let seconds = (self.snapshots.clock.now_ms() - started_ms).max(0) as f64 / 1_000.0;
        metrics::histogram!(names::SNAPSHOT_WRITE_SECONDS, "kind" => kind).record(seconds);
        metrics::counter!(names::SNAPSHOT_BYTES).increment(manifest.counts.bytes);
        info!(
            %partition, id = %manifest.id, kind = ?manifest.kind, next_offsets = %manifest.next_offsets(),
            users = manifest.counts.users, bytes = manifest.counts.bytes, "snapshot written"
        );
        let delta_count = manifest.delta_number;
        let manifest = Arc::new(manifest);
        // A partition forgotten meanwhile stays forgotten.
        if let Some(chain) = self.chains().get_mut(&partition) {
            *chain = Chain { newest: Some(Arc::clone(&manifest)), delta_count, in_flight: false };
        }
        let retained = self.snapshots.retain_blocking(partition);
        if let Err(error) = &retained {
            warn!(%partition, %error, "old snapshots could not be deleted");
        }
        self.status.send_modify(|status| {
            status.written_count += 1;
            status.deleted_count += retained.as_ref().map_or(0, |deleted| *deleted as u64);
            status.last_error = retained.err().map(|error| error.to_string());
            status.newest.insert(partition, manifest);
        });
    }
}

/// What these locks guard is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
