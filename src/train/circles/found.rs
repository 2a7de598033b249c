//! Finds circles and interests in what users chose before a moment.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
#![expect(clippy::cast_possible_truncation, reason = "users and items are numbered with 32 bits")]

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{
    leiden::{leiden, modularity},
    similar::{SparseRows, similarity_graph, transposed},
};
use crate::{
    event::{NameHash, NameKind, View},
    train::{
        history::{History, HistoryError},
        item_training::Catalogue,
    },
};

/// Bounds and tastes.
#[derive(Debug, Clone, Copy)]
pub struct CircleOptions {
    /// What users choose by: purchases, or clicks.
    pub view: View,
    /// Nearest users (or items) kept of each.
    pub neighbours: usize,
    /// Above 1: more and smaller groups.
    pub resolution: f64,
    /// Users who must have chosen an item for it to count.
    pub least_users: usize,
    /// Threads; the result does not depend on it.
    pub threads: usize,
}

impl Default for CircleOptions {
    fn default() -> Self {
        Self { view: View::Purchase, neighbours: 20, resolution: 1.0, least_users: 3, threads: 1 }
    }
}

/// A circle of users.
#[derive(Debug, Clone, Serialize)]
pub struct Circle {
    /// Its number; 0 is the largest.
    pub number: u32,
    /// Members.
    pub user_count: usize,
    /// What sets them apart: categories (items where there are none) by how much more they are chosen here, most first.
    pub marks: Vec<String>,
}

/// A group of items chosen by the same users.
#[derive(Debug, Clone, Serialize)]
pub struct Interest {
    /// Its number; 0 is the largest.
    pub number: u32,
    /// Items in it.
    pub item_count: usize,
    /// Its commonest categories, most first.
    pub categories: Vec<String>,
    /// Words of its items' titles that stand out, most first.
    pub words: Vec<String>,
}

/// Circles and interests.
#[derive(Debug, Clone)]
pub struct Circles {
    /// Users by row: their number in the history.
    pub users: Vec<usize>,
    /// Items by column.
    pub items: Vec<NameHash>,
    /// What each user chose: columns and counts.
    pub rows: SparseRows,
    /// The circle of each row; `None` for users nobody resembles.
    pub circle_of: Vec<Option<u32>>,
    /// The interest of each column; `None` for items chosen with no other.
    pub interest_of: Vec<Option<u32>>,
    /// Circles of at least two, largest first.
    pub circles: Vec<Circle>,
    /// Interests of at least two items, largest first.
    pub interests: Vec<Interest>,
    /// Modularity of the circles in the graph of users.
    pub circle_modularity: f64,
    /// Modularity of the interests in the graph of items.
    pub interest_modularity: f64,
}

/// Finds them at `at_ms`.
pub fn find(
    history: &impl History,
    at_ms: i64,
    catalogue: &Catalogue,
    options: &CircleOptions,
) -> Result<Circles, HistoryError> {
    let chosen = history.observe(&[at_ms], &|_| true, &|user, _, graph| {
        let view = graph.view(options.view)?.expand(history.params());
        let items: Vec<(NameHash, u32, NameHash)> =
            view.nodes_of(NameKind::Item).iter().map(|node| (node.name, node.count, node.category)).collect();
        (!items.is_empty()).then_some((user, items))
    })?;
    let mut user_counts: HashMap<NameHash, usize> = HashMap::new();
    let mut category_of: HashMap<NameHash, NameHash> = HashMap::new();
    for (item, _, category) in chosen.iter().flat_map(|(_, items)| items) {
        *user_counts.entry(*item).or_default() += 1;
        let listed = catalogue.categories.get(item).copied();
        category_of.entry(*item).or_insert(listed.unwrap_or(*category));
    }
    let mut items: Vec<NameHash> =
        user_counts.iter().filter(|(_, count)| **count >= options.least_users).map(|(item, _)| *item).collect();
    items.sort_unstable();
    let column_of: HashMap<NameHash, u32> =
        items.iter().enumerate().map(|(column, item)| (*item, column as u32)).collect();
    let (mut users, mut rows) = (Vec::new(), SparseRows::new());
    for (user, chosen) in &chosen {
        let mut row: Vec<(u32, f32)> =
            chosen.iter().filter_map(|(item, count, _)| Some((*column_of.get(item)?, *count as f32))).collect();
        row.sort_unstable_by_key(|(column, _)| *column);
        if !row.is_empty() {
            users.push(*user);
            rows.push(row);
        }
    }
    let user_graph = similarity_graph(&rows, items.len(), options.neighbours, options.threads);
    let circles = leiden(&user_graph, options.resolution);
    let item_graph = similarity_graph(&transposed(&rows, items.len()), rows.len(), options.neighbours, options.threads);
    let interests = leiden(&item_graph, options.resolution);
    let circle_of = without_lonely(&circles);
    let interest_of = without_lonely(&interests);
    let categories: Vec<Option<NameHash>> =
        items.iter().map(|item| category_of.get(item).copied().filter(|category| category.0 != 0)).collect();
    Ok(Circles {
        circles: describe_circles(&rows, &circle_of, &items, &categories, catalogue),
        interests: describe_interests(&interest_of, &items, &categories, catalogue),
        circle_modularity: modularity(&user_graph, &circles),
        interest_modularity: modularity(&item_graph, &interests),
        users,
        items,
        rows,
        circle_of,
        interest_of,
    })
}

/// Groups of one are no groups.
fn without_lonely(groups: &[u32]) -> Vec<Option<u32>> {
    let sizes = sizes_of(groups.iter().copied());
    groups.iter().map(|group| (sizes[group] > 1).then_some(*group)).collect()
}

fn sizes_of(groups: impl Iterator<Item = u32>) -> BTreeMap<u32, usize> {
    let mut sizes = BTreeMap::new();
    for group in groups {
        *sizes.entry(group).or_default() += 1;
    }
    sizes
}

/// Names shown of each group.
const MARKS: usize = 5;

fn describe_circles(
    rows: &SparseRows,
    circle_of: &[Option<u32>],
    items: &[NameHash],
    categories: &[Option<NameHash>],
    catalogue: &Catalogue,
) -> Vec<Circle> {
    let mark_of = |column: u32| {
        categories[column as usize]
            .map_or((NameKind::Item, items[column as usize]), |category| (NameKind::Category, category))
    };
    // Members that chose something with the mark, here and everywhere.
    let mut everywhere: HashMap<(NameKind, NameHash), usize> = HashMap::new();
    let mut here: BTreeMap<u32, HashMap<(NameKind, NameHash), usize>> = BTreeMap::new();
    for (row, circle) in rows.iter().zip(circle_of) {
        let mut marks: Vec<_> = row.iter().map(|(column, _)| mark_of(*column)).collect();
        marks.sort_unstable();
        marks.dedup();
        for mark in marks {
            *everywhere.entry(mark).or_default() += 1;
            if let Some(circle) = circle {
                *here.entry(*circle).or_default().entry(mark).or_default() += 1;
            }
        }
    }
    sizes_of(circle_of.iter().flatten().copied())
        .into_iter()
        .map(|(number, user_count)| Circle {
            number,
            user_count,
            marks: here.get(&number).map_or_else(Vec::new, |counts| {
                let scored = counts.iter().map(|(mark, count)| {
                    let share = *count as f64 / user_count as f64;
                    let usual = everywhere[mark] as f64 / rows.len() as f64;
                    // Lift, weighed by how many it speaks for.
                    ((share / usual).ln() * share, *mark)
                });
                strongest(scored.collect(), catalogue)
            }),
        })
        .collect()
}

fn strongest(mut scored: Vec<(f64, (NameKind, NameHash))>, catalogue: &Catalogue) -> Vec<String> {
    scored.sort_unstable_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
    let named = scored.into_iter().filter_map(|(_, (kind, name))| {
        let entry = catalogue.names.get(&(kind, name))?;
        let text = if kind == NameKind::Item && !entry.title.is_empty() { &entry.title } else { &entry.text };
        (!text.is_empty()).then(|| text.clone())
    });
    named.take(MARKS).collect()
}

fn describe_interests(
    interest_of: &[Option<u32>],
    items: &[NameHash],
    categories: &[Option<NameHash>],
    catalogue: &Catalogue,
) -> Vec<Interest> {
    let mut usual_words: HashMap<String, usize> = HashMap::new();
    let mut words: BTreeMap<u32, HashMap<String, usize>> = BTreeMap::new();
    let mut common: BTreeMap<u32, HashMap<NameHash, usize>> = BTreeMap::new();
    for ((item, interest), category) in items.iter().zip(interest_of).zip(categories) {
        let title = catalogue.names.get(&(NameKind::Item, *item)).map_or("", |entry| entry.title.as_str());
        for word in words_of(title) {
            *usual_words.entry(word.clone()).or_default() += 1;
            if let Some(interest) = interest {
                *words.entry(*interest).or_default().entry(word).or_default() += 1;
            }
        }
        if let (Some(interest), Some(category)) = (interest, category) {
            *common.entry(*interest).or_default().entry(*category).or_default() += 1;
        }
    }
    let sizes = sizes_of(interest_of.iter().flatten().copied());
    sizes
        .into_iter()
        .map(|(number, item_count)| {
            let mut by_count: Vec<(usize, NameHash)> =
                common.get(&number).into_iter().flatten().map(|(category, count)| (*count, *category)).collect();
            by_count.sort_unstable_by_key(|(count, category)| (std::cmp::Reverse(*count), *category));
            let mut by_lift: Vec<(f64, String)> = words
                .get(&number)
                .into_iter()
                .flatten()
                .filter(|(_, count)| **count > 1)
                .map(|(word, count)| {
                    let share = *count as f64 / item_count as f64;
                    let usual = usual_words[word] as f64 / items.len() as f64;
                    ((share / usual).ln() * share, word.clone())
                })
                .collect();
            by_lift.sort_unstable_by(|left, right| right.0.total_cmp(&left.0).then_with(|| left.1.cmp(&right.1)));
            Interest {
                number,
                item_count,
                categories: by_count
                    .into_iter()
                    .filter_map(|(_, category)| catalogue.names.get(&(NameKind::Category, category)))
                    .map(|entry| entry.text.clone())
                    .take(MARKS)
                    .collect(),
                words: by_lift.into_iter().map(|(_, word)| word).take(MARKS).collect(),
            }
        })
        .collect()
}

/// Lower-case words of at least three letters, each once.
fn words_of(title: &str) -> Vec<String> {
    let mut words: Vec<String> = title
        .split(|letter: char| !letter.is_alphabetic())
        .filter(|word| word.chars().count() >= 3)
        .map(str::to_lowercase)
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}
