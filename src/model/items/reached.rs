//! Which rows the links of a user's items lead to, and how strongly.

use super::{
    tables::{ItemTables, Links},
    user::Profile,
};

/// Own items whose links are followed, by the long weight.
const SOURCE_LIMIT: usize = 400;
/// Looked-at items whose links are followed.
const SEEN_LIMIT: usize = 60;
/// Weight of a looked-at item as a source, against a bought one.
const SEEN_WEIGHT: f32 = 0.5;
/// Rows whose order is kept.
const KEPT: usize = 1_000;

/// Some rows of the tables, best first, with the rank of each.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    rows: Vec<u32>,
    /// Rank by row, counted from 1; 0 for rows that are not in the order.
    ranks: Vec<u32>,
    /// What is sorted: the score's bits upside down, then the row.
    keys: Vec<u64>,
}

impl Order {
    /// Orders rows by scores that are not negative; of equals the first row is first. At most `limit` of them are kept.
    pub(super) fn sort(&mut self, row_count: usize, scored: impl Iterator<Item = (f32, u32)>, limit: usize) {
        for row in self.rows.drain(..) {
            self.ranks[row as usize] = 0;
        }
        if self.ranks.len() != row_count {
            self.ranks.clear();
            self.ranks.resize(row_count, 0);
        }
        self.keys.clear();
        // The bits of numbers from 0 on ascend as the numbers do.
        self.keys.extend(scored.map(|(score, row)| u64::from(!score.to_bits()) << 32 | u64::from(row)));
        if self.keys.len() > limit {
            self.keys.select_nth_unstable(limit - 1);
            self.keys.truncate(limit);
        }
        self.keys.sort_unstable();
        for (rank, key) in (1..).zip(&self.keys) {
            #[expect(clippy::cast_possible_truncation, reason = "the low half is the row")]
            let row = *key as u32;
            self.rows.push(row);
            self.ranks[row as usize] = rank;
        }
    }

    /// The rows, best first.
    pub(super) fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Place of a row in the order, from 0.
    pub(super) fn rank(&self, row: u32) -> Option<u32> {
        self.ranks.get(row as usize).and_then(|rank| rank.checked_sub(1))
    }
}

/// Rows that one kind of links leads to from what the user has.
#[derive(Debug, Clone, Default)]
pub(super) struct Reached {
    /// By row: the sum of weights from all own items, and from those in proportion to how recent they are.
    sums: Vec<[f32; 2]>,
    /// Rows with a positive sum.
    touched: Vec<u32>,
    /// The best of them.
    pub(super) order: Order,
    /// The largest sum.
    pub(super) best: f32,
}

impl Reached {
    /// Follows the links of the user's items; what was reached before is forgotten.
    pub(super) fn follow(&mut self, tables: &ItemTables, links: &Links, profile: &Profile) {
        for row in self.touched.drain(..) {
            self.sums[row as usize] = [0.0; 2];
        }
        let row_count = if links.count == 0 { 0 } else { tables.rows().len() };
        if self.sums.len() != row_count {
            self.sums.clear();
            self.sums.resize(row_count, [0.0; 2]);
        }
        if row_count > 0 {
            let bought = profile.bought.iter().take(SOURCE_LIMIT).map(|own| (own, 1.0, own.long.min(1.0)));
            let seen = profile.seen.iter().filter(|own| own.short_rank < SEEN_LIMIT);
            let seen = seen.map(|own| (own, SEEN_WEIGHT, own.short.min(1.0)));
            let sources = bought.chain(seen);
            let sources = sources.filter_map(|(own, weight, recent)| Some((own.row?, weight, recent)));
            for (row, weight, recent) in sources {
                self.add(links.of(row), weight, recent);
            }
        }
        let sums = &self.sums;
        self.order.sort(row_count, self.touched.iter().map(|row| (sums[*row as usize][0], *row)), KEPT);
        self.best = self.order.rows().first().map_or(0.0, |row| sums[*row as usize][0]);
    }

    fn add(&mut self, links: impl Iterator<Item = (u32, f32)>, weight: f32, recent: f32) {
        for (to, strength) in links {
            let sums = &mut self.sums[to as usize];
            if sums[0] == 0.0 {
                self.touched.push(to);
            }
            sums[0] += weight * strength;
            sums[1] += recent * strength;
        }
    }

    /// The two sums of a row that links lead to.
    pub(super) fn sums(&self, row: u32) -> Option<[f32; 2]> {
        self.sums.get(row as usize).copied().filter(|sums| sums[0] > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_that_of_a_sort_and_forgets_the_one_before() {
        let mut order = Order::default();
        order.sort(9, [(1.0, 3), (2.0, 8), (1.0, 0), (0.0, 5), (7.5, 4)].into_iter(), 4);
        assert_eq!(order.rows(), [4, 8, 0, 3]);
        assert_eq!((0..9).map(|row| order.rank(row)).collect::<Vec<_>>(), {
            let mut ranks = vec![None; 9];
            for (rank, row) in [4, 8, 0, 3].into_iter().enumerate() {
                ranks[row] = u32::try_from(rank).ok();
            }
            ranks
        });
        order.sort(9, std::iter::once((0.5, 2)), usize::MAX);
        assert_eq!((order.rows(), order.rank(2), order.rank(4)), (&[2][..], Some(0), None));
        order.sort(3, std::iter::empty(), 4);
        assert_eq!((order.rows(), order.rank(2), order.rank(8)), (&[][..], None, None));
    }
}
