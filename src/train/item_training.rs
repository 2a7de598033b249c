//! Trains the item model on a history: tables of earlier moments for the rankers, tables of the newest for serving.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    TitleVectors,
    examples::unit_hash,
    history::{History, HistoryError},
    items::{ListKind, RankExamples, RankerOptions, RankerReport, TableBuilder, TableOptions, fit_ranker},
    labels::items_bought_since,
};
use crate::{
    event::{ListedItem, NameHash, NameKind},
    graph::UserGraph,
    model::items::{CandidateSet, CandidateWork, CatalogueEntry, ItemModel, ItemTables, UserItems},
};

/// What the item model knows of names beyond the events.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// Texts and titles.
    pub names: HashMap<(NameKind, NameHash), CatalogueEntry>,
    /// Category of items.
    pub categories: HashMap<NameHash, NameHash>,
    /// Items that may be recommended though nobody bought them yet.
    pub listed: Vec<NameHash>,
    /// Vectors of the titles, where a text model is asked for.
    pub vectors: Option<Arc<TitleVectors>>,
}

impl Catalogue {
    /// Takes items with their titles and categories from an item file.
    pub fn add(&mut self, listed: Vec<ListedItem>) {
        for item in listed {
            let hash = NameHash::of(NameKind::Item, &item.id);
            let entry = self.names.entry((NameKind::Item, hash)).or_default();
            (entry.text, entry.title) = (item.id, item.title);
            self.listed.push(hash);
            if !item.category.is_empty() {
                let category = NameHash::of(NameKind::Category, &item.category);
                self.categories.insert(hash, category);
                self.names.entry((NameKind::Category, category)).or_default().text = item.category;
            }
        }
    }
}

/// Effort spent on the item model.
#[derive(Debug, Clone, Copy)]
pub struct ItemOptions {
    /// Bounds of the tables.
    pub tables: TableOptions,
    /// How rankers are trained.
    pub ranker: RankerOptions,
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
        Self {
            tables: TableOptions::default(),
            ranker: RankerOptions::default(),
            max_windows: 6,
            max_lists: 12_000,
            max_table_users: 40_000,
            seed: 1,
        }
    }
}

/// A trained item model and how well its rankers did on the newest window before the refit.
#[derive(Debug, Clone)]
pub struct TrainedItems {
    /// The served model.
    pub model: ItemModel,
    /// What the newest window said of the rankers: items, discoveries; absent without enough windows.
    pub rankers: [Option<RankerReport>; 2],
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
    let mut lists: [Vec<RankExamples>; 2] = Default::default();
    for window in (1_i64..).take(windows) {
        report(&format!("item lists of window {window} of {windows}"));
        let Some(at_ms) = history.shown_at(end_ms - window * window_ms) else { break };
        let tables = tables_at(history, at_ms, window_ms, catalogue, options)?;
        let found = lists_at(history, &tables, at_ms, window_ms, options, windows)?;
        for (lists, found) in lists.iter_mut().zip(found) {
            lists.push(found);
        }
    }
    report("training item rankers");
    let [items, discoveries] = lists;
    let mut ranker_options = options.ranker;
    ranker_options.boost.seed = options.seed;
    ranker_options.boost.threads = options.tables.threads;
    let (items, items_report) = fit_ranker(items, ListKind::Items, &ranker_options, report);
    let (discoveries, discoveries_report) = fit_ranker(discoveries, ListKind::Discoveries, &ranker_options, report);
    report("item tables of the newest moment");
    let tables = tables_at(history, end_ms, window_ms, catalogue, options)?;
    Ok(TrainedItems { model: ItemModel::new(tables, items, discoveries), rankers: [items_report, discoveries_report] })
}

fn tables_at(
    history: &impl History,
    at_ms: i64,
    window_ms: i64,
    catalogue: &Catalogue,
    options: &ItemOptions,
) -> Result<ItemTables, HistoryError> {
    let users = history.users();
    let share = options.max_table_users as f64 / users.len().max(1) as f64;
    let drawn = |user: usize| share >= 1.0 || unit_hash(users[user].as_str(), options.seed) < share;
    let params = history.params();
    let seen = history.observe(&[at_ms], &drawn, &|_, _, graph: &UserGraph| Some(UserItems::of(graph, params)))?;
    let mut builder = TableBuilder::new(at_ms, window_ms, params);
    for user in &seen {
        builder.add(user);
    }
    let name = |kind, hash| catalogue.names.get(&(kind, hash)).cloned();
    let mut listed = catalogue.listed.iter().copied();
    Ok(builder.build(&options.tables, &catalogue.categories, &mut listed, &name, catalogue.vectors.as_deref())?)
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
    let mut work = CandidateWork::default();
    for pair in seen.chunk_by(|left, right| left.user == right.user) {
        let [Pending { items: Some(items), .. }, Pending { bought: Some(bought), .. }] = pair else { continue };
        if lists[0].list_count() >= options.max_lists / windows.max(1) {
            break;
        }
        let set = CandidateSet::of(tables, items, at_ms, &mut work);
        let count = |items: usize| u32::try_from(items).unwrap_or(u32::MAX);
        let known: HashSet<NameHash> = items.bought.iter().map(|node| node.name).collect();
        let fresh = count(bought.difference(&known).count());
        let user = u64::try_from(pair[0].user).unwrap_or_default();
        let seed =
            (options.seed.wrapping_mul(1_000_003) ^ user).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at_ms.unsigned_abs();
        lists[0].push(&set, bought, count(bought.len()), ListKind::Items, seed);
        lists[1].push(&set, bought, fresh, ListKind::Discoveries, seed);
    }
    Ok(lists)
}
