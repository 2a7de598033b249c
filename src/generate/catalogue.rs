//! What there is to buy: items with a category, a price and a day of launch.

#![expect(clippy::cast_possible_truncation, reason = "item numbers are 32 bits wide")]

use super::{GenerateParams, random::Chance};
use crate::event::DAY_MS;

/// Departments with their categories.
const DEPARTMENTS: [(&str, [&str; 4]); 10] = [
    ("GROCERY", ["TEA", "COFFEE", "PASTA", "CEREAL"]),
    ("PRODUCE", ["APPLES", "BERRIES", "SALAD", "HERBS"]),
    ("BAKERY", ["BREAD", "ROLLS", "CAKES", "COOKIES"]),
    ("DAIRY", ["MILK", "CHEESE", "YOGURT", "BUTTER"]),
    ("DRINKS", ["WATER", "JUICE", "BEER", "WINE"]),
    ("HOUSEHOLD", ["SOAP", "PAPER", "CANDLES", "TOOLS"]),
    ("KITCHEN", ["MUGS", "PANS", "KNIVES", "JARS"]),
    ("CLOTHES", ["SHIRTS", "SOCKS", "SHOES", "JACKETS"]),
    ("GARDEN", ["SEEDS", "POTS", "SHOVELS", "LAMPS"]),
    ("TOYS", ["PUZZLES", "BLOCKS", "DOLLS", "GAMES"]),
];

/// Number of categories.
pub(super) const CATEGORIES: u32 = (DEPARTMENTS.len() * 4) as u32;

/// One item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) category: u8,
    pub(super) price_minor: u32,
    pub(super) launch_ms: i64,
}

/// All items, by category and, within a category, by launch; the earlier, the more popular.
#[derive(Debug, Clone)]
pub struct Catalogue {
    items: Vec<Item>,
    by_category: Vec<Vec<u32>>,
    /// Items of each category on the first day.
    at_start: Vec<u32>,
    names: Vec<String>,
    words: Vec<String>,
}

impl Catalogue {
    /// The items of these parameters.
    pub fn new(params: &GenerateParams) -> Self {
        let mut chance = Chance::new(params.seed, u64::MAX);
        let count = params.items.max(CATEGORIES);
        let mut items: Vec<Item> = (0..count)
            .map(|index| {
                // The first items fill every category, on the first day; of the others one in five comes later.
                let is_new = index >= CATEGORIES && chance.below(5) == 0;
                let delay_ms =
                    if is_new { i64::from(chance.below(params.days.max(1) * 24)) * (DAY_MS / 24) } else { 0 };
                Item {
                    category: (if index < CATEGORIES { index } else { chance.below(CATEGORIES) }) as u8,
                    price_minor: 49 + 50 * (chance.skewed(400) + chance.below(6)),
                    launch_ms: params.start_ms + delay_ms,
                }
            })
            .collect();
        items.sort_by_key(|item| item.launch_ms);
        let mut by_category = vec![Vec::new(); CATEGORIES as usize];
        for (index, item) in items.iter().enumerate() {
            by_category[usize::from(item.category)].push(index as u32);
        }
        let at_start = by_category
            .iter()
            .map(|list| list.iter().filter(|item| items[**item as usize].launch_ms <= params.start_ms).count() as u32)
            .collect();
        let names = DEPARTMENTS
            .iter()
            .flat_map(|(department, categories)| {
                categories.iter().map(move |category| format!("{department} > {category}"))
            })
            .collect();
        let words =
            DEPARTMENTS.iter().flat_map(|(_, categories)| categories.iter().map(|name| name.to_lowercase())).collect();
        Self { items, by_category, at_start, names, words }
    }

    /// Number of items.
    pub fn len(&self) -> u32 {
        self.items.len() as u32
    }

    /// Never: every category has at least one item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The text of an item's category.
    pub fn category_of(&self, item: u32) -> &str {
        &self.names[usize::from(self.items[item as usize].category)]
    }

    /// When an item was launched, milliseconds since the Unix epoch.
    pub fn launch_ms(&self, item: u32) -> i64 {
        self.items[item as usize].launch_ms
    }

    /// A title of an item, for people.
    pub fn title_of(&self, item: u32) -> String {
        const LOOKS: [&str; 8] = ["plain", "organic", "fine", "small", "large", "classic", "fresh", "royal"];
        let word = self.word(u32::from(self.items[item as usize].category));
        format!("{} {word} no. {item}", LOOKS[item as usize % LOOKS.len()])
    }

    pub(super) fn item(&self, item: u32) -> Item {
        self.items[item as usize]
    }

    /// The word that stands for a category in a search.
    pub(super) fn word(&self, category: u32) -> &str {
        &self.words[category as usize]
    }

    /// The item of this rank in a category.
    pub(super) fn ranked(&self, category: u32, rank: u32) -> u32 {
        self.by_category[category as usize][rank as usize]
    }

    /// Items of a category on the first day.
    pub(super) fn count_at_start(&self, category: u32) -> u32 {
        self.at_start[category as usize]
    }

    /// Items of a category that are launched at `time_ms`.
    pub(super) fn count_at(&self, category: u32, time_ms: i64) -> u32 {
        self.by_category[category as usize].partition_point(|item| self.items[*item as usize].launch_ms <= time_ms)
            as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_category_has_items_on_the_first_day_and_new_ones_come() {
        let params = GenerateParams::new(10, 100, 7);
        let catalogue = Catalogue::new(&params);
        let mut new = 0;
        for category in 0..CATEGORIES {
            assert!(catalogue.count_at_start(category) > 0);
            new += catalogue.count_at(category, params.end_ms()) - catalogue.count_at_start(category);
        }
        assert!((800..1200).contains(&new), "{new}");
        assert!((0..catalogue.len()).all(|item| catalogue.launch_ms(item) < params.end_ms()));
    }
}
