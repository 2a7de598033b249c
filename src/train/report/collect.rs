//! From an evaluation to what its report is made of.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
};

use rand::{SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::facts::{Baseline, Factor, Importance, ReportInput, ReportUser, explained_places};
use crate::{
    event::{DAY_MS, NameHash, NameKind, UserId, View},
    features::{EncodedUser, Encoder, expected_value_minor},
    graph::{UserGraph, day_of},
    score::ATTENTION_NAMES,
    train::{
        corpus::Outcome,
        evaluate::{EvaluateError, EvaluateOptions, EvaluationReport, Predicted},
        heads::{BASELINES, Head, HeadInput, Heads, MEMBERS},
        history::History,
        item_training::Catalogue,
        labels::is_eligible,
        metrics::roc_auc,
        predict_all,
    },
};

/// Users the importance of features is measured on at most.
const IMPORTANCE_USERS: usize = 2_000;
/// Factors told of an explained user.
const FACTORS: usize = 8;
const WEEK_MS: i64 = 7 * DAY_MS;

/// What a report wants of a user at the cutoff beside the predictions.
struct Seen {
    user: usize,
    /// Whether it is the user at the cutoff, or a week before.
    at_cutoff: bool,
    encoded: EncodedUser,
    known: Known,
}

#[derive(Clone, Default)]
struct Known {
    silent_days: f64,
    age_days: f64,
    purchase_count: u64,
    value_at_stake_minor: u64,
    category: Option<NameHash>,
    first_month: String,
    active_ages: Vec<u32>,
}

/// Collects the input of a report. `found` are the metrics of the same evaluation.
pub(in crate::train) fn collect(
    options: &EvaluateOptions,
    history: &impl History,
    heads: &Heads,
    predicted: &[Predicted],
    outcomes: &HashMap<UserId, Outcome>,
    catalogue: &Catalogue,
    found: &EvaluationReport,
) -> Result<ReportInput, EvaluateError> {
    let seen = observe(options, history, heads)?;
    let (now, before): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|seen| seen.at_cutoff);
    let earlier = risks(heads, &before, options.threads)?;
    let number_of: HashMap<&UserId, usize> =
        history.users().iter().enumerate().map(|(number, user)| (user, number)).collect();
    let place_of: HashMap<usize, usize> = now.iter().enumerate().map(|(place, seen)| (seen.user, place)).collect();
    let encoded: Vec<&EncodedUser> = now.iter().map(|seen| &seen.encoded).collect();
    let attention =
        predict_all(&heads.model, &encoded, options.threads).map_err(crate::train::heads::HeadsError::from)?;
    let nothing = Outcome::default();
    let mut users = Vec::with_capacity(predicted.len());
    let mut inputs = Vec::with_capacity(predicted.len());
    for user in predicted {
        let Some(place) = number_of.get(&user.user).and_then(|number| place_of.get(number)) else { continue };
        let outcome = outcomes.get(&user.user).unwrap_or(&nothing);
        let Known {
            silent_days,
            age_days: known_days,
            purchase_count,
            value_at_stake_minor,
            category,
            first_month,
            active_ages,
        } = now[*place].known.clone();
        users.push(ReportUser {
            user_id: user.user.as_str().to_owned(),
            labels: [!outcome.active, outcome.purchased],
            probabilities: user.heads.probabilities,
            baselines: [0, 1].map(|head| {
                let members = user.heads.members[head].iter().map(|answer| Some(*answer));
                user.baselines[head].iter().copied().chain(members).collect()
            }),
            churn_a_week_before: earlier.get(&now[*place].user).copied(),
            silent_days,
            known_days,
            purchase_count,
            value_at_stake_minor,
            category: category
                .and_then(|name| catalogue.names.get(&(NameKind::Category, name)))
                .map(|entry| entry.text.clone()),
            first_month,
            active_ages,
            factors: Vec::new(),
            attention: attention[*place].attention.to_vec(),
        });
        inputs.push(encoded[*place]);
    }
    let mut input = ReportInput {
        title: title(options),
        cutoff_ms: options.cutoff_ms,
        seed: options.seed,
        history_days: options.horizons.history_days,
        churn_days: options.horizons.churn_days,
        purchase_days: options.horizons.purchase_days,
        baselines: BASELINES
            .into_iter()
            .map(|name| baseline(heads, name, false))
            .chain(MEMBERS.into_iter().map(|name| baseline(heads, name, true)))
            .collect(),
        thresholds: heads.thresholds,
        importance: importance(options, heads, &inputs, &users)?,
        users,
        lists: BTreeMap::from([
            ("items".to_owned(), found.items.clone()),
            ("discoveries".to_owned(), found.discoveries.clone()),
        ]),
        attention_names: ATTENTION_NAMES.iter().map(|name| (*name).to_owned()).collect(),
        ablation: Vec::new(),
    };
    let typical = typical(&inputs);
    for (_, place) in explained_places(&input) {
        input.users[place].factors = factors(heads, inputs[place], &typical, options.threads)?;
    }
    Ok(input)
}

fn baseline(heads: &Heads, name: &str, is_member: bool) -> Baseline {
    let thresholds = Head::ALL.map(|head| heads.baseline_threshold(name, head));
    Baseline { name: name.to_owned(), thresholds, is_member }
}

/// The names of the event files.
fn title(options: &EvaluateOptions) -> String {
    let names: Vec<String> = options
        .events
        .iter()
        .map(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            match path.parent().and_then(std::path::Path::file_name) {
                Some(folder) => format!("{}/{name}", folder.to_string_lossy()),
                None => name,
            }
        })
        .collect();
    names.join(", ")
}

fn observe(options: &EvaluateOptions, history: &impl History, heads: &Heads) -> Result<Vec<Seen>, EvaluateError> {
    let encoder = Encoder::new(heads.spec.clone());
    let history_ms = options.horizons.history_ms();
    let moments = [options.cutoff_ms - WEEK_MS, options.cutoff_ms];
    Ok(history.observe(&moments, &|_| true, &|user, place, graph: &UserGraph| {
        let at_ms = moments[place];
        is_eligible(graph, at_ms, history_ms).then(|| Seen {
            user,
            at_cutoff: place == 1,
            encoded: HeadInput::of(&encoder, graph, at_ms).encoded,
            known: if place == 1 { known(graph, history, options) } else { Known::default() },
        })
    })?)
}

fn known(graph: &UserGraph, history: &impl History, options: &EvaluateOptions) -> Known {
    let at_ms = options.cutoff_ms;
    #[expect(clippy::cast_precision_loss, reason = "a span of time in milliseconds stays far below 2^52")]
    let days_since = |time_ms: Option<i64>| time_ms.map_or(0.0, |time_ms| (at_ms - time_ms) as f64 / DAY_MS as f64);
    let expanded = graph.expand(history.params());
    let categories = expanded.view(View::Purchase).map_or(&[][..], |view| view.nodes_of(NameKind::Category));
    let churn_days = i32::try_from(options.horizons.churn_days).unwrap_or(i32::MAX);
    let today = day_of(at_ms);
    Known {
        silent_days: days_since(graph.last_activity_ms()),
        age_days: days_since(graph.first_event_ms()),
        purchase_count: graph.purchase_count(),
        value_at_stake_minor: expected_value_minor(&expanded, at_ms, churn_days),
        category: categories.iter().max_by_key(|node| (node.count, node.last_s, node.name)).map(|node| node.name),
        first_month: graph
            .first_event_ms()
            .and_then(chrono::DateTime::from_timestamp_millis)
            .map(|time| time.format("%Y-%m").to_string())
            .unwrap_or_default(),
        active_ages: graph.activity_days().iter().filter_map(|day| u32::try_from(today - day).ok()).collect(),
    }
}

/// P(churn) by user number.
fn risks(heads: &Heads, seen: &[&Seen], threads: NonZeroUsize) -> Result<HashMap<usize, f64>, EvaluateError> {
    let encoded: Vec<&EncodedUser> = seen.iter().map(|seen| &seen.encoded).collect();
    let answers = heads.predict(&encoded, threads)?;
    Ok(seen.iter().zip(answers).map(|(seen, [churn, _])| (seen.user, churn)).collect())
}

/// Permutation importance (Breiman 2001, section 10): what ROC-AUC loses when one feature is shuffled among users.
fn importance(
    options: &EvaluateOptions,
    heads: &Heads,
    inputs: &[&EncodedUser],
    users: &[ReportUser],
) -> Result<Vec<Importance>, EvaluateError> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(options.seed);
    let mut chosen: Vec<usize> = (0..inputs.len()).collect();
    chosen.shuffle(&mut random);
    chosen.truncate(IMPORTANCE_USERS);
    let labels = [0, 1].map(|head| chosen.iter().map(|place| users[*place].labels[head]).collect::<Vec<_>>());
    let aucs = |answers: &[[f64; 2]]| {
        [0, 1].map(|head| {
            let scores: Vec<f64> = answers.iter().map(|answer| answer[head]).collect();
            roc_auc(&labels[head], &scores).unwrap_or(0.5)
        })
    };
    let intact: Vec<&EncodedUser> = chosen.iter().map(|place| inputs[*place]).collect();
    let whole = aucs(&heads.predict(&intact, options.threads)?);
    let mut shuffled: Vec<EncodedUser> = intact.iter().map(|user| (*user).clone()).collect();
    let mut order: Vec<usize> = (0..chosen.len()).collect();
    let mut found = Vec::new();
    for (place, feature) in heads.spec.features().iter().enumerate() {
        order.shuffle(&mut random);
        for (user, from) in shuffled.iter_mut().zip(&order) {
            (user.raw[place], user.features[place]) = (intact[*from].raw[place], intact[*from].features[place]);
        }
        let without = aucs(&heads.predict(&shuffled.iter().collect::<Vec<_>>(), options.threads)?);
        for (user, own) in shuffled.iter_mut().zip(&intact) {
            (user.raw[place], user.features[place]) = (own.raw[place], own.features[place]);
        }
        found.push(Importance { name: feature.name.clone(), loss: [0, 1].map(|head| whole[head] - without[head]) });
    }
    found.sort_by(|left, right| right.loss[0].total_cmp(&left.loss[0]).then_with(|| left.name.cmp(&right.name)));
    Ok(found)
}

/// The median user: each feature's middle value among those who have it, raw and transformed.
fn typical(inputs: &[&EncodedUser]) -> Vec<(f32, f32)> {
    let width = inputs.first().map_or(0, |user| user.raw.len());
    (0..width)
        .map(|place| {
            let mut values: Vec<(f32, f32)> = inputs
                .iter()
                .map(|user| (user.raw[place], user.features[place]))
                .filter(|(raw, _)| raw.is_finite())
                .collect();
            values.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
            values.get(values.len() / 2).copied().unwrap_or((f32::NAN, 0.0))
        })
        .collect()
}

/// What each feature does to this user's churn log-odds: the prediction less the one with the median user's value instead.
fn factors(
    heads: &Heads,
    user: &EncodedUser,
    typical: &[(f32, f32)],
    threads: NonZeroUsize,
) -> Result<Vec<Factor>, EvaluateError> {
    let variants: Vec<EncodedUser> = std::iter::once(user.clone())
        .chain(typical.iter().enumerate().map(|(place, (raw, feature))| {
            let mut changed = user.clone();
            (changed.raw[place], changed.features[place]) = (*raw, *feature);
            changed
        }))
        .collect();
    let answers = heads.predict(&variants.iter().collect::<Vec<_>>(), threads)?;
    let log_odds = |p: f64| {
        let p = p.clamp(1e-6, 1.0 - 1e-6);
        (p / (1.0 - p)).ln()
    };
    let own = log_odds(answers[0][0]);
    let mut found: Vec<Factor> = heads
        .spec
        .features()
        .iter()
        .zip(&answers[1..])
        .enumerate()
        .map(|(place, (feature, without))| Factor {
            name: feature.name.clone(),
            value: Some(f64::from(user.raw[place])).filter(|value| value.is_finite()),
            effect: own - log_odds(without[0]),
        })
        .filter(|factor| factor.effect.abs() > 1e-3)
        .collect();
    found.sort_by(|left, right| {
        right.effect.abs().total_cmp(&left.effect.abs()).then_with(|| left.name.cmp(&right.name))
    });
    found.truncate(FACTORS);
    Ok(found)
}
