//! `undercurrent train`: a model bundle from event files.

use std::path::PathBuf;

use super::{
    evaluate::Stages,
    history_args::{HistoryArgs, cutoff},
    output,
};
use crate::train::bundle::train_bundle;

/// What to train on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent train --events data/completejourney/events.csv.zst --items data/completejourney/items.csv.gz \\
    --activity purchase --buy purchase --history-days 90 --churn-days 30 --purchase-days 7 --out models/default

Writes a bundle into DIR: weights, features, item tables, metrics on validation and a model card (README.md).")]
pub(super) struct TrainArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// Only events before it are seen: epoch milliseconds, a date, or RFC 3339 [default: all]
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    until: Option<i64>,
    /// Folder of the bundle; its name becomes the first part of the version
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Trains, saves the bundle and prints its card.
pub(super) fn run(args: TrainArgs) -> anyhow::Result<()> {
    let options = args.history.into_options(args.until.unwrap_or(i64::MAX), args.out);
    let stages = Stages::start();
    let bundle = train_bundle(&options, &mut |stage| stages.show(stage))?;
    stages.finish();
    output::text(&bundle.card)?;
    output::line(&format!("model {} in `{}`", bundle.version, options.out.display()))
}
