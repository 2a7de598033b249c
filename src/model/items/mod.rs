//! Which items a user wants next: candidates from the user's own graph and the bundle's item tables, ranked by boosted
//! trees over what each source says of the pair. No table is scanned: the cost depends on the user, not the catalogue.

mod candidates;
mod features;
mod file;
mod ranker;
mod reached;
mod tables;
mod user;

pub use candidates::{Candidate, CandidateSet, CandidateWork};
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
    pub fn recommend(&self, user: &UserItems, as_of_ms: i64, work: &mut CandidateWork) -> ItemLists {
        let set = CandidateSet::of(&self.tables, user, as_of_ms, work);
        let all = 0..set.candidates().len();
        let fresh = all.clone().filter(|place| !set.candidates()[*place].bought);
        let lists = ItemLists {
            items: Self::rank(&set, &self.items, all),
            discoveries: Self::rank(&set, &self.discoveries, fresh),
        };
        work.spare = set;
        lists
    }

    fn rank(set: &CandidateSet, ranker: &Ranker, places: impl Iterator<Item = usize>) -> Vec<RankedItem> {
        let item = |place: usize| set.candidates()[place].item;
        let best = ranker.best(places, LIST_LENGTH, |place| set.features(place), item);
        let reasons = reasons(ranker, &best.iter().map(|(_, place)| set.features(*place)).collect::<Vec<_>>());
        #[expect(clippy::cast_possible_truncation, reason = "a score for comparing places of one list")]
        let ranked = |((score, place), reason): ((f64, usize), ItemReason)| RankedItem {
            item: item(place),
            score: score as f32,
            reason,
        };
        best.into_iter().zip(reasons).map(ranked).collect()
    }
}

/// The source without which each place would lose most: its features are set to what a candidate has that the source
/// says nothing of. A source that says nothing of the candidate is never the reason. The first trees answer: each place is
/// asked about once a source, which would cost more than the ranking itself by all of them.
fn reasons(ranker: &Ranker, places: &[&[f32]]) -> Vec<ItemReason> {
    let mut rows: Vec<[f32; FEATURE_WIDTH]> = Vec::with_capacity(places.len() * (1 + SOURCES.len()));
    for features in places {
        let mut row = BLANK;
        row.copy_from_slice(features);
        rows.push(row);
        for (_, range) in SOURCES {
            let mut without = row;
            without[range.clone()].copy_from_slice(&BLANK[range]);
            rows.push(without);
        }
    }
    let scores = ranker.first_scores(&rows.iter().map(<[f32; FEATURE_WIDTH]>::as_slice).collect::<Vec<_>>());
    let of_place = |(features, scores): (&&[f32], &[f64])| {
        let mut best = (f64::NEG_INFINITY, ItemReason::Popularity);
        for ((source, range), without) in SOURCES.into_iter().zip(&scores[1..]) {
            let effect = scores[0] - without;
            if features[range].iter().any(|value| !value.is_nan()) && effect > best.0 {
                best = (effect, source);
            }
        }
        best.1
    };
    places.iter().zip(scores.chunks_exact(1 + SOURCES.len())).map(of_place).collect()
}
