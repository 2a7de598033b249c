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
    /// The same of the best fixed rule.
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
    let newest_count = windows.first().map_or(0, RankExamples::list_count);
    let useful: Vec<usize> = windows.iter().map(RankExamples::useful_count).collect();
    if useful.iter().sum::<usize>() < ENOUGH_LISTS {
        return (best_rule(kind, &RankExamples::default()).0, None);
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
        let (rule, rule_quality) = best_rule(kind, &held_out);
        let score = |place: usize| boosted.0.score(held_out.row(place));
        let measured =
            RankerReport { trees: held_out.quality(score), rule: rule_quality, tree_count: boosted.0.tree_count() };
        report(&format!(
            "{kind:?} ranker on the newest window: recall@20 {:.4}, NDCG@10 {:.4} with {} trees; by rule {:.4}, {:.4}",
            measured.trees[0], measured.trees[1], measured.tree_count, measured.rule[0], measured.rule[1]
        ));
        found = Some(measured);
        if measured.tree_count == 0 || sum(measured.trees) <= sum(measured.rule) {
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

/// Weights of features by name.
type Rule = &'static [(&'static str, f32)];

/// The rules that stand where trees cannot be grown or do no better: the one where nothing tells which is best, and others.
///
/// Of the items: own habit, then neighbours, then popularity; or, for what is hardly ever taken twice (films, articles), what
/// neighbours say of unbought ones. Of unbought items: what neighbours and first buyers say together, or neighbours alone.
fn rules(kind: ListKind) -> (Rule, &'static [Rule]) {
    /// Pushes whatever was bought below everything else.
    const LAST: f32 = -1_000.0;
    /// Orders what the rest says nothing of.
    const TIE: f32 = 1e-4;
    const HABIT: Rule = &[
        ("own_long_log", 2.0),
        ("own_short_log", 1.0),
        ("seen_short_log", 1.0),
        ("regression_share", 1.0),
        ("popularity_short_log", 0.3),
        ("popularity_long_log", 0.1),
        ("alike", 0.1),
        ("interest_short_log", 0.05),
    ];
    const FIRST: Rule = &[
        ("own_count_log", LAST),
        ("seen_short_log", 1.0),
        ("regression_log", 1.0),
        ("first_popularity_log", 1.0),
        ("popularity_long_log", 0.1),
        ("alike", 0.1),
        ("interest_short_log", 0.05),
    ];
    const NEIGHBOURS: Rule =
        &[("own_count_log", LAST), ("seen_short_log", 1.0), ("regression", 1.0), ("popularity_short_log", TIE)];
    match kind {
        ListKind::Items => (HABIT, &[FIRST, NEIGHBOURS]),
        ListKind::Discoveries => (FIRST, &[NEIGHBOURS]),
    }
}

/// The rule that does best on the lists, with its recall@20 and NDCG@10.
fn best_rule(kind: ListKind, lists: &RankExamples) -> (Ranker, [f64; 2]) {
    let measured = |rule: &Rule| {
        let weight_of = |name: &&str| rule.iter().find(|(known, _)| known == name).map_or(0.0, |(_, weight)| *weight);
        let weights = FEATURE_NAMES.iter().map(weight_of).collect();
        let ranker = Ranker::new(weights, Forest::new(FEATURE_WIDTH, 0.0));
        let quality = lists.quality(|place| ranker.score(lists.row(place)));
        (ranker, quality)
    };
    let (first, others) = rules(kind);
    let better =
        |best: (Ranker, [f64; 2]), other: (Ranker, [f64; 2])| if sum(other.1) > sum(best.1) { other } else { best };
    others.iter().map(measured).fold(measured(&first), better)
}

fn sum(quality: [f64; 2]) -> f64 {
    quality.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists of ten items that were bought before and never again, and of twenty new ones, of which neighbours name two.
    fn never_again(lists: usize) -> RankExamples {
        let place = |name: &str| FEATURE_NAMES.iter().position(|known| *known == name).unwrap();
        let [count, long, neighbours] = ["own_count_log", "own_long_log", "regression"].map(place);
        let mut features = vec![f32::NAN; lists * 30 * FEATURE_WIDTH];
        let mut bought = vec![0; lists * 30];
        for (number, row) in features.chunks_exact_mut(FEATURE_WIDTH).enumerate() {
            let (list, candidate) = (number / 30, number % 30);
            if candidate < 10 {
                (row[count], row[long]) = (0.7, 2.0);
            } else {
                let is_named = candidate % 10 == list % 10;
                row[neighbours] = if is_named { 0.3 } else { [0.1, 0.2][number % 2] };
                bought[number] = u8::from(is_named);
            }
        }
        RankExamples::made(features, bought, 30)
    }

    #[test]
    fn what_is_never_bought_again_stands_behind_what_neighbours_name() {
        let boost = BoostSettings { max_trees: 1, max_leaves: 2, ..RankerOptions::default().boost };
        let options = RankerOptions { boost, members: 1 };
        let windows = vec![never_again(60), never_again(60)];
        let (ranker, report) = fit_ranker(windows, ListKind::Items, &options, &mut |_| {});
        let report = report.unwrap();
        assert_eq!(report.tree_count, 0, "one tree says less than the rule: {report:?}");
        assert!(report.served().iter().all(|share| *share > 0.999), "{report:?}");
        let lists = never_again(1);
        let score = |place: usize| ranker.score(lists.row(place));
        let best_own = (0..10).map(score).fold(f64::NEG_INFINITY, f64::max);
        assert!((10..30).all(|place| score(place) > best_own));
    }

    #[test]
    fn without_enough_lists_own_habit_stands() {
        let (ranker, report) =
            fit_ranker(vec![never_again(5)], ListKind::Items, &RankerOptions::default(), &mut |_| {});
        let lists = never_again(1);
        assert!(report.is_none() && ranker.score(lists.row(0)) > ranker.score(lists.row(29)));
    }
}
