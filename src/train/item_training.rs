//! Trains the item model on a history: tables of earlier moments for the rankers, tables of the newest for serving.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]

use std::collections::{HashMap, HashSet};

use super::{
    evaluate::ListedItem,
    examples::unit_hash,
    history::{History, HistoryError},
    items::{RankExamples, RankerOptions, TableBuilder, TableOptions, fit_ranker},
    labels::items_bought_since,
};
use crate::{
    event::{NameHash, NameKind},
    graph::UserGraph,
    model::items::{CandidateSet, CatalogueEntry, ItemModel, ItemTables, Ranker, UserItems},
};

/// What the item model knows of names beyond the events.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// Texts and titles.
    pub names: HashMap<(NameKind, NameHash), CatalogueEntry>,
    /// Category of items.
    pub categories: HashMap<NameHash, NameHash>,
}

impl Catalogue {
    /// Takes titles of known items, and categories, from an item file.
    pub fn add(&mut self, listed: Vec<ListedItem>) {
        for item in listed {
            let hash = NameHash::of(NameKind::Item, &item.id);
            if let Some(entry) = self.names.get_mut(&(NameKind::Item, hash)) {
                entry.title = item.title;
            }
            if !item.category.is_empty() {
                self.categories.insert(hash, NameHash::of(NameKind::Category, &item.category));
            }
        }
    }
}

/// Effort spent on the item model.
#[derive(Debug, Clone, Copy)]
pub struct ItemOptions {
    /// Bounds of the tables.
    pub tables: TableOptions,
    /// Windows the rankers learn from at most.
    pub max_windows: usize,
    /// Lists (users in a window) at most, all windows together.
    pub max_lists: usize,
    /// Users the tables are counted from at most.
    pub max_table_users: usize,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for ItemOptions {
    fn default() -> Self {
        Self { tables: TableOptions::default(), max_windows: 4, max_lists: 6_000, max_table_users: 40_000, seed: 1 }
    }
}

/// A trained item model and how well its rankers did on the newest window before the refit.
#[derive(Debug, Clone)]
pub struct TrainedItems {
    /// The served model.
    pub model: ItemModel,
    /// Recall@20 on the validation window: items, discoveries; absent without a window.
    pub validation_recall: Option<[f64; 2]>,
}

/// Trains on what a history holds before `end_ms`: windows of `window_ms` that end there, the newest for validation first.
pub fn train_items(
    history: &impl History,
    end_ms: i64,
    first_ms: i64,
    window_ms: i64,
    catalogue: &Catalogue,
    options: &ItemOptions,
    report: &mut dyn FnMut(&str),
) -> Result<TrainedItems, HistoryError> {
    // Half the history at least comes before the oldest window.
    let windows = usize::try_from((end_ms - first_ms) / 2 / window_ms.max(1)).unwrap_or(0).min(options.max_windows);
    let mut lists = Vec::new();
    for window in (1_i64..).take(windows) {
        report(&format!("item lists of window {window} of {windows}"));
        let Some(at_ms) = history.shown_at(end_ms - window * window_ms) else { break };
        let tables = tables_at(history, at_ms, catalogue, options)?;
        lists.push(lists_at(history, &tables, at_ms, window_ms, options, windows)?);
    }
    report("item tables of the newest moment");
    let tables = tables_at(history, end_ms, catalogue, options)?;
    report("training item rankers");
    let (mut rankers, mut recalls) = (Vec::new(), Vec::new());
    for part in 0..2 {
        let windows: Vec<&RankExamples> = lists.iter().map(|pair: &[RankExamples; 2]| &pair[part]).collect();
        let (ranker, recall) = train_ranker(&windows, options, report);
        rankers.push(ranker);
        recalls.extend(recall);
    }
    let discoveries = rankers.pop().unwrap_or_else(|| fallback(true));
    let items = rankers.pop().unwrap_or_else(|| fallback(false));
    let validation_recall = <[f64; 2]>::try_from(recalls).ok();
    Ok(TrainedItems { model: ItemModel::new(tables, items, discoveries), validation_recall })
}

/// Chooses shape and passes on the newest window, then fits on all of them.
fn train_ranker(
    windows: &[&RankExamples],
    options: &ItemOptions,
    report: &mut dyn FnMut(&str),
) -> (Ranker, Option<f64>) {
    const ENOUGH_LISTS: usize = 40;
    let mut all = RankExamples::default();
    let mut past = RankExamples::default();
    for (age, window) in windows.iter().enumerate() {
        all.append(window);
        if age > 0 {
            past.append(window);
        }
    }
    if all.useful_count() < ENOUGH_LISTS {
        return (fallback(false), None);
    }
    let mut best = (0.0, RankerOptions { hidden: 0, epochs: 2, seed: options.seed, ..RankerOptions::default() });
    let mut measured = None;
    if past.useful_count() >= ENOUGH_LISTS {
        for hidden in [0, 24] {
            let try_options = RankerOptions { hidden, epochs: 8, seed: options.seed, ..RankerOptions::default() };
            let mut recalls = Vec::new();
            fit_ranker(&past, &try_options, &mut |epoch, ranker| {
                let recall = windows[0].recall_at_20(|row| ranker.score(row));
                recalls.push(recall);
                if recall > best.0 {
                    best = (recall, RankerOptions { epochs: epoch, ..try_options });
                }
                true
            });
            report(&format!("ranker with {hidden} hidden units: recall@20 by pass {recalls:.4?}"));
        }
        measured = Some(best.0);
    }
    (fit_ranker(&all, &best.1, &mut |_, _| true), measured)
}

/// A ranker for shops without enough history to train one: own habit, then neighbours, then popularity.
fn fallback(_discoveries: bool) -> Ranker {
    let width = crate::model::items::FEATURE_WIDTH;
    let weight_of = |name: &str| match name {
        "own_long_log" => 2.0,
        "own_short_log" | "neighbour_share" | "seen_short_log" => 1.0,
        "popularity_short_log" => 0.5,
        "popularity_long_log" => 0.1,
        _ => 0.0,
    };
    Ranker {
        mean: vec![0.0; width],
        inverse_deviation: vec![1.0; width],
        linear: crate::model::items::FEATURE_NAMES.iter().map(|name| weight_of(name)).collect(),
        hidden_weights: Vec::new(),
        hidden_bias: Vec::new(),
        output: Vec::new(),
    }
}

fn tables_at(
    history: &impl History,
    at_ms: i64,
    catalogue: &Catalogue,
    options: &ItemOptions,
) -> Result<ItemTables, HistoryError> {
    let users = history.users();
    let share = options.max_table_users as f64 / users.len().max(1) as f64;
    let drawn = |user: usize| share >= 1.0 || unit_hash(users[user].as_str(), options.seed) < share;
    let params = history.params();
    let seen = history.observe(&[at_ms], &drawn, &|_, _, graph: &UserGraph| Some(UserItems::of(graph, params)))?;
    let mut builder = TableBuilder::new(at_ms, params);
    for user in &seen {
        builder.add(user);
    }
    let name = |kind, hash| catalogue.names.get(&(kind, hash)).cloned();
    // A small shop has items with few buyers only.
    let min_buyers = if seen.len() < 1_000 { 2 } else { options.tables.min_buyers };
    let table_options = TableOptions { min_buyers, ..options.tables };
    Ok(builder.build(&table_options, &catalogue.categories, &name))
}

/// Candidate lists of users at a moment with what they bought in the window after it: of all items, and of new ones.
fn lists_at(
    history: &impl History,
    tables: &ItemTables,
    at_ms: i64,
    window_ms: i64,
    options: &ItemOptions,
    windows: usize,
) -> Result<[RankExamples; 2], HistoryError> {
    struct Pending {
        user: usize,
        items: Option<UserItems>,
        bought: Option<HashSet<NameHash>>,
    }
    let users = history.users();
    let params = history.params();
    let moments = [at_ms, at_ms + window_ms];
    // Buyers are a part of the users; which part is only known after looking.
    let share = (3 * options.max_lists / windows.max(1)) as f64 / users.len().max(1) as f64;
    let drawn = |user: usize| share >= 1.0 || unit_hash(users[user].as_str(), !options.seed) < share;
    let seen = history.observe(&moments, &drawn, &|user, place, graph: &UserGraph| {
        if place == 0 {
            return Some(Pending { user, items: Some(UserItems::of(graph, params)), bought: None });
        }
        let bought = items_bought_since(graph, at_ms, params);
        (!bought.is_empty()).then_some(Pending { user, items: None, bought: Some(bought) })
    })?;
    let mut lists = [RankExamples::default(), RankExamples::default()];
    for pair in seen.chunk_by(|left, right| left.user == right.user) {
        let [Pending { items: Some(items), .. }, Pending { bought: Some(bought), .. }] = pair else { continue };
        if lists[0].list_count() >= options.max_lists / windows.max(1) {
            break;
        }
        let set = CandidateSet::of(tables, items, at_ms);
        let labelled = || {
            set.candidates()
                .iter()
                .enumerate()
                .map(|(place, candidate)| (set.features(place), bought.contains(&candidate.item), candidate.bought))
        };
        let count = |items: usize| u32::try_from(items).unwrap_or(u32::MAX);
        lists[0].push(labelled().map(|(features, hit, _)| (features, hit)), count(bought.len()));
        let known: HashSet<NameHash> = items.bought.iter().map(|node| node.name).collect();
        let fresh = labelled().filter(|(_, _, own)| !own).map(|(features, hit, _)| (features, hit));
        lists[1].push(fresh, count(bought.difference(&known).count()));
    }
    Ok(lists)
}
