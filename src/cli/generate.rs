//! `undercurrent generate`: made-up shoppers, for load and for tests.

use std::{path::PathBuf, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::output;
use crate::{
    clock::{Clock, SystemClock},
    event::format_time_ms,
    generate::{EventFormat, GenerateParams, write_files},
};

/// What to make.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent generate --users 10000 --days 90 --seed 7 --out made

Writes the events in order of time, `items.csv`, and `truth.csv`: when each shopper left, and what was going to happen after the
cutoff day. Equal seeds make equal bytes. The shoppers are made up: use them for load and for tests, never for claims of quality.")]
pub(super) struct GenerateArgs {
    /// Number of shoppers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// Days from the first event to the last
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Equal seeds make equal events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of items
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    items: Option<u32>,
    /// Form of the events' file
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    /// Folder for the files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Csv,
    CsvZst,
    Jsonl,
    JsonlZst,
}

/// Makes the files.
#[expect(clippy::cast_precision_loss, reason = "rates for people")]
pub(super) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let mut params = GenerateParams::new(args.users, args.days, args.seed);
    params.items = args.items.unwrap_or(params.items);
    let format = match args.format {
        Format::Csv => EventFormat::Csv,
        Format::CsvZst => EventFormat::CsvZst,
        Format::Jsonl => EventFormat::Jsonl,
        Format::JsonlZst => EventFormat::JsonlZst,
    };
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(Duration::from_millis(200));
    let start_ms = SystemClock.now_ms();
    let summary = write_files(&params, &args.out, format, |events, time_ms| {
        bar.set_message(format!("{events} events, {}", format_time_ms(time_ms)));
    })?;
    bar.finish_and_clear();
    let seconds = (SystemClock.now_ms() - start_ms).max(1) as f64 / 1_000.0;
    output::line(&format!(
        "{} events in {} rows, {:.1} MB, in {seconds:.1} s ({:.0} events/s): `{}`\ntruth of the {} days after the cutoff {}, purchases of {}",
        summary.events,
        summary.rows,
        summary.bytes as f64 / 1e6,
        summary.events as f64 / seconds,
        args.out.join(format.file_name()).display(),
        params.churn_days,
        format_time_ms(params.cutoff_ms()),
        params.purchase_days
    ))
}
