//! Trains a ranker on lists: per user, what was bought should stand above what was not (`LambdaMART`).

use std::ops::Range;

use super::lists::{ListKind, RankExamples};
use crate::{
    model::{
        Forest,
        items::{FEATURE_NAMES, FEATURE_WIDTH, Ranker},
    },
    train::trees::{Bins, BoostSettings, LambdaRank, Sample, Watch, boost},
};

/// How a ranker is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankerOptions {
    /// How trees are grown.
    pub boost: BoostSettings,
    /// Forests with seeds of their own that are added up, so that no draw decides.
    pub members: usize,
}

impl Default for RankerOptions {
    fn default() -> Self {
        let boost = BoostSettings {
            max_trees: 200,
            patience: 25,
            learning_rate: 0.1,
            max_leaves: 24,
            max_depth: 8,
            min_rows: 60,
            min_curvature: 1e-3,
            ridge: 5.0,
            row_share: 0.7,
            feature_share: 0.4,
            draws_cuts: false,
            seed: 1,
            threads: 2,
        };
        Self { boost, members: 3 }
    }
}

/// What was learned about a ranker on the newest window, before the refit on all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankerReport {
    /// Recall@20 and NDCG@10 of the trees, among the candidates that are learned from.
    pub trees: [f64; 2],
    /// The same of the fixed rule.
    pub rule: [f64; 2],
    /// Trees of each member; 0 where the rule was better.
    pub tree_count: usize,
}

impl RankerReport {
    /// Recall@20 and NDCG@10 of what is served: the trees, or the rule where it was better.
    pub fn served(&self) -> [f64; 2] {
        if self.tree_count > 0 { self.trees } else { self.rule }
    }
}

/// Lists a ranker is trained from at least.
const ENOUGH_LISTS: usize = 40;
const MAX_BINS: usize = 255;

/// Trains on windows, newest first: chooses the number of trees on the newest, then fits on all of them. Without enough
/// lists, or where trees do worse than the rule, the rule stands.
pub fn fit_ranker(
    windows: Vec<RankExamples>,
    kind: ListKind,
    options: &RankerOptions,
    report: &mut dyn FnMut(&str),
) -> (Ranker, Option<RankerReport>) {
    let none = || Forest::new(FEATURE_WIDTH, 0.0);
    let newest_count = windows.first().map_or(0, RankExamples::list_count);
    let useful: Vec<usize> = windows.iter().map(RankExamples::useful_count).collect();
    if useful.iter().sum::<usize>() < ENOUGH_LISTS {
        return (Ranker::new(rule(kind), none()), None);
    }
    let mut all = RankExamples::default();
    for window in windows {
        all.append(&window);
    }
    let bins = Bins::of(all.features(), FEATURE_WIDTH, MAX_BINS, options.boost.threads);
    let (newest, past) = all.lists().split_at(newest_count);
    let mut settings = options.boost;
    let mut found = None;
    if useful.iter().skip(1).sum::<usize>() >= ENOUGH_LISTS && useful[0] > 0 {
        let held_out = all.head(newest_count);
        let start = newest.last().map_or(0, |list| list.end);
        let watched: Vec<u32> = rows(&(0..start));
        let loss = |scores: &[f64]| -held_out.smooth_quality(|place| scores[place]);
        let watch = Watch { rows: &watched, loss: &loss };
        let boosted = fit(&bins, &all, start..all.bought().len(), past, Some(&watch), &settings);
        let rule = Ranker::new(rule(kind), none());
        let score = |place: usize| boosted.0.score(held_out.row(place));
        let measured = RankerReport {
            trees: held_out.quality(score),
            rule: held_out.quality(|place| rule.score(held_out.row(place))),
            tree_count: boosted.0.tree_count(),
        };
        report(&format!(
            "{kind:?} ranker on the newest window: recall@20 {:.4}, NDCG@10 {:.4} with {} trees; by rule {:.4}, {:.4}",
            measured.trees[0], measured.trees[1], measured.tree_count, measured.rule[0], measured.rule[1]
        ));
        found = Some(measured);
        if measured.tree_count == 0 || measured.trees.iter().sum::<f64>() <= measured.rule.iter().sum::<f64>() {
            return (rule, Some(RankerReport { tree_count: 0, ..measured }));
        }
        // The newest window adds lists, and with them a little room.
        settings.max_trees = measured.tree_count + measured.tree_count / 10;
    } else {
        settings.max_trees = settings.max_trees.min(40);
    }
    let members: Vec<Forest> = (0..options.members.max(1) as u64)
        .map(|member| {
            let settings = BoostSettings { seed: settings.seed.wrapping_mul(1_000).wrapping_add(member), ..settings };
            fit(&bins, &all, 0..all.bought().len(), all.lists(), None, &settings).0
        })
        .collect();
    (Ranker::new(vec![0.0; FEATURE_WIDTH], Forest::interleaved(&members)), found)
}

fn fit(
    bins: &Bins,
    all: &RankExamples,
    range: Range<usize>,
    lists: &[Range<usize>],
    watch: Option<&Watch<'_>>,
    settings: &BoostSettings,
) -> (Forest, Option<f64>) {
    let start = range.start;
    let shifted: Vec<Range<usize>> = lists.iter().map(|list| list.start - start..list.end - start).collect();
    let mut groups = vec![0; range.len()];
    for (number, list) in (0..).zip(&shifted) {
        groups[list.clone()].fill(number);
    }
    let objective = LambdaRank {
        relevance: &all.bought()[range.clone()],
        weights: &all.weights()[range.clone()],
        lists: &shifted,
        truncation: 20,
    };
    let rows = rows(&range);
    let boosted = boost(bins, Sample { rows: &rows, groups: &groups }, &objective, watch, settings);
    (boosted.forest, boosted.loss)
}

fn rows(range: &Range<usize>) -> Vec<u32> {
    range.clone().map(|row| u32::try_from(row).unwrap_or(u32::MAX)).collect()
}

/// Weights for shops without enough history to grow trees: own habit, then neighbours, then popularity; of unbought items
/// what neighbours and first buyers say.
fn rule(kind: ListKind) -> Vec<f32> {
    let weight_of = |name: &str| match (kind, name) {
        (ListKind::Items, "own_long_log") => 2.0,
        (_, "seen_short_log")
        | (ListKind::Items, "own_short_log" | "regression_share")
        | (ListKind::Discoveries, "regression_log" | "first_popularity_log") => 1.0,
        (ListKind::Items, "popularity_short_log") => 0.3,
        (_, "popularity_long_log" | "alike") => 0.1,
        (_, "interest_short_log") => 0.05,
        _ => 0.0,
    };
    FEATURE_NAMES.iter().map(|name| weight_of(name)).collect()
}
