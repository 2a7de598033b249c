//! What a chunk is held against: labels, next items with drawn negatives, kinds; or the events that were hidden from it.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{Example, TrainError, Trainer};
use crate::{
    event::EventKind,
    features::EncodedUser,
    model::{Batch, ItemTargets, TASKS, Targets},
};

/// Rows drawn for a chunk.
pub(super) struct Drawn {
    /// `positives` a user.
    pub(super) positives: Vec<u32>,
    pub(super) weights: Vec<f32>,
    pub(super) negatives: Vec<u32>,
}

impl Drawn {
    /// All of them.
    pub(super) fn rows(&self) -> Vec<u32> {
        self.positives.iter().chain(&self.negatives).copied().collect()
    }
}

impl Trainer<'_> {
    /// Draws positives and negatives for a chunk.
    pub(super) fn draw(&self, places: &[usize], random: &mut Xoshiro256PlusPlus) -> Drawn {
        let wanted = self.settings.positives;
        let mut drawn = Drawn { positives: Vec::new(), weights: Vec::new(), negatives: Vec::new() };
        for place in places {
            let known = &self.positives[*place];
            let count = known.len().min(wanted);
            for slot in 0..wanted {
                let row = if slot < count { known[random.random_range(0..known.len())] } else { 0 };
                drawn.positives.push(row);
                drawn.weights.push(if slot < count { 1.0 / count as f32 } else { 0.0 });
            }
        }
        if drawn.weights.iter().any(|weight| *weight > 0.0) {
            drawn.negatives = (0..self.settings.negatives).map(|_| self.sampler.draw(random)).collect();
        }
        drawn
    }

    /// The hidden item of each user as its one positive.
    pub(super) fn draw_hidden(
        &self,
        hidden: &[(EncodedUser, u32, Option<EventKind>)],
        random: &mut Xoshiro256PlusPlus,
    ) -> Drawn {
        let mut drawn = Drawn { positives: Vec::new(), weights: Vec::new(), negatives: Vec::new() };
        for (_, row, _) in hidden {
            for slot in 0..self.settings.positives {
                let is_it = slot == 0 && *row > 0;
                drawn.positives.push(if is_it { *row } else { 0 });
                drawn.weights.push(f32::from(u8::from(is_it)));
            }
        }
        if hidden.iter().any(|(_, row, _)| *row > 0) {
            drawn.negatives = (0..self.settings.negatives).map(|_| self.sampler.draw(random)).collect();
        }
        drawn
    }

    /// Item and kind of each hidden event; no label.
    pub(super) fn hidden_targets(
        &self,
        hidden: &[(EncodedUser, u32, Option<EventKind>)],
        drawn: &Drawn,
        batch: &Batch,
    ) -> Result<Targets, TrainError> {
        let device = &Device::Cpu;
        let bit = |value: bool| f32::from(u8::from(value));
        let own: Vec<[u32; 1]> = hidden.iter().map(|(_, row, _)| [*row]).collect();
        let own: Vec<&[u32]> = own.iter().map(<[u32; 1]>::as_slice).collect();
        let kinds = hidden.iter().map(|(.., kind)| kind.map_or(0, |kind| kind as u32)).collect();
        let kind_weight: Vec<f32> = hidden.iter().map(|(.., kind)| bit(kind.is_some())).collect();
        let items = if drawn.negatives.is_empty() { None } else { Some(self.item_targets(&own, drawn, batch)?) };
        let present = [0.0, 0.0, bit(items.is_some()), bit(kind_weight.contains(&1.0))];
        Ok(Targets {
            binary: Tensor::zeros((hidden.len(), 2), candle_core::DType::F32, device)?,
            kind: Tensor::from_vec(kinds, hidden.len(), device)?,
            kind_weight: Tensor::from_vec(kind_weight, hidden.len(), device)?,
            items,
            present: Tensor::from_slice(&present, TASKS, device)?,
        })
    }

    pub(super) fn targets(
        &self,
        places: &[usize],
        drawn: &Drawn,
        own: &[&[u32]],
        batch: &Batch,
    ) -> Result<Targets, TrainError> {
        let device = &Device::Cpu;
        let users = places.len();
        let examples: Vec<&Example> = places.iter().map(|place| &self.examples[*place]).collect();
        let bit = |value: bool| f32::from(u8::from(value));
        let binary: Vec<f32> =
            examples.iter().flat_map(|example| [bit(example.churned), bit(example.purchased)]).collect();
        let kind: Vec<u32> = examples.iter().map(|example| example.next_kind.map_or(0, |kind| kind as u32)).collect();
        let kind_weight: Vec<f32> = examples.iter().map(|example| bit(example.next_kind.is_some())).collect();
        let any_kind = kind_weight.iter().any(|weight| *weight > 0.0);
        let items = if drawn.negatives.is_empty() { None } else { Some(self.item_targets(own, drawn, batch)?) };
        let present = [1.0, 1.0, bit(items.is_some()), bit(any_kind)];
        Ok(Targets {
            binary: Tensor::from_vec(binary, (users, 2), device)?,
            kind: Tensor::from_vec(kind, users, device)?,
            kind_weight: Tensor::from_vec(kind_weight, users, device)?,
            items,
            present: Tensor::from_slice(&present, TASKS, device)?,
        })
    }

    /// `own`: rows of each user that are no negatives.
    fn item_targets(&self, own: &[&[u32]], drawn: &Drawn, batch: &Batch) -> Result<ItemTargets, TrainError> {
        const SAME_ITEM: f32 = -1e4;
        let device = &Device::Cpu;
        let (users, positives, negatives) = (own.len(), self.settings.positives, drawn.negatives.len());
        let place_of: HashMap<u32, u32> = batch.item_rows.iter().copied().zip(0..).collect();
        let local = |rows: &[u32]| -> Result<Tensor, TrainError> {
            let places: Vec<u32> = rows.iter().map(|row| place_of.get(row).copied().unwrap_or(0)).collect();
            Ok(Tensor::from_vec(places, rows.len(), device)?)
        };
        let log_q = |row: u32| self.sampler.log_q(row, negatives);
        let mut mask = Vec::with_capacity(users * negatives);
        for own in own {
            mask.extend(drawn.negatives.iter().map(|row| if own.contains(row) { SAME_ITEM } else { 0.0 }));
        }
        let positive_log_q: Vec<f32> = drawn.positives.iter().map(|row| log_q(*row)).collect();
        let negative_log_q: Vec<f32> = drawn.negatives.iter().map(|row| log_q(*row)).collect();
        Ok(ItemTargets {
            positives,
            positive_rows: local(&drawn.positives)?,
            positive_log_q: Tensor::from_vec(positive_log_q, (users, positives), device)?,
            positive_weight: Tensor::from_slice(&drawn.weights, (users, positives), device)?,
            negative_rows: local(&drawn.negatives)?,
            negative_log_q: Tensor::from_vec(negative_log_q, (1, negatives), device)?,
            negative_mask: Tensor::from_vec(mask, (users, negatives), device)?,
        })
    }
}
