//! Scheduled retraining: a child process of low priority trains a candidate, holds it against the champion on the newest
//! window, and promotes it when it wins. The daemon sees the promotion and swaps the bundle in.

use std::{process::Stdio, time::Duration};

use anyhow::Context;
use tokio::{process::Command, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::models::ModelStore;
use crate::{config::Config, metrics as names};

/// Trains every `training.interval_h` hours until `stop`. A training that fails is counted and tried again at the next one.
pub(super) async fn schedule(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let interval = Duration::from_secs_f64(config.training.interval_h * 3_600.0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
        let started = Instant::now();
        let outcome = tokio::select! {
            // The child dies with this future: what it had written is no bundle without its manifest.
            () = stop.cancelled() => return Ok(()),
            outcome = train_once(&config) => outcome,
        };
        let name = match outcome {
            Ok(name) => name,
            Err(error) => {
                warn!(error = format!("{error:#}"), "the training failed; the champion scores on");
                "failed"
            }
        };
        metrics::histogram!(names::TRAINING_RUN_SECONDS, "outcome" => name).record(started.elapsed().as_secs_f64());
        info!(outcome = name, seconds = started.elapsed().as_secs(), "training ended");
    }
}

async fn train_once(config: &Config) -> anyhow::Result<&'static str> {
    let store = ModelStore::at(&config.scoring.models);
    let before = store.champion(&config.scoring.bundle)?;
    // The child gets the configuration in force, whatever flags and variables it came from.
    let file = config.scoring.models.join(".training.toml");
    tokio::fs::write(&file, config.to_toml()?)
        .await
        .with_context(|| format!("cannot write the training's configuration to `{}`", file.display()))?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut child = Command::new("nice")
        .arg("-n")
        .arg(config.training.niceness.to_string())
        .arg(program)
        .args(["train", "--snapshots", "--promote", "--config"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the training")?;
    let limit = Duration::from_secs(config.training.timeout_min * 60);
    let Ok(ended) = tokio::time::timeout(limit, child.wait()).await else {
        child.kill().await.context("cannot stop a training that took too long")?;
        return Ok("timeout");
    };
    let status = ended.context("cannot wait for the training")?;
    if !status.success() {
        return Ok("failed");
    }
    Ok(if store.champion(&config.scoring.bundle)? == before { "kept" } else { "promoted" })
}
