//! `undercurrent verify-features`: whether the daemon sees users exactly as training does.

use std::path::PathBuf;

use anyhow::ensure;

use super::{GlobalArgs, evaluate::Stages, history_args::HistoryArgs, output, prepare};
use crate::{
    daemon::{
        models::ModelStore,
        pool,
        verify::{Mismatch, VerifyOptions, run_blocking},
    },
    event::format_time_ms,
};

/// What to compare.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent verify-features --set 'events.activity=[\"purchase\"]' --set events.mapping.coupon_redemption=other \\
    --events data/completejourney/events.csv.zst --items data/completejourney/items.csv.gz \\
    --activity purchase --buy purchase --history-days 90 --churn-days 30 --purchase-days 7

Draws users and takes their events twice: as records through the daemon's own loop (micro-batches, transactions, a crash in the
middle, then a restart from the snapshot and the log), with the configuration in force, and as training reads the files. Then
every feature must be equal bit for bit, and every member's probability and the written score within --tolerance. Prints the
first difference and exits 1 when there is one: usually a configuration (sections events and graph) that is not the one the
bundle was trained for. Give --activity and --buy as they were given to `train`.")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// Folder of the bundle [default: the champion]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Users to compare
    #[arg(long, default_value_t = 200, value_name = "N")]
    users: usize,
    /// How far two probabilities may be apart
    #[arg(long, default_value_t = 1e-6, value_name = "P")]
    tolerance: f64,
}

/// Compares, prints what was compared, and fails at the first difference.
pub(super) fn run(global: &GlobalArgs, args: VerifyArgs) -> anyhow::Result<()> {
    let config = prepare(global)?;
    let folder = match &args.bundle {
        Some(folder) => folder.clone(),
        None => ModelStore::at(&config.scoring.models).champion_folder(&config.scoring.bundle)?,
    };
    let bundle = pool::load(&folder)?;
    let options = VerifyOptions {
        history: args.history.into_options(i64::MAX, PathBuf::new()),
        user_count: args.users,
        tolerance: args.tolerance,
    };
    let stages = Stages::start();
    let found = run_blocking(&config, &bundle, &options, &mut |stage| stages.show(stage));
    stages.finish();
    let found = found?;
    output::line(&format!(
        "{} users of model {}: {} records through the loop, {} snapshots before the restart",
        found.user_count, bundle.version, found.record_count, found.snapshot_count
    ))?;
    if let Some(Mismatch { user, as_of_ms, what, served, trained }) = &found.difference {
        output::line(&format!(
            "{what} of user {} at {} differs: the daemon has {served}, training has {trained}",
            user.as_str(),
            format_time_ms(*as_of_ms)
        ))?;
    }
    ensure!(found.difference.is_none(), "serving does not equal training");
    output::line(&format!(
        "all {} features equal bit for bit; members and scores within {:.1e}; the network's two forward passes within {:.1e}",
        found.feature_count, found.largest_distance, found.largest_form_distance
    ))
}
