//! `undercurrent tune`: settings of the boosted trees, searched for on folds of the past.

use std::{fmt::Write as _, path::PathBuf};

use super::{
    evaluate::Stages,
    history_args::{HistoryArgs, cutoff},
    output,
};
use crate::{
    clock::{Clock, SystemClock},
    train::tune::{Method, PARAMETERS, Trial, TuneOptions, Tuned, tune},
};

/// Where and how to search.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent tune --events data/completejourney/events.csv.zst --items data/completejourney/items.csv.gz \\
    --cutoff 2017-11-01T04:01:20Z --activity purchase --buy purchase \\
    --history-days 90 --churn-days 30 --purchase-days 7 --minutes 30 --out tuning

Every trial grows trees on what was over before a moment of the past and is judged by the users seen then, at up to --folds such
moments. Of nine trials a third is measured on more moments, and a third of these on all. DIR/trials.parquet has every
measurement and is written after each: the same command goes on where it stopped, and takes the same way as without a stop.
DIR/trials.html shows them. Trial 0 has the shipped settings. Nothing at or after --cutoff is seen.")]
pub(super) struct TuneArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// End of what is seen: epoch milliseconds, a date, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    cutoff: i64,
    /// Where to look next: `tpe` (Bayesian), `random` or `grid`
    #[arg(long, value_name = "METHOD", default_value = "tpe", value_parser = method)]
    method: Method,
    /// Trials at most
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    trials: u32,
    /// Moments of the past a trial is judged at, at most
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=20))]
    folds: u32,
    /// Begin no measurement after this many minutes
    #[arg(long, value_name = "N", default_value_t = 60)]
    minutes: u32,
    /// Folder for the trials
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn method(name: &str) -> Result<Method, String> {
    Method::from_name(name).ok_or_else(|| "the methods are tpe, random and grid".to_owned())
}

/// Searches and prints what was found.
pub(super) fn run(args: TuneArgs) -> anyhow::Result<()> {
    let tuning = TuneOptions {
        method: args.method,
        trials: args.trials as usize,
        folds: args.folds as usize,
        until_ms: SystemClock.now_ms() + i64::from(args.minutes) * 60_000,
    };
    let options = args.history.into_options(args.cutoff, args.out);
    let stages = Stages::start();
    let found = tune(&options, &tuning, &SystemClock, &mut |stage| stages.show(stage));
    stages.finish();
    output::text(&summary(&found?))?;
    output::line(&format!("trials in `{}`", options.out.display()))
}

fn summary(found: &Tuned) -> String {
    let mut text = format!("{} trials, up to {} folds each", found.trials.len(), found.folds);
    if found.resumed > 0 {
        _ = write!(text, ", {} measurements of an earlier run", found.resumed);
    }
    text.push('\n');
    let Some((best, _)) = &found.best else {
        text.push_str("time was over before a trial was measured on all folds: run the same command again to go on\n");
        return text;
    };
    _ = write!(text, "{:<22}", "");
    text.push_str("      shipped         best\n");
    let shipped = found.shipped.as_ref().unwrap_or(best);
    for (place, parameter) in PARAMETERS.iter().enumerate() {
        let of = |trial: &Trial| parameter.value(trial.point[place]);
        _ = writeln!(text, "{:<22} {:>12.4} {:>12.4}", parameter.name, of(shipped), of(best));
    }
    let same_folds = &best.losses[..shipped.losses.len().min(best.losses.len())];
    _ = writeln!(text, "{:<22} {:>12.5} {:>12.5}", "loss", shipped.loss(), best.loss());
    if same_folds.len() < best.losses.len() {
        _ = writeln!(text, "(the shipped settings were given up after {} folds)", shipped.losses.len());
    }
    text
}
