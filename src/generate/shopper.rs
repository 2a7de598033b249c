//! One shopper: what he is like, which never changes and is kept nowhere, and how he is doing, which is kept.

use super::{
    Catalogue, GenerateParams,
    catalogue::CATEGORIES,
    random::{Chance, ONE, below, mixed, skewed},
};
use crate::event::DAY_MS;

/// One hour in milliseconds.
pub(super) const HOUR_MS: i64 = DAY_MS / 24;

/// Favourite categories of a shopper; each is half as likely as the one before it.
pub(super) const FAVOURITES: u32 = 4;

/// What a shopper is like. Made anew from the seed whenever it is needed, so that it takes no memory.
#[derive(Debug, Clone)]
pub(super) struct Traits {
    seed: u64,
    /// Mean time from one visit to the next.
    pub(super) gap_ms: u64,
    /// Shape of that time: 1 has no rhythm, 4 has much.
    pub(super) regularity: u32,
    /// Share of visits with a purchase.
    pub(super) buys: u32,
    /// Share of purchases and views that go to the shopper's staples.
    pub(super) repeats: u32,
    /// Number of staples.
    pub(super) staples: u32,
    /// Share of intents that begin with a search.
    pub(super) searches: u32,
    /// Share of searches that find nothing.
    pub(super) search_failures: u32,
    /// Chance of leaving after a visit, before searches and purchases have their say.
    pub(super) leaves: u32,
    /// The hour of the day he likes best.
    pub(super) hour: u32,
    /// When he comes first.
    pub(super) joins_ms: i64,
}

impl Traits {
    pub(super) fn of(params: &GenerateParams, user: u32) -> Self {
        let seed = mixed(params.seed, u64::from(user));
        let mut chance = Chance::new(seed, 0);
        let gap_hours = 24 + skewed(chance.bits(), 27 * 24) + chance.below(72);
        let joins_later = chance.below(5) < 2;
        let joins_hours = if joins_later { params.days * 24 } else { (gap_hours * 2).min(params.days * 24) };
        Self {
            seed,
            gap_ms: u64::from(gap_hours) * HOUR_MS.unsigned_abs(),
            regularity: chance.between(1, 4),
            buys: chance.between(ONE / 8, ONE * 7 / 10),
            repeats: chance.between(ONE * 3 / 10, ONE * 17 / 20),
            staples: chance.between(6, 20),
            searches: chance.between(ONE / 5, ONE * 7 / 10),
            search_failures: chance.between(ONE / 20, ONE * 9 / 20),
            leaves: ONE / 500 + chance.skewed(ONE / 12),
            hour: chance.below(24),
            joins_ms: params.start_ms + i64::from(chance.below(joins_hours.max(1))) * HOUR_MS,
        }
    }

    /// The favourite category at `place`.
    pub(super) fn favourite(&self, place: u32) -> u32 {
        below(mixed(self.seed, 100 + u64::from(place)), CATEGORIES)
    }

    /// The staple at `place`: one of the items of the first day, popular ones likelier.
    pub(super) fn staple(&self, catalogue: &Catalogue, place: u32) -> u32 {
        let category = self.favourite(place_of_bits(mixed(self.seed, 200 + u64::from(place))));
        let rank = skewed(mixed(self.seed, 300 + u64::from(place)), catalogue.count_at_start(category));
        catalogue.ranked(category, rank)
    }

    /// The chance that a shopper who is doing like this leaves after a visit, in parts of [`ONE`].
    pub(super) fn leaves_now(&self, mood: Mood) -> u32 {
        let failed = u64::from(mood.failed);
        let bought = u64::from(mood.bought);
        // Every recent failure adds the base chance anew; recent purchases divide.
        let share = u64::from(self.leaves) * (256 + 2 * failed) / (256 + bought);
        u32::try_from(share).unwrap_or(ONE).clamp(ONE / 2000, ONE * 3 / 5)
    }
}

/// A place among the favourites: 0 with a chance of a half, 1 of a quarter, and so on.
pub(super) fn place_of_bits(bits: u64) -> u32 {
    (bits.trailing_ones()).min(FAVOURITES - 1)
}

/// The recent past as it weighs on a shopper, in parts of 256; a visit ago counts three fifths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mood {
    /// Searches that failed.
    pub(super) failed: u16,
    /// Visits with a purchase.
    pub(super) bought: u16,
}

impl Mood {
    /// The mood after a visit.
    #[must_use]
    pub(super) fn after(self, failed_searches: u16, has_bought: bool) -> Self {
        let fade = |weight: u16| weight / 5 * 3;
        Self {
            failed: fade(self.failed).saturating_add(failed_searches.saturating_mul(256)).min(20_000),
            bought: fade(self.bought) + 256 * u16::from(has_bought),
        }
    }
}

/// How a shopper is doing. All that is kept of him.
#[derive(Debug, Clone)]
pub(super) struct Shopper {
    pub(super) chance: Chance,
    pub(super) mood: Mood,
    /// Visits so far.
    pub(super) visits: u32,
    /// Visits with a purchase so far.
    pub(super) purchases: u32,
    /// End of the last visit, seconds since the first day; 0 before the first.
    pub(super) last_s: u32,
    /// Whether he left at the end of the last visit.
    pub(super) has_left: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_drive_away_and_purchases_hold() {
        let traits = Traits::of(&GenerateParams::new(1, 100, 1), 0);
        let calm = traits.leaves_now(Mood::default());
        let angry = traits.leaves_now(Mood::default().after(2, false));
        let happy = traits.leaves_now(Mood::default().after(0, true));
        assert!(happy < calm && calm < angry, "{happy} {calm} {angry}");
        let mut mood = Mood::default();
        for _ in 0..1000 {
            mood = mood.after(50, true);
        }
        assert!(mood.failed <= 20_000 && mood.bought < 700);
        assert!(traits.leaves_now(mood) <= ONE * 3 / 5);
    }
}
