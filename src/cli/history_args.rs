//! What `train` and `evaluate` are told of a history.

use std::{num::NonZeroUsize, path::PathBuf};

use crate::{
    features::Missing,
    train::{
        Pretraining,
        evaluate::{EvaluateOptions, parse_cutoff},
        schedule::Horizons,
    },
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
    #[command(flatten)]
    task: TaskArgs,
}

/// What is learned, and how.
#[derive(Debug, clap::Args)]
pub(super) struct TaskArgs {
    /// Users active within this many days before a moment are learned from and predicted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_650))]
    history_days: u32,
    /// Days without activity that count as churn
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_650))]
    churn_days: u32,
    /// Days in which a purchase counts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_650))]
    purchase_days: u32,
    /// Folder of a text model (`scripts/text-model` fetches one): titles are compared by meaning instead of by words
    #[arg(long, value_name = "DIR")]
    text_model: Option<PathBuf>,
    /// What the network's sequence encoder learns before the labels: nothing (`none`), to tell a hidden event (`masked`), or users
    /// apart by slices of their events (`contrastive`)
    #[arg(long, value_name = "WAY", default_value = "none", value_parser = pretraining)]
    pretrain: Pretraining,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What stands for values that a user does not have: nothing, their meaning is `learned`, or the `median` or `mean` of the
    /// others, or, inside regular series, `interpolated` ones
    #[arg(long, value_name = "WAY", default_value = "learned", value_parser = missing)]
    missing: Missing,
    /// Threads [default: one a core]; the result does not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

fn missing(name: &str) -> Result<Missing, String> {
    Missing::from_name(name).ok_or_else(|| ways(&Missing::ALL.map(Missing::name)))
}

fn pretraining(name: &str) -> Result<Pretraining, String> {
    Pretraining::from_name(name).ok_or_else(|| ways(&Pretraining::ALL.map(Pretraining::name)))
}

fn ways(names: &[&str]) -> String {
    format!("the ways are {}", names.join(", "))
}

impl HistoryArgs {
    /// The options of a training that sees nothing at or after `cutoff_ms` and writes into `out`.
    pub(super) fn into_options(self, cutoff_ms: i64, out: PathBuf) -> EvaluateOptions {
        self.task.into_options(self.events, self.items, [self.activity, self.buy], cutoff_ms, out)
    }
}

impl TaskArgs {
    /// The options of a training on event files; `kinds` are the names that count as activity and as purchase.
    pub(super) fn into_options(
        self,
        events: Vec<PathBuf>,
        items: Option<PathBuf>,
        [activity, buy]: [Vec<String>; 2],
        cutoff_ms: i64,
        out: PathBuf,
    ) -> EvaluateOptions {
        let (horizons, threads) = (self.horizons(), self.threads());
        EvaluateOptions {
            events,
            items,
            text_model: self.text_model,
            pretraining: self.pretrain,
            cutoff_ms,
            activity,
            buy,
            horizons,
            seed: self.seed,
            out,
            threads,
            missing: self.missing,
            report: false,
        }
    }

    /// What is predicted.
    pub(super) fn horizons(&self) -> Horizons {
        Horizons { history_days: self.history_days, churn_days: self.churn_days, purchase_days: self.purchase_days }
    }

    /// What stands for values that a user does not have.
    pub(super) fn missing(&self) -> Missing {
        self.missing
    }

    /// Folder of the text model.
    pub(super) fn text_model(&self) -> Option<PathBuf> {
        self.text_model.clone()
    }

    /// What the sequence encoder learns first.
    pub(super) fn pretraining(&self) -> Pretraining {
        self.pretrain
    }

    /// Seed of everything random.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Threads to train on.
    pub(super) fn threads(&self) -> NonZeroUsize {
        self.threads.unwrap_or_else(cores)
    }
}

/// Reads a moment as `evaluate` and `train` take it.
pub(super) fn cutoff(text: &str) -> Result<i64, String> {
    parse_cutoff(text).ok_or_else(|| "neither epoch milliseconds nor a date nor RFC 3339".to_owned())
}

/// One thread a core.
pub(super) fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
