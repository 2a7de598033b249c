//! Trains the network: data-parallel over threads, early stopping on validation, the same result for the same seed
//! whatever the number of threads. Before it, where asked for, the sequence encoder is pre-trained.

#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "shares, rates and bounded indices")]

mod pretraining;
mod settings;
mod targets;

use std::{collections::HashMap, num::NonZeroUsize, ops::ControlFlow};

use candle_core::{Device, Tensor, Var};
use rand::{SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    Example,
    adamw::{AdamSettings, Moments},
    parallel,
    sampler::Sampler,
};
use crate::{
    event::EventKind,
    features::{EncodedUser, FeatureSpec},
    model::{
        Batch, Calibration, CandleForward, Dropout, ITEM_TABLE, Model, Network, NetworkConfig, Padding, Parameters,
        Platt, Prediction, TASKS, Targets, losses,
    },
};

pub use pretraining::Pretraining;
use pretraining::{begins_anew, contrastive_loss, hide_one, two_slices};
pub use settings::{EpochReport, Progress, TrainError, TrainSettings, TrainedNetwork};

/// Trains on `examples`; `validation` decides when to stop and calibrates (empty: all passes, no calibration).
/// `progress` is called after every step and may stop training; what was best so far is then returned.
pub fn fit(
    examples: &[Example],
    validation: &[Example],
    spec: &FeatureSpec,
    config: &NetworkConfig,
    settings: &TrainSettings,
    seed: u64,
    progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<TrainedNetwork, TrainError> {
    check(examples, validation, config)?;
    let mut trainer = Trainer::new(examples, spec, config, settings, seed)?;
    trainer.pretrain()?;
    let steps = examples.len().div_ceil(settings.batch_users);
    let mut best: Option<(f32, usize, Parameters)> = None;
    let mut reports = Vec::new();
    for epoch in 0..settings.epochs.max(1) {
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.shuffle(&mut trainer.random);
        let (mut sums, mut counts, mut stopped) = ([0.0_f32; TASKS], [0.0_f32; TASKS], false);
        for (step, batch) in order.chunks(settings.batch_users).enumerate() {
            let rate = settings.learning_rate * schedule(trainer.step, steps * settings.epochs);
            let step_losses = trainer.step(batch, rate)?;
            for task in 0..TASKS {
                sums[task] += step_losses[task].0;
                counts[task] += step_losses[task].1;
            }
            let losses = std::array::from_fn(|task| sums[task] / counts[task].max(1.0));
            if let Some(task) = losses.iter().position(|loss| !loss.is_finite()) {
                return Err(TrainError::Diverged { epoch, what: format!("loss of task {task}") });
            }
            let last = step + 1 == steps;
            let report = if last { Some(trainer.report(losses, validation)?) } else { None };
            if let Some(report) = report {
                reports.push(report);
                let score = report.validation_churn + report.validation_purchase;
                if validation.is_empty() || best.as_ref().is_none_or(|(known, ..)| score < *known) {
                    best = Some((score, epoch, trainer.parameters.clone()));
                }
            }
            let state = Progress { epoch, epochs: settings.epochs, step: step + 1, steps, losses, report };
            stopped |= progress(&state).is_break();
            if stopped {
                break;
            }
        }
        let waited = best.as_ref().map_or(0, |(_, best_epoch, _)| epoch - best_epoch);
        if stopped || waited >= settings.patience {
            break;
        }
    }
    let (best_epoch, parameters) = match best {
        Some((_, epoch, parameters)) => (epoch, parameters),
        None => (0, trainer.parameters),
    };
    if let Some(name) = parameters.first_not_finite() {
        return Err(TrainError::Diverged { epoch: best_epoch, what: name.to_owned() });
    }
    let mut model = Model { config: config.clone(), parameters, calibration: Calibration::default() };
    model.calibration = calibrate(&model, validation, settings.threads)?;
    Ok(TrainedNetwork { model, epochs: reports, best_epoch })
}

fn check(examples: &[Example], validation: &[Example], config: &NetworkConfig) -> Result<(), TrainError> {
    if examples.is_empty() {
        return Err(TrainError::NoExamples);
    }
    if let Some(problem) = config.problem() {
        return Err(TrainError::Shape(problem));
    }
    let wrong = |example: &Example| example.encoded.features.len() != config.features;
    if let Some(index) = examples.iter().chain(validation).position(wrong) {
        let found = examples.iter().chain(validation).nth(index).map_or(0, |example| example.encoded.features.len());
        return Err(TrainError::Width { index, found, expected: config.features });
    }
    Ok(())
}

/// Share of the highest learning rate: a warm-up over the first tenth, then a cosine to a twentieth.
fn schedule(step: i32, total: usize) -> f32 {
    let warm_up = (step as f32 / (total as f32 / 10.0).clamp(1.0, 100.0)).min(1.0);
    let share = (step as f32 / total.max(1) as f32).min(1.0);
    warm_up * (0.05 + 0.95 * 0.5 * (1.0 + (std::f32::consts::PI * share).cos()))
}

/// Fits both calibrations on validation users; without any it changes nothing.
fn calibrate(model: &Model, validation: &[Example], threads: NonZeroUsize) -> Result<Calibration, TrainError> {
    let users: Vec<&EncodedUser> = validation.iter().map(|example| &example.encoded).collect();
    let predictions = predict_all(model, &users, threads)?;
    let pairs = |log_odds: &dyn Fn(&Prediction) -> f32, outcome: &dyn Fn(&Example) -> bool| -> Vec<(f32, bool)> {
        predictions
            .iter()
            .zip(validation)
            .map(|(prediction, example)| (log_odds(prediction), outcome(example)))
            .collect()
    };
    Ok(Calibration {
        churn: Platt::fit(&pairs(&|prediction| prediction.churn_log_odds, &|example| example.churned)),
        purchase: Platt::fit(&pairs(&|prediction| prediction.purchase_log_odds, &|example| example.purchased)),
    })
}

/// Scores many users on `threads` threads, in order.
pub fn predict_all(
    model: &Model,
    users: &[&EncodedUser],
    threads: NonZeroUsize,
) -> Result<Vec<Prediction>, TrainError> {
    const USERS_AT_ONCE: usize = 256;
    let forward = CandleForward::new(model, Device::Cpu)?;
    let chunks: Vec<&[&EncodedUser]> = users.chunks(USERS_AT_ONCE).collect();
    let parts = in_parallel(chunks.len(), threads, |chunk| Ok(forward.predict(chunks[chunk])?))?;
    Ok(parts.into_iter().flatten().collect())
}

/// Runs `work` for `0..count` on `threads` named threads and returns the answers in order.
fn in_parallel<T: Send>(
    count: usize,
    threads: NonZeroUsize,
    work: impl Fn(usize) -> Result<T, TrainError> + Sync,
) -> Result<Vec<T>, TrainError> {
    // Candle would hand large products to a pool of its own; here every thread does its own.
    gemm::set_threading_threshold(usize::MAX);
    parallel::map(threads.get(), count, work).into_iter().collect()
}

/// Parameters on their way.
struct Trainer<'a> {
    examples: &'a [Example],
    /// Admitted rows of each example's next items.
    positives: Vec<Vec<u32>>,
    sampler: Sampler,
    config: &'a NetworkConfig,
    settings: &'a TrainSettings,
    parameters: Parameters,
    /// Shared by all threads: written between steps only.
    variables: HashMap<String, Var>,
    network: Network,
    moments: HashMap<String, Moments>,
    random: Xoshiro256PlusPlus,
    seed: u64,
    step: i32,
    /// What the steps at hand are of; `None` for the tasks.
    stage: Pretraining,
}

/// Gradients of one chunk, summed over its users' shares.
struct ChunkAnswer {
    /// In the order of the parameters, the item table left out.
    dense: Vec<Vec<f32>>,
    rows: Vec<u32>,
    row_gradients: Vec<f32>,
    /// Loss of each task and its weight in users.
    losses: [(f32, f32); TASKS],
}

impl<'a> Trainer<'a> {
    fn new(
        examples: &'a [Example],
        spec: &FeatureSpec,
        config: &'a NetworkConfig,
        settings: &'a TrainSettings,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let parameters = Parameters::initialise(config, seed);
        let mut variables = HashMap::new();
        for (name, parameter) in parameters.iter().filter(|(name, _)| *name != ITEM_TABLE) {
            let tensor = Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)?;
            variables.insert(name.to_owned(), Var::from_tensor(&tensor)?);
        }
        let tensors = variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
        let network = Network::from_tensors(&tensors, config)?;
        let moments = parameters
            .iter()
            .map(|(name, parameter)| (name.to_owned(), Moments::new(parameter.values.len())))
            .collect();
        let rows = |example: &Example| {
            example.next_items.iter().filter_map(|item| spec.vocabulary().row(*item)).collect::<Vec<u32>>()
        };
        Ok(Self {
            examples,
            positives: examples.iter().map(rows).collect(),
            sampler: Sampler::new(spec.vocabulary().shares()),
            config,
            settings,
            parameters,
            variables,
            network,
            moments,
            random: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x7261_696e),
            seed,
            step: 0,
            stage: Pretraining::None,
        })
    }

    /// Pre-trains as the settings ask, and leaves everything else as if nothing had been.
    fn pretrain(&mut self) -> Result<(), TrainError> {
        self.stage = self.settings.pretraining;
        if self.stage == Pretraining::None {
            return Ok(());
        }
        let before = self.parameters.clone();
        let steps = self.examples.len().div_ceil(self.settings.batch_users) * self.settings.pretraining_epochs;
        for epoch in 0..self.settings.pretraining_epochs {
            let mut order: Vec<usize> = (0..self.examples.len()).collect();
            order.shuffle(&mut self.random);
            for batch in order.chunks(self.settings.batch_users) {
                let rate = self.settings.learning_rate * schedule(self.step, steps);
                let losses = self.step(batch, rate)?;
                if losses.iter().any(|(loss, _)| !loss.is_finite()) {
                    return Err(TrainError::Diverged { epoch, what: "loss of pre-training".to_owned() });
                }
            }
        }
        for (name, parameter) in self.parameters.iter_mut() {
            if let (true, Some(fresh)) = (begins_anew(name, self.stage), before.get(name)) {
                parameter.values.clone_from(&fresh.values);
                if let Some(variable) = self.variables.get(name) {
                    variable.set(&Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)?)?;
                }
            }
            if let Some(moments) = self.moments.get_mut(name) {
                *moments = Moments::new(parameter.values.len());
            }
        }
        (self.step, self.stage) = (0, Pretraining::None);
        Ok(())
    }

    /// One step over the examples at `places`; returns each task's loss sum and weight.
    fn step(&mut self, places: &[usize], rate: f32) -> Result<[(f32, f32); TASKS], TrainError> {
        self.step += 1;
        let chunks: Vec<&[usize]> = places.chunks(self.settings.chunk_users).collect();
        let this = &*self;
        let answers =
            in_parallel(chunks.len(), self.settings.threads, |chunk| this.chunk(chunks[chunk], chunk, places.len()))?;
        let mut losses = [(0.0, 0.0); TASKS];
        let mut dense: Vec<Vec<f32>> = Vec::new();
        let mut rows: HashMap<u32, usize> = HashMap::new();
        let (mut row_order, mut row_sums) = (Vec::new(), Vec::new());
        let width = self.config.hidden;
        // In the order of the chunks, so that the sums do not depend on which thread was first.
        for answer in answers {
            for (sum, part) in losses.iter_mut().zip(answer.losses) {
                sum.0 += part.0 * part.1;
                sum.1 += part.1;
            }
            if dense.is_empty() {
                dense = answer.dense;
            } else {
                for (sum, part) in dense.iter_mut().zip(&answer.dense) {
                    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
            }
            for (row, gradient) in answer.rows.iter().zip(answer.row_gradients.chunks_exact(width)) {
                let place = *rows.entry(*row).or_insert_with(|| {
                    row_order.push(*row);
                    row_sums.extend(std::iter::repeat_n(0.0, width));
                    row_order.len() - 1
                });
                row_sums[place * width..][..width].iter_mut().zip(gradient).for_each(|(sum, part)| *sum += part);
            }
        }
        self.apply(&mut dense, &row_order, &row_sums, rate)?;
        Ok(losses)
    }

    /// Clips the gradient's length and moves the parameters.
    fn apply(&mut self, dense: &mut [Vec<f32>], rows: &[u32], row_sums: &[f32], rate: f32) -> Result<(), TrainError> {
        const LONGEST: f32 = 5.0;
        let squares = |values: &[f32]| values.iter().map(|value| f64::from(value * value)).sum::<f64>();
        let length = dense.iter().map(|values| squares(values)).sum::<f64>().sqrt() as f32;
        let scale = if length > LONGEST { LONGEST / length } else { 1.0 };
        let adam = AdamSettings::default();
        let width = self.config.hidden;
        let mut gradients = dense.iter_mut();
        for (name, parameter) in self.parameters.iter_mut() {
            let Some(moments) = self.moments.get_mut(name) else { continue };
            if name == ITEM_TABLE {
                // Only the rows this step touched: a dense step over the table would cost more than the network.
                for (row, gradient) in rows.iter().zip(row_sums.chunks_exact(width)) {
                    let start = *row as usize * width;
                    moments.step(&adam, &mut parameter.values, start, gradient, rate, 0.0, self.step);
                }
                continue;
            }
            let Some(gradient) = gradients.next() else { continue };
            for value in gradient.iter_mut() {
                *value *= scale;
            }
            let decay = if name.ends_with(".weight") { self.settings.weight_decay } else { 0.0 };
            moments.step(&adam, &mut parameter.values, 0, gradient, rate, decay, self.step);
            if let Some(variable) = self.variables.get(name) {
                variable.set(&Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)?)?;
            }
        }
        Ok(())
    }

    /// Forward and backward of one chunk; its gradient weighs its users by their share of the step.
    fn chunk(&self, places: &[usize], chunk: usize, step_users: usize) -> Result<ChunkAnswer, TrainError> {
        let stream =
            self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(self.step.unsigned_abs()) << 20) ^ chunk as u64;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(stream);
        let share = places.len() as f64 / step_users as f64;
        let users = places.iter().map(|place| &self.examples[*place].encoded);
        let of_tasks = [self.settings.feature_dropout, self.settings.view_dropout];
        match self.stage {
            Pretraining::None => {
                let drawn = self.draw(places, &mut random);
                let members: Vec<&EncodedUser> = users.collect();
                let (batch, items) = self.inputs(&members, &drawn.rows(), of_tasks, &mut random)?;
                let own: Vec<&[u32]> = places.iter().map(|place| self.positives[*place].as_slice()).collect();
                let targets = self.targets(places, &drawn, &own, &batch)?;
                self.answer(&batch, &items, &targets, share)
            }
            Pretraining::Masked => {
                let hidden: Vec<(EncodedUser, u32, Option<EventKind>)> =
                    users.map(|user| hide_one(user, &mut random)).collect();
                let drawn = self.draw_hidden(&hidden, &mut random);
                let members: Vec<&EncodedUser> = hidden.iter().map(|(user, ..)| user).collect();
                // The sequence is what is learned, so it is never left out.
                let dropout = [self.settings.feature_dropout, 0.0];
                let (batch, items) = self.inputs(&members, &drawn.rows(), dropout, &mut random)?;
                let targets = self.hidden_targets(&hidden, &drawn, &batch)?;
                self.answer(&batch, &items, &targets, share)
            }
            Pretraining::Contrastive => {
                let pairs: Vec<[EncodedUser; 2]> = users.filter_map(|user| two_slices(user, &mut random)).collect();
                if pairs.len() < 2 {
                    return Ok(self.no_answer());
                }
                let members: Vec<&EncodedUser> =
                    (0..2).flat_map(|side| pairs.iter().map(move |pair| &pair[side])).collect();
                let (batch, items) = self.inputs(&members, &[], [1.0, 0.0], &mut random)?;
                let loss = contrastive_loss(&self.network.forward(&batch, items.as_tensor())?.query)?;
                let value = loss.to_scalar::<f32>()?;
                let losses =
                    std::array::from_fn(|task| if task == 0 { (value, pairs.len() as f32) } else { (0.0, 0.0) });
                self.gradients(&(loss * share)?, &batch, &items, losses)
            }
        }
    }

    /// Tensors of a chunk, and the rows of the item table it needs as a variable. `dropout`: shares of features and of views.
    fn inputs(
        &self,
        members: &[&EncodedUser],
        extra: &[u32],
        [feature_share, view_share]: [f32; 2],
        random: &mut Xoshiro256PlusPlus,
    ) -> Result<(Batch, Var), TrainError> {
        let padding = members.iter().map(|user| Padding::of(user, self.config)).reduce(Padding::max);
        let padding = padding.unwrap_or(Padding { nodes: 1, events: 1 });
        let dropout = Dropout { random, feature_share, view_share };
        let batch = Batch::build(members, padding, self.config, extra, Some(dropout), &Device::Cpu)?;
        let width = self.config.hidden;
        let table = self.parameters.get(ITEM_TABLE).map_or(&[][..], |parameter| &parameter.values);
        let mut gathered = Vec::with_capacity(batch.item_rows.len() * width);
        for row in &batch.item_rows {
            gathered.extend_from_slice(&table[*row as usize * width..][..width]);
        }
        let items = Var::from_vec(gathered, (batch.item_rows.len(), width), &Device::Cpu)?;
        Ok((batch, items))
    }

    fn answer(&self, batch: &Batch, items: &Var, targets: &Targets, share: f64) -> Result<ChunkAnswer, TrainError> {
        let output = self.network.forward(batch, items.as_tensor())?;
        let losses = losses(&self.network, &output, targets, items.as_tensor(), batch)?;
        let tasks: Vec<f32> = losses.tasks.to_vec1()?;
        let present: Vec<f32> = targets.present.to_vec1()?;
        let losses_of = std::array::from_fn(|task| (tasks[task], present[task] * batch.users as f32));
        self.gradients(&(losses.total * share)?, batch, items, losses_of)
    }

    /// The answer of a chunk with nothing to learn from.
    fn no_answer(&self) -> ChunkAnswer {
        let dense = self.parameters.iter().filter(|(name, _)| self.variables.contains_key(*name));
        ChunkAnswer {
            dense: dense.map(|(_, parameter)| vec![0.0; parameter.values.len()]).collect(),
            rows: Vec::new(),
            row_gradients: Vec::new(),
            losses: [(0.0, 0.0); TASKS],
        }
    }

    fn gradients(
        &self,
        loss: &Tensor,
        batch: &Batch,
        items: &Var,
        losses: [(f32, f32); TASKS],
    ) -> Result<ChunkAnswer, TrainError> {
        let gradients = loss.backward()?;
        let flat = |variable: &Var| -> Result<Vec<f32>, TrainError> {
            match gradients.get(variable.as_tensor()) {
                Some(gradient) => Ok(gradient.flatten_all()?.to_vec1()?),
                None => Ok(vec![0.0; variable.as_tensor().elem_count()]),
            }
        };
        let mut dense = Vec::with_capacity(self.variables.len());
        for (name, _) in self.parameters.iter() {
            if let Some(variable) = self.variables.get(name) {
                dense.push(flat(variable)?);
            }
        }
        Ok(ChunkAnswer { dense, row_gradients: flat(items)?, rows: batch.item_rows.clone(), losses })
    }

    fn report(&self, losses: [f32; TASKS], validation: &[Example]) -> Result<EpochReport, TrainError> {
        let model = Model {
            config: self.config.clone(),
            parameters: self.parameters.clone(),
            calibration: Calibration::default(),
        };
        let users: Vec<&EncodedUser> = validation.iter().map(|example| &example.encoded).collect();
        let predictions = predict_all(&model, &users, self.settings.threads)?;
        let mut sums = [0.0_f64; 2];
        for (prediction, example) in predictions.iter().zip(validation) {
            sums[0] += log_loss(prediction.churn_log_odds, example.churned);
            sums[1] += log_loss(prediction.purchase_log_odds, example.purchased);
        }
        let mean = |sum: f64| (sum / validation.len().max(1) as f64) as f32;
        Ok(EpochReport { losses, validation_churn: mean(sums[0]), validation_purchase: mean(sums[1]) })
    }
}

/// −log of the probability given to what happened.
fn log_loss(log_odds: f32, happened: bool) -> f64 {
    let signed = f64::from(if happened { -log_odds } else { log_odds });
    signed.max(0.0) + (-signed.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests;
