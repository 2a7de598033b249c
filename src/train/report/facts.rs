//! What a report says, as numbers: the content of `report.json` and of every picture of the page.

#![expect(clippy::cast_precision_loss, reason = "counts of users and minor units stay far below 2^52")]

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    curves::{CalibrationBin, Confusion, Curve, GainRow, calibration, gains, precision_recall, roc, wilson},
    segments,
};
use crate::train::metrics::{BinaryMetrics, Interval, ListMetrics, auc_interval, paired_auc_difference, quantile};

/// Names of the heads, in the order of every pair of numbers.
pub(super) const HEADS: [&str; 2] = ["churn", "purchase"];
/// Rounds of every bootstrap.
const ROUNDS: usize = 200;
/// Shares of all users the alert table is computed for, beside the model's own threshold.
const ALERT_SHARES: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.3];

/// One predicted user and what became of them.
#[derive(Debug, Clone, Default)]
pub struct ReportUser {
    /// The id, as in the events.
    pub user_id: String,
    /// Whether the user left, whether the user bought.
    pub labels: [bool; 2],
    /// Predicted probabilities of the same.
    pub probabilities: [f64; 2],
    /// Baselines' answers by head, in the order of [`ReportInput::baselines`]; `None` where one has none.
    pub baselines: [Vec<Option<f64>>; 2],
    /// P(churn) a week before the cutoff; `None` for who was not to be scored then.
    pub churn_a_week_before: Option<f64>,
    /// Days since the last activity.
    pub silent_days: f64,
    /// Days since the first event.
    pub known_days: f64,
    /// Purchases before the cutoff.
    pub purchase_count: u64,
    /// Value expected in the churn horizon if the user stays, minor units.
    pub value_at_stake_minor: u64,
    /// The category bought most often.
    pub category: Option<String>,
    /// Month of the first event, as `2017-03`.
    pub first_month: String,
    /// Ages in days of the days with activity, newest first.
    pub active_ages: Vec<u32>,
    /// What moved the churn score most, strongest first.
    pub factors: Vec<Factor>,
    /// Weights of the network's fusion layer, by [`ReportInput::attention_names`]; empty without a network.
    pub attention: Vec<f32>,
}

/// A feature and how far it moved the churn log-odds.
#[derive(Debug, Clone, Serialize)]
pub struct Factor {
    /// The feature's name as in `features.json`.
    pub name: String,
    /// Its value in its own unit; `None` when missing.
    pub value: Option<f64>,
    /// Change of the churn log-odds; positive means a higher risk.
    pub effect: f64,
}

/// What a feature is worth: the loss of ROC-AUC when its values are shuffled among users.
#[derive(Debug, Clone, Serialize)]
pub struct Importance {
    /// The feature, or the group of features.
    pub name: String,
    /// Loss of ROC-AUC, churn and purchase.
    pub loss: [f64; 2],
}

/// A part of the method and what the rest is worth without it.
#[derive(Debug, Clone, Serialize)]
pub struct Ablation {
    /// The part taken out.
    pub part: String,
    /// ROC-AUC without it less ROC-AUC with it, by head; `None` where it does not apply.
    pub change: [Option<Interval>; 2],
}

/// A model beside the served one.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    /// Its name.
    pub name: String,
    /// Thresholds chosen on validation data, by head.
    pub thresholds: [f64; 2],
    /// Whether it is a member of what is served, and so no rival.
    pub is_member: bool,
}

/// Everything a report is made of.
#[derive(Debug, Clone, Default)]
pub struct ReportInput {
    /// What was evaluated, for the title.
    pub title: String,
    /// The cutoff, milliseconds since the Unix epoch.
    pub cutoff_ms: i64,
    /// Seed of the training.
    pub seed: u64,
    /// Days of history that make a user one to predict.
    pub history_days: u32,
    /// Days without activity that count as churn.
    pub churn_days: u32,
    /// Days in which a purchase counts.
    pub purchase_days: u32,
    /// The other models: baselines, and members of what is served.
    pub baselines: Vec<Baseline>,
    /// Thresholds chosen on validation data, by head.
    pub thresholds: [f64; 2],
    /// All predicted users.
    pub users: Vec<ReportUser>,
    /// List metrics by list (`items`, `discoveries`) and model.
    pub lists: BTreeMap<String, BTreeMap<String, ListMetrics>>,
    /// Names of the weights in [`ReportUser::attention`].
    pub attention_names: Vec<String>,
    /// Most important first; empty when it was not measured.
    pub importance: Vec<Importance>,
    /// Empty when it was not measured.
    pub ablation: Vec<Ablation>,
}

/// A model in the comparison of one head.
#[derive(Debug, Clone, Serialize)]
pub struct ModelRow {
    /// `model` or the baseline's name.
    pub name: String,
    /// Whether it is a member of the model, and so no rival.
    pub is_member: bool,
    /// Metrics on all users.
    pub metrics: BinaryMetrics,
    /// 95 % interval of its ROC-AUC, bootstrap over users.
    pub roc_auc_interval: Option<Interval>,
    /// 95 % interval of the model's ROC-AUC less this one's, paired by user; absent for the model itself.
    pub lead: Option<Interval>,
}

/// Everything said of one head.
#[derive(Debug, Clone, Serialize)]
pub struct HeadFacts {
    /// `churn` or `purchase`.
    pub name: &'static str,
    /// The model first, then its members and the baselines, best first.
    pub models: Vec<ModelRow>,
    /// False against true positive rate: the model, and the best baseline.
    pub roc: Vec<Curve>,
    /// Recall against precision of the same two.
    pub precision_recall: Vec<Curve>,
    /// Predicted against observed rates of the model.
    pub calibration: Vec<CalibrationBin>,
    /// By tenth of all users, riskiest first.
    pub gains: Vec<GainRow>,
    /// At the threshold chosen on validation data.
    pub confusion: Confusion,
    /// The model within groups of users.
    pub segments: Vec<SegmentRow>,
}

/// The model within one group of users.
#[derive(Debug, Clone, Serialize)]
pub struct SegmentRow {
    /// What groups: `history`, `category`, `first month`.
    pub by: &'static str,
    /// The group.
    pub name: String,
    /// Metrics within it, at the common threshold.
    pub metrics: BinaryMetrics,
    /// 95 % interval of the ROC-AUC within it.
    pub roc_auc_interval: Option<Interval>,
}

/// What alerts would have been at one threshold.
#[derive(Debug, Clone, Serialize)]
pub struct AlertRow {
    /// Alert from this churn probability on.
    pub threshold: f64,
    /// Whether it is the threshold chosen on validation data.
    pub chosen: bool,
    /// Users at or above it at the cutoff.
    pub user_count: usize,
    /// Of them those who were below it a week before: new alerts a week.
    pub new_count: usize,
    /// Share of the users at or above it who left.
    pub precision: f64,
    /// 95 % interval of that share (Wilson).
    pub precision_interval: [f64; 2],
    /// Share of those who left that are at or above it.
    pub recall: f64,
    /// Median days from the cutoff until the silence of those rightly named reaches the churn horizon.
    pub days_ahead: Option<f64>,
}

/// Money at stake in one tenth of all users, riskiest first.
#[derive(Debug, Clone, Serialize)]
pub struct MoneyRow {
    /// 1 is the riskiest tenth.
    pub tenth: usize,
    /// Value expected of them if they stay, minor units.
    pub at_stake_minor: u64,
    /// The part of it that belongs to users who left.
    pub lost_minor: u64,
}

/// One user, told as a story.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainedUser {
    /// Why this one was taken.
    pub taken_as: &'static str,
    /// The id.
    pub user_id: String,
    /// P(churn), P(purchase).
    pub probabilities: [f64; 2],
    /// Left, bought.
    pub labels: [bool; 2],
    /// Days since the last activity.
    pub silent_days: f64,
    /// Purchases before the cutoff.
    pub purchase_count: u64,
    /// Minor units.
    pub value_at_stake_minor: u64,
    /// Ages in days of the days with activity, newest first, within half a year.
    pub active_ages: Vec<u32>,
    /// What moved the score.
    pub factors: Vec<Factor>,
}

/// The report.
#[derive(Debug, Clone, Serialize)]
pub struct ReportFacts {
    /// What was evaluated.
    pub title: String,
    /// Milliseconds since the Unix epoch.
    pub cutoff_ms: i64,
    /// Seed of the training.
    pub seed: u64,
    /// Days.
    pub history_days: u32,
    /// Days.
    pub churn_days: u32,
    /// Days.
    pub purchase_days: u32,
    /// Predicted users.
    pub user_count: usize,
    /// Churn and purchase.
    pub heads: Vec<HeadFacts>,
    /// List metrics by list and model.
    pub lists: BTreeMap<String, BTreeMap<String, ListMetrics>>,
    /// By threshold, strictest first.
    pub alerts: Vec<AlertRow>,
    /// Ten rows.
    pub money: Vec<MoneyRow>,
    /// Mean weight of each part of the network's input, for users who left and who stayed.
    pub attention: BTreeMap<String, [f64; 2]>,
    /// Most important first.
    pub importance: Vec<Importance>,
    /// Parts removed in turn.
    pub ablation: Vec<Ablation>,
    /// Up to five.
    pub explained: Vec<ExplainedUser>,
}

impl ReportFacts {
    /// Computes everything.
    pub fn of(input: &ReportInput) -> Self {
        Self {
            title: input.title.clone(),
            cutoff_ms: input.cutoff_ms,
            seed: input.seed,
            history_days: input.history_days,
            churn_days: input.churn_days,
            purchase_days: input.purchase_days,
            user_count: input.users.len(),
            heads: (0..HEADS.len()).map(|head| head_facts(input, head)).collect(),
            lists: input.lists.clone(),
            alerts: alerts(input),
            money: money(&input.users),
            attention: attention(input),
            importance: input.importance.clone(),
            ablation: input.ablation.clone(),
            explained: explained(input),
        }
    }
}

fn head_facts(input: &ReportInput, head: usize) -> HeadFacts {
    let labels: Vec<bool> = input.users.iter().map(|user| user.labels[head]).collect();
    let model: Vec<f64> = input.users.iter().map(|user| user.probabilities[head]).collect();
    let threshold = input.thresholds[head];
    let mut baselines: Vec<(ModelRow, Vec<f64>)> = Vec::new();
    for (place, baseline) in input.baselines.iter().enumerate() {
        let answers: Option<Vec<f64>> =
            input.users.iter().map(|user| user.baselines[head].get(place).copied().flatten()).collect();
        let Some(scores) = answers else { continue };
        let row = ModelRow {
            name: baseline.name.clone(),
            is_member: baseline.is_member,
            metrics: BinaryMetrics::of(&labels, &scores, baseline.thresholds[head]),
            roc_auc_interval: auc_interval(&labels, &scores, ROUNDS, input.seed),
            lead: paired_auc_difference(&labels, &model, &scores, ROUNDS, input.seed),
        };
        baselines.push((row, scores));
    }
    baselines.sort_by(|left, right| {
        right.0.metrics.roc_auc.unwrap_or(0.0).total_cmp(&left.0.metrics.roc_auc.unwrap_or(0.0))
    });
    let mut curves = vec![("model".to_owned(), &model)];
    let rival = baselines.iter().find(|(row, _)| !row.is_member);
    curves.extend(rival.map(|(row, scores)| (row.name.clone(), scores)));
    let roc = curves.iter().map(|(name, scores)| roc(name, &labels, scores)).collect();
    let precision_recall = curves.iter().map(|(name, scores)| precision_recall(name, &labels, scores)).collect();
    let own = ModelRow {
        name: "model".to_owned(),
        is_member: false,
        metrics: BinaryMetrics::of(&labels, &model, threshold),
        roc_auc_interval: auc_interval(&labels, &model, ROUNDS, input.seed),
        lead: None,
    };
    HeadFacts {
        name: HEADS[head],
        roc,
        precision_recall,
        calibration: calibration(&labels, &model),
        gains: gains(&labels, &model),
        confusion: Confusion::of(&labels, &model, threshold),
        segments: segments::rows(&input.users, head, threshold, ROUNDS, input.seed),
        models: std::iter::once(own).chain(baselines.into_iter().map(|(row, _)| row)).collect(),
    }
}

/// Places of users, riskiest first; equal risks by id.
fn by_risk(users: &[ReportUser]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..users.len()).collect();
    order.sort_by(|left, right| {
        let (left, right) = (&users[*left], &users[*right]);
        right.probabilities[0].total_cmp(&left.probabilities[0]).then_with(|| left.user_id.cmp(&right.user_id))
    });
    order
}

fn alerts(input: &ReportInput) -> Vec<AlertRow> {
    let order = by_risk(&input.users);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
    let at_share = |share: f64| order.get((share * order.len() as f64) as usize);
    let mut thresholds: Vec<(f64, bool)> = ALERT_SHARES
        .iter()
        .filter_map(|share| at_share(*share).map(|place| (input.users[*place].probabilities[0], false)))
        .filter(|(threshold, _)| threshold.total_cmp(&input.thresholds[0]).is_ne())
        .collect();
    thresholds.push((input.thresholds[0], true));
    thresholds.sort_by(|left, right| right.0.total_cmp(&left.0));
    thresholds.dedup_by(|left, right| left.0.total_cmp(&right.0).is_eq());
    thresholds.into_iter().map(|(threshold, chosen)| alert_row(input, threshold, chosen)).collect()
}

fn alert_row(input: &ReportInput, threshold: f64, chosen: bool) -> AlertRow {
    let named: Vec<&ReportUser> = input.users.iter().filter(|user| user.probabilities[0] >= threshold).collect();
    let left_count = input.users.iter().filter(|user| user.labels[0]).count();
    let right: Vec<&&ReportUser> = named.iter().filter(|user| user.labels[0]).collect();
    let mut ahead: Vec<f64> =
        right.iter().map(|user| (f64::from(input.churn_days) - user.silent_days).max(0.0)).collect();
    ahead.sort_unstable_by(f64::total_cmp);
    let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    AlertRow {
        threshold,
        chosen,
        user_count: named.len(),
        new_count: named.iter().filter(|user| user.churn_a_week_before.is_none_or(|before| before < threshold)).count(),
        precision: share(right.len(), named.len()),
        precision_interval: wilson(right.len(), named.len()),
        recall: share(right.len(), left_count),
        days_ahead: (!ahead.is_empty()).then(|| quantile(&ahead, 0.5)),
    }
}

fn money(users: &[ReportUser]) -> Vec<MoneyRow> {
    const TENTHS: usize = 10;
    let order = by_risk(users);
    let row = |tenth: usize| {
        let of = &order[tenth * order.len() / TENTHS..(tenth + 1) * order.len() / TENTHS];
        let value = |gone_only: bool| {
            of.iter()
                .map(|place| &users[*place])
                .filter(|user| !gone_only || user.labels[0])
                .map(|user| user.value_at_stake_minor)
                .sum()
        };
        MoneyRow { tenth: tenth + 1, at_stake_minor: value(false), lost_minor: value(true) }
    };
    (0..TENTHS).map(row).collect()
}

fn attention(input: &ReportInput) -> BTreeMap<String, [f64; 2]> {
    let mean = |place: usize, gone: bool| {
        let weights: Vec<f64> = input
            .users
            .iter()
            .filter(|user| user.labels[0] == gone)
            .filter_map(|user| user.attention.get(place).copied().map(f64::from))
            .collect();
        if weights.is_empty() { 0.0 } else { weights.iter().sum::<f64>() / weights.len() as f64 }
    };
    if input.users.iter().all(|user| user.attention.is_empty()) {
        return BTreeMap::new();
    }
    let names = input.attention_names.iter().enumerate();
    names.map(|(place, name)| (name.clone(), [mean(place, true), mean(place, false)])).collect()
}

/// Five users a reader learns most from: named and gone, named and stayed, missed, safe, and the costliest of those named.
pub(super) fn explained_places(input: &ReportInput) -> Vec<(&'static str, usize)> {
    let order = by_risk(&input.users);
    let named = |user: &ReportUser| user.probabilities[0] >= input.thresholds[0];
    let first = |want: &dyn Fn(&ReportUser) -> bool| order.iter().copied().find(|place| want(&input.users[*place]));
    let last =
        |want: &dyn Fn(&ReportUser) -> bool| order.iter().rev().copied().find(|place| want(&input.users[*place]));
    let costliest = order
        .iter()
        .copied()
        .filter(|place| named(&input.users[*place]))
        .max_by_key(|place| input.users[*place].value_at_stake_minor);
    let taken = [
        ("the highest risk that was right", first(&|user| user.labels[0])),
        ("the highest risk that was wrong", first(&|user| !user.labels[0])),
        ("the leaver the model was surest would stay", last(&|user| user.labels[0])),
        ("the lowest risk", last(&|user| !user.labels[0])),
        ("the most money among those named", costliest),
    ];
    let mut seen = std::collections::BTreeSet::new();
    taken
        .into_iter()
        .filter_map(|(taken_as, place)| Some((taken_as, place?)))
        .filter(|(_, place)| seen.insert(*place))
        .collect()
}

fn explained(input: &ReportInput) -> Vec<ExplainedUser> {
    explained_places(input)
        .into_iter()
        .map(|(taken_as, place)| {
            let user = &input.users[place];
            ExplainedUser {
                taken_as,
                user_id: user.user_id.clone(),
                probabilities: user.probabilities,
                labels: user.labels,
                silent_days: user.silent_days,
                purchase_count: user.purchase_count,
                value_at_stake_minor: user.value_at_stake_minor,
                active_ages: user.active_ages.iter().copied().filter(|age| *age < 182).collect(),
                factors: user.factors.clone(),
            }
        })
        .collect()
}
