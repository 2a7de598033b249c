//! Which items have a row of their own in the embedding table; the rest share hashed rows.

use std::collections::HashMap;

use crate::event::{NameHash, NameKind};

/// Rows shared by items outside the vocabulary.
pub const UNSEEN_BUCKETS: u32 = 64;
/// Rows shared by search texts.
pub const QUERY_BUCKETS: u32 = 64;
/// Rows of the category table; row 0 is 'no category'.
pub const CATEGORY_BUCKETS: u32 = 256;

/// Items admitted by frequency. Row 0 is 'no item', then one row each, then the shared rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemVocabulary {
    items: Vec<NameHash>,
    /// Share of all training occurrences of each item: the sampling correction (log Q) and a popularity order.
    shares: Vec<f32>,
    row_of_low: HashMap<u32, u32>,
}

impl ItemVocabulary {
    /// Admits the `capacity` most frequent of `counts` that occur at least `min_count` times; ties by hash.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "shares need few digits")]
    pub fn admit(counts: impl IntoIterator<Item = (NameHash, u64)>, capacity: usize, min_count: u64) -> Self {
        let mut admitted: Vec<(NameHash, u64)> = counts.into_iter().filter(|(_, count)| *count >= min_count).collect();
        admitted.sort_unstable_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(&right.0)));
        admitted.truncate(capacity);
        let total = admitted.iter().map(|(_, count)| *count).sum::<u64>().max(1) as f64;
        let (items, shares) = admitted.iter().map(|(item, count)| (*item, (*count as f64 / total) as f32)).unzip();
        Self::from_parts(items, shares)
    }

    /// Rebuilds from stored parts, most frequent first.
    pub fn from_parts(items: Vec<NameHash>, shares: Vec<f32>) -> Self {
        let mut row_of_low = HashMap::with_capacity(items.len());
        for (row, item) in (1..).zip(&items) {
            row_of_low.entry(low(*item)).or_insert(row);
        }
        Self { items, shares, row_of_low }
    }

    /// Admitted items, most frequent first; item `i` has row `i + 1`.
    pub fn items(&self) -> &[NameHash] {
        &self.items
    }

    /// Share of each admitted item among the admitted occurrences.
    pub fn shares(&self) -> &[f32] {
        &self.shares
    }

    /// The item's own row, when it was admitted.
    pub fn row(&self, item: NameHash) -> Option<u32> {
        self.row_of_low.get(&low(item)).copied()
    }

    /// Rows of the embedding table.
    pub fn table_rows(&self) -> usize {
        self.items.len() + 1 + UNSEEN_BUCKETS as usize + QUERY_BUCKETS as usize
    }

    /// The row of a name, given the low half of its hash (what the graph's ring keeps); 0 for none.
    pub(super) fn row_of_low(&self, kind: NameKind, low: u32) -> u32 {
        let admitted = u32::try_from(self.items.len()).unwrap_or(u32::MAX - UNSEEN_BUCKETS - QUERY_BUCKETS - 1);
        match kind {
            _ if low == 0 => 0,
            NameKind::Category => 0,
            NameKind::Query => admitted + 1 + UNSEEN_BUCKETS + low % QUERY_BUCKETS,
            NameKind::Item => self.row_of_low.get(&low).copied().unwrap_or_else(|| admitted + 1 + low % UNSEEN_BUCKETS),
        }
    }
}

/// The row of a category in its table; 0 for none.
#[expect(clippy::cast_possible_truncation, reason = "the remainder is below the bucket count")]
pub(super) fn category_row(category: NameHash) -> u32 {
    if category.0 == 0 { 0 } else { 1 + (category.0 % u64::from(CATEGORY_BUCKETS - 1)) as u32 }
}

/// The low half of a name's hash, as the graph's ring keeps it.
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub(super) fn low(name: NameHash) -> u32 {
    name.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_are_admitted_and_the_rest_share_rows() {
        let vocabulary = ItemVocabulary::admit((1..=5).map(|item| (NameHash(item), item)), 2, 2);
        assert_eq!(vocabulary.items(), [NameHash(5), NameHash(4)]);
        assert_eq!(vocabulary.row(NameHash(4)), Some(2));
        assert_eq!(vocabulary.row(NameHash(1)), None);
        let rows = u32::try_from(vocabulary.table_rows()).unwrap();
        for low in 0..1_000 {
            for kind in NameKind::ALL {
                assert!(vocabulary.row_of_low(kind, low) < rows);
            }
        }
        assert_eq!(vocabulary.row_of_low(NameKind::Item, 0), 0);
    }
}
