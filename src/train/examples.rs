//! Users at moments with what came of them: the rows that heads and baselines learn from.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]

use std::collections::HashMap;

use super::{
    history::{History, HistoryError},
    labels::{LabelMark, is_eligible},
    schedule::Schedule,
};
use crate::{
    event::View,
    features::{Encoder, Knots, RepeatHistory},
    graph::UserGraph,
};

/// One user at one cutoff. Features are kept apart, in [`ExampleSet::raw`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// The user's number in the history.
    pub user: u32,
    /// Place of the cutoff in [`Schedule::cutoffs`].
    pub cutoff: u32,
    /// Whether the user churned; `None` when the horizon is not over.
    pub churned: Option<bool>,
    /// Whether the user purchased; `None` when the horizon is not over.
    pub purchased: Option<bool>,
    /// The user's active days, as BG/NBD reads them.
    pub activity: RepeatHistory,
    /// The user's purchase days, where there are any.
    pub purchase: Option<RepeatHistory>,
}

/// Examples with their raw features.
#[derive(Debug, Clone, Default)]
pub struct ExampleSet {
    /// All examples, by user and cutoff.
    pub examples: Vec<Moment>,
    /// Raw features of each, NaN where missing: `examples × width`.
    pub raw: Vec<f32>,
    /// Features an example.
    pub width: usize,
}

/// Users looked at most; beyond, they are drawn by hash.
const MAX_USERS: f64 = 200_000.0;

impl ExampleSet {
    /// Looks at every cutoff of the schedule. Where more users are eligible at more cutoffs than `max_examples`, pairs of
    /// user and cutoff are drawn by hash with `seed`: other users teach more than the same ones a week later.
    pub fn collect(
        history: &impl History,
        schedule: &Schedule,
        encoder: &Encoder,
        max_examples: usize,
        seed: u64,
    ) -> Result<Self, HistoryError> {
        let moments = schedule.moments();
        let place_of: HashMap<i64, usize> = moments.iter().enumerate().map(|(place, at_ms)| (*at_ms, place)).collect();
        let cutoff_of: HashMap<i64, u32> =
            (0..).zip(&schedule.cutoffs).map(|(number, cutoff)| (cutoff.at_ms, number)).collect();
        let history_ms = schedule.horizons.history_ms();
        let users = history.users();
        let user_share = MAX_USERS / users.len().max(1) as f64;
        let drawn = |user: usize| user_share >= 1.0 || unit_hash(users[user].as_str(), seed) < user_share;
        // Who is eligible is known only after a fold; the features, which cost far more, are computed for the drawn alone.
        let cutoffs: Vec<i64> = schedule.cutoffs.iter().map(|cutoff| cutoff.at_ms).collect();
        let share = if users.len() * cutoffs.len() <= max_examples {
            1.0
        } else {
            let eligible = history.observe(&cutoffs, &drawn, &|_, place, graph: &UserGraph| {
                is_eligible(graph, cutoffs[place], history_ms).then_some(())
            })?;
            max_examples as f64 / eligible.len().max(1) as f64
        };
        let kept = |user: usize, cutoff: u32| {
            share >= 1.0 || unit_hash(&format!("{}:{cutoff}", users[user].as_str()), seed) < share
        };
        let seen = history.observe(&moments, &drawn, &|user, place, graph: &UserGraph| {
            let at_ms = moments[place];
            let cutoff = cutoff_of.get(&at_ms).filter(|_| is_eligible(graph, at_ms, history_ms));
            let eligible = cutoff.is_some_and(|cutoff| kept(user, *cutoff));
            let row = eligible.then(|| Seen {
                raw: encoder.raw(graph, at_ms),
                activity: repeat_history(graph.activity_days().iter(), at_ms).unwrap_or(NO_DAYS),
                purchase: purchase_history(graph, at_ms),
            });
            Some((user, place, LabelMark::of(graph), row))
        })?;
        let mut set = Self { width: encoder.spec().features().len(), ..Self::default() };
        for rows in seen.chunk_by(|left, right| left.0 == right.0) {
            let mark_at = |at_ms: i64| {
                let place = place_of.get(&at_ms)?;
                rows.iter().find(|row| row.1 == *place).map(|row| row.2)
            };
            for (user, place, mark, row) in rows {
                let (Some(row), Some(cutoff)) = (row, cutoff_of.get(&moments[*place])) else { continue };
                let at_ms = moments[*place];
                let known = schedule.cutoffs[*cutoff as usize];
                let later = |knows: bool, horizon_ms: i64| knows.then(|| mark_at(at_ms + horizon_ms)).flatten();
                let churned = later(known.knows_churn, schedule.horizons.churn_ms());
                let purchased = later(known.knows_purchase, schedule.horizons.purchase_ms());
                set.examples.push(Moment {
                    user: u32::try_from(*user).unwrap_or(u32::MAX),
                    cutoff: *cutoff,
                    churned: churned.map(|later| mark.churned_until(&later)),
                    purchased: purchased.map(|later| mark.purchased_until(&later)),
                    activity: row.activity,
                    purchase: row.purchase,
                });
                set.raw.extend_from_slice(&row.raw);
            }
        }
        Ok(set)
    }

    /// The raw features of one example.
    pub fn raw(&self, place: usize) -> &[f32] {
        &self.raw[place * self.width..(place + 1) * self.width]
    }
}

struct Seen {
    raw: Vec<f32>,
    activity: RepeatHistory,
    purchase: Option<RepeatHistory>,
}

/// Nothing yet.
const NO_DAYS: RepeatHistory = RepeatHistory { repeats: 0.0, last_days: 0.0, age_days: 0.0 };

/// What BG/NBD reads of the purchase days of a user.
pub fn purchase_history(graph: &UserGraph, at_ms: i64) -> Option<RepeatHistory> {
    graph.view(View::Purchase).and_then(|view| repeat_history(view.days().iter(), at_ms))
}

/// What BG/NBD reads of the days of a user up to a moment.
pub fn repeat_history(days: impl Iterator<Item = i32>, at_ms: i64) -> Option<RepeatHistory> {
    let (mut count, mut first, mut last) = (0_u32, i32::MAX, i32::MIN);
    for day in days {
        count += 1;
        first = first.min(day);
        last = last.max(day);
    }
    let today = i32::try_from(at_ms.div_euclid(crate::event::DAY_MS)).unwrap_or(i32::MAX);
    (count > 0).then(|| RepeatHistory {
        repeats: f64::from(count - 1),
        last_days: f64::from(last - first),
        age_days: f64::from((today - first).max(last - first)),
    })
}

/// Gaussian ranks of each feature within its own cutoff: what the encoder does with the newest quantiles at serving time,
/// done for the past with the quantiles of that time.
pub fn rank_within_cutoffs(set: &ExampleSet) -> (Vec<f32>, HashMap<u32, Vec<Knots>>) {
    let mut rows_of: HashMap<u32, Vec<usize>> = HashMap::new();
    for (place, example) in set.examples.iter().enumerate() {
        rows_of.entry(example.cutoff).or_default().push(place);
    }
    let mut ranked = vec![0.0; set.raw.len()];
    let mut knots_of = HashMap::new();
    for (cutoff, rows) in rows_of {
        let knots: Vec<Knots> = (0..set.width)
            .map(|feature| Knots::fit(rows.iter().map(|row| set.raw[row * set.width + feature])))
            .collect();
        for row in rows {
            for (feature, knots) in knots.iter().enumerate() {
                let place = row * set.width + feature;
                ranked[place] = knots.apply(set.raw[place]).unwrap_or(0.0);
            }
        }
        knots_of.insert(cutoff, knots);
    }
    (ranked, knots_of)
}

/// A number in `[0, 1)` that depends on the text and the seed only.
pub(super) fn unit_hash(text: &str, seed: u64) -> f64 {
    let bits = xxhash_rust::xxh3::xxh3_64_with_seed(text.as_bytes(), seed ^ 0x7465_6163_6865_7273) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
