//! Which items a user wants next: candidates from the user's own graph and the bundle's item tables, ranked by a small
//! network over what each source says of the pair. No table is scanned: the cost depends on the user, not the catalogue.

mod candidates;
mod file;
mod ranker;
mod tables;

pub use candidates::{CandidateSet, FEATURE_NAMES, FEATURE_WIDTH, UserItems};
pub use file::ItemModelError;
pub use ranker::Ranker;
pub use tables::{CatalogueEntry, ItemRow, ItemTables};

use std::cmp::Ordering;

use crate::{
    event::{NameHash, NameKind},
    score::{ItemReason, RankedItem},
};
use candidates::{Candidate, SOURCES};

/// Places of each list at most.
pub const LIST_LENGTH: usize = 20;

/// The two lists of one user.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemLists {
    /// Likely next purchases, repeats allowed, best first.
    pub items: Vec<RankedItem>,
    /// The same among items the user never bought.
    pub discoveries: Vec<RankedItem>,
}

/// Item tables and the two rankers. Immutable once loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemModel {
    tables: ItemTables,
    items: Ranker,
    discoveries: Ranker,
}

impl ItemModel {
    /// Joins tables with the rankers trained on them.
    pub fn new(tables: ItemTables, items: Ranker, discoveries: Ranker) -> Self {
        Self { tables, items, discoveries }
    }

    /// The item tables.
    pub fn tables(&self) -> &ItemTables {
        &self.tables
    }

    /// The text and title of an item or category the bundle knows.
    pub fn name(&self, kind: NameKind, name: NameHash) -> Option<&CatalogueEntry> {
        self.tables.name(kind, name)
    }

    /// Ranks what the user may want after `as_of_ms`. Both lists are empty only when the bundle knows no item at all
    /// (a shop that sends amounts without items) and the user has none.
    pub fn recommend(&self, user: &UserItems, as_of_ms: i64) -> ItemLists {
        let set = CandidateSet::of(&self.tables, user, as_of_ms);
        let all = set.candidates().iter().enumerate().map(|(index, _)| index);
        let fresh =
            set.candidates().iter().enumerate().filter(|(_, candidate)| !candidate.bought).map(|(index, _)| index);
        ItemLists { items: Self::rank(&set, &self.items, all), discoveries: Self::rank(&set, &self.discoveries, fresh) }
    }

    fn rank(set: &CandidateSet, ranker: &Ranker, places: impl Iterator<Item = usize>) -> Vec<RankedItem> {
        let mut scored: Vec<(f32, usize)> = places.map(|place| (ranker.score(set.features(place)), place)).collect();
        let best_first = |left: &(f32, usize), right: &(f32, usize)| {
            let tie = || set.candidates()[left.1].item.cmp(&set.candidates()[right.1].item);
            right.0.total_cmp(&left.0).then_with(tie)
        };
        if scored.len() > LIST_LENGTH {
            scored.select_nth_unstable_by(LIST_LENGTH - 1, best_first);
            scored.truncate(LIST_LENGTH);
        }
        scored.sort_unstable_by(best_first);
        scored
            .into_iter()
            .map(|(score, place)| RankedItem {
                item: set.candidates()[place].item,
                score,
                reason: reason(ranker, set.features(place), &set.candidates()[place], score),
            })
            .collect()
    }
}

/// The source whose removal costs the place most: its inputs are set to what a candidate without that source has.
fn reason(ranker: &Ranker, features: &[f32], candidate: &Candidate, score: f32) -> ItemReason {
    let mut best = (f32::NEG_INFINITY, ItemReason::Popularity);
    for (source, range) in SOURCES {
        if source == ItemReason::Habit && !candidate.bought && !candidate.seen {
            continue;
        }
        let mut without = [0.0; FEATURE_WIDTH];
        without.copy_from_slice(features);
        for value in &mut without[range] {
            *value = 0.0;
        }
        let effect = score - ranker.score(&without);
        if effect.partial_cmp(&best.0) == Some(Ordering::Greater) {
            best = (effect, source);
        }
    }
    best.1
}
