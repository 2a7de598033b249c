//! What the bundle knows of items: popularity, neighbours, categories, names. One row an admitted item.

use std::collections::HashMap;

use crate::event::{NameHash, NameKind};

/// A name in the bundle's catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogueEntry {
    /// The id as the sender spells it.
    pub text: String,
    /// A title for people; empty when none is known.
    pub title: String,
}

/// What is known of one admitted item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ItemRow {
    /// The item.
    pub item: NameHash,
    /// Its category; `NameHash(0)` when unknown.
    pub category: NameHash,
    /// Purchases with the graph's short half-life at the end of training, summed over users, per thousand users.
    pub popularity_short: f32,
    /// The same with the long half-life.
    pub popularity_long: f32,
    /// Share of its buyers who bought it more than once.
    pub repeat_share: f32,
    /// Share of its category's long popularity.
    pub category_share: f32,
    /// Views and carts with the short half-life, per thousand users.
    pub interest_short: f32,
}

/// The item tables of a bundle.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemTables {
    rows: Vec<ItemRow>,
    /// `rows × neighbour_count`: row of the neighbour, best first; unused places hold `u32::MAX`.
    neighbours: Vec<u32>,
    /// Similarity of each neighbour, 0 in unused places.
    similarities: Vec<f32>,
    neighbour_count: usize,
    half_life_days: [f32; 2],
    names: HashMap<(NameKind, NameHash), CatalogueEntry>,
    // Derived from the above.
    row_of: HashMap<NameHash, u32>,
    popular: Vec<u32>,
    category_popular: HashMap<NameHash, Vec<u32>>,
}

/// Rows kept of the popularity order, over all and in each category.
const POPULAR_LENGTH: usize = 120;
const CATEGORY_POPULAR_LENGTH: usize = 20;

impl ItemTables {
    /// Places that hold no neighbour.
    pub const NO_ROW: u32 = u32::MAX;

    /// Joins the parts and derives the indices. `neighbours` and `similarities` hold `neighbour_count` places a row.
    ///
    /// # Panics
    /// When the lengths do not fit together, or a neighbour is no row.
    pub fn new(
        rows: Vec<ItemRow>,
        neighbours: Vec<u32>,
        similarities: Vec<f32>,
        neighbour_count: usize,
        half_life_days: [f32; 2],
        names: HashMap<(NameKind, NameHash), CatalogueEntry>,
    ) -> Self {
        assert_eq!(neighbours.len(), rows.len() * neighbour_count, "neighbours of every row");
        assert_eq!(similarities.len(), neighbours.len(), "one similarity a neighbour");
        assert!(
            neighbours.iter().all(|row| *row == Self::NO_ROW || (*row as usize) < rows.len()),
            "a neighbour is a row"
        );
        let mut tables =
            Self { rows, neighbours, similarities, neighbour_count, half_life_days, names, ..Self::default() };
        tables.index();
        tables
    }

    fn index(&mut self) {
        self.row_of = (0..).zip(&self.rows).map(|(row, item)| (item.item, row)).collect();
        let mut order: Vec<u32> = (0..).zip(&self.rows).map(|(row, _)| row).collect();
        let score = |row: &u32| {
            let item = &self.rows[*row as usize];
            (item.popularity_short + 0.2 * item.popularity_long, item.item)
        };
        order.sort_by(|left, right| score(right).0.total_cmp(&score(left).0).then(score(left).1.cmp(&score(right).1)));
        for row in &order {
            let category = self.rows[*row as usize].category;
            if category.0 == 0 {
                continue;
            }
            let rows = self.category_popular.entry(category).or_default();
            if rows.len() < CATEGORY_POPULAR_LENGTH {
                rows.push(*row);
            }
        }
        order.truncate(POPULAR_LENGTH);
        self.popular = order;
    }

    /// All rows.
    pub fn rows(&self) -> &[ItemRow] {
        &self.rows
    }

    /// The row of an item, when it was admitted.
    pub fn row(&self, item: NameHash) -> Option<u32> {
        self.row_of.get(&item).copied()
    }

    /// Neighbours of a row with their similarity, best first.
    pub fn neighbours(&self, row: u32) -> impl Iterator<Item = (u32, f32)> + '_ {
        let start = row as usize * self.neighbour_count;
        let range = start..start + self.neighbour_count;
        let pairs = self.neighbours[range.clone()].iter().copied().zip(self.similarities[range].iter().copied());
        pairs.take_while(|(neighbour, _)| *neighbour != Self::NO_ROW)
    }

    /// The most popular rows, best first.
    pub fn popular(&self) -> &[u32] {
        &self.popular
    }

    /// The most popular rows of a category, best first.
    pub fn category_popular(&self, category: NameHash) -> &[u32] {
        self.category_popular.get(&category).map_or(&[], Vec::as_slice)
    }

    /// Half-lives of the graph's weights in training, short and long, in days.
    pub fn half_life_days(&self) -> [f32; 2] {
        self.half_life_days
    }

    /// A name of the catalogue.
    pub fn name(&self, kind: NameKind, name: NameHash) -> Option<&CatalogueEntry> {
        self.names.get(&(kind, name))
    }

    /// All names of the catalogue, in no particular order.
    pub(super) fn names(&self) -> &HashMap<(NameKind, NameHash), CatalogueEntry> {
        &self.names
    }

    pub(super) fn neighbour_parts(&self) -> (&[u32], &[f32], usize) {
        (&self.neighbours, &self.similarities, self.neighbour_count)
    }
}
