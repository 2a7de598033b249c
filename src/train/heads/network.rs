//! The examples of the network: a draw of the example set, encoded, with what came next.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]

use std::collections::{HashMap, HashSet};

use super::{
    super::{Example, examples::unit_hash, history::History, labels::items_bought_since},
    HeadsError,
    training::Training,
};
use crate::{
    event::{EventKind, View},
    features::Encoder,
    graph::UserGraph,
};

impl<H: History> Training<'_, H> {
    /// Draws examples with both labels and encodes them; features keep the ranks of their own cutoff.
    pub(super) fn network_examples(&self) -> Result<NetworkData, HeadsError> {
        let horizons = &self.schedule.horizons;
        let longest_ms = horizons.churn_ms().max(horizons.purchase_ms());
        let complete: Vec<usize> = (0..self.set.examples.len())
            .filter(|place| {
                let example = &self.set.examples[*place];
                example.churned.is_some() && example.purchased.is_some()
            })
            .collect();
        let share = self.options.max_network_examples as f64 / complete.len().max(1) as f64;
        let chosen: HashMap<(u32, u32), usize> = complete
            .into_iter()
            .filter(|place| {
                let example = &self.set.examples[*place];
                let text = format!("{}:{}", example.user, example.cutoff);
                self.held_out.contains(place) || share >= 1.0 || unit_hash(&text, self.options.seed) < share
            })
            .map(|place| ((self.set.examples[place].user, self.set.examples[place].cutoff), place))
            .collect();
        let users: HashSet<u32> = chosen.keys().map(|(user, _)| *user).collect();
        let moments = self.schedule.moments();
        let place_of: HashMap<i64, usize> = moments.iter().enumerate().map(|(place, at_ms)| (*at_ms, place)).collect();
        let cutoff_at: HashMap<usize, u32> =
            (0..).zip(&self.schedule.cutoffs).map(|(number, cutoff)| (place_of[&cutoff.at_ms], number)).collect();
        // The moment at which the purchase horizon of a cutoff ends.
        let ends: HashMap<usize, Vec<u32>> = {
            let mut ends: HashMap<usize, Vec<u32>> = HashMap::new();
            for (number, cutoff) in (0..).zip(&self.schedule.cutoffs) {
                if let Some(place) = place_of.get(&(cutoff.at_ms + horizons.purchase_ms())) {
                    ends.entry(*place).or_default().push(number);
                }
            }
            ends
        };
        let encoder = Encoder::new(self.spec.clone());
        let params = self.history.params();
        let drawn = |user: usize| u32::try_from(user).is_ok_and(|user| users.contains(&user));
        let seen = self.history.observe(&moments, &drawn, &|user, place, graph: &UserGraph| {
            let user = u32::try_from(user).ok()?;
            let encoded = cutoff_at
                .get(&place)
                .filter(|cutoff| chosen.contains_key(&(user, **cutoff)))
                .map(|cutoff| (*cutoff, encoder.encode(graph, moments[place])));
            let later: Vec<_> = ends
                .get(&place)
                .into_iter()
                .flatten()
                .filter(|cutoff| chosen.contains_key(&(user, **cutoff)))
                .map(|cutoff| {
                    let since_ms = self.schedule.cutoffs[*cutoff as usize].at_ms;
                    (*cutoff, items_bought_since(graph, since_ms, params), first_kind_since(graph, since_ms))
                })
                .collect();
            (encoded.is_some() || !later.is_empty()).then_some((user, encoded, later))
        })?;
        let mut outcomes = HashMap::new();
        let mut encodings = Vec::new();
        for (user, encoded, later) in seen {
            encodings.extend(encoded.map(|(cutoff, encoded)| (user, cutoff, encoded)));
            outcomes.extend(later.into_iter().map(|(cutoff, items, kind)| ((user, cutoff), (items, kind))));
        }
        let width = self.set.width;
        let mut data = NetworkData::default();
        for (user, cutoff, mut encoded) in encodings {
            let Some(place) = chosen.get(&(user, cutoff)).copied() else { continue };
            let example = &self.set.examples[place];
            let (Some(churned), Some(purchased)) = (example.churned, example.purchased) else { continue };
            encoded.features.copy_from_slice(&self.ranked[place * width..(place + 1) * width]);
            encoded.raw.copy_from_slice(self.set.raw(place));
            let (items, next_kind) = outcomes.remove(&(user, cutoff)).unwrap_or_default();
            let mut next_items: Vec<_> = items.into_iter().collect();
            next_items.sort_unstable();
            let cutoff_ms = self.schedule.cutoffs[cutoff as usize].at_ms;
            data.examples.push(Example { encoded, churned, purchased, next_items, next_kind, cutoff_ms });
            let held = self.held_out.contains(&place);
            data.is_past.push(!held && (self.by_user || cutoff_ms + longest_ms <= self.validation_ms));
            data.is_held.push(held);
            if held {
                data.held_places.push(place);
            }
        }
        Ok(data)
    }
}

/// What the network learns from.
#[derive(Default)]
pub(super) struct NetworkData {
    pub(super) examples: Vec<Example>,
    is_past: Vec<bool>,
    is_held: Vec<bool>,
    /// Places of the held-out examples in the set, in their order.
    pub(super) held_places: Vec<usize>,
}

impl NetworkData {
    pub(super) fn past(&self) -> Vec<Example> {
        self.pick(&self.is_past)
    }

    pub(super) fn held_out(&self) -> Vec<Example> {
        self.pick(&self.is_held)
    }

    fn pick(&self, wanted: &[bool]) -> Vec<Example> {
        let chosen = self.examples.iter().zip(wanted).filter(|(_, wanted)| **wanted);
        chosen.map(|(example, _)| example.clone()).collect()
    }
}

/// Kind of the first event at or after a moment, as far as the rings of a later graph remember it.
fn first_kind_since(graph: &UserGraph, since_ms: i64) -> Option<EventKind> {
    let since_s = since_ms.div_euclid(1_000);
    let first_of = |view: View| graph.view(view)?.ring().find(|entry| i64::from(entry.time_s) >= since_s);
    View::ALL.into_iter().filter_map(first_of).min_by_key(|entry| entry.time_s).map(|entry| entry.kind)
}
