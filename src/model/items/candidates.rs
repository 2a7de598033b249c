//! The candidates of one user and what each source says of them.

#![expect(clippy::cast_precision_loss, reason = "counts and ranks need few digits")]

use std::collections::HashSet;

use super::{
    ItemTables,
    features::{BLANK, FEATURE_WIDTH, ITEM, Place as P, Row, USER, set_all},
    reached::{Order, Reached},
    tables::ItemRow,
    user::{Own, Profile, UserItems},
};
use crate::{event::NameHash, graph::NameHashBuilder};

/// Own items taken as candidates, by each of the two weights.
const OWN_LIMIT: usize = 150;
/// Looked-at items taken as candidates.
const SEEN_LIMIT: usize = 60;
/// Unbought candidates from each kind of links: regression, common buyers, alike titles.
const LINK_LIMITS: [usize; 3] = [80, 40, 20];
/// Unbought candidates by regression and first buyers together.
const FIRST_LIMIT: usize = 80;
/// What an item counts as that no link leads to.
const NO_LINK_WEIGHT: f32 = 0.01;
/// Categories of the user whose popular items are taken.
const CATEGORY_LIMIT: usize = 12;
/// Unbought items of each such category, by popularity and by first buyers.
const CATEGORY_ITEM_LIMITS: [usize; 2] = [6, 6];
/// Unbought candidates by popularity, and by first buyers.
const POPULAR_LIMITS: [usize; 2] = [40, 60];

/// One candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The item.
    pub item: NameHash,
    /// Whether the user bought it before.
    pub bought: bool,
    /// Whether the user looked at it or had it in the cart.
    pub seen: bool,
}

/// Candidates of one user with their features.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CandidateSet {
    candidates: Vec<Candidate>,
    features: Vec<f32>,
}

/// Working memory for collecting candidates, kept from user to user: it holds a place for every row of the tables, and a
/// user clears no more of it than was touched.
#[derive(Debug, Clone, Default)]
pub struct CandidateWork {
    reached: [Reached; 3],
    first: Order,
    /// A set whose memory the next user takes over.
    pub(super) spare: CandidateSet,
}

impl CandidateSet {
    /// Collects the candidates of a user as of a moment (milliseconds since the Unix epoch).
    pub fn of(tables: &ItemTables, user: &UserItems, as_of_ms: i64, work: &mut CandidateWork) -> Self {
        let as_of_s = as_of_ms.div_euclid(1_000);
        let profile = Profile::of(user, as_of_s, tables);
        let links = tables.links();
        for (reached, links) in work.reached.iter_mut().zip([&links.regression, &links.common, &links.alike]) {
            reached.follow(tables, links, &profile);
        }
        first_order(tables, &work.reached[0], &profile, &mut work.first);
        let mut set = std::mem::take(&mut work.spare);
        Collector { tables, as_of_s, profile, reached: &work.reached, first: &work.first }.collect(&mut set);
        set
    }

    /// The candidates, in a fixed order.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Features of the candidate at `place`, in the order of [`FEATURE_NAMES`](super::FEATURE_NAMES).
    pub fn features(&self, place: usize) -> &[f32] {
        &self.features[place * FEATURE_WIDTH..(place + 1) * FEATURE_WIDTH]
    }
}

struct Collector<'a> {
    tables: &'a ItemTables,
    as_of_s: i64,
    profile: Profile,
    reached: &'a [Reached; 3],
    /// Unbought rows by links and first buyers together.
    first: &'a Order,
}

/// What links say of an unbought item, as a logarithm from 0 on. An item is bought for the first time about in proportion
/// to this and to its first buyers, so the two logarithms add.
fn linked_log(linked: f32) -> f32 {
    (linked / NO_LINK_WEIGHT).ln_1p()
}

/// The best unbought rows that links lead to.
fn first_order(tables: &ItemTables, reached: &Reached, profile: &Profile, order: &mut Order) {
    let rows = tables.rows();
    let fresh = reached.order.rows().iter().filter(|row| profile.bought(rows[**row as usize].item).is_none());
    let linked = |row: u32| linked_log(reached.sums(row).map_or(0.0, |sums| sums[1]));
    order.sort(rows.len(), fresh.map(|row| (linked(*row) + tables.first_log(*row), *row)), usize::MAX);
}

impl Collector<'_> {
    fn collect(self, set: &mut CandidateSet) {
        let mut user = BLANK;
        self.user_features(&mut user);
        set.candidates.clear();
        set.features.clear();
        for (item, row) in self.items() {
            let known = row.map(|row| &self.tables.rows()[row as usize]);
            let (own, seen) = (self.profile.bought(item), self.profile.seen(item));
            let category =
                known.map_or_else(|| own.map_or(NameHash(0), |own| own.node.category), |known| known.category);
            let mut features = BLANK;
            features[USER].copy_from_slice(&user[USER]);
            if let Some(own) = own {
                self.habit_features(own, &mut features);
            }
            if let Some(seen) = seen {
                set_all(
                    &mut features,
                    &[
                        (P::seen_short_log, seen.short.ln_1p()),
                        (P::seen_count_log, (seen.node.count as f32).ln_1p()),
                        (P::seen_silent_days_log, seen.silent_days.ln_1p()),
                        (P::seen_rank, seen.short_rank as f32),
                    ],
                );
            }
            if let Some(row) = row {
                self.link_features(row, &mut features);
            }
            if let Some(habit) = self.profile.category(category) {
                self.category_features(habit, own, known, &mut features);
            }
            if let Some(row) = row {
                features[ITEM].copy_from_slice(self.tables.item_features(row));
            }
            set.candidates.push(Candidate { item, bought: own.is_some(), seen: seen.is_some() });
            set.features.extend_from_slice(&features);
        }
    }

    /// All candidates once with their rows, own first.
    fn items(&self) -> Vec<(NameHash, Option<u32>)> {
        let rows = self.tables.rows();
        let mut taken: HashSet<NameHash, NameHashBuilder> = HashSet::default();
        let mut items = Vec::new();
        let mut take = |item: NameHash, row: Option<u32>| {
            if taken.insert(item) {
                items.push((item, row));
            }
        };
        for own in self.profile.bought.iter().filter(|own| own.short_rank < OWN_LIMIT || own.long_rank < OWN_LIMIT) {
            take(own.node.name, own.row);
        }
        // Only what can be sold can be recommended; a looked-at name without a row (a coupon, a page) is none.
        let mut seen: Vec<&Own> = self.profile.seen.iter().filter(|own| own.row.is_some()).collect();
        seen.sort_by_key(|own| own.short_rank);
        for own in seen.into_iter().take(SEEN_LIMIT) {
            take(own.node.name, own.row);
        }
        let fresh = |row: &&u32| self.profile.bought(rows[**row as usize].item).is_none();
        let mut take_fresh = |order: &[u32], limit: usize| {
            for row in order.iter().filter(fresh).take(limit) {
                take(rows[*row as usize].item, Some(*row));
            }
        };
        for (reached, limit) in self.reached.iter().zip(LINK_LIMITS) {
            take_fresh(reached.order.rows(), limit);
        }
        take_fresh(self.first.rows(), FIRST_LIMIT);
        for category in self.profile.categories.iter().take(CATEGORY_LIMIT) {
            take_fresh(self.tables.category_popular(category.node.name), CATEGORY_ITEM_LIMITS[0]);
            take_fresh(self.tables.category_first(category.node.name), CATEGORY_ITEM_LIMITS[1]);
        }
        take_fresh(self.tables.popular(), POPULAR_LIMITS[0]);
        take_fresh(self.tables.first_popular(), POPULAR_LIMITS[1]);
        items
    }

    fn user_features(&self, features: &mut Row) {
        let user = &self.profile;
        set_all(
            features,
            &[
                (P::user_days_log, user.days.ln_1p()),
                (P::user_recent_days, user.recent_days),
                (P::user_lines_a_day_log, user.lines_a_day.ln_1p()),
                (P::user_repeat_share, user.repeat_share),
                (P::user_silent_days_log, user.silent_days.ln_1p()),
                (P::user_gap_days_log, user.gap_days.ln_1p()),
                (P::user_fresh_share, user.fresh_share),
                (P::user_items_log, (user.bought.len() as f32).ln_1p()),
            ],
        );
    }

    fn habit_features(&self, own: &Own, features: &mut Row) {
        let user = &self.profile;
        let count = own.node.count as f32;
        let long_share = own.long / user.bought_sums[1].max(1e-6);
        let recent = user.recent(own.node.name);
        let window = self.tables.window_days();
        set_all(
            features,
            &[
                (P::own_count_log, count.ln_1p()),
                (P::own_short_log, own.short.ln_1p()),
                (P::own_long_log, own.long.ln_1p()),
                (P::own_short_share, own.short / user.bought_sums[0].max(1e-6)),
                (P::own_long_share, long_share),
                (P::own_short_rank, own.short_rank as f32),
                (P::own_long_rank, own.long_rank as f32),
                (P::own_silent_days_log, own.silent_days.ln_1p()),
                (P::own_age_days_log, self.days_since(own.node.first_s).ln_1p()),
                (P::own_day_share, count / user.days.max(1.0)),
                (P::own_newest_days, recent.days[0] as f32),
                (P::own_recent_days, recent.days[1] as f32),
                (P::in_last_basket, f32::from(u8::from(own.node.last_s / 86_400 == user.last_basket_s / 86_400))),
                (P::own_expected_log, (long_share * user.lines_a_window).ln_1p()),
            ],
        );
        if let Some(gap) = own.gap_days() {
            set_all(
                features,
                &[
                    (P::own_gap_days_log, gap.ln_1p()),
                    (P::own_overdue, (own.silent_days + 0.5) / (gap + 0.5)),
                    (P::own_hazard, 1.0 - (-window / gap.max(0.5)).exp()),
                ],
            );
        }
        if let Some(gap) = recent.last_gap_days() {
            set_all(
                features,
                &[
                    (P::own_last_gap_days_log, gap.ln_1p()),
                    (P::own_last_overdue, (own.silent_days + 0.5) / (gap + 0.5)),
                ],
            );
        }
    }

    fn link_features(&self, row: u32, features: &mut Row) {
        let places = [
            (P::regression, P::regression_recent, Some(P::regression_rank)),
            (P::common, P::common_recent, Some(P::common_rank)),
            (P::alike, P::alike_recent, None),
        ];
        for (reached, (sum, recent, rank)) in self.reached.iter().zip(places) {
            let Some(sums) = reached.sums(row) else { continue };
            if let (Some(rank), Some(place)) = (rank, reached.order.rank(row)) {
                features[rank as usize] = place as f32;
            }
            features[sum as usize] = sums[0];
            features[recent as usize] = sums[1];
        }
        let regression = &self.reached[0];
        if let Some(rank) = self.first.rank(row) {
            features[P::regression_first_rank as usize] = rank as f32;
        }
        if let Some(sums) = regression.sums(row) {
            let linked = linked_log(sums[1]);
            set_all(
                features,
                &[
                    (P::regression_share, sums[0] / regression.best.max(f32::MIN_POSITIVE)),
                    (P::regression_log, linked),
                    (P::regression_first_log, linked + self.tables.first_log(row)),
                ],
            );
        }
    }

    fn category_features(&self, habit: &Own, own: Option<&Own>, known: Option<&ItemRow>, features: &mut Row) {
        let user = &self.profile;
        let long_share = habit.long / user.category_sums[1].max(1e-6);
        set_all(
            features,
            &[
                (P::category_long_share, long_share),
                (P::category_short_share, habit.short / user.category_sums[0].max(1e-6)),
                (P::category_silent_days_log, habit.silent_days.ln_1p()),
                (P::category_day_share, habit.node.count as f32 / user.days.max(1.0)),
                (P::category_own_items_log, (user.items_in(habit.node.name) as f32).ln_1p()),
            ],
        );
        if let Some(gap) = habit.gap_days() {
            set_all(
                features,
                &[
                    (P::category_gap_days_log, gap.ln_1p()),
                    (P::category_overdue, (habit.silent_days + 0.5) / (gap + 0.5)),
                ],
            );
        }
        if let Some(known) = known {
            let expected = long_share * known.category_share * user.lines_a_window;
            features[P::category_expected_log as usize] = (1_000.0 * expected).ln_1p();
        }
        if let Some(own) = own {
            let since = (habit.node.last_s.saturating_sub(own.node.last_s)) as f32 / 86_400.0;
            set_all(
                features,
                &[
                    (P::category_own_share, own.long / habit.long.max(1e-6)),
                    (P::category_since_days_log, since.ln_1p()),
                ],
            );
        }
    }

    fn days_since(&self, then_s: u32) -> f32 {
        (self.as_of_s - i64::from(then_s)).max(0) as f32 / 86_400.0
    }
}
