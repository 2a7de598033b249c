//! The candidates of one user and what each source says of them.

#![expect(clippy::cast_precision_loss, reason = "counts and ranks need few digits")]

use std::{collections::HashMap, ops::Range};

use super::{ItemTables, tables::ItemRow};
use crate::{
    event::{NameHash, NameKind, View},
    graph::{ExpandedView, GraphParams, Node, UserGraph},
    score::ItemReason,
};

/// Own items taken as candidates, by each of the two weights.
const OWN_LIMIT: usize = 150;
/// Looked-at items taken as candidates.
const SEEN_LIMIT: usize = 60;
/// Own items whose neighbours are asked.
const SOURCE_LIMIT: usize = 200;
/// Candidates from neighbours.
const NEIGHBOUR_LIMIT: usize = 100;
/// Categories of the user whose popular items are taken.
const CATEGORY_LIMIT: usize = 12;
/// Items of each such category.
const CATEGORY_ITEM_LIMIT: usize = 8;
/// Candidates from popularity that the user never bought.
const POPULAR_LIMIT: usize = 60;

macro_rules! features {
    ($($name:literal),* $(,)?) => {
        /// Names of the features of a candidate, in order.
        pub const FEATURE_NAMES: [&str; FEATURE_WIDTH] = [$($name),*];
        /// Features of a candidate.
        pub const FEATURE_WIDTH: usize = [$($name),*].len();
    };
}

features![
    // Habit: 0..18.
    "bought",
    "own_count_log",
    "own_short_log",
    "own_long_log",
    "own_short_share",
    "own_long_share",
    "own_short_rank",
    "own_long_rank",
    "own_silent_days_log",
    "own_age_days_log",
    "own_gap_days_log",
    "own_overdue",
    "own_overdue_distance",
    "in_last_basket",
    "seen",
    "seen_short_log",
    "seen_count_log",
    "seen_silent_days_log",
    // Neighbours: 18..21.
    "neighbour_share",
    "neighbour_rank",
    "neighbour_log",
    // Category: 21..26.
    "category_long_share",
    "category_short_share",
    "category_silent_days_log",
    "category_expected",
    "category_item_share",
    // Popularity: 26..31.
    "popularity_short_log",
    "popularity_long_log",
    "popularity_trend",
    "interest_short_log",
    "repeat_share",
    // The user, the same for all candidates: 31..36.
    "user_days_log",
    "user_lines_a_day_log",
    "user_repeat_share",
    "user_silent_days_log",
    "admitted",
];

/// Which features each source owns.
pub(super) const SOURCES: [(ItemReason, Range<usize>); 4] = [
    (ItemReason::Habit, 0..18),
    (ItemReason::Neighbours, 18..21),
    (ItemReason::Category, 21..26),
    (ItemReason::Popularity, 26..31),
];

/// The part of a user's graph that recommendations read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserItems {
    /// Items bought.
    pub bought: Vec<Node>,
    /// Items looked at or put into the cart.
    pub seen: Vec<Node>,
    /// Categories bought from.
    pub categories: Vec<Node>,
    /// Days with a purchase.
    pub purchase_day_count: u32,
}

impl UserItems {
    /// Reads a graph. `params` are those it was folded with.
    pub fn of(graph: &UserGraph, params: &GraphParams) -> Self {
        let click = graph.view(View::Click).map(|view| view.expand(params));
        let purchase = graph.view(View::Purchase);
        let day_count = purchase.map_or(0, |view| view.summary().day_count);
        Self::of_expanded(click.as_ref(), purchase.map(|view| view.expand(params)).as_ref(), day_count)
    }

    /// The same from views that are expanded already.
    pub fn of_expanded(click: Option<&ExpandedView>, purchase: Option<&ExpandedView>, purchase_day_count: u32) -> Self {
        let nodes = |view: Option<&ExpandedView>, kind| view.map_or_else(Vec::new, |view| view.nodes_of(kind).to_vec());
        Self {
            bought: nodes(purchase, NameKind::Item),
            seen: nodes(click, NameKind::Item),
            categories: nodes(purchase, NameKind::Category),
            purchase_day_count,
        }
    }
}

/// One candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The item.
    pub item: NameHash,
    /// Whether the user bought it before.
    pub bought: bool,
    /// Whether the user looked at it or had it in the cart.
    pub seen: bool,
}

/// Candidates of one user with their features.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CandidateSet {
    candidates: Vec<Candidate>,
    features: Vec<f32>,
}

impl CandidateSet {
    /// Collects the candidates of a user as of a moment (milliseconds since the Unix epoch).
    pub fn of(tables: &ItemTables, user: &UserItems, as_of_ms: i64) -> Self {
        Collector::new(tables, user, as_of_ms).collect()
    }

    /// The candidates, in a fixed order.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Features of the candidate at `place`, in the order of [`FEATURE_NAMES`].
    pub fn features(&self, place: usize) -> &[f32] {
        &self.features[place * FEATURE_WIDTH..(place + 1) * FEATURE_WIDTH]
    }
}

/// A node of the user with its weights decayed to the moment.
#[derive(Debug, Clone, Copy)]
struct Own {
    node: Node,
    short: f32,
    long: f32,
    short_rank: usize,
    long_rank: usize,
}

struct Collector<'a> {
    tables: &'a ItemTables,
    as_of_s: i64,
    bought: Vec<Own>,
    bought_sums: [f32; 2],
    seen: Vec<Own>,
    categories: Vec<Own>,
    category_sums: [f32; 2],
    last_basket_s: u32,
    user: [f32; 4],
}

impl<'a> Collector<'a> {
    fn new(tables: &'a ItemTables, user: &UserItems, as_of_ms: i64) -> Self {
        let as_of_s = as_of_ms.div_euclid(1_000);
        let half_lives = tables.half_life_days();
        let bought = own_nodes(&user.bought, as_of_s, half_lives);
        let seen = own_nodes(&user.seen, as_of_s, half_lives);
        let categories = own_nodes(&user.categories, as_of_s, half_lives);
        let sums =
            |own: &[Own]| [own.iter().map(|own| own.short).sum::<f32>(), own.iter().map(|own| own.long).sum::<f32>()];
        let days = user.purchase_day_count as f32;
        let lines: f32 = bought.iter().map(|own| own.node.count as f32).sum();
        let repeats = if lines > 0.0 { 1.0 - bought.len() as f32 / lines } else { 0.0 };
        let last_basket_s = bought.iter().map(|own| own.node.last_s).max().unwrap_or(0);
        let silent = if bought.is_empty() { 0.0 } else { days_between(last_basket_s, as_of_s) };
        Self {
            tables,
            as_of_s,
            bought_sums: sums(&bought),
            category_sums: sums(&categories),
            last_basket_s,
            user: [days.ln_1p(), (lines / days.max(1.0)).ln_1p(), repeats, silent.ln_1p()],
            bought,
            seen,
            categories,
        }
    }

    fn collect(self) -> CandidateSet {
        let neighbours = self.neighbour_scores();
        let best_neighbour = neighbours.iter().map(|(_, score)| *score).fold(0.0, f32::max);
        let neighbour_rank: HashMap<u32, (f32, usize)> =
            neighbours.iter().enumerate().map(|(rank, (row, score))| (*row, (*score, rank))).collect();
        let bought_place = places(&self.bought);
        let seen_place = places(&self.seen);
        let category_place = places(&self.categories);

        let mut set = CandidateSet::default();
        for item in self.items(&neighbours, &bought_place) {
            let row = self.tables.row(item);
            let known = row.map(|row| &self.tables.rows()[row as usize]);
            let own = bought_place.get(&item).map(|place| &self.bought[*place]);
            let seen = seen_place.get(&item).map(|place| &self.seen[*place]);
            let category =
                known.map_or_else(|| own.map_or(NameHash(0), |own| own.node.category), |known| known.category);
            let habit = category_place.get(&category).map(|place| &self.categories[*place]);
            let mut features = [0.0; FEATURE_WIDTH];
            if let Some(own) = own {
                self.habit_features(own, &mut features[..14]);
            }
            if let Some(seen) = seen {
                features[14] = 1.0;
                features[15] = seen.short.ln_1p();
                features[16] = (seen.node.count as f32).ln_1p();
                features[17] = self.silent_days(seen).ln_1p();
            }
            if let Some((score, rank)) = row.and_then(|row| neighbour_rank.get(&row)) {
                features[18] = score / best_neighbour.max(f32::MIN_POSITIVE);
                features[19] = 1.0 / (1.0 + *rank as f32).sqrt();
                features[20] = score.ln_1p();
            }
            if let Some(habit) = habit {
                self.category_features(habit, known, &mut features[21..26]);
            }
            if let Some(known) = known {
                features[25] = known.category_share;
                features[26] = known.popularity_short.ln_1p();
                features[27] = known.popularity_long.ln_1p();
                features[28] = known.popularity_short.ln_1p() - known.popularity_long.ln_1p();
                features[29] = known.interest_short.ln_1p();
                features[30] = known.repeat_share;
                features[35] = 1.0;
            }
            features[31..35].copy_from_slice(&self.user);
            set.candidates.push(Candidate { item, bought: own.is_some(), seen: seen.is_some() });
            set.features.extend_from_slice(&features);
        }
        set
    }

    /// All candidates once, own first.
    fn items(&self, neighbours: &[(u32, f32)], bought: &HashMap<NameHash, usize>) -> Vec<NameHash> {
        let rows = self.tables.rows();
        let mut taken = std::collections::HashSet::new();
        let mut items = Vec::new();
        let mut take = |item: NameHash| {
            let fresh = taken.insert(item);
            if fresh {
                items.push(item);
            }
            fresh
        };
        for own in self.bought.iter().filter(|own| own.short_rank < OWN_LIMIT || own.long_rank < OWN_LIMIT) {
            take(own.node.name);
        }
        // Only what was ever sold can be recommended; a looked-at name without a row (a coupon, a page) is none.
        let mut seen: Vec<&Own> = self.seen.iter().filter(|own| self.tables.row(own.node.name).is_some()).collect();
        seen.sort_by_key(|own| own.short_rank);
        for own in seen.into_iter().take(SEEN_LIMIT) {
            take(own.node.name);
        }
        for (row, _) in neighbours.iter().take(NEIGHBOUR_LIMIT) {
            take(rows[*row as usize].item);
        }
        let mut categories: Vec<&Own> = self.categories.iter().filter(|own| own.long_rank < CATEGORY_LIMIT).collect();
        categories.sort_by_key(|own| own.long_rank);
        for category in categories {
            for row in self.tables.category_popular(category.node.name).iter().take(CATEGORY_ITEM_LIMIT) {
                take(rows[*row as usize].item);
            }
        }
        let unbought = self.tables.popular().iter().map(|row| rows[*row as usize].item);
        for item in unbought.filter(|item| !bought.contains_key(item)).take(POPULAR_LIMIT) {
            take(item);
        }
        items
    }

    /// Rows chosen by users who chose what this user chose, best first; also rows the user bought.
    fn neighbour_scores(&self) -> Vec<(u32, f32)> {
        let mut scores = vec![0.0_f32; self.tables.rows().len()];
        let mut touched = Vec::new();
        let sources = self.bought.iter().filter(|own| own.long_rank < SOURCE_LIMIT).map(|own| (own, 1.0));
        let looked = self.seen.iter().filter(|own| own.short_rank < SEEN_LIMIT).map(|own| (own, 0.5));
        for (own, weight) in sources.chain(looked) {
            let Some(row) = self.tables.row(own.node.name) else { continue };
            for (neighbour, similarity) in self.tables.neighbours(row) {
                let score = &mut scores[neighbour as usize];
                if *score == 0.0 {
                    touched.push(neighbour);
                }
                *score += weight * similarity;
            }
        }
        let mut found: Vec<(u32, f32)> = touched.into_iter().map(|row| (row, scores[row as usize])).collect();
        let best_first = |left: &(u32, f32), right: &(u32, f32)| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0));
        // Twice the limit: half of the best are often bought already.
        let keep = NEIGHBOUR_LIMIT * 3;
        if found.len() > keep {
            found.select_nth_unstable_by(keep - 1, best_first);
            found.truncate(keep);
        }
        found.sort_unstable_by(best_first);
        found
    }

    fn habit_features(&self, own: &Own, features: &mut [f32]) {
        let count = own.node.count as f32;
        let silent = self.silent_days(own);
        features[0] = 1.0;
        features[1] = count.ln_1p();
        features[2] = own.short.ln_1p();
        features[3] = own.long.ln_1p();
        features[4] = own.short / self.bought_sums[0].max(1e-6);
        features[5] = own.long / self.bought_sums[1].max(1e-6);
        features[6] = 1.0 / (1.0 + own.short_rank as f32).sqrt();
        features[7] = 1.0 / (1.0 + own.long_rank as f32).sqrt();
        features[8] = silent.ln_1p();
        features[9] = days_between(own.node.first_s, self.as_of_s).ln_1p();
        if own.node.count > 1 && own.node.last_s > own.node.first_s {
            let gap = (own.node.last_s - own.node.first_s) as f32 / 86_400.0 / (count - 1.0);
            features[10] = gap.ln_1p();
            let overdue = ((silent + 0.5) / (gap + 0.5)).min(8.0);
            features[11] = overdue;
            features[12] = overdue.ln().abs();
        }
        features[13] = f32::from(u8::from(own.node.last_s / 86_400 == self.last_basket_s / 86_400));
    }

    fn category_features(&self, habit: &Own, known: Option<&ItemRow>, features: &mut [f32]) {
        let long = habit.long / self.category_sums[1].max(1e-6);
        features[0] = long;
        features[1] = habit.short / self.category_sums[0].max(1e-6);
        features[2] = self.silent_days(habit).ln_1p();
        features[3] = known.map_or(0.0, |known| (1_000.0 * long * known.category_share).ln_1p());
    }

    fn silent_days(&self, own: &Own) -> f32 {
        days_between(own.node.last_s, self.as_of_s)
    }
}

/// Nodes with both weights decayed to the moment, and their ranks by them.
fn own_nodes(nodes: &[Node], as_of_s: i64, half_lives: [f32; 2]) -> Vec<Own> {
    let mut own: Vec<Own> = nodes
        .iter()
        .map(|node| {
            let silent = days_between(node.last_s, as_of_s);
            let decayed = |weight: f32, half_life: f32| weight * (-silent / half_life).exp2();
            Own {
                node: *node,
                short: decayed(node.weight_short, half_lives[0]),
                long: decayed(node.weight_long, half_lives[1]),
                short_rank: 0,
                long_rank: 0,
            }
        })
        .collect();
    own.sort_unstable_by(|left, right| right.short.total_cmp(&left.short).then(left.node.name.cmp(&right.node.name)));
    for (rank, own) in own.iter_mut().enumerate() {
        own.short_rank = rank;
    }
    own.sort_unstable_by(|left, right| right.long.total_cmp(&left.long).then(left.node.name.cmp(&right.node.name)));
    for (rank, own) in own.iter_mut().enumerate() {
        own.long_rank = rank;
    }
    own
}

fn places(own: &[Own]) -> HashMap<NameHash, usize> {
    own.iter().enumerate().map(|(place, own)| (own.node.name, place)).collect()
}

fn days_between(then_s: u32, now_s: i64) -> f32 {
    (now_s - i64::from(then_s)).max(0) as f32 / 86_400.0
}
