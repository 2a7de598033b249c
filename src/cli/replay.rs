//! `undercurrent replay`: event files into snapshots of past moments.

use std::{path::PathBuf, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::{GlobalArgs, history_args::cutoff, output, prepare};
use crate::{
    daemon::replay::{Moments, ReplayOptions, Replayed, run_blocking},
    event::{DAY_MS, format_time_ms},
};

/// What to replay, and when to write.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undercurrent replay --every 7d --out snapshots history.csv.zst
      a snapshot of every partition at each seventh day, counted back from the end of the file
  undercurrent replay --every 7d --labels 30d,7d --out snapshots history.csv.zst
      and further ones 30 and 7 days before each, so that `train --snapshots` reads its labels exactly at snapshots
  undercurrent replay --at 2017-10-31,2017-11-30 --out s3://bucket/snapshots history.csv.zst

A snapshot holds what happened before its moment, folded as the daemon folds it with this configuration (`[graph]`, `[events]`).
Each row has the place in the log that `undercurrent send` of the same files gives it, so a daemon that has read such a log can
restart from them (--set snapshot.location=...). List them with
  undercurrent snapshots list --set snapshot.location=snapshots")]
pub(super) struct ReplayArgs {
    /// Event files in order of time: .csv, .jsonl or .ndjson, plain or with .gz or .zst
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Folder or object store URL for the snapshots; must hold none
    #[arg(long, value_name = "LOCATION")]
    out: String,
    /// Time between two snapshots: `7d`, `12h`
    #[arg(long, value_name = "TIME", value_parser = length, required_unless_present = "at", conflicts_with = "at")]
    every: Option<i64>,
    /// No snapshot at or before it [default: the first event]
    #[arg(long, value_name = "TIME", value_parser = cutoff, requires = "every")]
    from: Option<i64>,
    /// Moment of the newest snapshot; the others are counted back from it [default: just after the last event]
    #[arg(long, value_name = "TIME", value_parser = cutoff, requires = "every")]
    until: Option<i64>,
    /// Moments: epoch milliseconds, dates, or RFC 3339
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = cutoff)]
    at: Vec<i64>,
    /// Further snapshots this long before each: the horizons that will be trained for
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = length)]
    labels: Vec<i64>,
    /// Partitions [default: `embedded.partitions`]; must be those of the topics when a daemon is to start from them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: Option<u32>,
}

/// Reads a length of time: whole days or hours.
fn length(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no length of time such as `7d` or `12h`");
    let text = text.trim();
    let (number, unit_ms) = match (text.strip_suffix('d'), text.strip_suffix('h')) {
        (Some(days), _) => (days, DAY_MS),
        (_, Some(hours)) => (hours, DAY_MS / 24),
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    if number == 0 || number > 100_000 { Err(wrong()) } else { Ok(i64::from(number) * unit_ms) }
}

/// Replays and says what was written.
pub(super) fn run(global: &GlobalArgs, args: &ReplayArgs) -> anyhow::Result<()> {
    let config = prepare(global)?;
    let moments = match args.every {
        Some(every_ms) => Moments::Every { every_ms, from_ms: args.from, until_ms: args.until },
        None => Moments::At(args.at.clone()),
    };
    let options = ReplayOptions {
        files: args.files.clone(),
        moments,
        horizons_ms: args.labels.clone(),
        location: args.out.clone(),
        partition_count: args.partitions.unwrap_or(config.embedded.partitions),
    };
    // Draws on standard error, and only on a terminal.
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let replayed = run_blocking(&config, &options, &mut |events, time_ms| {
        bar.set_message(format!("{events} events, {}", format_time_ms(time_ms)));
    })?;
    bar.finish_and_clear();
    summary(&replayed, &args.out)
}

fn summary(replayed: &Replayed, location: &str) -> anyhow::Result<()> {
    let Replayed { event_count, user_count, moments_ms, snapshot_count, byte_count, .. } = replayed;
    output::line(&format!(
        "folded {event_count} events of {user_count} users; wrote {snapshot_count} snapshots of {} moments ({byte_count} bytes) to `{location}`",
        moments_ms.len()
    ))?;
    if let (Some(first_ms), Some(last_ms)) = (moments_ms.first(), moments_ms.last()) {
        output::line(&format!("from {} to {}", format_time_ms(*first_ms), format_time_ms(*last_ms)))?;
    }
    for (reason, count) in replayed.counts.rejects().filter(|(_, count)| *count > 0) {
        output::line(&format!("refused {count}: {reason}"))?;
    }
    for (repair, count) in replayed.counts.repairs().filter(|(_, count)| *count > 0) {
        output::line(&format!("repaired {count}: {}", repair.name()))?;
    }
    if replayed.repeated_count > 0 {
        output::line(&format!("left out {} events that were there already", replayed.repeated_count))?;
    }
    if replayed.out_of_order_count > 0 {
        output::line(&format!(
            "{} events stood behind a snapshot they belong into by their time: give the files in order of time",
            replayed.out_of_order_count
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_days_or_hours() {
        assert_eq!(length("7d"), Ok(7 * DAY_MS));
        assert_eq!(length("12h"), Ok(DAY_MS / 2));
        for wrong in ["0d", "7", "d", "-1d", "7 weeks"] {
            assert!(length(wrong).is_err(), "{wrong}");
        }
    }
}
