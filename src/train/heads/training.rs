//! One training of the heads: which examples count for what, and the order in which the members are fitted.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use super::{
    super::{
        Progress, TrainSettings, bgnbd,
        examples::{ExampleSet, purchase_history, rank_within_cutoffs, repeat_history, unit_hash},
        fit,
        history::{History, HistoryError},
        labels::is_eligible,
        logistic::{Examples, Logistic, sigmoid},
        parallel,
        schedule::Schedule,
    },
    Head, HeadOptions, HeadPart, Heads, HeadsError,
    baselines::{Baselines, Single, Wide, frequency_log, own_history, silence_log},
    blend::{Choice, fit_habit},
    forests::{self, Forests, HeadRows, Inputs},
};
use crate::{
    event::View,
    features::{BgNbd, Encoder, FeatureSettings, FeatureSpec, ItemVocabulary, Reference, RepeatHistory},
    graph::UserGraph,
    model::{Blend, Ensemble, Model, NetworkConfig, References},
};

/// Rows of one head: places of examples with their labels.
pub(super) type Rows = Vec<(usize, bool)>;

pub(super) struct Training<'a, H> {
    pub(super) history: &'a H,
    pub(super) schedule: &'a Schedule,
    pub(super) options: &'a HeadOptions,
    pub(super) spec: FeatureSpec,
    pub(super) set: ExampleSet,
    pub(super) ranked: Vec<f32>,
    /// Places of the examples of the validation window.
    pub(super) held_out: HashSet<usize>,
    /// Whether the window is of users instead of time, for want of time.
    pub(super) by_user: bool,
    /// First moment of the validation window.
    pub(super) validation_ms: i64,
    /// How features are distributed at the newest moment.
    references: Vec<Option<Reference>>,
}

impl<'a, H: History> Training<'a, H> {
    pub(super) fn new(
        history: &'a H,
        schedule: &'a Schedule,
        options: &'a HeadOptions,
        report: &mut dyn FnMut(&str),
    ) -> Result<Self, HeadsError> {
        if schedule.cutoffs.is_empty() {
            return Err(HeadsError::TooLittle("the history covers less than a day".to_owned()));
        }
        report("fitting BG/NBD");
        let (activity, purchase) = fit_bgnbd(history, schedule, options)?;
        let mut settings = FeatureSettings::for_task(
            i32::try_from(schedule.horizons.churn_days).unwrap_or(i32::MAX),
            i32::try_from(schedule.horizons.purchase_days).unwrap_or(i32::MAX),
            history.params(),
        );
        match options.without {
            Some(HeadPart::Graph) => (settings.node_capacity, settings.edge_capacity) = (0, 0),
            Some(HeadPart::Sequence) => settings.sequence_capacity = 0,
            _ => {}
        }
        settings.missing = options.missing;
        let mut spec = FeatureSpec::new(settings, activity, purchase);
        report("reading examples");
        let encoder = Encoder::new(spec.clone());
        let mut set = ExampleSet::collect(history, schedule, &encoder, options.max_examples, options.seed)?;
        spec.fit_fills(&mut set.raw);
        leave_out(options.without, &spec, &mut set.raw);
        report("ranking features");
        let (ranked, _) = rank_within_cutoffs(&set);
        let mut training = Self {
            history,
            schedule,
            options,
            spec,
            set,
            ranked,
            held_out: HashSet::new(),
            by_user: false,
            validation_ms: 0,
            references: Vec::new(),
        };
        training.hold_out()?;
        Ok(training)
    }

    /// Chooses the validation window: the newest cutoffs at which both labels are known, as many as it takes for some
    /// users; of users where there is no time before it.
    fn hold_out(&mut self) -> Result<(), HeadsError> {
        const ENOUGH: usize = 3_000;
        const MAX_CUTOFFS: usize = 4;
        let complete: Vec<u32> = (0..)
            .zip(&self.schedule.cutoffs)
            .filter(|(_, cutoff)| cutoff.knows_churn && cutoff.knows_purchase)
            .map(|(number, _)| number)
            .collect();
        let of_cutoff = |number: u32| {
            let examples = self.set.examples.iter().enumerate();
            examples.filter(move |(_, example)| example.cutoff == number).map(|(place, _)| place)
        };
        let mut oldest = None;
        for number in complete.iter().rev().take(MAX_CUTOFFS) {
            self.held_out.extend(of_cutoff(*number));
            oldest = Some(*number);
            if self.held_out.len() >= ENOUGH {
                break;
            }
        }
        let Some(oldest) = oldest else {
            return Err(HeadsError::TooLittle("no horizon ends within the history".to_owned()));
        };
        self.validation_ms = self.schedule.cutoffs[oldest as usize].at_ms;
        let enough = |rows: &Rows| {
            let positives = rows.iter().filter(|(_, label)| *label).count();
            rows.len() >= 300 && positives >= 10 && rows.len() - positives >= 10
        };
        if !Head::ALL.into_iter().all(|head| enough(&self.rows(head, Part::Past))) {
            self.by_user = true;
            let users = self.history.users();
            let newest = *complete.last().unwrap_or(&oldest);
            self.held_out = self
                .set
                .examples
                .iter()
                .enumerate()
                .filter(|(_, example)| {
                    example.cutoff == newest
                        && unit_hash(users[example.user as usize].as_str(), !self.options.seed) < 0.3
                })
                .map(|(place, _)| place)
                .collect();
        }
        if self.set.examples.is_empty() {
            return Err(HeadsError::TooLittle("no user was active before any cutoff".to_owned()));
        }
        if self.held_out.is_empty() {
            let message = "too few users: none of them is left to choose and calibrate by";
            return Err(HeadsError::TooLittle(message.to_owned()));
        }
        Ok(())
    }

    /// Rows of one head in a part of the data.
    pub(super) fn rows(&self, head: Head, part: Part) -> Rows {
        let horizon_ms = head.horizon_ms(&self.schedule.horizons);
        let held_users: HashSet<u32> = if self.by_user && part == Part::Past {
            self.held_out.iter().map(|place| self.set.examples[*place].user).collect()
        } else {
            HashSet::new()
        };
        let mut rows = Vec::new();
        for (place, example) in self.set.examples.iter().enumerate() {
            let Some(label) = head.label(example) else { continue };
            let wanted = match part {
                Part::All => true,
                Part::HeldOut => self.held_out.contains(&place),
                Part::Past if self.by_user => !held_users.contains(&example.user),
                Part::Past => {
                    let at_ms = self.schedule.cutoffs[example.cutoff as usize].at_ms;
                    at_ms + horizon_ms <= self.validation_ms
                }
            };
            if wanted {
                rows.push((place, label));
            }
        }
        rows
    }

    pub(super) fn run(mut self, report: &mut dyn FnMut(&str)) -> Result<Heads, HeadsError> {
        report("fitting logistic regressions on the past of the validation window");
        let past = self.fit_wide(Part::Past, &[1e-3, 1e-2]);
        let ridges: Vec<f64> = past.iter().map(|(ridge, _)| *ridge).collect();
        let past_wide: Vec<Wide> = past.into_iter().map(|(_, wide)| wide).collect();
        report("fitting logistic regressions on everything");
        let all_wide: Vec<Wide> = parallel::map(self.options.threads.get().min(2), 2, |head| {
            self.wide(&self.rows(Head::ALL[head], Part::All), ridges[head])
        });
        report("growing trees");
        let forests = self.forests();
        report("encoding users for the network");
        self.finish_spec()?;
        let network = self.network_examples()?;
        let config = NetworkConfig::for_spec(&self.spec);
        let settings = TrainSettings {
            threads: self.options.threads,
            epochs: self.options.max_epochs,
            pretraining: self.options.pretraining,
            ..TrainSettings::default()
        };
        let (past_examples, held_examples) = (network.past(), network.held_out());
        let mut on_step = |progress: &Progress, is_judged: bool| {
            if let Some(epoch) = &progress.report {
                let pass = progress.epoch + 1;
                let (churn, purchase) = (epoch.validation_churn, epoch.validation_purchase);
                report(&if is_judged {
                    format!("network pass {pass}: validation log-loss churn {churn:.4}, purchase {purchase:.4}")
                } else {
                    format!("network pass {pass} over everything")
                });
            }
            ControlFlow::Continue(())
        };
        // Without a past there is nothing to judge a network by: it is then left at the mean of nothing and not blended in.
        let has_network = !past_examples.is_empty();
        let (past_model, model) = if has_network {
            let seed = self.options.seed;
            let mut judged = |progress: &Progress| on_step(progress, true);
            let past = fit(&past_examples, &held_examples, &self.spec, &config, &settings, seed, &mut judged)?;
            let settings = TrainSettings { epochs: past.best_epoch + 1, ..settings };
            let mut unjudged = |progress: &Progress| on_step(progress, false);
            let all = fit(&network.examples, &[], &self.spec, &config, &settings, seed, &mut unjudged)?;
            (join(past.model, &past_wide), join(all.model, &all_wide))
        } else {
            let blank = Model::initialise(config, self.options.seed);
            (blank.clone(), blank)
        };
        report("choosing members and calibration");
        let judgement = self.judge(&past_model, has_network, &forests, &past_wide, &network, &held_examples)?;
        let baselines = self.baselines(Part::All, all_wide);
        let mut forests = forests.into_iter().map(|forests| forests.all);
        let mut blend = |head: Head| {
            let Choice { weights, curve } = judgement.choices[head as usize];
            let forest = forests.next().unwrap_or_default();
            Blend { forest, habit: self.habit(head, Part::All), weights, curve }
        };
        let ensemble = Ensemble { churn: blend(Head::Churn), purchase: blend(Head::Purchase) };
        Ok(Heads {
            spec: self.spec,
            model,
            ensemble,
            thresholds: judgement.thresholds,
            validation: judgement.metrics,
            segments: judgement.segments,
            references: References { features: self.references, scores: judgement.references },
            baselines,
            baseline_thresholds: judgement.baseline_thresholds,
            horizons: self.schedule.horizons,
        })
    }

    /// Trees of both heads.
    fn forests(&self) -> [Forests; 2] {
        let users: Vec<u32> = self.set.examples.iter().map(|example| example.user).collect();
        let inputs = Inputs {
            raw: &self.set.raw,
            width: self.set.width,
            users: &users,
            settings: self.options.trees,
            seed: self.options.seed,
            threads: self.options.threads.get(),
        };
        let rows = Head::ALL.map(|head| HeadRows {
            past: self.rows(head, Part::Past),
            held: self.rows(head, Part::HeldOut),
            all: self.rows(head, Part::All),
        });
        forests::fit(&inputs, &rows)
    }

    /// BG/NBD as a member, fitted on a part.
    pub(super) fn habit(&self, head: Head, part: Part) -> Option<crate::model::Habit> {
        let name = match head {
            Head::Churn => "activity_bgnbd_silent_churn",
            Head::Purchase => "purchase_bgnbd_silent_purchase",
        };
        let feature = self.spec.features().iter().position(|feature| feature.name == name)?;
        let rows = self.rows(head, part);
        let rows: Vec<(f32, bool)> =
            rows.into_iter().map(|(place, label)| (self.set.raw(place)[feature], label)).collect();
        fit_habit(feature, &rows, head == Head::Churn)
    }

    /// Fits both heads on a part with each ridge and keeps the one with the better log-loss on the held-out window.
    fn fit_wide(&self, part: Part, ridges: &[f64]) -> Vec<(f64, Wide)> {
        parallel::map(self.options.threads.get().min(2), 2, |head| {
            let head = Head::ALL[head];
            let (rows, held) = (self.rows(head, part), self.rows(head, Part::HeldOut));
            let mut best: Option<(f64, f64, Wide)> = None;
            for ridge in ridges {
                let wide = self.wide(&rows, *ridge);
                let loss: f64 = held
                    .iter()
                    .map(|(place, label)| {
                        let p = sigmoid(f64::from(self.wide_logit(&wide, *place))).clamp(1e-6, 1.0 - 1e-6);
                        if *label { -p.ln() } else { -(1.0 - p).ln() }
                    })
                    .sum();
                if best.as_ref().is_none_or(|(known, ..)| loss < *known) {
                    best = Some((loss, *ridge, wide));
                }
            }
            best.map_or_else(|| (ridges[0], self.wide(&rows, ridges[0])), |(_, ridge, wide)| (ridge, wide))
        })
    }

    fn wide_logit(&self, wide: &Wide, place: usize) -> f32 {
        let width = self.set.width;
        let scores = &self.ranked[place * width..(place + 1) * width];
        wide.logit(scores, self.set.raw(place).iter().map(|value| value.is_nan()))
    }

    /// A logistic regression over the inputs of the network's linear path. Inputs that never vary keep weight 0.
    fn wide(&self, rows: &Rows, ridge: f64) -> Wide {
        let width = self.set.width;
        let mut varies = vec![false; 2 * width];
        for (place, _) in rows {
            for (feature, value) in self.set.raw(*place).iter().enumerate() {
                varies[feature] |= self.ranked[place * width + feature] != 0.0;
                varies[width + feature] |= value.is_nan() != self.set.raw(rows[0].0)[feature].is_nan();
            }
        }
        let columns: Vec<usize> = (0..2 * width).filter(|column| varies[*column]).collect();
        let mut inputs = Vec::with_capacity(rows.len() * columns.len());
        for (place, _) in rows {
            let raw = self.set.raw(*place);
            inputs.extend(columns.iter().map(|column| {
                if *column < width {
                    self.ranked[place * width + column]
                } else {
                    f32::from(u8::from(raw[column - width].is_nan()))
                }
            }));
        }
        let labels: Vec<bool> = rows.iter().map(|(_, label)| *label).collect();
        let fitted = Logistic::fit(Examples { inputs: &inputs, width: columns.len(), labels: &labels }, ridge);
        let mut weights = vec![0.0; 2 * width];
        for (column, weight) in columns.into_iter().zip(fitted.weights) {
            weights[column] = weight;
        }
        Wide { weights, bias: fitted.bias }
    }

    pub(super) fn baselines(&self, part: Part, wides: Vec<Wide>) -> [Baselines; 2] {
        let mut wides = wides.into_iter();
        Head::ALL.map(|head| {
            let rows = self.rows(head, part);
            let labels: Vec<bool> = rows.iter().map(|(_, label)| *label).collect();
            let own = |place: &usize| {
                let example = &self.set.examples[*place];
                own_history(head, example.activity, example.purchase)
            };
            let silence: Vec<f32> = rows.iter().map(|(place, _)| silence_log(own(place))).collect();
            let frequency: Vec<f32> = rows.iter().map(|(place, _)| frequency_log(own(place))).collect();
            Baselines {
                recency: Single::fit(&silence, &labels),
                frequency: Single::fit(&frequency, &labels),
                bgnbd: match head {
                    Head::Churn => self.spec.bgnbd_activity,
                    Head::Purchase => self.spec.bgnbd_purchase,
                },
                logistic: wides.next().unwrap_or(Wide { weights: Vec::new(), bias: 0.0 }),
            }
        })
    }

    /// Quantiles of the newest moment and the vocabulary: what the served encoder uses.
    fn finish_spec(&mut self) -> Result<(), HeadsError> {
        let encoder = Encoder::new(self.spec.clone());
        let (end_ms, history_ms) = (self.schedule.end_ms, self.schedule.horizons.history_ms());
        let users = self.history.users();
        let share = 20_000.0 / users.len().max(1) as f64;
        let drawn = |user: usize| share >= 1.0 || unit_hash(users[user].as_str(), self.options.seed) < share;
        let params = self.history.params();
        let seen = self.history.observe(&[end_ms], &drawn, &|_, _, graph: &UserGraph| {
            let counts: Vec<_> = [View::Purchase, View::Click]
                .into_iter()
                .filter_map(|view| graph.view(view))
                .flat_map(|view| {
                    let expanded = view.expand(params);
                    let items = expanded.nodes_of(crate::event::NameKind::Item);
                    items.iter().map(|node| (node.name, u64::from(node.count))).collect::<Vec<_>>()
                })
                .collect();
            let raw = is_eligible(graph, end_ms, history_ms).then(|| encoder.raw(graph, end_ms));
            Some((raw, counts))
        })?;
        let mut counts = HashMap::new();
        let mut rows = Vec::new();
        for (raw, items) in seen {
            rows.extend(raw);
            for (item, count) in items {
                *counts.entry(item).or_insert(0_u64) += count;
            }
        }
        // Features that are never there have no quantiles, and the encoder then holds them for missing.
        for row in &mut rows {
            leave_out(self.options.without, &self.spec, row);
        }
        self.spec.fit_knots(&rows);
        self.references = (0..self.set.width).map(|place| Reference::fit(rows.iter().map(|row| row[place]))).collect();
        self.spec.set_vocabulary(ItemVocabulary::admit(counts, self.options.max_vocabulary, 5));
        Ok(())
    }
}

/// A part of the examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything labelled.
    All,
    /// What was over before the validation window began.
    Past,
    /// The validation window.
    HeldOut,
}

/// Makes the features of a part missing in `rows` of raw features.
fn leave_out(without: Option<HeadPart>, spec: &FeatureSpec, rows: &mut [f32]) {
    let Some(part) = without else { return };
    let taken = |(_, feature): &(usize, &crate::features::Feature)| part.takes(&feature.name);
    let places: Vec<usize> = spec.features().iter().enumerate().filter(taken).map(|(place, _)| place).collect();
    for row in rows.chunks_exact_mut(spec.features().len()) {
        for place in &places {
            row[*place] = f32::NAN;
        }
    }
}

/// The mean of a network and two regressions, as a network: averaged linear paths, halved deep path.
fn join(mut model: Model, wides: &[Wide]) -> Model {
    for (name, parameter) in model.parameters.iter_mut() {
        match name {
            "wide.weight" => {
                for (row, values) in parameter.values.chunks_exact_mut(2).enumerate() {
                    for (value, wide) in values.iter_mut().zip(wides) {
                        *value = 0.5 * (*value + wide.weights[row]);
                    }
                }
            }
            "wide.bias" => {
                for (value, wide) in parameter.values.iter_mut().zip(wides) {
                    *value = 0.5 * (*value + wide.bias);
                }
            }
            "head.binary.weight" => parameter.values.iter_mut().for_each(|value| *value *= 0.5),
            _ => {}
        }
    }
    model
}

fn fit_bgnbd(
    history: &impl History,
    schedule: &Schedule,
    options: &HeadOptions,
) -> Result<(Option<BgNbd>, Option<BgNbd>), HistoryError> {
    let users = history.users();
    let share = 20_000.0 / users.len().max(1) as f64;
    let drawn = |user: usize| share >= 1.0 || unit_hash(users[user].as_str(), options.seed) < share;
    let end_ms = schedule.end_ms;
    let seen = history.observe(&[end_ms], &drawn, &|_, _, graph: &UserGraph| {
        Some((repeat_history(graph.activity_days().iter(), end_ms), purchase_history(graph, end_ms)))
    })?;
    let (activity, purchase): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    let histories = [activity, purchase].map(|list| list.into_iter().flatten().collect::<Vec<RepeatHistory>>());
    let mut fitted = parallel::map(options.threads.get().min(2), 2, |part| bgnbd::fit(&histories[part])).into_iter();
    Ok((fitted.next().flatten(), fitted.next().flatten()))
}
