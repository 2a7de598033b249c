//! What each part is worth: training again without it, on the same users at the same moment.

use serde::Serialize;

use super::{
    evaluate::{EvaluateError, EvaluateOptions, nobody, read},
    heads::{Head, HeadInput, HeadOptions, HeadPart, Heads},
    history::{FileHistory, History},
    labels::is_eligible,
    metrics::{BinaryMetrics, Interval, paired_auc_difference},
    schedule::Schedule,
};
use crate::{
    features::{EncodedUser, Encoder},
    graph::UserGraph,
};

/// Rounds of the bootstrap.
const ROUNDS: usize = 500;

/// One row of the table: everything, or everything but one part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AblationRow {
    /// What was left out; absent for the whole.
    pub without: Option<HeadPart>,
    /// Metrics after the moment: churn, purchase.
    pub metrics: [BinaryMetrics; 2],
    /// ROC-AUC without the part minus with it, paired by user: churn, purchase. Below 0 where the part pays.
    pub change: [Option<Interval>; 2],
}

/// What an ablation found; also the content of `ablation.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ablation {
    /// The moment, milliseconds since the Unix epoch.
    pub cutoff_ms: i64,
    /// Seed of everything random.
    pub seed: u64,
    /// Users predicted.
    pub user_count: usize,
    /// The whole first, then without each part.
    pub rows: Vec<AblationRow>,
}

/// Trains with everything, then without each of `parts`, and measures after the cutoff. Before each training `goes_on` is asked
/// whether there is time for it; `report` hears one line a stage.
pub fn ablate(
    options: &EvaluateOptions,
    parts: &[HeadPart],
    goes_on: &mut dyn FnMut() -> bool,
    report: &mut dyn FnMut(&str),
) -> Result<Ablation, EvaluateError> {
    let (history, outcomes, _, survey) = read(options, report)?;
    if history.corpus.row_count() == 0 {
        return Err(nobody(options, &survey));
    }
    let schedule = Schedule::new(history.first_ms(), options.cutoff_ms, options.horizons).shown_by(&history);
    let mut found = Ablation { cutoff_ms: options.cutoff_ms, seed: options.seed, user_count: 0, rows: Vec::new() };
    let mut whole: Option<[Vec<f64>; 2]> = None;
    for without in [None].into_iter().chain(parts.iter().copied().map(Some)) {
        if whole.is_some() && !goes_on() {
            break;
        }
        report(&without.map_or_else(|| "with everything".to_owned(), |part| format!("without {}", part.name())));
        let head_options = HeadOptions {
            seed: options.seed,
            threads: options.threads,
            missing: options.missing,
            pretraining: options.pretraining,
            without,
            ..HeadOptions::default()
        };
        let heads = Heads::train(&history, &schedule, &head_options, &mut |_| ())?;
        let (users, probabilities) = predict(&history, options, &heads)?;
        if users.is_empty() {
            return Err(nobody(options, &survey));
        }
        found.user_count = users.len();
        let labels = Head::ALL.map(|head| {
            let of = |user: &usize| {
                let outcome = outcomes.get(&history.users()[*user]);
                match head {
                    Head::Churn => !outcome.is_some_and(|outcome| outcome.active),
                    Head::Purchase => outcome.is_some_and(|outcome| outcome.purchased),
                }
            };
            users.iter().map(of).collect::<Vec<bool>>()
        });
        let change = [0, 1].map(|head| {
            let whole = whole.as_ref()?;
            paired_auc_difference(&labels[head], &probabilities[head], &whole[head], ROUNDS, options.seed)
        });
        let metrics = [0, 1].map(|head| BinaryMetrics::of(&labels[head], &probabilities[head], heads.thresholds[head]));
        found.rows.push(AblationRow { without, metrics, change });
        whole.get_or_insert(probabilities);
    }
    Ok(found)
}

/// The users active before the cutoff, by number, with both probabilities of each.
fn predict(
    history: &FileHistory,
    options: &EvaluateOptions,
    heads: &Heads,
) -> Result<(Vec<usize>, [Vec<f64>; 2]), EvaluateError> {
    let encoder = Encoder::new(heads.spec.clone());
    let (at_ms, history_ms) = (options.cutoff_ms, options.horizons.history_ms());
    let seen = history.observe(&[at_ms], &|_| true, &|user, _, graph: &UserGraph| {
        is_eligible(graph, at_ms, history_ms).then(|| (user, HeadInput::of(&encoder, graph, at_ms).encoded))
    })?;
    let encoded: Vec<&EncodedUser> = seen.iter().map(|(_, encoded)| encoded).collect();
    let predicted = heads.predict(&encoded, options.threads)?;
    let probabilities = [0, 1].map(|head| predicted.iter().map(|both| both[head]).collect());
    Ok((seen.iter().map(|(user, _)| *user).collect(), probabilities))
}
