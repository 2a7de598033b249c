//! `undercurrent retrain`: a candidate from the snapshots, held against the champion.

use std::time::Duration;

use anyhow::Context;

use super::{GlobalArgs, evaluate::Stages, output, prepare};
use crate::daemon::retrain::run_once_blocking;

/// How to retrain; everything else is in the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent retrain --set training.min_gain=-0.002

Trains on the snapshots in `snapshot.location` up to the newest moment whose labels are known, holds the candidate against the
champion on the users of that moment, and promotes it if it beats the champion as `[training]` asks (or puts it into shadow, with
`training.promotion`); a running daemon swaps it in within seconds. One that does not stays in `scoring.models` with the reason: `undercurrent models list`.")]
pub(super) struct RetrainArgs {
    /// Process that must go on running: when it ends, this one does
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
}

/// Retrains once and says what came of it.
pub(super) fn run(global: &GlobalArgs, args: &RetrainArgs) -> anyhow::Result<()> {
    let config = prepare(global)?;
    if let Some(parent) = args.parent {
        std::thread::Builder::new()
            .name("parent-watch".to_owned())
            .spawn(move || {
                // A daemon that was killed cannot stop its child; this looks until the process ends.
                while std::os::unix::process::parent_id() == parent {
                    std::thread::sleep(Duration::from_secs(1));
                }
                output::error("the daemon that started this training is gone");
                std::process::exit(1);
            })
            .context("cannot watch the daemon")?;
    }
    let stages = Stages::start();
    let retrained = run_once_blocking(&config, &mut |stage| {
        if stages.is_drawn() {
            stages.show(stage);
        } else {
            // Into the daemon's own lines.
            tracing::info!(stage, "retraining");
        }
    })?;
    stages.finish();
    output::line(&format!("`{}` {}", retrained.name, retrained.verdict.in_words()))?;
    if retrained.is_in_shadow {
        output::line(&format!(
            "it scores in shadow; `undercurrent models promote {}` makes it the champion",
            retrained.name
        ))?;
    }
    Ok(())
}
