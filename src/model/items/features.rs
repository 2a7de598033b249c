//! The features of a candidate: their names, and which source each speaks for.

use std::ops::Range;

use crate::score::ItemReason;

macro_rules! features {
    ($($group:ident { $($name:ident),* $(,)? })*) => {
        /// Places of the features, by name.
        #[expect(non_camel_case_types, reason = "the names are those of the file")]
        #[derive(Clone, Copy)]
        #[repr(usize)]
        pub(super) enum Place { $($($name,)*)* }

        /// Names of the features of a candidate, in order.
        pub const FEATURE_NAMES: [&str; FEATURE_WIDTH] = [$($(stringify!($name)),*),*];
        /// Features of a candidate.
        pub const FEATURE_WIDTH: usize = [$($(stringify!($name)),*),*].len();

        mod groups {
            $(
                #[expect(non_upper_case_globals, reason = "named like its group")]
                pub(super) const $group: [super::Place; [$(stringify!($name)),*].len()] = [$(super::Place::$name),*];
            )*
        }
    };
}

features! {
    habit {
        own_count_log, own_short_log, own_long_log, own_short_share, own_long_share, own_short_rank, own_long_rank,
        own_silent_days_log, own_age_days_log, own_gap_days_log, own_overdue, own_last_gap_days_log, own_last_overdue,
        own_day_share, own_recent_days, own_newest_days, in_last_basket, own_expected_log, own_hazard,
        seen_short_log, seen_count_log, seen_silent_days_log, seen_rank,
    }
    neighbours {
        regression, regression_rank, regression_recent, regression_share, regression_log, regression_first_log, regression_first_rank,
        common, common_rank, common_recent, alike, alike_recent,
    }
    category {
        category_long_share, category_short_share, category_silent_days_log, category_gap_days_log, category_overdue,
        category_day_share, category_expected_log, category_own_items_log, category_own_share, category_since_days_log,
    }
    popularity {
        popularity_short_log, popularity_long_log, popularity_trend, buyers_log, buyers_window_log, buyers_recent_log,
        first_buyers_window_log, first_buyers_recent_log, return_share, repeat_share, item_gap_days_log,
        item_age_days_log, interest_short_log, category_first_share, first_buyers_rank, first_popularity_log,
        category_item_share, category_item_rank,
    }
    user {
        user_days_log, user_recent_days, user_lines_a_day_log, user_repeat_share, user_silent_days_log,
        user_gap_days_log, user_fresh_share, user_items_log,
    }
}

/// Which features each source owns: a contiguous range.
pub(super) const SOURCES: [(ItemReason, Range<usize>); 4] = [
    (ItemReason::Habit, range(&groups::habit)),
    (ItemReason::Neighbours, range(&groups::neighbours)),
    (ItemReason::Category, range(&groups::category)),
    (ItemReason::Popularity, range(&groups::popularity)),
];

/// Features of the user, equal for all candidates.
pub(super) const USER: Range<usize> = range(&groups::user);

/// Features of the item alone, equal for all users.
pub(super) const ITEM: Range<usize> = range(&groups::popularity);

/// Features of an item.
pub(super) const ITEM_WIDTH: usize = ITEM.end - ITEM.start;

const fn range(group: &[Place]) -> Range<usize> {
    group[0] as usize..group[group.len() - 1] as usize + 1
}

/// One candidate's features; NaN where a number does not exist (the rank of an item in a list it is not on).
pub(super) type Row = [f32; FEATURE_WIDTH];

/// What a candidate has of a source that says nothing of it.
pub(super) const BLANK: Row = [f32::NAN; FEATURE_WIDTH];

/// Sets features by place.
pub(super) fn set_all(features: &mut Row, values: &[(Place, f32)]) {
    for (place, value) in values {
        features[*place as usize] = *value;
    }
}
