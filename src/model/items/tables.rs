//! What the bundle knows of items: popularity, links between items, categories, names. One row an admitted item.

use std::collections::HashMap;

use super::features::{BLANK, ITEM, ITEM_WIDTH, Place as P, set_all};
use crate::{
    event::{NameHash, NameKind},
    graph::NameHashBuilder,
};

/// A name in the bundle's catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogueEntry {
    /// The id as the sender spells it.
    pub text: String,
    /// A title for people; empty when none is known.
    pub title: String,
}

/// What is known of one admitted item at the end of training. Counts are per thousand users.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemRow {
    /// The item.
    pub item: NameHash,
    /// Its category; `NameHash(0)` when unknown.
    pub category: NameHash,
    /// Purchases with the graph's short half-life, summed over users.
    pub popularity_short: f32,
    /// The same with the long half-life.
    pub popularity_long: f32,
    /// Users who ever bought it.
    pub buyers: f32,
    /// Users who bought it within the newest window (the purchase horizon of training).
    pub buyers_window: f32,
    /// The same within four windows.
    pub buyers_recent: f32,
    /// Users who bought it for the first time within the newest window.
    pub first_buyers_window: f32,
    /// The same within four windows.
    pub first_buyers_recent: f32,
    /// Of those who had bought it before the newest window, the share who bought it in that window, shrunk.
    pub return_share: f32,
    /// Share of its buyers who bought it on more than one day, shrunk.
    pub repeat_share: f32,
    /// Mean days between two purchases of those who repeat, shrunk.
    pub gap_days: f32,
    /// Days since it was first bought by anyone.
    pub age_days: f32,
    /// Views and carts with the short half-life.
    pub interest_short: f32,
    /// Share of its category's long popularity.
    pub category_share: f32,
    /// Of the purchases in its category within four windows, the share by first buyers of the item.
    pub category_first_share: f32,
}

impl ItemRow {
    /// What popular items are ordered by: interest decides among what nobody bought.
    pub fn popularity(&self) -> f32 {
        self.popularity_short + 0.2 * self.popularity_long + 1e-3 * self.interest_short
    }
}

/// Reads and writes the numbers of a row in one order, which is that of files.
macro_rules! numbers {
    ($($name:ident),* $(,)?) => {
        impl ItemRow {
            /// Numbers of a row.
            pub(super) const VALUES: usize = [$(stringify!($name)),*].len();

            /// A row of a name with these numbers.
            pub(super) fn from_values(item: NameHash, category: NameHash, values: [f32; Self::VALUES]) -> Self {
                let [$($name),*] = values;
                Self { item, category, $($name),* }
            }

            /// The numbers.
            pub(super) fn values(&self) -> [f32; Self::VALUES] {
                [$(self.$name),*]
            }
        }
    };
}

numbers! {
    popularity_short, popularity_long, buyers, buyers_window, buyers_recent,
    first_buyers_window, first_buyers_recent, return_share, repeat_share, gap_days,
    age_days, interest_short, category_share, category_first_share,
}

/// From each row to a few others, with a weight each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Links {
    /// Links of a row at most.
    pub count: usize,
    /// `rows × count`: the row linked to, best first; unused places hold [`ItemTables::NO_ROW`].
    pub rows: Vec<u32>,
    /// Weight of each, positive; 0 in unused places.
    pub weights: Vec<f32>,
}

impl Links {
    /// Links of a row with their weight, best first. Read from front to back: the tables are larger than caches, and a
    /// search for the end would wait for memory at every step.
    pub fn of(&self, row: u32) -> impl Iterator<Item = (u32, f32)> + '_ {
        let start = row as usize * self.count;
        let range = start..start + self.count;
        let pairs = self.rows[range.clone()].iter().copied().zip(self.weights[range].iter().copied());
        pairs.take_while(|(row, _)| *row != ItemTables::NO_ROW)
    }

    /// The nearest weight with eight significant bits: what files keep, so that a stored model is the trained one.
    pub fn rounded(weight: f32) -> f32 {
        f32::from_bits(weight.to_bits().saturating_add(0x8000) & 0xFFFF_0000)
    }

    /// Whether there are `count` places for each of `row_count` rows, each a row or unused.
    pub(super) fn fits(&self, row_count: usize) -> bool {
        self.rows.len() == row_count * self.count
            && self.weights.len() == self.rows.len()
            && self.rows.iter().all(|row| *row == ItemTables::NO_ROW || (*row as usize) < row_count)
            && self.weights.iter().all(|weight| weight.is_finite())
    }
}

/// The three kinds of links. Those that were not made have no places.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AllLinks {
    /// Weight of a purchase of the row in the linear regression of each other item on all items of a user
    /// (EASE, Steck 2019).
    pub regression: Links,
    /// Items with many buyers in common.
    pub common: Links,
    /// Items whose titles share rare words.
    pub alike: Links,
}

/// The item tables of a bundle.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemTables {
    rows: Vec<ItemRow>,
    links: AllLinks,
    half_life_days: [f32; 2],
    window_days: f32,
    names: HashMap<(NameKind, NameHash), CatalogueEntry>,
    // Derived from the above.
    row_of: HashMap<NameHash, u32, NameHashBuilder>,
    popular: Vec<u32>,
    first_popular: Vec<u32>,
    first_rank: Vec<u32>,
    category_popular: HashMap<NameHash, Vec<u32>, NameHashBuilder>,
    category_first: HashMap<NameHash, Vec<u32>, NameHashBuilder>,
    category_rank: Vec<u32>,
    /// By row: what candidates have of the item alone, and the logarithm of its first buyers.
    item_features: Vec<[f32; ITEM_WIDTH]>,
    first_log: Vec<f32>,
}

/// What an item counts as that nobody bought for the first time lately.
const NO_FIRST_BUYERS: f32 = 0.2;

/// How many buy the item for the first time lately, as a logarithm from 0 on.
fn first_log(row: &ItemRow) -> f32 {
    ((row.first_buyers_window + 0.25 * row.first_buyers_recent) / NO_FIRST_BUYERS).ln_1p()
}

/// Rows kept of each order, over all and in each category.
const POPULAR_LENGTH: usize = 1_000;
const CATEGORY_LENGTH: usize = 40;

impl ItemTables {
    /// Places that hold no link.
    pub const NO_ROW: u32 = u32::MAX;

    /// Joins the parts and derives the indices.
    ///
    /// # Panics
    /// When the links do not fit the rows.
    pub fn new(
        rows: Vec<ItemRow>,
        links: AllLinks,
        half_life_days: [f32; 2],
        window_days: f32,
        names: HashMap<(NameKind, NameHash), CatalogueEntry>,
    ) -> Self {
        for part in [&links.regression, &links.common, &links.alike] {
            assert!(part.fits(rows.len()), "links of every row, to rows");
        }
        let mut tables = Self { rows, links, half_life_days, window_days, names, ..Self::default() };
        tables.index();
        tables
    }

    fn index(&mut self) {
        self.row_of = (0..).zip(&self.rows).map(|(row, item)| (item.item, row)).collect();
        let order = |score: &dyn Fn(&ItemRow) -> f32| {
            let mut order: Vec<u32> = (0..).take(self.rows.len()).collect();
            let key = |row: &u32| (score(&self.rows[*row as usize]), self.rows[*row as usize].item);
            order.sort_by(|left, right| key(right).0.total_cmp(&key(left).0).then(key(left).1.cmp(&key(right).1)));
            order
        };
        let by_all = order(&ItemRow::popularity);
        let by_first = order(&|item| {
            item.first_buyers_window + 0.25 * item.first_buyers_recent + 1e-2 * item.buyers + 1e-3 * item.interest_short
        });
        self.first_rank = vec![0; self.rows.len()];
        for (rank, row) in (0..).zip(&by_first) {
            self.first_rank[*row as usize] = rank;
        }
        self.category_rank = vec![0; self.rows.len()];
        for (place, order) in [&by_all, &by_first].into_iter().enumerate() {
            let mut rows_of: HashMap<NameHash, Vec<u32>, NameHashBuilder> = HashMap::default();
            let mut counts: HashMap<NameHash, u32, NameHashBuilder> = HashMap::default();
            for row in order {
                let category = self.rows[*row as usize].category;
                let rank = counts.entry(category).or_default();
                if place == 0 {
                    self.category_rank[*row as usize] = *rank;
                }
                *rank += 1;
                let rows = rows_of.entry(category).or_default();
                if category.0 != 0 && rows.len() < CATEGORY_LENGTH {
                    rows.push(*row);
                }
            }
            *[&mut self.category_popular, &mut self.category_first][place] = rows_of;
        }
        let first = |order: Vec<u32>| order.into_iter().take(POPULAR_LENGTH).collect();
        (self.popular, self.first_popular) = (first(by_all), first(by_first));
        self.first_log = self.rows.iter().map(first_log).collect();
        self.item_features = (0..).zip(&self.rows).map(|(row, known)| self.features_of(row, known)).collect();
    }

    #[expect(clippy::cast_precision_loss, reason = "ranks need few digits")]
    fn features_of(&self, row: u32, known: &ItemRow) -> [f32; ITEM_WIDTH] {
        let place = row as usize;
        let mut features = BLANK;
        set_all(
            &mut features,
            &[
                (P::category_item_share, known.category_share),
                (P::category_item_rank, self.category_rank[place] as f32),
                (P::popularity_short_log, known.popularity_short.ln_1p()),
                (P::popularity_long_log, known.popularity_long.ln_1p()),
                (P::popularity_trend, known.popularity_short.ln_1p() - known.popularity_long.ln_1p()),
                (P::buyers_log, known.buyers.ln_1p()),
                (P::buyers_window_log, known.buyers_window.ln_1p()),
                (P::buyers_recent_log, known.buyers_recent.ln_1p()),
                (P::first_buyers_window_log, known.first_buyers_window.ln_1p()),
                (P::first_buyers_recent_log, known.first_buyers_recent.ln_1p()),
                (P::return_share, known.return_share),
                (P::repeat_share, known.repeat_share),
                (P::item_gap_days_log, known.gap_days.ln_1p()),
                (P::item_age_days_log, known.age_days.ln_1p()),
                (P::interest_short_log, known.interest_short.ln_1p()),
                (P::category_first_share, known.category_first_share),
                (P::first_buyers_rank, self.first_rank[place] as f32),
                (P::first_popularity_log, self.first_log[place]),
            ],
        );
        let mut item = [f32::NAN; ITEM_WIDTH];
        item.copy_from_slice(&features[ITEM]);
        item
    }

    /// All rows.
    pub fn rows(&self) -> &[ItemRow] {
        &self.rows
    }

    /// The row of an item, when it was admitted.
    pub fn row(&self, item: NameHash) -> Option<u32> {
        self.row_of.get(&item).copied()
    }

    /// Links between rows.
    pub fn links(&self) -> &AllLinks {
        &self.links
    }

    /// The most popular rows, best first.
    pub fn popular(&self) -> &[u32] {
        &self.popular
    }

    /// The rows with the most first buyers lately, best first.
    pub fn first_popular(&self) -> &[u32] {
        &self.first_popular
    }

    /// The logarithm of a row's first buyers.
    pub(super) fn first_log(&self, row: u32) -> f32 {
        self.first_log[row as usize]
    }

    /// What candidates have of the item of a row alone.
    pub(super) fn item_features(&self, row: u32) -> &[f32] {
        &self.item_features[row as usize]
    }

    /// The most popular rows of a category, best first.
    pub fn category_popular(&self, category: NameHash) -> &[u32] {
        self.category_popular.get(&category).map_or(&[], Vec::as_slice)
    }

    /// The rows of a category with the most first buyers lately, best first.
    pub fn category_first(&self, category: NameHash) -> &[u32] {
        self.category_first.get(&category).map_or(&[], Vec::as_slice)
    }

    /// Half-lives of the graph's weights in training, short and long, in days.
    pub fn half_life_days(&self) -> [f32; 2] {
        self.half_life_days
    }

    /// Length of the windows that counts are of, in days: the purchase horizon of training.
    pub fn window_days(&self) -> f32 {
        self.window_days
    }

    /// A name of the catalogue.
    pub fn name(&self, kind: NameKind, name: NameHash) -> Option<&CatalogueEntry> {
        self.names.get(&(kind, name))
    }

    /// All names of the catalogue, in no particular order.
    pub(super) fn names(&self) -> &HashMap<(NameKind, NameHash), CatalogueEntry> {
        &self.names
    }
}
