//! `undercurrent train`: a model bundle from event files.

use std::{num::NonZeroUsize, path::PathBuf};

use super::{
    evaluate::{Stages, cores, cutoff},
    output,
};
use crate::train::{bundle::train_bundle, evaluate::EvaluateOptions, schedule::Horizons};

/// What to train on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent train --events data/completejourney/events.csv.zst --items data/completejourney/items.csv.gz \\
    --activity purchase --buy purchase --history-days 90 --churn-days 30 --purchase-days 7 --out models/default

Writes a bundle into DIR: weights, features, item tables, metrics on validation and a model card (README.md).")]
pub(super) struct TrainArgs {
    /// Event file; may be repeated, in order of time
    #[arg(long, required = true, value_name = "FILE")]
    events: Vec<PathBuf>,
    /// CSV of items: `item_id,title,category`; further columns are ignored
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// Only events before it are seen: epoch milliseconds, a date, or RFC 3339 [default: all]
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    until: Option<i64>,
    /// Event names that count as activity, the file's own or ours
    #[arg(long, value_delimiter = ',', required = true, value_name = "KINDS")]
    activity: Vec<String>,
    /// Event names that count as purchase
    #[arg(long, value_delimiter = ',', required = true, value_name = "KIND")]
    buy: Vec<String>,
    /// Users active within this many days before a moment are learned from
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_650))]
    history_days: u32,
    /// Days without activity that count as churn
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_650))]
    churn_days: u32,
    /// Days in which a purchase counts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_650))]
    purchase_days: u32,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads [default: one a core]; the result does not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Folder of the bundle; its name becomes the first part of the version
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Trains, saves the bundle and prints its card.
pub(super) fn run(args: TrainArgs) -> anyhow::Result<()> {
    let options = EvaluateOptions {
        events: args.events,
        items: args.items,
        cutoff_ms: args.until.unwrap_or(i64::MAX),
        activity: args.activity,
        buy: args.buy,
        horizons: Horizons {
            history_days: args.history_days,
            churn_days: args.churn_days,
            purchase_days: args.purchase_days,
        },
        seed: args.seed,
        out: args.out,
        threads: args.threads.unwrap_or_else(cores),
    };
    let stages = Stages::start();
    let bundle = train_bundle(&options, &mut |stage| stages.show(stage))?;
    stages.finish();
    output::text(&bundle.card)?;
    output::line(&format!("model {} in `{}`", bundle.version, options.out.display()))
}
