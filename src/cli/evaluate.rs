//! `undercurrent evaluate`: train on what is before a moment, predict what comes after it, and say how good that was.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    history_args::{HistoryArgs, cutoff},
    output,
};
use crate::train::evaluate::{EvaluationReport, run as evaluate};

/// What to evaluate.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent evaluate --events data/completejourney/events.csv.zst --items data/completejourney/items.csv.gz \\
    --cutoff 2017-12-01T04:01:20Z --activity purchase --buy purchase \\
    --history-days 90 --churn-days 30 --purchase-days 7 --out evaluation

Writes DIR/predictions.parquet (user_id, churn, purchase, items, discoveries) for every user active in the history window, and
DIR/metrics.json with the model beside its baselines when the file goes on past the cutoff. Nothing at or after the cutoff is
seen by training, so the file may as well end there. With --report also DIR/report.html, one self-contained page with curves,
calibration, groups of users, alerts at other thresholds and five users explained, and DIR/report.json with its numbers.")]
pub(super) struct EvaluateArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// The moment: epoch milliseconds, a date, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    cutoff: i64,
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write DIR/report.html (one self-contained page) and DIR/report.json too
    #[arg(long)]
    report: bool,
}

/// Evaluates and prints the comparison.
pub(super) fn run(args: EvaluateArgs) -> anyhow::Result<()> {
    let mut options = args.history.into_options(args.cutoff, args.out);
    options.report = args.report;
    let stages = Stages::start();
    let report = evaluate(&options, &mut |stage| stages.show(stage))?;
    stages.finish();
    output::text(&comparison(&report))?;
    output::line(&format!("results in `{}`", options.out.display()))
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

    /// Whether anybody sees it: on a terminal.
    pub(super) fn is_drawn(&self) -> bool {
        !self.0.is_hidden()
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
