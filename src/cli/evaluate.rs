//! `undercurrent evaluate`: train on what is before a moment, predict what comes after it, and say how good that was.

use std::{fmt::Write as _, num::NonZeroUsize, path::PathBuf, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::output;
use crate::train::{
    evaluate::{EvaluateOptions, EvaluationReport, parse_cutoff, run as evaluate},
    schedule::Horizons,
};

/// What to evaluate.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent evaluate --events data/completejourney/events.csv.zst --items data/completejourney/items.csv.gz \\
    --cutoff 2017-12-01T04:01:20Z --activity purchase --buy purchase \\
    --history-days 90 --churn-days 30 --purchase-days 7 --out evaluation

Writes DIR/predictions.parquet (user_id, churn, purchase, items, discoveries) for every user active in the history window, and
DIR/metrics.json with the model beside its baselines when the file goes on past the cutoff. Nothing at or after the cutoff is
seen by training, so the file may as well end there.")]
pub(super) struct EvaluateArgs {
    /// Event file; may be repeated, in order of time
    #[arg(long, required = true, value_name = "FILE")]
    events: Vec<PathBuf>,
    /// CSV of items: `item_id,title,category`; further columns are ignored
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// The moment: epoch milliseconds, a date, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    cutoff: i64,
    /// Event names that count as activity, the file's own or ours
    #[arg(long, value_delimiter = ',', required = true, value_name = "KINDS")]
    activity: Vec<String>,
    /// Event names that count as purchase
    #[arg(long, value_delimiter = ',', required = true, value_name = "KINDS")]
    buy: Vec<String>,
    /// Users active within this many days before the cutoff are predicted
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
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Reads a moment as `evaluate` and `train` take it.
pub(super) fn cutoff(text: &str) -> Result<i64, String> {
    parse_cutoff(text).ok_or_else(|| "neither epoch milliseconds nor a date nor RFC 3339".to_owned())
}

/// Evaluates and prints the comparison.
pub(super) fn run(args: EvaluateArgs) -> anyhow::Result<()> {
    let options = EvaluateOptions {
        events: args.events,
        items: args.items,
        cutoff_ms: args.cutoff,
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
    let report = evaluate(&options, &mut |stage| stages.show(stage))?;
    stages.finish();
    output::text(&comparison(&report))?;
    output::line(&format!("results in `{}`", options.out.display()))
}

/// One thread a core.
pub(super) fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The stages of a long job: a spinner on a terminal, lines elsewhere.
pub(super) struct Stages(ProgressBar);

impl Stages {
    pub(super) fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    pub(super) fn show(&self, stage: &str) {
        if self.0.is_hidden() {
            output::note(stage);
        } else {
            self.0.set_message(stage.to_owned());
        }
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// The model beside its baselines; empty when nothing after the cutoff was known.
fn comparison(report: &EvaluationReport) -> String {
    let mut text = format!("{} users\n", report.user_count);
    for (head, models) in [("churn", &report.churn), ("purchase", &report.purchase)] {
        if models.is_empty() {
            continue;
        }
        _ = writeln!(text, "{head:<26} ROC-AUC   PR-AUC      F1  log-loss     ECE");
        for (name, metrics) in models {
            _ = writeln!(
                text,
                "  {name:<24} {:>7}  {:>7} {:>7.4}   {:>7.4} {:>7.4}",
                maybe(metrics.roc_auc),
                maybe(metrics.pr_auc),
                metrics.f1,
                metrics.log_loss,
                metrics.ece
            );
        }
    }
    for (head, models) in [("items", &report.items), ("discoveries", &report.discoveries)] {
        if models.is_empty() {
            continue;
        }
        _ = writeln!(text, "{head:<26} recall@20 NDCG@10");
        for (name, metrics) in models {
            _ = writeln!(text, "  {name:<24}   {:>7.4} {:>7.4}", metrics.recall_at_20, metrics.ndcg_at_10);
        }
    }
    text
}

/// A metric that needs both classes.
fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}
