//! The boosting rounds.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "shares of counts"
)]

use rand::{RngCore, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    bins::Bins,
    grow::{GrowSettings, grow},
    objective::Objective,
};
use crate::model::{Forest, TreeNode};

/// How trees are grown and added up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoostSettings {
    /// Trees at most.
    pub max_trees: usize,
    /// Trees without improvement of what is watched before stopping.
    pub patience: usize,
    /// Share of each tree's answer that is added.
    pub learning_rate: f64,
    /// Leaves of a tree at most.
    pub max_leaves: usize,
    /// Questions from root to leaf at most.
    pub max_depth: usize,
    /// Rows a leaf needs at least, about.
    pub min_rows: usize,
    /// Sum of curvatures a leaf needs at least.
    pub min_curvature: f64,
    /// L2 penalty of leaf values.
    pub ridge: f64,
    /// Share of the rows (or groups of rows) each tree sees.
    pub row_share: f64,
    /// Share of the features each tree sees.
    pub feature_share: f64,
    /// Whether one cut of each feature and leaf is drawn instead of looking for the best.
    pub draws_cuts: bool,
    /// Seed of all draws.
    pub seed: u64,
    /// Threads; the trees do not depend on it.
    pub threads: usize,
}

impl Default for BoostSettings {
    fn default() -> Self {
        Self {
            max_trees: 400,
            patience: 40,
            learning_rate: 0.05,
            max_leaves: 31,
            max_depth: 12,
            min_rows: 20,
            min_curvature: 1e-3,
            ridge: 1.0,
            row_share: 0.8,
            feature_share: 0.5,
            draws_cuts: false,
            seed: 1,
            threads: 1,
        }
    }
}

/// What is learned from.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Rows of the bins, each once.
    pub rows: &'a [u32],
    /// The group of each row: a tree sees all rows of a group or none. Empty: every row is drawn for itself.
    pub groups: &'a [u32],
}

/// Decides when to stop: the loss (less is better) of `rows` by their scores, after every tree.
pub struct Watch<'a> {
    /// Rows of the bins that are not learned from.
    pub rows: &'a [u32],
    /// Their loss, given their scores in order.
    pub loss: &'a dyn Fn(&[f64]) -> f64,
}

/// A fitted forest.
#[derive(Debug, Clone, PartialEq)]
pub struct Boosted {
    /// The trees up to the best round.
    pub forest: Forest,
    /// Loss of what was watched with that many trees; absent without a watch.
    pub loss: Option<f64>,
}

/// Fits trees to `sample`. With a watch, keeps the number of trees with the least loss; without one, all.
///
/// # Panics
/// When rows and groups differ in number.
pub fn boost(
    bins: &Bins,
    sample: Sample<'_>,
    objective: &dyn Objective,
    watch: Option<&Watch<'_>>,
    settings: &BoostSettings,
) -> Boosted {
    assert!(sample.groups.is_empty() || sample.groups.len() == sample.rows.len(), "one group a row");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(settings.seed ^ 0x7472_6565_7321);
    let mut forest = Forest::new(bins.width(), objective.base());
    let mut scores = vec![objective.base(); sample.rows.len()];
    let mut watched = vec![objective.base(); watch.map_or(0, |watch| watch.rows.len())];
    let mut best = watch.map(|watch| ((watch.loss)(&watched), 0));
    let mut pairs = vec![[0.0; 2]; sample.rows.len()];
    let mut by_row = vec![[0.0; 2]; bins.rows()];
    // Features that say nothing about any row need not be drawn.
    let telling: Vec<u32> = (0..).take(bins.width()).filter(|feature| bins.bin_count(*feature as usize) > 2).collect();
    let grow_settings = GrowSettings {
        max_leaves: settings.max_leaves.max(2),
        max_depth: settings.max_depth,
        min_curvature: settings.min_curvature,
        min_rows: settings.min_rows,
        ridge: settings.ridge,
        rate: settings.learning_rate,
        drawn_cuts: None,
        threads: settings.threads,
    };
    let draw = Draw::new(sample);
    for tree in 0..settings.max_trees {
        if telling.is_empty() || sample.rows.is_empty() {
            break;
        }
        objective.gradients(&scores, &mut pairs);
        for (row, pair) in sample.rows.iter().zip(&pairs) {
            by_row[*row as usize] = *pair;
        }
        let mut order = draw.rows(settings.row_share, &mut random);
        let mut features = telling.clone();
        if settings.feature_share < 1.0 {
            let count = ((telling.len() as f64 * settings.feature_share).ceil() as usize).clamp(1, telling.len());
            features.shuffle(&mut random);
            features.truncate(count);
            features.sort_unstable();
        }
        let drawn_cuts = settings.draws_cuts.then(|| random.next_u64());
        let nodes = grow(bins, &mut order, &by_row, &features, &GrowSettings { drawn_cuts, ..grow_settings });
        add(bins, &nodes, sample.rows, &mut scores);
        forest.push(&nodes);
        if let (Some(watch), Some((least, trees))) = (watch, best.as_mut()) {
            add(bins, &nodes, watch.rows, &mut watched);
            let loss = (watch.loss)(&watched);
            if loss < *least {
                (*least, *trees) = (loss, tree + 1);
            } else if tree + 1 - *trees >= settings.patience {
                break;
            }
        }
    }
    if let Some((_, trees)) = best {
        forest.truncate(trees);
    }
    Boosted { forest, loss: best.map(|(loss, _)| loss) }
}

/// Adds a tree's answers to the scores of rows, walking by bins.
fn add(bins: &Bins, nodes: &[TreeNode], rows: &[u32], scores: &mut [f64]) {
    // Questions with the highest bin that goes left instead of its value.
    let by_bin: Vec<u8> = nodes
        .iter()
        .map(|node| match node {
            TreeNode::Split { feature, threshold, .. } => bins.bin_of(*feature as usize, *threshold),
            TreeNode::Leaf(_) => 0,
        })
        .collect();
    for (row, score) in rows.iter().zip(scores) {
        let mut place = 0;
        *score += loop {
            match nodes[place] {
                TreeNode::Leaf(value) => break f64::from(value),
                TreeNode::Split { feature, missing_left, left, right, .. } => {
                    let bin = bins.column(feature as usize)[*row as usize];
                    let goes_left = if bin == 0 { missing_left } else { bin <= by_bin[place] };
                    place = if goes_left { left } else { right };
                }
            }
        };
    }
}

/// Draws rows by group.
struct Draw<'a> {
    sample: Sample<'a>,
    /// Number of each row's group among the groups.
    group_of: Vec<u32>,
    group_count: usize,
}

impl<'a> Draw<'a> {
    fn new(sample: Sample<'a>) -> Self {
        if sample.groups.is_empty() {
            return Self { sample, group_of: (0..).take(sample.rows.len()).collect(), group_count: sample.rows.len() };
        }
        let mut known = sample.groups.to_vec();
        known.sort_unstable();
        known.dedup();
        let number = |group: &u32| known.partition_point(|other| other < group) as u32;
        Self { sample, group_of: sample.groups.iter().map(number).collect(), group_count: known.len() }
    }

    fn rows(&self, share: f64, random: &mut Xoshiro256PlusPlus) -> Vec<u32> {
        let count = ((self.group_count as f64 * share).ceil() as usize).clamp(1, self.group_count.max(1));
        if count >= self.group_count {
            return self.sample.rows.to_vec();
        }
        let mut groups: Vec<u32> = (0..).take(self.group_count).collect();
        let (drawn, _) = groups.partial_shuffle(random, count);
        let mut wanted = vec![false; self.group_count];
        for group in drawn {
            wanted[*group as usize] = true;
        }
        let pairs = self.sample.rows.iter().zip(&self.group_of);
        pairs.filter(|(_, group)| wanted[**group as usize]).map(|(row, _)| *row).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::train::{
        metrics::roc_auc,
        trees::{LambdaRank, LogLoss},
    };

    /// Rows of 6 features; yes is likelier where x0 and x1 agree in sign, or x2 is missing. The rest is noise.
    fn interaction(rows: usize, seed: u64) -> (Vec<f32>, Vec<bool>) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            let mut row: [f32; 6] = std::array::from_fn(|_| random.random::<f32>() * 2.0 - 1.0);
            if random.random_bool(0.2) {
                row[2] = f32::NAN;
            }
            let likely = row[2].is_nan() || (row[0] > 0.0) == (row[1] > 0.0);
            values.extend(row);
            labels.push(random.random_bool(if likely { 0.9 } else { 0.1 }));
        }
        (values, labels)
    }

    fn log_loss(labels: &[bool], scores: &[f64]) -> f64 {
        let loss = |(label, score): (&bool, &f64)| (1.0 + (if *label { -score } else { *score }).exp()).ln();
        labels.iter().zip(scores).map(loss).sum::<f64>() / labels.len() as f64
    }

    /// 4,000 rows of [`interaction`] to learn from, and 2,000 others to be judged by.
    fn fit_and_watch(settings: &BoostSettings) -> (Boosted, Vec<f32>, Vec<bool>) {
        let (mut values, labels) = interaction(4_000, 1);
        let (test_values, test_labels) = interaction(2_000, 2);
        values.extend(&test_values);
        let bins = Bins::of(&values, 6, 63, 2);
        let (rows, watched): (Vec<u32>, Vec<u32>) = ((0..4_000).collect(), (4_000..6_000).collect());
        let loss = |scores: &[f64]| log_loss(&test_labels, scores);
        let watch = Watch { rows: &watched, loss: &loss };
        let objective = LogLoss { labels: &labels, weights: &[] };
        let fitted = boost(&bins, Sample { rows: &rows, groups: &[] }, &objective, Some(&watch), settings);
        (fitted, test_values, test_labels)
    }

    #[test]
    fn finds_an_interaction_and_missing_values() {
        // Small trees: deep ones go on splitting by noise.
        let settings = BoostSettings { learning_rate: 0.1, max_leaves: 6, ..BoostSettings::default() };
        let (fitted, test_values, test_labels) = fit_and_watch(&settings);
        let scores: Vec<f64> = test_values.chunks(6).map(|row| fitted.forest.score(row)).collect();
        // The best anyone can do is the entropy of 0.9 : 0.1, 0.325.
        let found = log_loss(&test_labels, &scores);
        assert!(found < 0.39, "{found}");
        assert!((found - fitted.loss.unwrap()).abs() < 1e-6, "walking by bins and by values agree");
        assert!(roc_auc(&test_labels, &scores).unwrap() > 0.87);
        assert!(fitted.forest.tree_count() > 5 && fitted.forest.tree_count() < settings.max_trees);
        let counts = fitted.forest.split_counts();
        // One question a tree suffices for what is missing; the two that interact are asked most.
        assert!(counts[..2].iter().min() > counts[3..].iter().max(), "{counts:?}");
    }

    #[test]
    fn drawn_cuts_find_it_too_and_are_others() {
        let fit = |draws_cuts: bool, seed: u64, threads: usize| {
            let settings = BoostSettings {
                learning_rate: 0.1,
                max_leaves: 12,
                draws_cuts,
                seed,
                threads,
                ..BoostSettings::default()
            };
            fit_and_watch(&settings).0
        };
        let drawn = fit(true, 1, 1);
        assert!(drawn.loss.unwrap() < 0.42, "{:?}", drawn.loss);
        assert_eq!(drawn, fit(true, 1, 3));
        assert!(drawn.forest != fit(true, 2, 1).forest && drawn.forest != fit(false, 1, 1).forest);
    }

    #[test]
    fn threads_change_nothing_and_seeds_do() {
        let (values, labels) = interaction(30_000, 3);
        let groups: Vec<u32> = (0..30_000).map(|row| row / 7).collect();
        let rows: Vec<u32> = (0..30_000).collect();
        let bins = Bins::of(&values, 6, 255, 1);
        let objective = LogLoss { labels: &labels, weights: &[] };
        let fit = |threads: usize, seed: u64| {
            let settings = BoostSettings { max_trees: 6, threads, seed, ..BoostSettings::default() };
            boost(&bins, Sample { rows: &rows, groups: &groups }, &objective, None, &settings).forest
        };
        assert_eq!(fit(1, 1), fit(3, 1));
        assert!(fit(1, 1) != fit(1, 2));
        assert_eq!(fit(1, 1).tree_count(), 6);
    }

    #[test]
    fn one_class_or_no_rows_or_nothing_to_ask_is_the_base_rate() {
        let bins = Bins::of(&[1.0, 1.0, 1.0], 1, 255, 1);
        let objective = LogLoss { labels: &[true, true, true], weights: &[] };
        let fitted =
            boost(&bins, Sample { rows: &[0, 1, 2], groups: &[] }, &objective, None, &BoostSettings::default());
        assert_eq!(fitted.forest.tree_count(), 0);
        assert!((fitted.forest.score(&[1.0]) - 7.0_f64.ln()).abs() < 1e-9);
        let none = LogLoss { labels: &[], weights: &[] };
        let fitted = boost(&bins, Sample { rows: &[], groups: &[] }, &none, None, &BoostSettings::default());
        assert!(fitted.forest.score(&[0.0]).abs() < 1e-9);
    }

    #[test]
    fn ranks_lists_by_what_is_relevant_within_them() {
        // Relevance depends on the difference from the list's own level, which the scores must learn to ignore.
        let mut random = Xoshiro256PlusPlus::seed_from_u64(5);
        let (mut values, mut relevance, mut lists) = (Vec::new(), Vec::new(), Vec::new());
        for list in 0..400_usize {
            for _ in 0..12 {
                let (signal, noise) = (random.random::<f32>(), random.random::<f32>());
                values.extend([signal, noise, random.random::<f32>()]);
                relevance.push(u8::from(signal + 0.3 * noise > 0.95));
            }
            lists.push(list * 12..(list + 1) * 12);
        }
        let rows: Vec<u32> = (0..4_800).collect();
        let groups: Vec<u32> = rows.iter().map(|row| row / 12).collect();
        let bins = Bins::of(&values, 3, 255, 1);
        let objective = LambdaRank { relevance: &relevance, weights: &[], lists: &lists, truncation: 12 };
        let settings =
            BoostSettings { max_trees: 60, learning_rate: 0.1, feature_share: 1.0, ..BoostSettings::default() };
        let forest = boost(&bins, Sample { rows: &rows, groups: &groups }, &objective, None, &settings).forest;
        let mut right = 0;
        let with_truth = lists.iter().filter(|list| relevance[(*list).clone()].contains(&1));
        let count = with_truth.clone().count();
        for list in with_truth {
            let score = |row: &usize| forest.score(&values[row * 3..row * 3 + 3]);
            let first = list.clone().max_by(|left, right| score(left).total_cmp(&score(right))).unwrap();
            right += usize::from(relevance[first] == 1);
        }
        assert!(right * 100 > count * 97, "{right} of {count}");
    }
}
