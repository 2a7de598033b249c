//! `undercurrent train`: a model bundle from event files or from snapshots.

use std::{path::PathBuf, sync::Arc};

use super::{
    GlobalArgs,
    evaluate::Stages,
    history_args::{TaskArgs, cutoff},
    output,
};
use crate::{
    clock::{Clock, SystemClock},
    daemon::engine,
    train::bundle::{SnapshotTraining, train_bundle, train_bundle_from_snapshots},
};

/// What to train on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undercurrent train --events data/completejourney/events.csv.zst --items data/completejourney/items.csv.gz \\
    --activity purchase --buy purchase --history-days 90 --churn-days 30 --purchase-days 7 --out models/default
  undercurrent train --snapshots s3://bucket/snapshots --history-days 90 --churn-days 30 --purchase-days 7 --out models/new

With --snapshots, users are seen as they were at the moments of the snapshots that the daemon or `undercurrent replay` wrote, and
later snapshots say what became of them. What counts as activity is what the snapshots were folded with (`events.activity`).

Writes a bundle into DIR: weights, features, item tables, metrics on validation and a model card (README.md).")]
pub(super) struct TrainArgs {
    /// Event file; may be repeated, in order of time
    #[arg(long, value_name = "FILE", required_unless_present = "snapshots")]
    events: Vec<PathBuf>,
    /// Folder or object store URL of snapshots to train on instead
    #[arg(long, value_name = "LOCATION", conflicts_with_all = ["events", "activity", "buy"])]
    snapshots: Option<String>,
    /// CSV of items: `item_id,title,category`; further columns are ignored
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// Event names that count as activity, the file's own or ours
    #[arg(long, value_delimiter = ',', value_name = "KINDS", required_unless_present = "snapshots")]
    activity: Vec<String>,
    /// Event names that count as purchase
    #[arg(long, value_delimiter = ',', value_name = "KINDS", required_unless_present = "snapshots")]
    buy: Vec<String>,
    #[command(flatten)]
    task: TaskArgs,
    /// Only events before it are seen: epoch milliseconds, a date, or RFC 3339 [default: all]
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    until: Option<i64>,
    /// Folder of the bundle; its name becomes the first part of the version
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Trains, saves the bundle and prints its card.
pub(super) fn run(global: &GlobalArgs, args: TrainArgs) -> anyhow::Result<()> {
    let until_ms = args.until.unwrap_or(i64::MAX);
    let out = args.out.clone();
    let stages = Stages::start();
    // On a terminal; elsewhere the card is all there is to say.
    let mut report = |stage: &str| {
        if stages.is_drawn() {
            stages.show(stage);
        }
    };
    let bundle = if let Some(location) = args.snapshots {
        let mut config = global.load()?;
        config.snapshot.location.clone_from(&location);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let training = SnapshotTraining {
            parent: None,
            snapshots: engine::snapshots(&config, &clock)?,
            location,
            items: args.items,
            text_model: args.task.text_model(),
            pretraining: args.task.pretraining(),
            until_ms,
            horizons: args.task.horizons(),
            seed: args.task.seed(),
            missing: args.task.missing(),
            out: args.out,
            threads: args.task.threads(),
        };
        train_bundle_from_snapshots(&training, &mut report)?
    } else {
        let kinds = [args.activity, args.buy];
        let options = args.task.into_options(args.events, args.items, kinds, until_ms, args.out);
        train_bundle(&options, &mut report)?
    };
    stages.finish();
    output::text(&bundle.card)?;
    output::line(&format!("model {} in `{}`", bundle.version, out.display()))
}
