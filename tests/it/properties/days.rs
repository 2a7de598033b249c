//! Day bits against a plain set.

use std::collections::BTreeSet;

use proptest::prelude::*;
use undercurrent::graph::DayBits;

/// A walk over days: mostly forward, sometimes back, sometimes far.
fn walk() -> impl Strategy<Value = Vec<i32>> {
    let step = prop_oneof![6 => 0_i32..9, 2 => -80_i32..0, 1 => -700_i32..700];
    prop::collection::vec(step, 0..120).prop_map(|steps| {
        let mut day = 19_000;
        steps
            .into_iter()
            .map(|step| {
                day += step;
                day
            })
            .collect()
    })
}

fn bits_of(days: &[i32]) -> DayBits {
    let mut bits = DayBits::default();
    for day in days {
        bits.set(*day);
    }
    bits
}

/// What the bits must hold: every day within the capacity of the newest so far, when it came and ever after.
fn set_of(days: &[i32]) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for day in days {
        set.insert(*day);
        let newest = *set.last().unwrap();
        set.retain(|day| newest - day < DayBits::CAPACITY_DAYS);
    }
    set
}

proptest! {
    #[test]
    fn bits_agree_with_a_set(days in walk()) {
        let (bits, set) = (bits_of(&days), set_of(&days));
        prop_assert_eq!(bits.iter().collect::<Vec<_>>(), set.iter().rev().copied().collect::<Vec<_>>());
        prop_assert_eq!(bits.count() as usize, set.len());
        prop_assert_eq!(bits.newest_day(), set.last().copied());
        for day in days {
            prop_assert_eq!(bits.contains(day), set.contains(&day));
        }
        let rebuilt = DayBits::from_parts(bits.newest_day().unwrap_or(0), bits.words());
        prop_assert_eq!(rebuilt.iter().collect::<Vec<_>>(), bits.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_day_is_fresh_once(days in walk()) {
        let mut bits = DayBits::default();
        for day in days {
            let was_known = bits.contains(day);
            let is_too_old = bits.newest_day().is_some_and(|newest| newest - day >= DayBits::CAPACITY_DAYS);
            prop_assert_eq!(bits.set(day), !was_known && !is_too_old);
            prop_assert!(!bits.set(day));
        }
    }

    #[test]
    fn a_union_holds_the_days_of_both(left in walk(), right in walk()) {
        let union = bits_of(&left).union(&bits_of(&right));
        let mut both = set_of(&left);
        both.extend(set_of(&right));
        if let Some(newest) = both.last().copied() {
            both.retain(|day| newest - day < DayBits::CAPACITY_DAYS);
        }
        prop_assert_eq!(union.iter().collect::<Vec<_>>(), both.iter().rev().copied().collect::<Vec<_>>());
        prop_assert_eq!(bits_of(&right).union(&bits_of(&left)), union);
    }
}
