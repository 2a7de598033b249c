//! The promotion gate: a candidate against the champion, on users and labels that the candidate has not seen.
//!
//! Both models score the same users at one moment, as the daemon would; what came of the users in the horizons after it is
//! known exactly. The interval of the difference is a bootstrap over users, paired: each round measures both models on the
//! same drawn users. Who passes must be better by more than chance allows, must not be clearly worse in anything else, and
//! must have shown on this window that it can tell users apart at all: where labels or features are broken every model
//! guesses, and the newest guess must not be promoted.

use std::{collections::BTreeMap, sync::Arc};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

use super::{
    examples::unit_hash,
    history::{History, HistoryError},
    labels::{LabelMark, is_eligible},
    metrics::{BinaryMetrics, Interval, log_loss, quantile, roc_auc},
    schedule::Horizons,
};
use crate::{
    graph::UserGraph,
    score::{ModelInfo, ScoreRequest, Scored},
    scoring::{ScoreError, Scorer},
};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateMetric {
    /// Area under the ROC curve of churn: whether those who leave are ranked before those who stay.
    #[default]
    ChurnRocAuc,
    /// Mean negative log-likelihood of churn: also whether the probabilities are right. Lower is better.
    ChurnLogLoss,
    /// The first of purchase.
    PurchaseRocAuc,
    /// The second of purchase.
    PurchaseLogLoss,
}

impl GateMetric {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChurnRocAuc => "churn ROC-AUC",
            Self::ChurnLogLoss => "churn log-loss",
            Self::PurchaseRocAuc => "purchase ROC-AUC",
            Self::PurchaseLogLoss => "purchase log-loss",
        }
    }

    fn head(self) -> usize {
        match self {
            Self::ChurnRocAuc | Self::ChurnLogLoss => 0,
            Self::PurchaseRocAuc | Self::PurchaseLogLoss => 1,
        }
    }

    /// How good these probabilities are: higher is better. `None` when only one class occurs.
    fn goodness(self, labels: &[bool], probabilities: &[f64]) -> Option<f64> {
        match self {
            Self::ChurnRocAuc | Self::PurchaseRocAuc => roc_auc(labels, probabilities),
            Self::ChurnLogLoss | Self::PurchaseLogLoss => Some(-log_loss(labels, probabilities)),
        }
    }
}

/// What a candidate must do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateParams {
    /// What is compared.
    pub metric: GateMetric,
    /// The lower end of the gain's interval must be above it. Negative: 'not worse by more than this' is enough.
    pub min_gain: f64,
    /// Share of bootstrap rounds inside the interval, above 0 and below 1.
    pub confidence: f64,
    /// ROC-AUC of either head may be lower by this much at most, and log-loss higher.
    pub max_loss: f64,
    /// Users of the window at most; more are drawn by hash.
    pub max_users: usize,
    /// Rounds of the bootstrap.
    pub rounds: usize,
    /// Seed of the bootstrap and of the draw.
    pub seed: u64,
}

impl Default for GateParams {
    fn default() -> Self {
        Self {
            metric: GateMetric::default(),
            min_gain: 0.0,
            confidence: 0.95,
            max_loss: 0.01,
            max_users: 20_000,
            rounds: 500,
            seed: 1,
        }
    }
}

/// Names of the heads, in the order of [`Window::labels`].
const HEADS: [&str; 2] = ["churn", "purchase"];
/// Users of either class below which nothing can be said.
const MIN_CLASS: usize = 20;

/// Users at a moment with what came of them.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// The moment: nothing at or after it is seen by the models.
    pub at_ms: i64,
    /// The users as they were then.
    pub requests: Vec<ScoreRequest<UserGraph>>,
    /// Whether each left, and whether each bought; `None` where a bounded graph does not say it exactly.
    pub labels: Vec<[Option<bool>; 2]>,
}

impl Window {
    /// Reads the users who were active before `at_ms`, one of the moments that `history` shows, and what they did after it.
    pub fn read(
        history: &impl History,
        at_ms: i64,
        horizons: &Horizons,
        params: &GateParams,
    ) -> Result<Self, HistoryError> {
        let ends_ms = [at_ms + horizons.churn_ms(), at_ms + horizons.purchase_ms()];
        let mut moments_ms = vec![at_ms, ends_ms[0], ends_ms[1]];
        moments_ms.sort_unstable();
        moments_ms.dedup();
        let users = history.users();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
        let share = params.max_users as f64 / users.len().max(1) as f64;
        let drawn = |user: usize| share >= 1.0 || unit_hash(users[user].as_str(), params.seed) < share;
        let history_ms = horizons.history_ms();
        let seen = history.observe(&moments_ms, &drawn, &|user, place, graph: &UserGraph| {
            let shown = (place == 0 && is_eligible(graph, at_ms, history_ms)).then(|| Arc::new(graph.clone()));
            Some((user, place, LabelMark::of(graph), shown))
        })?;
        let mut window = Self { at_ms, ..Self::default() };
        for rows in seen.chunk_by(|left, right| left.0 == right.0) {
            let [(_, 0, mark, Some(graph)), later @ ..] = rows else { continue };
            let mark_at = |end_ms: i64| {
                let place = moments_ms.iter().position(|moment_ms| *moment_ms == end_ms)?;
                later.iter().find(|row| row.1 == place).map(|row| row.2)
            };
            window.requests.push(ScoreRequest { graph: Arc::clone(graph), as_of_ms: at_ms });
            window.labels.push([
                mark_at(ends_ms[0]).map(|later| mark.churned_until(&later)),
                mark_at(ends_ms[1]).map(|later| mark.purchased_until(&later)),
            ]);
        }
        Ok(window)
    }

    /// Scores every user of the window. Blocks.
    pub fn score_blocking(&self, scorer: &dyn Scorer) -> Result<Scores, ScoreError> {
        const AT_ONCE: usize = 1_024;
        let mut scores = Scores::default();
        for requests in self.requests.chunks(AT_ONCE) {
            for scored in scorer.score_blocking(requests)? {
                scores.push(&scored);
            }
        }
        Ok(scores)
    }
}

/// What one model says of the users of a window.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    /// The model.
    pub model: Option<Arc<ModelInfo>>,
    /// Probabilities of each head.
    pub probabilities: [Vec<f64>; 2],
}

impl Scores {
    fn push(&mut self, scored: &Scored) {
        self.probabilities[0].push(f64::from(scored.churn_probability.get()));
        self.probabilities[1].push(f64::from(scored.purchase_probability.get()));
        self.model.get_or_insert_with(|| Arc::clone(&scored.model));
    }

    fn version(&self) -> String {
        self.model.as_ref().map_or_else(String::new, |model| model.version.to_string())
    }
}

/// What the gate found; also the content of `gate.json` beside a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the candidate may become the champion.
    pub passed: bool,
    /// Why not; empty when it may.
    pub reasons: Vec<String>,
    /// When it was judged, wall clock, milliseconds since the Unix epoch.
    pub judged_ms: i64,
    /// The moment of the window.
    pub window_ms: i64,
    /// Users compared.
    pub user_count: usize,
    /// What was compared.
    pub metric: GateMetric,
    /// The candidate's gain over the champion, with its interval at the configured confidence; absent when it cannot be
    /// measured.
    pub gain: Option<Interval>,
    /// Version of the candidate.
    pub candidate: String,
    /// Version of the champion.
    pub champion: String,
    /// Whether the champion was trained on a time that reaches into the window, which flatters it.
    pub champion_saw_window: bool,
    /// Metrics of the candidate by head.
    pub candidate_metrics: BTreeMap<String, BinaryMetrics>,
    /// Metrics of the champion by head.
    pub champion_metrics: BTreeMap<String, BinaryMetrics>,
}

impl Verdict {
    /// In one line, for people.
    pub fn in_words(&self) -> String {
        let gain = self.gain.map_or_else(
            || "no gain could be measured".to_owned(),
            |gain| format!("{} {:+.4} ({:+.4} to {:+.4})", self.metric.name(), gain.median, gain.low, gain.high),
        );
        let gain = if self.champion_saw_window {
            format!("{gain}, against a champion that may have learned from what these users did next")
        } else {
            gain
        };
        let users = self.user_count;
        if self.passed {
            format!("passed on {users} users: {gain}")
        } else {
            format!("kept back on {users} users: {gain}; {}", self.reasons.join("; "))
        }
    }
}

/// Holds a candidate against the champion. `judged_ms` is the wall clock.
///
/// # Panics
/// When the scores are not of the window's users.
pub fn judge(window: &Window, candidate: &Scores, champion: &Scores, params: &GateParams, judged_ms: i64) -> Verdict {
    let mut verdict = Verdict {
        passed: false,
        reasons: Vec::new(),
        judged_ms,
        window_ms: window.at_ms,
        user_count: window.labels.len(),
        metric: params.metric,
        gain: None,
        candidate: candidate.version(),
        champion: champion.version(),
        champion_saw_window: false,
        candidate_metrics: BTreeMap::new(),
        champion_metrics: BTreeMap::new(),
    };
    for (head, name) in HEADS.into_iter().enumerate() {
        let known: Vec<usize> = (0..window.labels.len()).filter(|user| window.labels[*user][head].is_some()).collect();
        let labels: Vec<bool> = known.iter().filter_map(|user| window.labels[*user][head]).collect();
        let pick = |scores: &Scores| known.iter().map(|user| scores.probabilities[head][*user]).collect::<Vec<f64>>();
        let pair = Pair { labels, candidate: pick(candidate), champion: pick(champion) };
        pair.judge(head, name, params, &mut verdict);
    }
    verdict.passed = verdict.reasons.is_empty() && verdict.gain.is_some();
    verdict
}

/// One head of both models on the users with a label.
struct Pair {
    labels: Vec<bool>,
    candidate: Vec<f64>,
    champion: Vec<f64>,
}

impl Pair {
    fn judge(&self, head: usize, name: &str, params: &GateParams, verdict: &mut Verdict) {
        let positives = self.labels.iter().filter(|label| **label).count();
        let fewest = positives.min(self.labels.len() - positives);
        if fewest < MIN_CLASS {
            if params.metric.head() == head {
                let count = self.labels.len();
                verdict.reasons.push(format!(
                    "{name}: of {count} users {positives} are positive, and {MIN_CLASS} of either kind are needed"
                ));
            }
            return;
        }
        let measured = |probabilities: &[f64]| BinaryMetrics::of(&self.labels, probabilities, 0.5);
        let (new, old) = (measured(&self.candidate), measured(&self.champion));
        verdict.candidate_metrics.insert(name.to_owned(), new);
        verdict.champion_metrics.insert(name.to_owned(), old);
        let chance = |labels: &[bool], new: &[f64], _: &[f64]| roc_auc(labels, new);
        if self.interval(params, chance).is_none_or(|auc| auc.low <= 0.5) {
            verdict.reasons.push(format!(
                "{name}: the candidate cannot tell users apart here (ROC-AUC {:.4}); labels or features may be broken",
                new.roc_auc.unwrap_or(0.5)
            ));
        }
        if new.roc_auc.zip(old.roc_auc).is_some_and(|(new, old)| old - new > params.max_loss) {
            verdict.reasons.push(format!(
                "{name}: ROC-AUC falls from {:.4} to {:.4}, more than {}",
                old.roc_auc.unwrap_or_default(),
                new.roc_auc.unwrap_or_default(),
                params.max_loss
            ));
        }
        if new.log_loss - old.log_loss > params.max_loss {
            verdict.reasons.push(format!(
                "{name}: log-loss rises from {:.4} to {:.4}, more than {}",
                old.log_loss, new.log_loss, params.max_loss
            ));
        }
        if params.metric.head() != head {
            return;
        }
        let gain = |labels: &[bool], new: &[f64], old: &[f64]| {
            Some(params.metric.goodness(labels, new)? - params.metric.goodness(labels, old)?)
        };
        verdict.gain = self.interval(params, gain);
        if let Some(gain) = verdict.gain.filter(|gain| gain.low <= params.min_gain) {
            verdict.reasons.push(format!(
                "the gain in {} is not above {} with {} % confidence (at least {:+.4})",
                params.metric.name(),
                params.min_gain,
                params.confidence * 100.0,
                gain.low
            ));
        }
    }

    /// Bootstrap over users of a number that is computed from labels, candidate and champion.
    fn interval(&self, params: &GateParams, of: impl Fn(&[bool], &[f64], &[f64]) -> Option<f64>) -> Option<Interval> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(params.seed);
        let count = self.labels.len();
        let mut values = Vec::with_capacity(params.rounds);
        for _ in 0..params.rounds {
            let drawn: Vec<usize> = (0..count).map(|_| random.random_range(0..count)).collect();
            let labels: Vec<bool> = drawn.iter().map(|user| self.labels[*user]).collect();
            let pick = |all: &[f64]| drawn.iter().map(|user| all[*user]).collect::<Vec<f64>>();
            values.extend(of(&labels, &pick(&self.candidate), &pick(&self.champion)));
        }
        values.sort_unstable_by(f64::total_cmp);
        let outside = (1.0 - params.confidence) / 2.0;
        (!values.is_empty()).then(|| Interval {
            low: quantile(&values, outside),
            median: quantile(&values, 0.5),
            high: quantile(&values, 1.0 - outside),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: usize = 1_000;

    /// Fewer rounds: what is tested does not hang by a hair.
    fn fast() -> GateParams {
        GateParams { rounds: 100, ..GateParams::default() }
    }

    /// A window in which a number in `[0, 1)` of each user decides both labels, more or less.
    fn window() -> (Window, Vec<f64>) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let truth: Vec<f64> = (0..USERS).map(|_| random.random::<f64>()).collect();
        let labels = truth.iter().map(|p| [Some(random.random::<f64>() < *p), Some(random.random::<f64>() > *p)]);
        (Window { labels: labels.collect(), ..Window::default() }, truth)
    }

    /// A model that sees the truth through noise: 0 is perfect, 1 blind.
    fn model(truth: &[f64], noise: f64) -> Scores {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let churn: Vec<f64> = truth.iter().map(|p| (1.0 - noise) * p + noise * random.random::<f64>()).collect();
        let purchase = churn.iter().map(|p| 1.0 - p).collect();
        Scores { model: None, probabilities: [churn, purchase] }
    }

    fn check(window: &Window, candidate: &Scores, champion: &Scores, params: &GateParams, reasons: &[&str]) {
        let verdict = judge(window, candidate, champion, params, 0);
        assert_eq!(verdict.passed, reasons.is_empty(), "{verdict:?}");
        assert_eq!(verdict.reasons.len(), reasons.len(), "{verdict:?}");
        for (found, expected) in verdict.reasons.iter().zip(reasons) {
            assert!(found.contains(expected), "`{expected}` is not in {verdict:?}");
        }
    }

    #[test]
    fn the_better_one_passes_and_its_equal_does_not() {
        let (window, truth) = window();
        let (good, bad) = (model(&truth, 0.1), model(&truth, 0.6));
        let params = GateParams { max_loss: 1.0, ..fast() };
        check(&window, &good, &bad, &params, &[]);
        check(&window, &good, &good, &params, &["is not above 0 with 95 % confidence"]);
        check(&window, &bad, &good, &params, &["is not above 0"]);
        // 'Not worse by more than this' lets an equal one in, and one that is clearly worse still not.
        let lenient = GateParams { min_gain: -0.02, ..params };
        check(&window, &good, &good, &lenient, &[]);
        check(&window, &bad, &good, &lenient, &["is not above -0.02"]);
        let loss = GateParams { metric: GateMetric::PurchaseLogLoss, ..params };
        check(&window, &good, &bad, &loss, &[]);
    }

    #[test]
    fn nothing_else_may_become_worse() {
        let (window, truth) = window();
        let (good, bad) = (model(&truth, 0.1), model(&truth, 0.6));
        let mixed =
            Scores { model: None, probabilities: [good.probabilities[0].clone(), bad.probabilities[1].clone()] };
        let champion =
            Scores { model: None, probabilities: [bad.probabilities[0].clone(), good.probabilities[1].clone()] };
        check(&window, &mixed, &champion, &fast(), &["purchase: ROC-AUC falls", "purchase: log-loss rises"]);
    }

    #[test]
    fn shuffled_labels_let_nobody_in() {
        let (mut window, truth) = window();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(11);
        for place in (1..window.labels.len()).rev() {
            window.labels.swap(place, random.random_range(0..=place));
        }
        // One that says the same of everyone has the best log-loss there is on such labels, and must not win by it.
        let rate = |head: usize| {
            let hits = window.labels.iter().filter(|labels| labels[head] == Some(true)).count();
            vec![f64::from(u32::try_from(hits).unwrap()) / f64::from(u32::try_from(USERS).unwrap()); USERS]
        };
        let flat = Scores { model: None, probabilities: [rate(0), rate(1)] };
        let params = GateParams { metric: GateMetric::ChurnLogLoss, max_loss: 1.0, ..fast() };
        let broken =
            ["churn: the candidate cannot tell users apart", "purchase: the candidate cannot tell users apart"];
        check(&window, &flat, &model(&truth, 0.1), &params, &broken);
        let verdict = judge(&window, &model(&truth, 0.0), &model(&truth, 0.6), &fast(), 0);
        assert!(!verdict.passed, "{verdict:?}");
    }

    #[test]
    fn a_handful_of_users_proves_nothing() {
        let (mut window, truth) = window();
        window.labels.truncate(30);
        let few = |noise| {
            let mut scores = model(&truth, noise);
            scores.probabilities.iter_mut().for_each(|list| list.truncate(30));
            scores
        };
        check(&window, &few(0.0), &few(0.9), &fast(), &["20 of either kind are needed"]);
    }
}
