//! Everything between the log and the outputs: stream threads on their log, and the snapshot writer. `run` and `demo`
//! share it; HTTP, signals and training are around it.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::sync::watch;

use super::{
    params,
    threads::{StreamThreads, ThreadEnd},
};
use crate::{
    clock::Clock,
    config::{Config, LogKind},
    decision::DecisionParams,
    event::{Decoder, PartitionId},
    graph::NameLookup,
    scoring::Scorer,
    snapshot::{SnapshotWriter, Snapshots, Storage, open_storage},
    stream::{
        ArrowSnapshots, BatchLimits, GapPolicy, NoSnapshots, Partitions, Sink, SnapshotStore, Source, StreamParams,
        StreamParts, StreamStatus, TimeMode, embedded::EmbeddedLog, kafka::KafkaLog,
    },
};

/// What the engine is given.
pub struct EngineParts {
    /// Scores users.
    pub scorer: Arc<dyn Scorer>,
    /// How scores become alerts.
    pub decision: DecisionParams,
    /// Texts of items that may be recommended and are in no graph.
    pub catalogue: Arc<dyn NameLookup + Send + Sync>,
    /// What moves event time on.
    pub time: TimeMode,
    /// Wall-clock time.
    pub clock: Arc<dyn Clock>,
    /// The embedded log, when it is the configured one: HTTP and `demo` feed it.
    pub embedded: Option<Arc<EmbeddedLog>>,
}

/// The running threads with what others may read of them.
pub struct Engine {
    /// The committed state of all partitions.
    pub partitions: Arc<Partitions>,
    threads: StreamThreads,
    /// Shared with the threads; its own thread ends in [`stop`](Self::stop), after them.
    writer: Option<Arc<SnapshotWriter>>,
}

impl Engine {
    /// Opens the log and starts the threads. Blocks while the log is opened.
    pub fn start_blocking(config: &Config, parts: EngineParts) -> anyhow::Result<Self> {
        let (snapshots, writer) = if config.snapshot.enabled {
            let snapshots = snapshots(config, &parts.clock)?;
            // A place for every partition: each has at most one snapshot under way.
            let writer = SnapshotWriter::start(snapshots.clone(), 1_024).context("cannot start the snapshot writer")?;
            (Some(snapshots), Some(Arc::new(writer)))
        } else {
            (None, None)
        };
        let mut starter = Starter {
            config,
            decoder: params::decoder(config)?,
            stream: stream_params(config, parts.time)?,
            partitions: Arc::new(Partitions::default()),
            threads: StreamThreads::new(config.stream.threads),
            snapshots,
            writer,
            parts,
        };
        starter.start_all_blocking()?;
        Ok(Self { partitions: starter.partitions, threads: starter.threads, writer: starter.writer })
    }

    /// What each stream thread says of itself.
    pub fn statuses(&self) -> Vec<watch::Receiver<StreamStatus>> {
        self.threads.statuses().to_vec()
    }

    /// Waits for the next stream thread to end; while the daemon runs none should. Cancel-safe.
    pub async fn next_end(&mut self) -> Option<ThreadEnd> {
        self.threads.next_end().await
    }

    /// Ends the threads between two micro-batches, then writes the last snapshots. Safe to cut short: a restart goes on
    /// at the committed positions.
    pub async fn stop(self, deadline: Duration) -> anyhow::Result<()> {
        let stopped = self.threads.stop(deadline).await;
        if let Some(writer) = self.writer {
            tokio::task::spawn_blocking(move || writer.finish_blocking())
                .await
                .context("the snapshot writer could not finish")?;
        }
        stopped
    }
}

struct Starter<'a> {
    config: &'a Config,
    decoder: Decoder,
    stream: StreamParams,
    partitions: Arc<Partitions>,
    threads: StreamThreads,
    snapshots: Option<Snapshots>,
    writer: Option<Arc<SnapshotWriter>>,
    parts: EngineParts,
}

impl Starter<'_> {
    fn start_all_blocking(&mut self) -> anyhow::Result<()> {
        let count = self.config.stream.threads;
        match self.config.input.log {
            LogKind::Embedded => {
                let log = self.parts.embedded.clone().context("the embedded log is configured and was not opened")?;
                for thread in 0..count {
                    let mine: Vec<PartitionId> = log.partitions().skip(thread).step_by(count).collect();
                    let consumer = log.consumer(&mine).context("cannot read the embedded log")?;
                    self.start_one(consumer)?;
                }
            }
            LogKind::Kafka => {
                let kafka = params::kafka(self.config)?;
                for thread in 0..count {
                    let log = KafkaLog::open(&kafka, thread).context("cannot join the consumer group")?;
                    self.start_one(log)?;
                }
            }
        }
        Ok(())
    }

    fn start_one<L: Source + Sink + Send + 'static>(&mut self, log: L) -> anyhow::Result<()> {
        let snapshots: Box<dyn SnapshotStore> = match (&self.snapshots, &self.writer) {
            (Some(snapshots), Some(writer)) => Box::new(ArrowSnapshots::new(
                snapshots.clone(),
                Arc::clone(writer),
                Arc::clone(&self.parts.clock),
                i64::try_from(self.config.snapshot.interval_s.saturating_mul(1_000)).unwrap_or(i64::MAX),
            )),
            _ => Box::new(NoSnapshots),
        };
        self.threads.start(StreamParts {
            log,
            scorer: Arc::clone(&self.parts.scorer),
            clock: Arc::clone(&self.parts.clock),
            decoder: self.decoder.clone(),
            partitions: Arc::clone(&self.partitions),
            snapshots,
            decision: self.parts.decision.clone(),
            catalogue: Arc::clone(&self.parts.catalogue),
            params: self.stream.clone(),
        })
    }
}

/// The configured snapshots. Blocks for the time of opening a folder.
pub fn snapshots(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Snapshots> {
    let storage = storage(config, &config.snapshot.location)?;
    Ok(Snapshots::new(storage, params::snapshots(config)?, Arc::clone(clock)))
}

/// A folder or an object store for snapshots, with the configured options of the store.
pub fn storage(config: &Config, location: &str) -> anyhow::Result<Arc<dyn Storage>> {
    let options = &config.snapshot.storage_options;
    let options: Vec<(String, String)> = options.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    open_storage(location, &options).with_context(|| format!("cannot use `{location}` for snapshots"))
}

fn stream_params(config: &Config, time: TimeMode) -> anyhow::Result<StreamParams> {
    let stream = &config.stream;
    let topics = &config.topics;
    Ok(StreamParams {
        input_topics: [topics.clicks.clone(), topics.searches.clone(), topics.purchases.clone()],
        batch: BatchLimits {
            max_records: stream.max_records,
            max_bytes: stream.max_bytes,
            linger_ms: stream.linger_ms,
            idle_wait_ms: stream.idle_wait_ms,
        },
        graph: params::graph(config)?,
        time,
        topic_skew_ms: stream.topic_skew_ms,
        max_due_users: stream.max_due_users,
        scoring_attempts: NonZeroU32::new(stream.scoring_attempts).context("`stream.scoring_attempts` is 0")?,
        retry_attempts: NonZeroU32::new(stream.retry_attempts).context("`stream.retry_attempts` is 0")?,
        retry_backoff_ms: stream.retry_backoff_ms,
        reason_limit: config.decision.max_reasons,
        lag_interval_ms: stream.lag_interval_ms,
        gap: if stream.accept_gap { GapPolicy::Accept } else { GapPolicy::Refuse },
        parked_capacity: stream.parked_capacity,
    })
}
