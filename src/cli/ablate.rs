//! `undercurrent ablate`: what each part of the prediction is worth, by training again without it.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::Context;

use super::{
    evaluate::Stages,
    history_args::{HistoryArgs, cutoff},
    output,
};
use crate::{
    clock::{Clock, SystemClock},
    train::{
        ablate::{Ablation, AblationRow, ablate},
        heads::HeadPart,
    },
};

/// What to leave out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent ablate --events data/completejourney/events.csv.zst --items data/completejourney/items.csv.gz \\
    --cutoff 2017-12-01T04:01:20Z --activity purchase --buy purchase \\
    --history-days 90 --churn-days 30 --purchase-days 7 --out ablation

Trains churn and purchase with everything on what is before the moment, then again without each part, and measures all of them on
the same users after it. `change` is the ROC-AUC without the part minus with it, with its 95 % interval (bootstrap over users,
paired): a part whose interval lies below 0 pays, one whose interval holds 0 does not show here. A training takes about a minute
or two; --minutes stops between two. Writes DIR/ablation.json.

Parts: network, trees, bg_nbd_member, calibration, graph, sequence, bg_nbd_features, window_features, decay_features,
gap_features, spend_features, interest_features, profile_features.")]
pub(super) struct AblateArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// The moment: epoch milliseconds, a date, or RFC 3339; the files must go on past it
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    cutoff: i64,
    /// Parts to leave out, one at a time [default: all]
    #[arg(long, value_delimiter = ',', value_name = "PARTS", value_parser = part)]
    parts: Vec<HeadPart>,
    /// Start no further training after this many minutes
    #[arg(long, value_name = "N", default_value_t = 60)]
    minutes: u64,
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn part(name: &str) -> Result<HeadPart, String> {
    HeadPart::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = HeadPart::ALL.into_iter().map(HeadPart::name).collect();
        format!("the parts are {}", names.join(", "))
    })
}

/// Ablates, prints the table and writes it.
pub(super) fn run(args: AblateArgs) -> anyhow::Result<()> {
    let options = args.history.into_options(args.cutoff, args.out);
    let parts = if args.parts.is_empty() { HeadPart::ALL.to_vec() } else { args.parts };
    let started_ms = SystemClock.now_ms();
    let limit_ms = i64::try_from(Duration::from_secs(args.minutes.saturating_mul(60)).as_millis()).unwrap_or(i64::MAX);
    let stages = Stages::start();
    let mut goes_on = || SystemClock.now_ms() - started_ms < limit_ms;
    let found = ablate(&options, &parts, &mut goes_on, &mut |stage| stages.show(stage));
    stages.finish();
    let found = found?;
    std::fs::create_dir_all(&options.out).with_context(|| format!("cannot make `{}`", options.out.display()))?;
    let path = options.out.join("ablation.json");
    let json = serde_json::to_vec_pretty(&found).context("cannot write the table as JSON")?;
    std::fs::write(&path, json).with_context(|| format!("cannot write `{}`", path.display()))?;
    output::text(&table(&found))?;
    let left = parts.len() + 1 - found.rows.len();
    if left > 0 {
        output::line(&format!("{left} parts were not tried: --minutes was over"))?;
    }
    output::line(&format!("results in `{}`", path.display()))
}

fn table(found: &Ablation) -> String {
    let mut text = format!("{} users\n{:<19}", found.user_count, "without");
    for head in ["churn", "purchase"] {
        _ = write!(text, "  {head:<8} AUC  change (95 %)             log-loss    ECE");
    }
    text.push('\n');
    for AblationRow { without, metrics, change } in &found.rows {
        _ = write!(text, "{:<19}", without.map_or("(nothing)", HeadPart::name));
        for (metrics, change) in metrics.iter().zip(change) {
            let auc = metrics.roc_auc.map_or_else(|| "-".to_owned(), |auc| format!("{auc:.4}"));
            let change = change.map_or_else(String::new, |change| {
                format!("{:+.4} ({:+.4} to {:+.4})", change.median, change.low, change.high)
            });
            _ = write!(text, "  {auc:>12}  {change:<26}  {:.4} {:.4}", metrics.log_loss, metrics.ece);
        }
        text.push('\n');
    }
    text
}
