//! What `train` and `evaluate` are told of a history.

use std::{num::NonZeroUsize, path::PathBuf};

use crate::train::{
    evaluate::{EvaluateOptions, parse_cutoff},
    schedule::Horizons,
};

/// Which events, and what in them counts.
#[derive(Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// Event file; may be repeated, in order of time
    #[arg(long, required = true, value_name = "FILE")]
    events: Vec<PathBuf>,
    /// CSV of items: `item_id,title,category`; further columns are ignored
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// Event names that count as activity, the file's own or ours
    #[arg(long, value_delimiter = ',', required = true, value_name = "KINDS")]
    activity: Vec<String>,
    /// Event names that count as purchase
    #[arg(long, value_delimiter = ',', required = true, value_name = "KINDS")]
    buy: Vec<String>,
    /// Users active within this many days before a moment are learned from and predicted
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
}

impl HistoryArgs {
    /// The options of a training that sees nothing at or after `cutoff_ms` and writes into `out`.
    pub(super) fn into_options(self, cutoff_ms: i64, out: PathBuf) -> EvaluateOptions {
        EvaluateOptions {
            events: self.events,
            items: self.items,
            cutoff_ms,
            activity: self.activity,
            buy: self.buy,
            horizons: Horizons {
                history_days: self.history_days,
                churn_days: self.churn_days,
                purchase_days: self.purchase_days,
            },
            seed: self.seed,
            out,
            threads: self.threads.unwrap_or_else(cores),
            report: false,
        }
    }
}

/// Reads a moment as `evaluate` and `train` take it.
pub(super) fn cutoff(text: &str) -> Result<i64, String> {
    parse_cutoff(text).ok_or_else(|| "neither epoch milliseconds nor a date nor RFC 3339".to_owned())
}

/// One thread a core.
fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
