//! `undercurrent circles`: who chooses alike, what is chosen together, and whether leaving runs in circles.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::Context;

use super::{
    evaluate::Stages,
    history_args::{HistoryArgs, cutoff},
    output,
};
use crate::{
    event::View,
    train::circles::{CircleOptions, Circles, FoundCircles, Judged, find_circles},
};

/// Circles and interests printed at most; the files have all.
const SHOWN: usize = 12;

/// How to find circles.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  undercurrent circles --events data/completejourney/events.csv.zst --items data/completejourney/items.csv.gz \\
    --cutoff 2017-12-01T04:01:20Z --activity purchase --buy purchase \\
    --history-days 90 --churn-days 30 --purchase-days 7 --out circles

Circles are communities (Leiden) of users who choose alike, interests are communities of items chosen by the same users, both
by what happened before the moment. When the file goes on past it, says how much the circles find of what users chose next
(against circles dealt at random) and whether users leave more after others of their circle left. Writes DIR/circles.csv
(user_id, circle), DIR/interests.csv (item_id, interest) and DIR/circles.json.")]
pub(super) struct CirclesArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// The moment: epoch milliseconds, a date, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = cutoff)]
    cutoff: i64,
    /// What users choose by
    #[arg(long, value_enum, default_value = "purchase")]
    by: ChosenBy,
    /// Nearest users, and items, kept of each
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    neighbours: u16,
    /// Above 1: more and smaller circles
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    resolution: f64,
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ChosenBy {
    /// Items bought
    Purchase,
    /// Items looked at
    View,
}

/// Finds, prints and writes them.
pub(super) fn run(args: CirclesArgs) -> anyhow::Result<()> {
    let options = args.history.into_options(args.cutoff, args.out);
    let circle_options = CircleOptions {
        view: match args.by {
            ChosenBy::Purchase => View::Purchase,
            ChosenBy::View => View::Click,
        },
        neighbours: usize::from(args.neighbours),
        resolution: args.resolution,
        threads: options.threads.get(),
        ..CircleOptions::default()
    };
    let stages = Stages::start();
    let found = find_circles(&options, &circle_options, &mut |stage| stages.show(stage))?;
    stages.finish();
    anyhow::ensure!(
        !found.circles.rows.is_empty(),
        "no item was chosen by {} users or more before the moment; events without `item_id` cannot make circles",
        circle_options.least_users
    );
    found.write(&options.out).with_context(|| format!("cannot write into `{}`", options.out.display()))?;
    output::text(&summary(&found))?;
    output::line(&format!("results in `{}`", options.out.display()))
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0).ok_or_else(|| "not above 0".to_owned())
}

fn summary(found: &FoundCircles) -> String {
    let Circles { users, items, circles, interests, circle_modularity, interest_modularity, .. } = &found.circles;
    let mut text = format!(
        "{} users in {} circles (modularity {circle_modularity:.3}), {} items in {} interests (modularity {interest_modularity:.3})\n\ncircle   users  sets them apart\n",
        users.len(),
        circles.len(),
        items.len(),
        interests.len()
    );
    for circle in circles.iter().take(SHOWN) {
        _ = writeln!(text, "{:>6} {:>7}  {}", circle.number, circle.user_count, circle.marks.join("; "));
    }
    text.push_str("\ninterest items  categories | words\n");
    for interest in interests.iter().take(SHOWN) {
        let parts = [interest.categories.join("; "), interest.words.join(" ")];
        _ = writeln!(text, "{:>8} {:>5}  {}", interest.number, interest.item_count, parts.join(" | "));
    }
    if let Some(judged) = &found.judged {
        text.push_str(&judgement(judged));
    }
    text
}

fn judgement(judged: &Judged) -> String {
    let mut text = String::new();
    if let Some(found) = &judged.discovery {
        _ = writeln!(
            text,
            "\nitems new to {} users, recall@20: {:.4} by their circle, {:.4} by a circle dealt at random, {:.4} by popularity",
            found.user_count, found.circle, found.random_circle, found.popularity
        );
    }
    let found = &judged.contagion;
    let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let interval = found
        .auc_interval
        .map_or_else(String::new, |interval| format!(" (95 %: {:.4} to {:.4})", interval.low, interval.high));
    _ = writeln!(
        text,
        "leaving after others of the circle left, {} users: ROC-AUC {}{interval}, {} among users silent for as long; {:.1} % left in the quarter of circles that lost most, {:.1} % in the calmest",
        found.user_count,
        or_dash(found.auc),
        or_dash(found.auc_beyond_silence),
        found.after_losses * 100.0,
        found.after_calm * 100.0
    );
    text
}
