//! The trees of the heads: fitted on the past of the validation window to learn how many pay, then on everything.

use super::super::{
    metrics::log_loss,
    parallel,
    trees::{Bins, BoostSettings, LogLoss, Sample, Watch, boost},
};
use crate::{model::Forest, train::logistic::sigmoid};

/// Forests of one head.
#[derive(Debug, Clone)]
pub(super) struct Forests {
    /// Learned from the past of the validation window alone.
    pub(super) past: Forest,
    /// Learned from everything, with as many trees.
    pub(super) all: Forest,
}

/// Examples of one head by row, with labels.
pub(super) struct HeadRows {
    pub(super) past: Vec<(usize, bool)>,
    pub(super) held: Vec<(usize, bool)>,
    pub(super) all: Vec<(usize, bool)>,
}

/// What forests are fitted to.
pub(super) struct Inputs<'a> {
    /// Raw features by example.
    pub(super) raw: &'a [f32],
    /// Features an example.
    pub(super) width: usize,
    /// The user of each example: a tree sees all of a user's examples or none.
    pub(super) users: &'a [u32],
    pub(super) settings: TreeSettings,
    pub(super) seed: u64,
    pub(super) threads: usize,
}

/// How the trees are grown; `undercurrent tune` searches for them.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct TreeSettings {
    /// Share of each tree's answer that is added.
    pub learning_rate: f64,
    /// Leaves of a tree at most.
    pub max_leaves: usize,
    /// Questions from root to leaf at most.
    pub max_depth: usize,
    /// Leaves there would be if each had the fewest rows allowed: a leaf holds at least one row of this many.
    pub leaves_of_least_rows: usize,
    /// L2 penalty of leaf values.
    pub ridge: f64,
    /// Share of the users each tree sees.
    pub row_share: f64,
    /// Share of the features each tree sees.
    pub feature_share: f64,
}

impl Default for TreeSettings {
    fn default() -> Self {
        Self {
            learning_rate: 0.03,
            max_leaves: 15,
            max_depth: 8,
            leaves_of_least_rows: 300,
            ridge: 10.0,
            row_share: 0.5,
            feature_share: 0.3,
        }
    }
}

impl TreeSettings {
    /// For a sample of `rows` rows; with drawn cuts twice the leaves, as each says less.
    pub(super) fn boost(&self, rows: usize, draws_cuts: bool, seed: u64) -> BoostSettings {
        BoostSettings {
            max_trees: 900,
            patience: 50,
            learning_rate: self.learning_rate,
            max_leaves: self.max_leaves << u32::from(draws_cuts),
            draws_cuts,
            max_depth: self.max_depth,
            min_rows: (rows / self.leaves_of_least_rows.max(1)).clamp(5, 500),
            min_curvature: 1.0,
            ridge: self.ridge,
            row_share: self.row_share,
            feature_share: self.feature_share,
            seed,
            threads: 1,
        }
    }
}

/// Forests of a head; all are averaged. The even ones look for the best cuts, the odd ones draw them and have twice the
/// leaves: forests that differ say more together than equal ones with other seeds. All read raw values: on histories whose
/// users change, a rank within the moment means another thing at the next one (the logistic regression and the network, which
/// need one scale, read ranks).
const FORESTS: usize = 4;

/// Fits the forests of both heads.
pub(super) fn fit(inputs: &Inputs<'_>, heads: &[HeadRows; 2]) -> [Forests; 2] {
    let width = inputs.width;
    let bins = Bins::of(inputs.raw, width, MAX_BINS, inputs.threads);
    let mut fitted = parallel::map(inputs.threads, 2 * FORESTS, |job| {
        let (head, number) = (job / FORESTS, job % FORESTS);
        one(&bins, inputs.users, &heads[head], &inputs.settings, number % 2 == 1, seed_of(inputs.seed, number))
    })
    .into_iter();
    [0, 1].map(|_| {
        let (past, all): (Vec<Forest>, Vec<Forest>) = fitted.by_ref().take(FORESTS).unzip();
        // The rows that are served hold ranks first.
        let mean = |forests: &[Forest]| Forest::mean(forests, &[width; FORESTS], 2 * width);
        Forests { past: mean(&past), all: mean(&all) }
    })
}

/// Bins of a feature at most.
pub(super) const MAX_BINS: usize = 127;

fn seed_of(seed: u64, number: usize) -> u64 {
    seed.wrapping_mul(1_000) + number as u64
}

/// One forest of the past, and one of everything with as many trees.
fn one(
    bins: &Bins,
    users: &[u32],
    rows: &HeadRows,
    settings: &TreeSettings,
    draws_cuts: bool,
    seed: u64,
) -> (Forest, Forest) {
    let split = |rows: &[(usize, bool)]| -> (Vec<u32>, Vec<bool>) {
        rows.iter().map(|(row, label)| (u32::try_from(*row).unwrap_or(u32::MAX), *label)).unzip()
    };
    let groups = |rows: &[u32]| -> Vec<u32> { rows.iter().map(|row| users[*row as usize]).collect() };
    let ((past, past_labels), (held, held_labels), (all, all_labels)) =
        (split(&rows.past), split(&rows.held), split(&rows.all));
    let loss = |scores: &[f64]| {
        let probabilities: Vec<f64> = scores.iter().map(|score| sigmoid(*score)).collect();
        log_loss(&held_labels, &probabilities)
    };
    let watch = Watch { rows: &held, loss: &loss };
    let objective = LogLoss { labels: &past_labels, weights: &[] };
    let sample = Sample { rows: &past, groups: &groups(&past) };
    let past_forest =
        boost(bins, sample, &objective, Some(&watch), &settings.boost(past.len(), draws_cuts, seed)).forest;
    let objective = LogLoss { labels: &all_labels, weights: &[] };
    let sample = Sample { rows: &all, groups: &groups(&all) };
    let all_settings =
        BoostSettings { max_trees: past_forest.tree_count(), ..settings.boost(all.len(), draws_cuts, seed) };
    let all_forest = boost(bins, sample, &objective, None, &all_settings).forest;
    (past_forest, all_forest)
}
