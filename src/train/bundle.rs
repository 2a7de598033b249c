//! `undercurrent train`: trains on event files or snapshots and stores a model bundle with its model card.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;

use super::{
    Pretraining,
    evaluate::{EvaluateError, EvaluateOptions, TrainedParts, nobody, read, title_vectors, train_on},
    examples::unit_hash,
    heads::SEGMENTS,
    history::{History, SnapshotHistory},
    item_training::Catalogue,
    kinds::Survey,
    labels::is_eligible,
    metrics::BinaryMetrics,
    schedule::Horizons,
};
use crate::{
    event::{EventKind, UserId, format_time_ms},
    features::{EncodedUser, Encoder, Missing},
    graph::UserGraph,
    model::{Bundle, BundleError, BundleParts},
    score::Probability,
    snapshot::Snapshots,
};

/// Why no bundle was made.
#[derive(Debug, thiserror::Error)]
pub enum TrainBundleError {
    /// Training failed.
    #[error(transparent)]
    Train(#[from] EvaluateError),
    /// The bundle is refused, or cannot be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Trains on what is before `options.cutoff_ms`, or before the end of the files when that is earlier, and saves the
/// bundle into `options.out`.
pub fn train_bundle(options: &EvaluateOptions, report: &mut dyn FnMut(&str)) -> Result<Bundle, TrainBundleError> {
    let mut range_ms: Option<(i64, i64)> = None;
    for file in &options.events {
        if let Some((first, last)) = Survey::of(file).map_err(EvaluateError::from)?.range_ms {
            let known = range_ms.get_or_insert((first, last));
            *known = (known.0.min(first), known.1.max(last));
        }
    }
    // What is after the last event is not known: nobody churned because the file ends.
    let end_ms = range_ms.map_or(options.cutoff_ms, |(_, last)| options.cutoff_ms.min(last + 1));
    let options = EvaluateOptions { cutoff_ms: end_ms, ..options.clone() };
    let (history, _, catalogue, survey) = read(&options, report)?;
    if history.corpus.row_count() == 0 {
        return Err(nobody(&options, &survey).into());
    }
    let source = Source {
        name: options.events.iter().map(|file| name_of(file)).collect::<Vec<_>>().join(", "),
        event_count: history.corpus.row_count() as u64,
        refused: Some(history.corpus.counts.rejected()),
        activity: options.activity.join(", "),
        buy: options.buy.join(", "),
        parent: None,
    };
    let bundle = train_history(&history, &catalogue, &options, &source, report)?;
    bundle.save(&options.out)?;
    Ok(bundle)
}

/// What to train on when the history lies in snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotTraining {
    /// Where they lie.
    pub snapshots: Snapshots,
    /// The same in words.
    pub location: String,
    /// CSV with `item_id`, `title` and `category`.
    pub items: Option<PathBuf>,
    /// Folder of a text model by which titles are compared; by their words where absent.
    pub text_model: Option<PathBuf>,
    /// What the network's sequence encoder learns first.
    pub pretraining: Pretraining,
    /// Only what is before it is seen, milliseconds since the Unix epoch.
    pub until_ms: i64,
    /// What is predicted.
    pub horizons: Horizons,
    /// Seed of everything random.
    pub seed: u64,
    /// What stands for values that a user does not have.
    pub missing: Missing,
    /// The folder's name becomes the first part of the bundle's version.
    pub out: PathBuf,
    /// Threads; the result does not depend on it.
    pub threads: NonZeroUsize,
    /// Version of the champion that the bundle is to replace, where there is one; the bundle says so.
    pub parent: Option<String>,
}

impl SnapshotTraining {
    /// Opens the history.
    pub fn open(&self, report: &mut dyn FnMut(&str)) -> Result<SnapshotHistory, TrainBundleError> {
        report("looking at the snapshots");
        let threads = self.threads.get();
        let history = SnapshotHistory::open(self.snapshots.clone(), &self.location, self.until_ms, threads);
        Ok(history.map_err(EvaluateError::from)?)
    }

    /// Trains on what `history` knows before `end_ms` (one of its rounds). Saves nothing.
    pub fn train(
        &self,
        history: &SnapshotHistory,
        end_ms: i64,
        report: &mut dyn FnMut(&str),
    ) -> Result<Bundle, TrainBundleError> {
        let mut catalogue = history.catalogue(self.items.as_deref())?;
        let options = EvaluateOptions {
            events: Vec::new(),
            items: self.items.clone(),
            text_model: self.text_model.clone(),
            pretraining: self.pretraining,
            cutoff_ms: end_ms,
            activity: Vec::new(),
            buy: Vec::new(),
            horizons: self.horizons,
            seed: self.seed,
            missing: self.missing,
            out: self.out.clone(),
            threads: self.threads,
            report: false,
        };
        catalogue.vectors = title_vectors(&options).map_err(EvaluateError::from)?;
        let activity = EventKind::ALL.into_iter().filter(|kind| history.params().activity.contains(*kind));
        let (count, partitions) = (history.rounds_ms().len(), history.partition_count());
        let source = Source {
            name: format!("snapshots of {partitions} partitions at {count} moments"),
            event_count: history.event_count(),
            refused: None,
            activity: activity.map(EventKind::name).collect::<Vec<_>>().join(", "),
            buy: EventKind::Purchase.name().to_owned(),
            parent: self.parent.clone(),
        };
        train_history(history, &catalogue, &options, &source, report)
    }
}

/// Trains on a snapshot location and saves the bundle into `training.out`.
pub fn train_bundle_from_snapshots(
    training: &SnapshotTraining,
    report: &mut dyn FnMut(&str),
) -> Result<Bundle, TrainBundleError> {
    let history = training.open(report)?;
    let bundle = training.train(&history, history.end_ms(), report)?;
    bundle.save(&training.out)?;
    Ok(bundle)
}

/// Trains on what `history` knows before `options.cutoff_ms`.
fn train_history<H: History>(
    history: &H,
    catalogue: &Catalogue,
    options: &EvaluateOptions,
    source: &Source,
    report: &mut dyn FnMut(&str),
) -> Result<Bundle, TrainBundleError> {
    let end_ms = options.cutoff_ms;
    let parts = train_on(history, catalogue, options, end_ms, report)?;
    report("packing the bundle");
    let probe = probe_users(history, &parts, end_ms, options.seed)?;
    let probe: Vec<&EncodedUser> = probe.iter().collect();
    let text_model = catalogue.vectors.as_ref().map(|vectors| vectors.version());
    let facts = Facts { source, options, text_model, first_ms: history.first_ms(), users: history.users().len() };
    let items = (!parts.items.model.tables().rows().is_empty()).then(|| Arc::new(parts.items.model.clone()));
    let [churn_threshold, purchase_threshold] = parts.heads.thresholds.map(probability);
    Ok(Bundle::new(
        BundleParts {
            name: name_of(&options.out),
            card: facts.card(&parts),
            metrics: facts.metrics(&parts),
            model: parts.heads.model,
            ensemble: Some(parts.heads.ensemble),
            spec: parts.heads.spec,
            items,
            churn_threshold,
            purchase_threshold,
        },
        &probe,
    )?)
}

#[expect(clippy::cast_possible_truncation, reason = "a threshold needs few digits")]
fn probability(value: f64) -> Probability {
    Probability::clamped(value as f32)
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "bundle".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Some scored users of the newest moment; they carry numbers only, no names.
fn probe_users<H: History>(
    history: &H,
    parts: &TrainedParts,
    end_ms: i64,
    seed: u64,
) -> Result<Vec<EncodedUser>, EvaluateError> {
    const LOOKED_AT: usize = 256;
    let users: &[UserId] = history.users();
    // The users with the smallest hashes: a draw whose size does not depend on how many there are.
    let mut hashes: Vec<f64> = users.iter().map(|user| unit_hash(user.as_str(), seed)).collect();
    hashes.sort_unstable_by(f64::total_cmp);
    let limit = hashes.get(LOOKED_AT).copied().unwrap_or(1.0);
    let encoder = Encoder::new(parts.heads.spec.clone());
    let history_ms = parts.schedule.horizons.history_ms();
    let drawn = |user: usize| unit_hash(users[user].as_str(), seed) < limit;
    Ok(history.observe(&[end_ms], &drawn, &|_, _, graph: &UserGraph| {
        is_eligible(graph, end_ms, history_ms).then(|| encoder.encode(graph, end_ms))
    })?)
}

/// Where a history comes from, for the card.
struct Source {
    /// Names of the files, or what the snapshots are.
    name: String,
    /// Events in it.
    event_count: u64,
    /// Rows refused by cleaning, where they were seen.
    refused: Option<u64>,
    /// Names that count as activity.
    activity: String,
    /// Names that count as purchase.
    buy: String,
    /// Version of the bundle that this one is to replace.
    parent: Option<String>,
}

/// What the card and the metrics say of the data.
struct Facts<'a> {
    source: &'a Source,
    options: &'a EvaluateOptions,
    /// The text model by which titles were compared.
    text_model: Option<String>,
    first_ms: i64,
    users: usize,
}

impl Facts<'_> {
    fn metrics(&self, parts: &TrainedParts) -> serde_json::Value {
        let [churn, purchase] = &parts.heads.validation;
        json!({
            "trained_from_ms": self.first_ms,
            "trained_until_ms": self.options.cutoff_ms,
            "user_count": self.users,
            "event_count": self.source.event_count,
            "refused_row_count": self.source.refused,
            "history_days": parts.schedule.horizons.history_days,
            "churn_days": parts.schedule.horizons.churn_days,
            "purchase_days": parts.schedule.horizons.purchase_days,
            "seed": self.options.seed,
            "parent": self.source.parent,
            "text_model": self.text_model,
            "pretraining": self.options.pretraining,
            "feature_count": parts.heads.spec.features().len(),
            "segments": { "churn": parts.heads.segments[0], "purchase": parts.heads.segments[1] },
            "reference": parts.heads.references.to_json(&parts.heads.spec),
            "validation": { "churn": churn, "purchase": purchase },
            "validation_items_recall_at_20": parts.items.rankers[0].map(|found| found.served()[0]),
            "validation_discoveries_recall_at_20": parts.items.rankers[1].map(|found| found.served()[0]),
        })
    }

    /// The model card.
    fn card(&self, parts: &TrainedParts) -> String {
        let horizons = &parts.schedule.horizons;
        let mut text = format!(
            "# Model card\n\nPredicts for each user: no activity in the next {} days (churn), a purchase in the next {} days, and the \
             items bought next.\n\n## Data\n\n- Read from: {}\n- Events: {} of {} users, from {} to before {}{}\n- Activity: {}; purchase: {}\n- Users are learned from when active within {} days before a moment\n- \
             Seed: {}\n\n## Validation\n\nThe newest moments whose horizons had ended, held out; the served weights were then \
             fitted again on everything.\nCalibration, thresholds, ridge and number of passes were chosen on the same window, which \
             flatters the model and its log-loss, ECE and F1 most; small leads over a baseline here prove nothing.\n",
            horizons.churn_days,
            horizons.purchase_days,
            self.source.name,
            self.source.event_count,
            self.users,
            format_time_ms(self.first_ms),
            format_time_ms(self.options.cutoff_ms),
            self.source.refused.map_or_else(String::new, |count| format!("; {count} rows refused by cleaning")),
            self.source.activity,
            self.source.buy,
            horizons.history_days,
            self.options.seed
        );
        for (head, models) in ["churn", "purchase"].into_iter().zip(&parts.heads.validation) {
            table(&mut text, head, models);
        }
        segment_table(&mut text, &parts.heads.segments);
        if let Some(parent) = &self.source.parent {
            _ = writeln!(text, "\nTrained to replace `{parent}`.");
        }
        if let [Some(items), Some(discoveries)] = parts.items.rankers {
            _ = writeln!(
                text,
                "\nItem lists on the newest window: recall@20 {:.4}; of items the user never bought {:.4}.",
                items.served()[0],
                discoveries.served()[0]
            );
        }
        text.push_str(
            "\n## Limits\n\n- Learned from one shop in one time: expect worse numbers elsewhere, and train on your own events.\n\
             - Users with hardly any history get the average of such users.\n\
             - Items unknown to training are ranked only for users who bought them.\n\
             - The numbers above are of one window; season and promotions move them.\n\
             - Says what is likely, not why, and not what a message to the user would change.\n",
        );
        text
    }
}

/// The served model by segment.
fn segment_table(text: &mut String, segments: &[BTreeMap<&'static str, BinaryMetrics>; 2]) {
    _ = writeln!(text, "\n| segment | head | users | rate | ROC-AUC | log-loss | ECE |\n|---|---|---|---|---|---|---|");
    for name in SEGMENTS {
        for (head, found) in ["churn", "purchase"].into_iter().zip(segments) {
            let Some(BinaryMetrics { count, rate, roc_auc, log_loss, ece, .. }) = found.get(name) else { continue };
            let auc = roc_auc.map_or_else(|| "-".to_owned(), |auc| format!("{auc:.4}"));
            _ = writeln!(text, "| {name} | {head} | {count} | {rate:.4} | {auc} | {log_loss:.4} | {ece:.4} |");
        }
    }
    text.push_str(
        "\n`new`: known for less than 60 days; of the others `heavy`: the quarter with the most days with a purchase.\n",
    );
}

fn table(text: &mut String, head: &str, models: &BTreeMap<String, BinaryMetrics>) {
    _ = writeln!(
        text,
        "\n| {head} | users | rate | ROC-AUC | PR-AUC | F1 | log-loss | ECE |\n|---|---|---|---|---|---|---|---|"
    );
    let maybe = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    for (name, metrics) in models {
        _ = writeln!(
            text,
            "| {name} | {} | {:.4} | {} | {} | {:.4} | {:.4} | {:.4} |",
            metrics.count,
            metrics.rate,
            maybe(metrics.roc_auc),
            maybe(metrics.pr_auc),
            metrics.f1,
            metrics.log_loss,
            metrics.ece
        );
    }
}
