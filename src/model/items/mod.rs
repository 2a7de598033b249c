//! Which items a user wants next: candidates from the user's own graph and the bundle's item tables, ranked by boosted
//! trees over what each source says of the pair. No table is scanned: the cost depends on the user, not the catalogue.

mod candidates;
mod features;
mod file;
mod ranker;
mod tables;
mod user;

pub use candidates::{Candidate, CandidateSet};
pub use features::{FEATURE_NAMES, FEATURE_WIDTH};
pub use file::ItemModelError;
pub use ranker::Ranker;
pub use tables::{AllLinks, CatalogueEntry, ItemRow, ItemTables, Links};
pub use user::UserItems;

use crate::{
    event::{NameHash, NameKind},
    score::{ItemReason, RankedItem},
};
use features::{BLANK, SOURCES};

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
        let all = 0..set.candidates().len();
        let fresh = all.clone().filter(|place| !set.candidates()[*place].bought);
        ItemLists { items: Self::rank(&set, &self.items, all), discoveries: Self::rank(&set, &self.discoveries, fresh) }
    }

    fn rank(set: &CandidateSet, ranker: &Ranker, places: impl Iterator<Item = usize>) -> Vec<RankedItem> {
        let item = |place: usize| set.candidates()[place].item;
        let best = ranker.best(places, LIST_LENGTH, |place| set.features(place), item);
        #[expect(clippy::cast_possible_truncation, reason = "a score for comparing places of one list")]
        let ranked = |(score, place): (f64, usize)| RankedItem {
            item: item(place),
            score: score as f32,
            reason: reason(ranker, set.features(place)),
        };
        best.into_iter().map(ranked).collect()
    }
}

/// The source without which the place would lose most: its features are set to what a candidate has that the source
/// says nothing of. A source that says nothing of the candidate is never the reason. The first trees answer: each place is
/// asked about once a source, which would cost more than the ranking itself by all of them.
fn reason(ranker: &Ranker, features: &[f32]) -> ItemReason {
    let score = ranker.first_score(features);
    let mut best = (f64::NEG_INFINITY, ItemReason::Popularity);
    for (source, range) in SOURCES {
        let mut without = BLANK;
        without.copy_from_slice(features);
        without[range.clone()].copy_from_slice(&BLANK[range.clone()]);
        if features[range].iter().all(|value| value.is_nan()) {
            continue;
        }
        let effect = score - ranker.first_score(&without);
        if effect > best.0 {
            best = (effect, source);
        }
    }
    best.1
}
