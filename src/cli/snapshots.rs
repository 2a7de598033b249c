//! `undercurrent snapshots`: what there is, and whether it is whole.

use std::sync::Arc;

use anyhow::bail;

use super::{GlobalArgs, output, prepare};
use crate::{
    clock::{Clock, SystemClock},
    daemon::engine,
    event::{PartitionId, format_time_ms},
    snapshot::{Manifest, Snapshots},
};

/// Which snapshots.
#[derive(Debug, clap::Args)]
pub(super) struct SnapshotArgs {
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
}

fn open(global: &GlobalArgs) -> anyhow::Result<Snapshots> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    engine::snapshots(&prepare(global)?, &clock)
}

fn described(manifest: &Manifest) -> String {
    format!(
        "partition {} {} {:?} at {} ({} users, {} bytes, event time {})",
        manifest.partition(),
        manifest.id.0,
        manifest.kind,
        manifest.next_offsets(),
        manifest.counts.users,
        manifest.counts.bytes,
        manifest.watermark_ms.map_or_else(|| "none".to_owned(), format_time_ms)
    )
}

/// Lists the snapshots, oldest first within each partition.
pub(super) fn list(global: &GlobalArgs, args: &SnapshotArgs) -> anyhow::Result<()> {
    for listed in open(global)?.list_blocking(args.partition.map(PartitionId))? {
        match listed.manifest {
            Ok(manifest) => output::line(&described(&manifest))?,
            Err(error) => output::line(&format!("{}: unreadable: {error}", listed.path))?,
        }
    }
    Ok(())
}

/// Reads every byte of every snapshot; fails when one is damaged.
pub(super) fn verify(global: &GlobalArgs, args: &SnapshotArgs) -> anyhow::Result<()> {
    let verified = open(global)?.verify_blocking(args.partition.map(PartitionId))?;
    let damaged = verified.iter().filter(|snapshot| !snapshot.problems.is_empty()).count();
    for snapshot in &verified {
        let what = snapshot.manifest.as_ref().map_or_else(|| snapshot.path.clone(), described);
        if snapshot.problems.is_empty() {
            output::line(&format!("whole: {what}"))?;
        }
        for problem in &snapshot.problems {
            output::line(&format!("damaged: {what}: {problem}"))?;
        }
    }
    output::line(&format!("{} snapshots, {damaged} damaged", verified.len()))?;
    if damaged > 0 {
        bail!("{damaged} snapshots are damaged; a restore takes the newest whole one before them");
    }
    Ok(())
}
