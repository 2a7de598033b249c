//! `undercurrent evaluate`: trains on what is before a cutoff, predicts every recently active user, and, when the file
//! goes on, says how right that was.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use super::{
    Pretraining, TitleVectors,
    corpus::{Corpus, CorpusError, CorpusOptions, Outcome},
    dataset::{DatasetError, UserPrediction, write_predictions},
    heads::{BASELINES, Head, HeadInput, HeadOptions, HeadPrediction, Heads, HeadsError, MEMBERS},
    history::{FileHistory, History, HistoryError},
    item_training::{Catalogue, ItemOptions, TrainedItems, train_items},
    items::TableOptions,
    kinds::{KindPlan, Survey, UnknownKind},
    labels::is_eligible,
    metrics::{BinaryMetrics, Interval, ListMetrics, list_metrics, list_scores, paired_auc_difference},
    report::{ReportFacts, collect, page},
    schedule::{Horizons, Schedule},
};
use crate::{
    event::{DAY_MS, FileError, ItemCategories, ItemsError, NameHash, NameKind, UserId, read_items},
    features::{EncodedUser, Encoder, Missing},
    graph::{GraphParams, UserGraph},
    model::{
        items::{CandidateWork, CatalogueEntry, ItemLists, UserItems},
        text::TextError,
    },
};

/// What to evaluate.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// Event files, in order.
    pub events: Vec<PathBuf>,
    /// CSV with `item_id`, `title` and `category`; further columns are ignored.
    pub items: Option<PathBuf>,
    /// Folder of a text model by which titles are compared; by their words where absent.
    pub text_model: Option<PathBuf>,
    /// What the network's sequence encoder learns first.
    pub pretraining: Pretraining,
    /// Only what is before it is seen, milliseconds since the Unix epoch.
    pub cutoff_ms: i64,
    /// Event names (the file's or ours) that count as activity.
    pub activity: Vec<String>,
    /// Event names (the file's or ours) that count as purchase.
    pub buy: Vec<String>,
    /// What is predicted.
    pub horizons: Horizons,
    /// Seed of everything random.
    pub seed: u64,
    /// What stands for values that a user does not have.
    pub missing: Missing,
    /// Where `predictions.parquet` and `metrics.json` go; created when absent.
    pub out: PathBuf,
    /// Threads; the result does not depend on it.
    pub threads: NonZeroUsize,
    /// Whether to write `report.html` and `report.json` too; only where the file goes on past the cutoff.
    pub report: bool,
}

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The arguments do not fit the file.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The events cannot be held.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The item file cannot be read.
    #[error(transparent)]
    Items(#[from] ItemsError),
    /// No event is before the cutoff, or no user was active.
    #[error("nobody was active in the `{history_days}` days before the cutoff; the file's times are {range}")]
    Nobody {
        /// Length of the history window.
        history_days: u32,
        /// First and newest time in the file.
        range: String,
    },
    /// The text model cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Training failed.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The predictions cannot be written.
    #[error(transparent)]
    Predictions(#[from] DatasetError),
    /// The metrics cannot be written.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// What an evaluation found; also the content of `metrics.json`.
#[derive(Debug, Clone, Serialize)]
pub struct EvaluationReport {
    /// The cutoff, milliseconds since the Unix epoch.
    pub cutoff_ms: i64,
    /// The seed.
    pub seed: u64,
    /// Users predicted.
    pub user_count: usize,
    /// Days of the horizons that training could use: shorter than asked for when the history is short.
    pub trained_churn_days: u32,
    /// The same of the purchase horizon.
    pub trained_purchase_days: u32,
    /// Rows refused by a cleaning rule.
    pub refused_row_count: u64,
    /// Metrics by model: `model` and each baseline.
    pub churn: BTreeMap<String, BinaryMetrics>,
    /// The same of purchase.
    pub purchase: BTreeMap<String, BinaryMetrics>,
    /// Lists with repeats: `model`, `own_frequency`, `popularity`.
    pub items: BTreeMap<String, ListMetrics>,
    /// Lists of items the user never bought, measured on such items only: `model`, `popularity`.
    pub discoveries: BTreeMap<String, ListMetrics>,
    /// 95 % interval of the ROC-AUC difference of the model to each baseline, paired by user.
    pub churn_gain: BTreeMap<String, Interval>,
    /// The same of purchase.
    pub purchase_gain: BTreeMap<String, Interval>,
    /// Metrics on the validation window before the cutoff, by head and model.
    pub validation: BTreeMap<String, BTreeMap<String, BinaryMetrics>>,
}

/// Evaluates. `report` hears one line a stage.
pub fn run(options: &EvaluateOptions, report: &mut dyn FnMut(&str)) -> Result<EvaluationReport, EvaluateError> {
    let (history, outcomes, catalogue, survey) = read(options, report)?;
    if history.corpus.row_count() == 0 {
        return Err(nobody(options, &survey));
    }
    let parts = train_on(&history, &catalogue, options, options.cutoff_ms, report)?;
    let TrainedParts { schedule, heads, items } = parts;
    report("predicting");
    let users = predict(&history, options, &heads, &items)?;
    if users.is_empty() {
        return Err(nobody(options, &survey));
    }
    std::fs::create_dir_all(&options.out).map_err(|source| write_error(&options.out, source))?;
    let predictions: Vec<UserPrediction> = users.iter().map(|user| user.prediction(&catalogue)).collect();
    write_predictions(&options.out.join("predictions.parquet"), &predictions)?;
    let goes_on = survey.range_ms.is_some_and(|(_, last_ms)| last_ms >= options.cutoff_ms);
    let found = measure(options, &schedule, &heads, &history, &users, &outcomes, goes_on);
    if goes_on {
        let path = options.out.join("metrics.json");
        let json = serde_json::to_vec_pretty(&found).unwrap_or_default();
        std::fs::write(&path, json).map_err(|source| write_error(&path, source))?;
    }
    if goes_on && options.report {
        report("writing the report");
        let input = collect(options, &history, &heads, &users, &outcomes, &catalogue, &found)?;
        write_report(&options.out, &ReportFacts::of(&input))?;
    }
    Ok(found)
}

/// Writes the page and the same numbers as JSON.
fn write_report(out: &Path, facts: &ReportFacts) -> Result<(), EvaluateError> {
    let json = serde_json::to_vec_pretty(facts).unwrap_or_default();
    for (name, content) in [("report.html", page(facts).into_bytes()), ("report.json", json)] {
        let path = out.join(name);
        std::fs::write(&path, content).map_err(|source| write_error(&path, source))?;
    }
    Ok(())
}

/// What training makes of a history.
pub(super) struct TrainedParts {
    /// The moments learned from, and the horizons in use.
    pub schedule: Schedule,
    /// What predicts churn and purchase.
    pub heads: Heads,
    /// What ranks items.
    pub items: TrainedItems,
}

/// Trains everything that is served on what is before `end_ms`.
pub(super) fn train_on<H: History>(
    history: &H,
    catalogue: &Catalogue,
    options: &EvaluateOptions,
    end_ms: i64,
    report: &mut dyn FnMut(&str),
) -> Result<TrainedParts, EvaluateError> {
    let first_ms = history.first_ms();
    let schedule = Schedule::new(first_ms, end_ms, options.horizons).shown_by(history);
    if schedule.shortened {
        report(&format!(
            "the history is short: trained for {} days without activity and {} days to a purchase instead",
            schedule.horizons.churn_days, schedule.horizons.purchase_days
        ));
    }
    let head_options = HeadOptions {
        seed: options.seed,
        threads: options.threads,
        missing: options.missing,
        pretraining: options.pretraining,
        ..HeadOptions::default()
    };
    let heads = Heads::train(history, &schedule, &head_options, report)?;
    let tables = TableOptions { threads: options.threads.get(), ..TableOptions::default() };
    let item_options = ItemOptions { seed: options.seed, tables, ..ItemOptions::default() };
    let window_ms = schedule.horizons.purchase_ms();
    let items = train_items(history, end_ms, first_ms, window_ms, catalogue, &item_options, report)?;
    if let Some(vectors) = &catalogue.vectors
        && let Err(error) = vectors.save()
    {
        report(&format!("the vectors of titles could not be kept for the next training: {error}"));
    }
    Ok(TrainedParts { schedule, heads, items })
}

/// The vectors of titles that `options` ask for.
pub(super) fn title_vectors(options: &EvaluateOptions) -> Result<Option<Arc<TitleVectors>>, TextError> {
    let open = |folder: &PathBuf| TitleVectors::open(folder, options.threads.get()).map(Arc::new);
    options.text_model.as_ref().map(open).transpose()
}

type Input = (FileHistory, HashMap<UserId, Outcome>, Catalogue, Survey);

pub(super) fn read(options: &EvaluateOptions, report: &mut dyn FnMut(&str)) -> Result<Input, EvaluateError> {
    report("surveying the files");
    let mut survey = Survey::default();
    for file in &options.events {
        survey.add(Survey::of(file)?);
    }
    let plan = KindPlan::new(&survey, &options.activity, &options.buy)?;
    let listed = match &options.items {
        Some(path) => read_items(path)?,
        None => Vec::new(),
    };
    let corpus_options = CorpusOptions {
        plan: &plan,
        item_categories: Arc::new(ItemCategories::of(&listed)),
        cutoff_ms: options.cutoff_ms,
        horizons_ms: [options.horizons.churn_ms(), options.horizons.purchase_ms()],
    };
    report("reading events");
    let (corpus, outcomes) = Corpus::read(&options.events, &corpus_options, &mut |_| {})?;
    let mut catalogue = Catalogue::default();
    for (kind, hash, text) in corpus.names() {
        let entry = CatalogueEntry { text: text.to_owned(), title: String::new() };
        catalogue.names.insert((kind, hash), entry);
    }
    catalogue.add(listed);
    catalogue.vectors = title_vectors(options)?;
    let params = GraphParams { activity: plan.activity(), ..GraphParams::default() };
    Ok((FileHistory { corpus, params, threads: options.threads.get() }, outcomes, catalogue, survey))
}

/// One predicted user.
pub(super) struct Predicted {
    pub(super) user: UserId,
    pub(super) heads: HeadPrediction,
    pub(super) baselines: [[Option<f64>; BASELINES.len()]; 2],
    lists: ItemLists,
    own_frequency: Vec<NameHash>,
    popular: Vec<NameHash>,
    fresh_popular: Vec<NameHash>,
    bought: HashSet<NameHash>,
}

impl Predicted {
    fn prediction(&self, catalogue: &Catalogue) -> UserPrediction {
        let texts = |items: &[crate::score::RankedItem]| {
            let text = |item: &crate::score::RankedItem| {
                catalogue.names.get(&(NameKind::Item, item.item)).map(|entry| entry.text.clone())
            };
            items.iter().filter_map(text).collect()
        };
        UserPrediction {
            user_id: self.user.as_str().to_owned(),
            churn: self.heads.probabilities[0],
            purchase: self.heads.probabilities[1],
            items: texts(&self.lists.items),
            discoveries: texts(&self.lists.discoveries),
        }
    }
}

fn predict(
    history: &FileHistory,
    options: &EvaluateOptions,
    heads: &Heads,
    items: &TrainedItems,
) -> Result<Vec<Predicted>, EvaluateError> {
    const USERS_AT_ONCE: usize = 8_192;
    let encoder = Encoder::new(heads.spec.clone());
    let (at_ms, history_ms) = (options.cutoff_ms, options.horizons.history_ms());
    let mut predicted = Vec::new();
    for start in (0..history.users().len()).step_by(USERS_AT_ONCE) {
        let wanted = |user: usize| (start..start + USERS_AT_ONCE).contains(&user);
        let seen = history.observe(&[at_ms], &wanted, &|user, _, graph: &UserGraph| {
            is_eligible(graph, at_ms, history_ms).then(|| {
                let own = UserItems::of(graph, &history.params);
                let lists = items.model.recommend(&own, at_ms, &mut CandidateWork::default());
                (user, HeadInput::of(&encoder, graph, at_ms), own, lists)
            })
        })?;
        let encoded: Vec<&EncodedUser> = seen.iter().map(|(_, input, ..)| &input.encoded).collect();
        let predictions = heads.predict_members(&encoded, options.threads)?;
        for ((user, input, own, lists), prediction) in seen.into_iter().zip(predictions) {
            let bought: HashSet<NameHash> = own.bought.iter().map(|node| node.name).collect();
            let popular =
                items.model.tables().popular().iter().map(|row| items.model.tables().rows()[*row as usize].item);
            predicted.push(Predicted {
                user: history.users()[user].clone(),
                heads: prediction,
                baselines: Head::ALL.map(|head| BASELINES.map(|name| heads.baseline(name, head, &input))),
                lists,
                own_frequency: own_frequency(&own),
                fresh_popular: popular.clone().filter(|item| !bought.contains(item)).take(20).collect(),
                popular: popular.take(20).collect(),
                bought,
            });
        }
    }
    Ok(predicted)
}

/// The user's items by how often they were bought, newer first among equals.
fn own_frequency(own: &UserItems) -> Vec<NameHash> {
    let mut nodes: Vec<_> = own.bought.iter().collect();
    nodes.sort_unstable_by_key(|node| std::cmp::Reverse((node.count, node.last_s, node.name)));
    nodes.into_iter().take(20).map(|node| node.name).collect()
}

fn measure(
    options: &EvaluateOptions,
    schedule: &Schedule,
    heads: &Heads,
    history: &FileHistory,
    users: &[Predicted],
    outcomes: &HashMap<UserId, Outcome>,
    goes_on: bool,
) -> EvaluationReport {
    let mut found = EvaluationReport {
        cutoff_ms: options.cutoff_ms,
        seed: options.seed,
        user_count: users.len(),
        trained_churn_days: schedule.horizons.churn_days,
        trained_purchase_days: schedule.horizons.purchase_days,
        refused_row_count: history.corpus.counts.rejected(),
        churn: BTreeMap::new(),
        purchase: BTreeMap::new(),
        items: BTreeMap::new(),
        discoveries: BTreeMap::new(),
        churn_gain: BTreeMap::new(),
        purchase_gain: BTreeMap::new(),
        validation: ["churn", "purchase"]
            .into_iter()
            .map(str::to_owned)
            .zip(heads.validation.iter().cloned())
            .collect(),
    };
    if !goes_on {
        return found;
    }
    let nothing = Outcome::default();
    let outcome_of = |user: &Predicted| outcomes.get(&user.user).unwrap_or(&nothing);
    for head in Head::ALL {
        let labels: Vec<bool> = users
            .iter()
            .map(|user| if head == Head::Churn { !outcome_of(user).active } else { outcome_of(user).purchased })
            .collect();
        let model: Vec<f64> = users.iter().map(|user| user.heads.probabilities[head as usize]).collect();
        let (metrics, gains) = match head {
            Head::Churn => (&mut found.churn, &mut found.churn_gain),
            Head::Purchase => (&mut found.purchase, &mut found.purchase_gain),
        };
        metrics.insert("model".to_owned(), BinaryMetrics::of(&labels, &model, heads.thresholds[head as usize]));
        let of_baseline =
            |place: usize| users.iter().map(|user| user.baselines[head as usize][place]).collect::<Option<Vec<f64>>>();
        let of_member = |place: usize| users.iter().map(|user| user.heads.members[head as usize][place]).collect();
        let others = BASELINES.into_iter().enumerate().filter_map(|(place, name)| Some((name, of_baseline(place)?)));
        let members = MEMBERS.into_iter().enumerate().map(|(place, name)| (name, of_member(place)));
        for (name, scores) in others.chain(members) {
            let scores: Vec<f64> = scores;
            metrics.insert(name.to_owned(), BinaryMetrics::of(&labels, &scores, heads.baseline_threshold(name, head)));
            if let Some(gain) = paired_auc_difference(&labels, &model, &scores, 200, options.seed) {
                gains.insert(name.to_owned(), gain);
            }
        }
    }
    let lists = |of: &dyn Fn(&Predicted) -> (Vec<NameHash>, bool)| {
        let score = |user: &Predicted| {
            let (list, fresh_only) = of(user);
            let truth = outcome_of(user).items.iter().copied();
            let truth: HashSet<NameHash> = truth.filter(|item| !fresh_only || !user.bought.contains(item)).collect();
            list_scores(&truth, &list)
        };
        list_metrics(&users.iter().filter_map(score).collect::<Vec<_>>())
    };
    let names = |list: &[crate::score::RankedItem]| list.iter().map(|item| item.item).collect::<Vec<_>>();
    for (name, metrics) in [
        ("model", lists(&|user| (names(&user.lists.items), false))),
        ("own_frequency", lists(&|user| (user.own_frequency.clone(), false))),
        ("popularity", lists(&|user| (user.popular.clone(), false))),
    ] {
        found.items.extend(metrics.map(|metrics| (name.to_owned(), metrics)));
    }
    for (name, metrics) in [
        ("model", lists(&|user| (names(&user.lists.discoveries), true))),
        ("popularity", lists(&|user| (user.fresh_popular.clone(), true))),
    ] {
        found.discoveries.extend(metrics.map(|metrics| (name.to_owned(), metrics)));
    }
    found
}

pub(super) fn nobody(options: &EvaluateOptions, survey: &Survey) -> EvaluateError {
    let day = |ms: i64| {
        chrono::DateTime::from_timestamp_millis(ms)
            .map_or_else(|| ms.to_string(), |time| time.format("%Y-%m-%d").to_string())
    };
    let range = survey
        .range_ms
        .map_or_else(|| "unknown".to_owned(), |(first, last)| format!("{} to {}", day(first), day(last)));
    EvaluateError::Nobody { history_days: options.horizons.history_days, range }
}

fn write_error(path: &Path, source: std::io::Error) -> EvaluateError {
    EvaluateError::Write { path: path.display().to_string(), source }
}

/// Reads a cutoff: epoch milliseconds or RFC 3339.
pub fn parse_cutoff(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(ms) = text.parse::<i64>() {
        return Some(ms);
    }
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_millis());
    }
    let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(day.signed_duration_since(chrono::NaiveDate::default()).num_days() * DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutoffs_by_number_date_and_time() {
        assert_eq!(parse_cutoff("1512000000000"), Some(1_512_000_000_000));
        assert_eq!(parse_cutoff("1970-01-02T01:00:00+01:00"), Some(DAY_MS));
        assert_eq!(parse_cutoff("1970-01-02"), Some(DAY_MS));
        assert_eq!(parse_cutoff("tomorrow"), None);
    }
}
