//! Keeping the embedded log small while the stream goes on: superseded scores, old outputs, and input that snapshots cover
//! (LIM-1).

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    event::PartitionId,
    snapshot::{SnapshotError, Snapshots},
    stream::embedded::{EmbeddedError, EmbeddedLog},
};

/// Between two rounds.
const INTERVAL: Duration = Duration::from_mins(1);

/// Drops from the embedded log what nobody needs any more.
pub struct Upkeep {
    log: Arc<EmbeddedLog>,
    /// Without snapshots a restart replays the whole input, so all of it stays.
    snapshots: Option<Snapshots>,
}

/// Why the input of a partition was not cut.
#[derive(Debug, thiserror::Error)]
enum Uncut {
    #[error(transparent)]
    Log(#[from] EmbeddedError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl Upkeep {
    /// Keeps `log` by what `snapshots` cover.
    pub fn new(log: Arc<EmbeddedLog>, snapshots: Option<Snapshots>) -> Self {
        Self { log, snapshots }
    }

    /// One round. A failure is told and tried again in the next one; nothing was dropped that is needed. Blocks: it may
    /// read a whole topic and a whole snapshot.
    pub fn tidy_blocking(&self) {
        if let Err(error) = self.log.maintain_blocking() {
            warn!(%error, "old outputs of the embedded log could not be dropped");
        }
        let Some(snapshots) = &self.snapshots else { return };
        for partition in self.log.partitions() {
            match self.trim_blocking(snapshots, partition) {
                Ok(0) => {}
                Ok(records) => info!(%partition, records, "input that snapshots cover was dropped"),
                Err(error) => warn!(%partition, %error, "old input of the embedded log stays"),
            }
        }
    }

    fn trim_blocking(&self, snapshots: &Snapshots, partition: PartitionId) -> Result<u64, Uncut> {
        match snapshots.covered_blocking(partition, &self.log.earliest(partition))? {
            Some(covered) => Ok(self.log.trim_inputs(partition, &covered)?),
            None => Ok(0),
        }
    }
}

/// Runs `upkeep` once a minute until `stop`.
pub(super) async fn run(upkeep: Upkeep, stop: CancellationToken) -> anyhow::Result<()> {
    let upkeep = Arc::new(upkeep);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let upkeep = Arc::clone(&upkeep);
        let round = tokio::task::spawn_blocking(move || upkeep.tidy_blocking()).await;
        round.context("the upkeep of the embedded log died")?;
    }
}
