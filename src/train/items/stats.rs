//! Item tables from the users' item nodes at one moment.

#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "popularity needs few digits")]

use std::collections::HashMap;

use super::neighbours::{self, Neighbours};
use crate::{
    event::{NameHash, NameKind},
    graph::GraphParams,
    model::items::{CatalogueEntry, ItemRow, ItemTables, UserItems},
};

/// Bounds of the tables.
#[derive(Debug, Clone, Copy)]
pub struct TableOptions {
    /// Items admitted at most, by buyers.
    pub max_items: usize,
    /// Buyers an admitted item has at least.
    pub min_buyers: u32,
    /// Neighbours kept an item.
    pub neighbour_count: usize,
    /// Threads to work on.
    pub threads: usize,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { max_items: 20_000, min_buyers: 5, neighbour_count: 24, threads: 2 }
    }
}

#[derive(Debug, Default, Clone)]
struct ItemStat {
    category: u64,
    buyers: u32,
    repeaters: u32,
    short: f64,
    long: f64,
    interest: f64,
}

/// Collects users' items at one moment and builds the tables.
#[derive(Debug)]
pub struct TableBuilder {
    as_of_s: i64,
    params: GraphParams,
    stats: HashMap<NameHash, ItemStat>,
    /// Items of each user, bought first, then looked at.
    baskets: Vec<(Vec<NameHash>, Vec<NameHash>)>,
}

impl TableBuilder {
    /// A builder for a moment (milliseconds since the Unix epoch).
    pub fn new(as_of_ms: i64, params: &GraphParams) -> Self {
        Self { as_of_s: as_of_ms.div_euclid(1_000), params: params.clone(), stats: HashMap::new(), baskets: Vec::new() }
    }

    /// Adds one user's items as of the builder's moment.
    pub fn add(&mut self, user: &UserItems) {
        let now_s = u32::try_from(self.as_of_s.max(0)).unwrap_or(u32::MAX);
        for node in &user.bought {
            let stat = self.stats.entry(node.name).or_default();
            let (short, long) = node.weights_at(now_s, &self.params);
            stat.buyers += 1;
            stat.repeaters += u32::from(node.count > 1 && node.last_s / 86_400 > node.first_s / 86_400);
            // One user who buys a thousand times is no thousand users.
            stat.short += f64::from(short).min(4.0);
            stat.long += f64::from(long).min(8.0);
            if node.category.0 != 0 {
                stat.category = node.category.0;
            }
        }
        for node in &user.seen {
            let stat = self.stats.entry(node.name).or_default();
            stat.interest += f64::from(node.weights_at(now_s, &self.params).0).min(4.0);
            if stat.category == 0 {
                stat.category = node.category.0;
            }
        }
        if !user.bought.is_empty() || !user.seen.is_empty() {
            let names = |nodes: &[crate::graph::Node]| nodes.iter().map(|node| node.name).collect();
            self.baskets.push((names(&user.bought), names(&user.seen)));
        }
    }

    /// Builds the tables. `names` gives texts and titles of items and categories.
    pub fn build(
        self,
        options: &TableOptions,
        categories: &HashMap<NameHash, NameHash>,
        names: &dyn Fn(NameKind, NameHash) -> Option<CatalogueEntry>,
    ) -> ItemTables {
        let per_thousand = 1_000.0 / self.baskets.len().max(1) as f64;
        let mut admitted: Vec<(NameHash, ItemStat)> =
            self.stats.into_iter().filter(|(_, stat)| stat.buyers >= options.min_buyers).collect();
        admitted.sort_unstable_by(|left, right| right.1.buyers.cmp(&left.1.buyers).then(left.0.cmp(&right.0)));
        admitted.truncate(options.max_items);
        let mut category_long: HashMap<u64, f64> = HashMap::new();
        for (item, stat) in &mut admitted {
            if let Some(category) = categories.get(item) {
                stat.category = category.0;
            }
            *category_long.entry(stat.category).or_default() += stat.long;
        }
        let rows: Vec<ItemRow> = admitted
            .iter()
            .map(|(item, stat)| ItemRow {
                item: *item,
                category: NameHash(stat.category),
                popularity_short: (stat.short * per_thousand) as f32,
                popularity_long: (stat.long * per_thousand) as f32,
                // Shrunk: two buyers say little.
                repeat_share: ((f64::from(stat.repeaters) + 1.0) / (f64::from(stat.buyers) + 5.0)) as f32,
                category_share: (stat.long / category_long[&stat.category].max(1e-9)) as f32,
                interest_short: (stat.interest * per_thousand) as f32,
            })
            .collect();
        let row_of: HashMap<NameHash, u32> = (0..).zip(&rows).map(|(row, item)| (item.item, row)).collect();
        let to_rows =
            |items: &[NameHash]| -> Vec<u32> { items.iter().filter_map(|item| row_of.get(item).copied()).collect() };
        let bought: usize = self.baskets.iter().map(|(bought, _)| bought.len()).sum();
        // Where few things are bought, what was looked at together says more than nothing.
        let use_seen = bought < 8 * self.baskets.len();
        let baskets: Vec<Vec<u32>> = self
            .baskets
            .iter()
            .map(|(bought, seen)| {
                let mut rows = to_rows(bought);
                if use_seen {
                    rows.extend(to_rows(seen));
                }
                rows.sort_unstable();
                rows.dedup();
                rows
            })
            .filter(|rows| rows.len() > 1)
            .collect();
        let Neighbours { rows: neighbours, similarities } =
            neighbours::find(&baskets, rows.len(), options.neighbour_count, options.threads);
        let mut known = HashMap::new();
        for row in &rows {
            for (kind, name) in [(NameKind::Item, row.item), (NameKind::Category, row.category)] {
                if let Some(entry) = names(kind, name) {
                    known.insert((kind, name), entry);
                }
            }
        }
        let half_lives = [self.params.half_life_short_days, self.params.half_life_long_days];
        ItemTables::new(rows, neighbours, similarities, options.neighbour_count, half_lives, known)
    }
}
