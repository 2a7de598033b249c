//! One visit: what a shopper does from the first search to the till.

use smallvec::{SmallVec, smallvec};

use super::{
    Catalogue,
    catalogue::CATEGORIES,
    random::{Chance, ONE},
    shopper::{Traits, place_of_bits},
    stream::{MadeLine, MadeQuery},
};
use crate::event::EventKind;

/// One thing done in a visit.
#[derive(Debug, Clone)]
pub(super) struct Action {
    /// Seconds since the first day.
    pub(super) time_s: u32,
    pub(super) kind: EventKind,
    pub(super) query: Option<MadeQuery>,
    pub(super) lines: SmallVec<[MadeLine; 1]>,
}

/// How a visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) end_s: u32,
    pub(super) failed_searches: u16,
    pub(super) has_bought: bool,
}

/// Plays one visit that begins at `start_s`. Appends to `actions`, in time order, at least one.
pub(super) struct Visitor<'a> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) traits: &'a Traits,
    pub(super) chance: &'a mut Chance,
    /// The time of the visit, milliseconds since the Unix epoch.
    pub(super) now_ms: i64,
    pub(super) time_s: u32,
    pub(super) actions: &'a mut Vec<Action>,
}

impl Visitor<'_> {
    pub(super) fn play(mut self) -> Outcome {
        let has_bought = self.chance.happens(self.traits.buys);
        let intents = 1 + u32::from(self.chance.happens(ONE * 2 / 5)) + u32::from(self.chance.happens(ONE / 7));
        let mut failed_searches = 0;
        let mut cart: SmallVec<[MadeLine; 4]> = SmallVec::new();
        for intent in 1..=intents {
            let wanted = self.wanted();
            let must_buy = has_bought && cart.is_empty() && intent == intents;
            if self.chance.happens(self.traits.searches) {
                let failures = self.search(wanted);
                failed_searches += failures;
                // Nothing found, nothing to look at; who came to buy finds it another way.
                if failures == 2 && !must_buy {
                    continue;
                }
            }
            self.look_around(wanted);
            let adds =
                if has_bought { must_buy || self.chance.happens(ONE * 4 / 5) } else { self.chance.happens(ONE / 7) };
            if adds {
                let line = self.line_of(wanted);
                self.act(EventKind::CartAdd, None, smallvec![line]);
                cart.push(line);
            }
        }
        let second_thoughts =
            if has_bought { cart.len() > 1 && self.chance.happens(ONE / 10) } else { self.chance.happens(ONE / 3) };
        if second_thoughts && let Some(line) = cart.pop() {
            self.act(EventKind::CartRemove, None, smallvec![line]);
        }
        if has_bought {
            let lines = cart.into_iter().collect();
            self.act(EventKind::Purchase, None, lines);
        }
        Outcome { end_s: self.time_s, failed_searches, has_bought }
    }

    /// Searches for an item once, or twice when the first search finds nothing; says how many found nothing.
    fn search(&mut self, wanted: u32) -> u16 {
        let category = self.catalogue.item(wanted).category;
        for failures in 0..2 {
            let fails = self.chance.happens(self.traits.search_failures);
            let form = if fails { MadeQuery::FAILING } else { self.chance.below(4) };
            self.act(EventKind::Search, Some(MadeQuery::new(category, form)), SmallVec::new());
            if !fails {
                return failures;
            }
        }
        2
    }

    /// Looks at some items of the kind that is wanted, and at the wanted one last.
    fn look_around(&mut self, wanted: u32) {
        let category = u32::from(self.catalogue.item(wanted).category);
        while self.chance.happens(ONE * 9 / 20) {
            let count = self.catalogue.count_at(category, self.now_ms);
            let other = self.catalogue.ranked(category, self.chance.skewed(count));
            self.view(other);
        }
        self.view(wanted);
    }

    fn view(&mut self, item: u32) {
        let line = MadeLine { item, price_minor: self.catalogue.item(item).price_minor, quantity: 1 };
        self.act(EventKind::View, None, smallvec![line]);
    }

    fn line_of(&mut self, item: u32) -> MadeLine {
        let quantity = 1 + self.chance.skewed(4);
        MadeLine { item, price_minor: self.catalogue.item(item).price_minor, quantity }
    }

    /// A staple, or something of a favourite category (now and then of any), sometimes the newest there is.
    fn wanted(&mut self) -> u32 {
        if self.chance.happens(self.traits.repeats) {
            let place = self.chance.skewed(self.traits.staples);
            return self.traits.staple(self.catalogue, place);
        }
        let category = if self.chance.happens(ONE / 10) {
            self.chance.below(CATEGORIES)
        } else {
            self.traits.favourite(place_of_bits(self.chance.bits()))
        };
        let count = self.catalogue.count_at(category, self.now_ms);
        let rank = if self.chance.happens(ONE / 12) {
            count - 1 - self.chance.below(count.min(3))
        } else {
            self.chance.skewed(count)
        };
        self.catalogue.ranked(category, rank)
    }

    fn act(&mut self, kind: EventKind, query: Option<MadeQuery>, lines: SmallVec<[MadeLine; 1]>) {
        self.actions.push(Action { time_s: self.time_s, kind, query, lines });
        self.time_s += 4 + self.chance.skewed(240);
    }
}
