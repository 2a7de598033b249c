//! All shoppers at once, in time order.
//!
//! Two queues: who comes when (an entry a shopper, touched once a visit) and who does what next (an entry a visit that is
//! going on, few at any time). A visit is played when it begins, and its events wait until their time.

#![expect(clippy::cast_possible_truncation, reason = "slots and users are counted in 32 bits")]

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use smallvec::SmallVec;

use super::{
    Catalogue, GenerateParams,
    random::{Chance, ONE},
    session::{Action, Visitor},
    shopper::{Mood, Shopper, Traits},
};
use crate::event::EventKind;

const DAY_S: u64 = 86_400;

/// One product of a made event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeLine {
    /// The item's number.
    pub item: u32,
    /// Price of one unit in minor units.
    pub price_minor: u32,
    /// Units.
    pub quantity: u32,
}

/// A search: a category's word in one of five forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeQuery {
    pub(super) category: u8,
    pub(super) form: u32,
}

impl MadeQuery {
    /// The form of searches that find nothing.
    pub(super) const FAILING: u32 = 4;

    pub(super) fn new(category: u8, form: u32) -> Self {
        Self { category, form }
    }

    /// Whether the search found something.
    pub fn succeeds(self) -> bool {
        self.form != Self::FAILING
    }
}

/// One made event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeEvent {
    /// Its number in the stream, from 0.
    pub sequence: u64,
    /// The shopper's number.
    pub user: u32,
    /// The number of his visit, from 1.
    pub visit: u32,
    /// When, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// What.
    pub kind: EventKind,
    /// The search.
    pub query: Option<MadeQuery>,
    /// The products.
    pub lines: SmallVec<[MadeLine; 1]>,
}

/// How a shopper was doing at the cutoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtCutoff {
    pub(super) mood: Mood,
    pub(super) visits: u32,
    pub(super) last_s: u32,
}

/// The events of all shoppers in time order. Memory: about 50 bytes a shopper, and the visits that are going on.
#[derive(Debug)]
pub struct Shoppers {
    params: GenerateParams,
    catalogue: Catalogue,
    states: Vec<Shopper>,
    /// Who comes when: start in seconds since the first day, shopper. At most one entry a shopper.
    waiting: BinaryHeap<Reverse<(u32, u32)>>,
    /// Who does what next: time, shopper, place in `visits`. One entry a visit that is going on.
    visiting: BinaryHeap<Reverse<(u32, u32, u32)>>,
    visits: Vec<Visit>,
    free: Vec<u32>,
    sequence: u64,
    at_cutoff: Vec<AtCutoff>,
}

/// A visit that is going on. Its memory is used again by later ones.
#[derive(Debug, Default)]
struct Visit {
    number: u32,
    actions: Vec<Action>,
    next: usize,
}

impl Shoppers {
    /// Shoppers at the start of the first day.
    pub fn new(params: &GenerateParams) -> Self {
        let catalogue = Catalogue::new(params);
        let mut waiting = BinaryHeap::with_capacity(params.users as usize);
        let states = (0..params.users)
            .map(|user| {
                let traits = Traits::of(params, user);
                let joins_s = (traits.joins_ms - params.start_ms) / 1000;
                let mut chance = Chance::new(params.seed, u64::from(user));
                let start_s = at_a_good_hour(&mut chance, &traits, u64::try_from(joins_s).unwrap_or(0), 0);
                if start_s < end_s(params) {
                    waiting.push(Reverse((start_s as u32, user)));
                }
                Shopper { chance, mood: Mood::default(), visits: 0, purchases: 0, last_s: 0, has_left: false }
            })
            .collect();
        Self {
            params: params.clone(),
            catalogue,
            states,
            waiting,
            visiting: BinaryHeap::new(),
            visits: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            at_cutoff: Vec::new(),
        }
    }

    /// The parameters.
    pub fn params(&self) -> &GenerateParams {
        &self.params
    }

    /// The items.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Visits that were going on at once so far, at most: the part of the memory that is not counted by shoppers.
    pub fn visits_at_once(&self) -> usize {
        self.visits.len()
    }

    /// Every shopper with how he was doing at the cutoff; nothing before the stream has passed it.
    pub(super) fn truth(&self) -> impl Iterator<Item = (&Shopper, &AtCutoff)> {
        self.states.iter().zip(&self.at_cutoff)
    }

    fn start_visit(&mut self, start_s: u32, user: u32) {
        let traits = Traits::of(&self.params, user);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.visits.push(Visit::default());
            (self.visits.len() - 1) as u32
        });
        let visit = &mut self.visits[slot as usize];
        let shopper = &mut self.states[user as usize];
        visit.actions.clear();
        visit.next = 0;
        visit.number = shopper.visits + 1;
        let outcome = Visitor {
            catalogue: &self.catalogue,
            traits: &traits,
            chance: &mut shopper.chance,
            now_ms: self.params.start_ms + i64::from(start_s) * 1000,
            time_s: start_s,
            actions: &mut visit.actions,
        }
        .play();
        shopper.visits += 1;
        shopper.purchases += u32::from(outcome.has_bought);
        shopper.mood = shopper.mood.after(outcome.failed_searches, outcome.has_bought);
        shopper.last_s = outcome.end_s;
        shopper.has_left = shopper.chance.happens(traits.leaves_now(shopper.mood));
        self.visiting.push(Reverse((start_s, user, slot)));
        if !shopper.has_left {
            let gap_s = shopper.chance.waiting(traits.gap_ms, traits.regularity) / 1000;
            let after_s = u64::from(outcome.end_s);
            let next_s = at_a_good_hour(&mut shopper.chance, &traits, after_s + gap_s, after_s + 1800);
            if next_s < end_s(&self.params) {
                self.waiting.push(Reverse((next_s as u32, user)));
            }
        }
    }

    /// The next event of a visit that is going on. Events past the end are never shown.
    fn emit(&mut self) -> Option<MadeEvent> {
        let mut top = self.visiting.peek_mut()?;
        let Reverse((time_s, user, slot)) = *top;
        if u64::from(time_s) >= end_s(&self.params) {
            return None;
        }
        let visit = &mut self.visits[slot as usize];
        let action = &mut visit.actions[visit.next];
        let event = MadeEvent {
            sequence: self.sequence,
            user,
            visit: visit.number,
            time_ms: self.params.start_ms + i64::from(time_s) * 1000,
            kind: action.kind,
            query: action.query,
            lines: std::mem::take(&mut action.lines),
        };
        self.sequence += 1;
        visit.next += 1;
        if let Some(action) = visit.actions.get(visit.next) {
            top.0.0 = action.time_s;
        } else {
            PeekMut::pop(top);
            self.free.push(slot);
        }
        Some(event)
    }

    fn pass_cutoff(&mut self) {
        let state = |shopper: &Shopper| AtCutoff { mood: shopper.mood, visits: shopper.visits, last_s: shopper.last_s };
        self.at_cutoff = self.states.iter().map(state).collect();
    }
}

impl Iterator for Shoppers {
    type Item = MadeEvent;

    fn next(&mut self) -> Option<MadeEvent> {
        loop {
            let visit = self.waiting.peek().map(|entry| entry.0);
            let action_s = self.visiting.peek().map(|entry| entry.0.0);
            let is_past_cutoff =
                visit.is_none_or(|(start_s, _)| u64::from(start_s) >= u64::from(self.params.cutoff_day) * DAY_S);
            if is_past_cutoff && self.at_cutoff.is_empty() {
                self.pass_cutoff();
            }
            match (visit, action_s) {
                (Some((start_s, user)), action_s) if action_s.is_none_or(|action_s| start_s <= action_s) => {
                    self.waiting.pop();
                    self.start_visit(start_s, user);
                }
                _ => return self.emit(),
            }
        }
    }
}

fn end_s(params: &GenerateParams) -> u64 {
    u64::from(params.days) * DAY_S
}

/// Visits by weekday, Monday first, in parts of 64 of the busiest day.
const WEEKDAYS: [u32; 7] = [42, 40, 42, 46, 54, 64, 50];
/// Visits by hour of the day.
const HOURS: [u32; 24] = [4, 2, 1, 1, 1, 2, 6, 12, 16, 18, 20, 24, 26, 22, 20, 20, 24, 32, 38, 42, 40, 32, 20, 10];

/// Moves a moment to a day and an hour at which people shop, and past `earliest_s`.
fn at_a_good_hour(chance: &mut Chance, traits: &Traits, wanted_s: u64, earliest_s: u64) -> u64 {
    let mut day = wanted_s / DAY_S;
    // At most a week of days that do not suit, so that it ends.
    for _ in 0..WEEKDAYS.len() {
        if chance.below(64) < WEEKDAYS[(day % 7) as usize] {
            break;
        }
        day += 1;
    }
    let hour = if chance.happens(ONE * 3 / 5) {
        (traits.hour + 23 + chance.below(3)) % 24
    } else {
        let mut left = chance.below(HOURS.iter().sum());
        HOURS
            .iter()
            .position(|weight| {
                let is_here = left < *weight;
                left = left.saturating_sub(*weight);
                is_here
            })
            .unwrap_or(0) as u32
    };
    let time_s = day * DAY_S + u64::from(hour) * 3600 + u64::from(chance.below(3600));
    if time_s < earliest_s { time_s + DAY_S } else { time_s }
}
