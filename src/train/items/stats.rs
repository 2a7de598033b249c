//! Item tables from the users' items at one moment.

#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "popularity needs few digits")]

use std::collections::HashMap;

use super::{alike, common, near, regression};
use crate::{
    event::{NameHash, NameKind},
    graph::{GraphParams, NameHashBuilder, Node},
    model::items::{AllLinks, CatalogueEntry, ItemModel, ItemRow, ItemTables, UserItems},
    train::TitleVectors,
};

/// Bounds of the tables.
#[derive(Debug, Clone, Copy)]
pub struct TableOptions {
    /// Items admitted at most, by buyers.
    pub max_items: usize,
    /// Links kept an item: regression, common buyers, alike titles.
    pub link_counts: [usize; 3],
    /// Threads to work on.
    pub threads: usize,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { max_items: 20_000, link_counts: [64, 16, 8], threads: 2 }
    }
}

#[derive(Debug, Default, Clone)]
struct ItemStat {
    category: Option<NameHash>,
    buyers: u32,
    repeaters: u32,
    short: f64,
    long: f64,
    interest: f64,
    /// Users who bought it in the newest window and in the newest four.
    recent: [u32; 2],
    /// Users whose first purchase of it was in them.
    first: [u32; 2],
    /// Users who had bought it before the newest window, and those of them who bought it in the window.
    holders: u32,
    returned: u32,
    gap_days: f64,
    gaps: u32,
    first_s: u32,
}

/// Collects users' items at one moment and builds the tables.
#[derive(Debug)]
pub struct TableBuilder {
    as_of_s: i64,
    window_s: i64,
    params: GraphParams,
    stats: HashMap<NameHash, ItemStat, NameHashBuilder>,
    /// Items of each user with a weight, bought first, then looked at.
    baskets: Vec<[Vec<(NameHash, f32)>; 2]>,
}

impl TableBuilder {
    /// A builder for a moment (milliseconds since the Unix epoch) and windows of `window_ms`.
    pub fn new(as_of_ms: i64, window_ms: i64, params: &GraphParams) -> Self {
        Self {
            as_of_s: as_of_ms.div_euclid(1_000),
            window_s: (window_ms / 1_000).max(1),
            params: params.clone(),
            stats: HashMap::default(),
            baskets: Vec::new(),
        }
    }

    /// Adds one user's items as of the builder's moment.
    pub fn add(&mut self, user: &UserItems) {
        let now_s = u32::try_from(self.as_of_s.max(0)).unwrap_or(u32::MAX);
        let since_s = [1, 4].map(|windows| self.as_of_s - windows * self.window_s);
        let weights = |node: &Node| node.weights_at(now_s, &self.params);
        for node in &user.bought {
            let stat = self.stats.entry(node.name).or_default();
            let (short, long) = weights(node);
            let (first_s, last_s) = (i64::from(node.first_s), i64::from(node.last_s));
            stat.first_s = if stat.buyers == 0 { node.first_s } else { stat.first_s.min(node.first_s) };
            stat.buyers += 1;
            // One user who buys a thousand times is no thousand users.
            stat.short += f64::from(short).min(4.0);
            stat.long += f64::from(long).min(8.0);
            for (place, since_s) in since_s.into_iter().enumerate() {
                stat.recent[place] += u32::from(last_s >= since_s);
                stat.first[place] += u32::from(first_s >= since_s);
            }
            if first_s < since_s[0] {
                stat.holders += 1;
                stat.returned += u32::from(last_s >= since_s[0]);
            }
            if node.count > 1 && last_s / 86_400 > first_s / 86_400 {
                stat.repeaters += 1;
                stat.gap_days += (last_s - first_s) as f64 / 86_400.0 / f64::from(node.count - 1);
                stat.gaps += 1;
            }
            if node.category.0 != 0 {
                stat.category = Some(node.category);
            }
        }
        for node in &user.seen {
            let stat = self.stats.entry(node.name).or_default();
            stat.interest += f64::from(weights(node).0).min(4.0);
            if stat.category.is_none() && node.category.0 != 0 {
                stat.category = Some(node.category);
            }
        }
        if !user.bought.is_empty() || !user.seen.is_empty() {
            let recent = |node: &Node| (node.name, weights(node).1.clamp(0.01, 1.0));
            self.baskets.push([&user.bought, &user.seen].map(|nodes| nodes.iter().map(recent).collect()));
        }
    }

    /// Builds the tables. `categories` are known beside the events, `names` gives texts and titles of items and
    /// categories; the items of `listed` may be recommended though nobody bought them yet. Titles are compared by `vectors` where
    /// there are any, else by their words.
    pub fn build(
        mut self,
        options: &TableOptions,
        categories: &HashMap<NameHash, NameHash>,
        listed: &mut dyn Iterator<Item = NameHash>,
        names: &dyn Fn(NameKind, NameHash) -> Option<CatalogueEntry>,
        vectors: Option<&TitleVectors>,
    ) -> candle_core::Result<ItemTables> {
        for item in listed {
            self.stats.entry(item).or_default();
        }
        for (item, stat) in &mut self.stats {
            if let Some(category) = categories.get(item) {
                stat.category = Some(*category);
            }
        }
        let rows = self.rows(options, categories);
        let row_of: HashMap<NameHash, u32, NameHashBuilder> =
            (0..).zip(&rows).map(|(row, item)| (item.item, row)).collect();
        let baskets = self.row_baskets(&row_of);
        let [regression_count, common_count, alike_count] = options.link_counts;
        let mut known = HashMap::new();
        for row in &rows {
            for (kind, name) in [(NameKind::Item, row.item), (NameKind::Category, row.category)] {
                if let Some(entry) = names(kind, name) {
                    known.insert((kind, name), entry);
                }
            }
        }
        let title = |row: &ItemRow| known.get(&(NameKind::Item, row.item)).map_or("", |entry| entry.title.as_str());
        let titles: Vec<&str> = rows.iter().map(title).collect();
        let alike = match vectors {
            Some(vectors) => {
                let vectors = vectors.of(&titles).map_err(candle_core::Error::wrap)?;
                near::find(&vectors, alike_count, options.threads)?
            }
            None => alike::find(&titles, alike_count, options.threads),
        };
        let links = AllLinks {
            regression: regression::find(&baskets, rows.len(), regression_count, options.threads)?,
            common: common::find(&baskets, rows.len(), common_count, options.threads),
            alike,
        };
        let half_lives = [self.params.half_life_short_days, self.params.half_life_long_days];
        Ok(ItemTables::new(rows, links, half_lives, self.window_s as f32 / 86_400.0, known))
    }

    /// The admitted items, most buyers first.
    fn rows(&self, options: &TableOptions, listed: &HashMap<NameHash, NameHash>) -> Vec<ItemRow> {
        let mut sold_in: HashMap<Option<NameHash>, [f64; 3], NameHashBuilder> = HashMap::default();
        let mut total = [0.0_f64; 4];
        for stat in self.stats.values().filter(|stat| stat.buyers > 0) {
            total[0] += f64::from(stat.returned);
            total[1] += f64::from(stat.holders);
            total[2] += stat.gap_days;
            total[3] += f64::from(stat.gaps);
            let category = sold_in.entry(stat.category).or_default();
            category[0] += stat.long;
            category[1] += f64::from(stat.first[1]);
            category[2] += f64::from(stat.recent[1]);
        }
        // A name that was only looked at may be no product at all, unless it is listed or stands among products.
        let sellable = |item: &NameHash, stat: &ItemStat| {
            stat.buyers > 0
                || listed.contains_key(item)
                || (stat.category.is_some() && sold_in.contains_key(&stat.category))
        };
        let mut admitted: Vec<(NameHash, &ItemStat)> =
            self.stats.iter().filter(|(item, stat)| sellable(item, stat)).map(|(item, stat)| (*item, stat)).collect();
        admitted.sort_unstable_by(|(left, left_stat), (right, right_stat)| {
            let by_buyers = right_stat.buyers.cmp(&left_stat.buyers);
            by_buyers.then(right_stat.interest.total_cmp(&left_stat.interest)).then(left.cmp(right))
        });
        admitted.truncate(options.max_items.min(ItemModel::MAX_ROWS));
        let per_thousand = 1_000.0 / self.baskets.len().max(1) as f64;
        let scaled = |count: f64| (count * per_thousand) as f32;
        let shrunk =
            |part: f64, whole: f64, prior: f64, strength: f64| ((part + prior * strength) / (whole + strength)) as f32;
        let (mean_return, mean_gap) = (total[0] / total[1].max(1.0), total[2] / total[3].max(1.0));
        let row = |(item, stat): &(NameHash, &ItemStat)| {
            let category = sold_in.get(&stat.category).copied().unwrap_or_default();
            let [window, recent] = stat.recent.map(|count| scaled(f64::from(count)));
            let [first_window, first_recent] = stat.first.map(|count| scaled(f64::from(count)));
            ItemRow {
                item: *item,
                category: stat.category.unwrap_or(NameHash(0)),
                popularity_short: scaled(stat.short),
                popularity_long: scaled(stat.long),
                buyers: scaled(f64::from(stat.buyers)),
                buyers_window: window,
                buyers_recent: recent,
                first_buyers_window: first_window,
                first_buyers_recent: first_recent,
                return_share: shrunk(f64::from(stat.returned), f64::from(stat.holders), mean_return, 20.0),
                repeat_share: shrunk(f64::from(stat.repeaters), f64::from(stat.buyers), 0.2, 5.0),
                gap_days: shrunk(stat.gap_days, f64::from(stat.gaps), mean_gap, 3.0),
                age_days: if stat.buyers > 0 {
                    (self.as_of_s - i64::from(stat.first_s)).max(0) as f32 / 86_400.0
                } else {
                    0.0
                },
                interest_short: scaled(stat.interest),
                category_share: (stat.long / category[0].max(1e-9)) as f32,
                category_first_share: shrunk(category[1], category[2], 0.5, 5.0),
            }
        };
        admitted.iter().map(row).collect()
    }

    /// Ascending rows of each user with at least two, with weights.
    fn row_baskets(&self, row_of: &HashMap<NameHash, u32, NameHashBuilder>) -> Vec<Vec<(u32, f32)>> {
        let bought: usize = self.baskets.iter().map(|[bought, _]| bought.len()).sum();
        // Where few things are bought, what was looked at together says more than nothing.
        let use_seen = bought < 8 * self.baskets.len();
        let basket = |[bought, seen]: &[Vec<(NameHash, f32)>; 2]| {
            let to_rows = |items: &[(NameHash, f32)], share: f32| -> Vec<(u32, f32)> {
                items.iter().filter_map(|(item, weight)| Some((*row_of.get(item)?, share * weight))).collect()
            };
            let mut rows = to_rows(bought, 1.0);
            if use_seen {
                rows.extend(to_rows(seen, 0.5));
            }
            // Of two places of one row the first, which is the purchase.
            rows.sort_by_key(|(row, _)| *row);
            rows.dedup_by_key(|(row, _)| *row);
            rows
        };
        self.baskets.iter().map(basket).filter(|rows| rows.len() > 1).collect()
    }
}
