//! The truth about made shoppers: what an oracle would say at the cutoff, and what came of it.
//!
//! The oracle knows what each shopper is like and everything he did until the cutoff, but not the dice: not whether he has
//! just left, nor when he comes next. Nothing that looks only at events can be better in the long run. Its formulas leave
//! the seasons aside, which move a visit by hours or a few days.

use std::io::{self, Write};

use super::{
    Catalogue, GenerateParams, Shoppers,
    random::{ONE, longer_than},
    shopper::{FAVOURITES, Traits},
    stream::AtCutoff,
    write::{push_item, user_id},
};
use crate::event::DAY_MS;

/// Places in the list of items.
const ITEMS: usize = 20;

/// The columns of the truth with their meaning.
pub fn truth_columns() -> [(&'static str, &'static str); 16] {
    [
        ("user_id", "the shopper"),
        ("joined_ms", "when he means to come first"),
        ("left_ms", "end of the visit after which he left for good; empty while he has not"),
        ("visits", "visits until the end"),
        ("purchases", "visits with a purchase until the end"),
        ("gap_days", "mean days from one visit to the next"),
        ("regularity", "1 no rhythm to 4 much"),
        ("buys", "share of visits with a purchase"),
        ("search_failures", "share of searches that find nothing"),
        ("leaves", "chance of leaving after a visit, before failed searches and purchases have their say"),
        ("cutoff_visits", "visits until the cutoff"),
        ("cutoff_last_ms", "end of the last visit before the cutoff; empty without one"),
        ("cutoff_leaves", "chance that he left after that visit"),
        ("cutoff_churn", "the oracle's probability that he does not come in the churn days after the cutoff"),
        ("cutoff_purchase", "the oracle's probability that he buys in the purchase days after the cutoff"),
        ("would_buy", "the items he likes best, best first: what he would buy, had he not left"),
    ]
}

/// Writes the truth as CSV, one row a shopper. The stream must have been read to its end.
pub(super) fn write_truth(shoppers: &Shoppers, out: &mut impl Write) -> io::Result<()> {
    let params = shoppers.params();
    writeln!(out, "{}", truth_columns().map(|(name, _)| name).join(","))?;
    for (user, (shopper, at_cutoff)) in (0..).zip(shoppers.truth()) {
        let traits = Traits::of(params, user);
        let time_of = |seconds: u32| (params.start_ms + i64::from(seconds) * 1000).to_string();
        let left_ms = if shopper.has_left { time_of(shopper.last_s) } else { String::new() };
        write!(out, "{},{},{left_ms},{},{},", user_id(user), traits.joins_ms, shopper.visits, shopper.purchases)?;
        let share = |part: u32| f64::from(part) / f64::from(ONE);
        let oracle = Oracle::new(params, &traits, at_cutoff);
        write!(
            out,
            "{:.3},{},{:.4},{:.4},{:.5},",
            oracle.gap_days,
            traits.regularity,
            share(traits.buys),
            share(traits.search_failures),
            share(traits.leaves)
        )?;
        if at_cutoff.visits > 0 {
            let (churn, purchase) = (oracle.churn(params.churn_days), oracle.purchase(params.purchase_days));
            write!(
                out,
                "{},{},{:.5},{churn:.6},{purchase:.6},",
                at_cutoff.visits,
                time_of(at_cutoff.last_s),
                oracle.leaves
            )?;
        } else {
            write!(out, "0,,,,,")?;
        }
        let mut items = Vec::with_capacity(ITEMS * 8);
        for (place, item) in likes(&traits, shoppers.catalogue(), params.cutoff_ms()).into_iter().enumerate() {
            if place > 0 {
                items.push(b' ');
            }
            push_item(&mut items, item);
        }
        items.push(b'\n');
        out.write_all(&items)?;
    }
    Ok(())
}

/// What can be known about one shopper at the cutoff.
struct Oracle {
    gap_days: f64,
    shape: u32,
    buys: f64,
    /// Chance that he left after his last visit.
    leaves: f64,
    /// Days since his last visit.
    silent_days: f64,
}

impl Oracle {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a few years fit a double")]
    fn new(params: &GenerateParams, traits: &Traits, at_cutoff: &AtCutoff) -> Self {
        let last_ms = params.start_ms + i64::from(at_cutoff.last_s) * 1000;
        Self {
            gap_days: traits.gap_ms as f64 / DAY_MS as f64,
            shape: traits.regularity,
            buys: f64::from(traits.buys) / f64::from(ONE),
            leaves: f64::from(traits.leaves_now(at_cutoff.mood)) / f64::from(ONE),
            silent_days: ((params.cutoff_ms() - last_ms) as f64 / DAY_MS as f64).max(0.0),
        }
    }

    /// The probability that a gap between visits is longer than `days`.
    fn longer(&self, days: f64) -> f64 {
        longer_than(days, self.gap_days, self.shape)
    }

    /// The probability that the next visit is more than `days` after the cutoff, or never.
    fn churn(&self, days: u32) -> f64 {
        let still_here = 1.0 - self.leaves;
        let silent = self.leaves + still_here * self.longer(self.silent_days);
        (self.leaves + still_here * self.longer(self.silent_days + f64::from(days))) / silent
    }

    /// The probability of a purchase within `days` after the cutoff.
    fn purchase(&self, days: u32) -> f64 {
        // without[r]: no purchase in the r days after a visit, in steps of a day.
        let mut without = vec![1.0; days as usize + 1];
        for (rest, after) in (0..=days).zip(0_usize..) {
            let later: f64 = (1..=rest)
                .map(|day| {
                    let comes = self.longer(f64::from(day - 1)) - self.longer(f64::from(day));
                    comes * (1.0 - self.buys) * without[after - day as usize]
                })
                .sum();
            without[after] = self.leaves + (1.0 - self.leaves) * (self.longer(f64::from(rest)) + later);
        }
        let still_here = 1.0 - self.leaves;
        let silent = self.leaves + still_here * self.longer(self.silent_days);
        let bought: f64 = (1..=days)
            .map(|day| {
                let from = self.silent_days + f64::from(day - 1);
                let comes = self.longer(from) - self.longer(from + 1.0);
                comes * (1.0 - (1.0 - self.buys) * without[(days - day) as usize])
            })
            .sum();
        (still_here * bought / silent).clamp(0.0, 1.0)
    }
}

/// The items a shopper wants most at `time_ms`, by falling probability. Items of categories that are no favourites are too
/// rare to be among them.
fn likes(traits: &Traits, catalogue: &Catalogue, time_ms: i64) -> Vec<u32> {
    let repeats = f64::from(traits.repeats) / f64::from(ONE);
    let mut chances: Vec<(u32, f64)> = (0..traits.staples)
        .map(|place| (traits.staple(catalogue, place), repeats * chance_of(place, traits.staples)))
        .collect();
    let mut share = 0.9;
    for place in 0..FAVOURITES {
        // The last favourite takes what the halving leaves.
        share = if place + 1 == FAVOURITES { share } else { share / 2.0 };
        let category = traits.favourite(place);
        let count = catalogue.count_at(category, time_ms);
        let newest = count.saturating_sub(3);
        for rank in (0..count.min(RANKS)).chain(newest.max(RANKS)..count) {
            let mut chance = chance_of(rank, count) * 11.0 / 12.0;
            if rank >= newest {
                chance += 1.0 / f64::from(12 * count.min(3));
            }
            chances.push((catalogue.ranked(category, rank), (1.0 - repeats) * share * chance));
        }
    }
    chances.sort_unstable_by_key(|(item, _)| *item);
    chances.dedup_by(|other, kept| {
        let is_same = other.0 == kept.0;
        if is_same {
            kept.1 += other.1;
        }
        is_same
    });
    chances.sort_unstable_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    chances.truncate(ITEMS);
    chances.into_iter().map(|(item, _)| item).collect()
}

/// Most popular items of a category that can be among the most wanted ones.
const RANKS: u32 = 20;

/// The chance of `rank` in a skewed draw below `bound`: that of the ranks below it is the cube root of their share.
fn chance_of(rank: u32, bound: u32) -> f64 {
    let below = |rank: u32| (f64::from(rank) / f64::from(bound)).cbrt();
    below(rank + 1) - below(rank)
}
