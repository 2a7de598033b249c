//! Trains what predicts churn and purchase: baselines, a logistic regression over ranked features, the network, boosted
//! trees, and the blend of them that is served.
//!
//! The regression reads the same inputs as the network's linear path, so the mean of both log-odds is a network again:
//! the linear paths are averaged and the deep path is halved. Trees and BG/NBD are served beside it.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]

mod baselines;
mod blend;
mod forests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZeroUsize,
    ops::ControlFlow,
};

use serde::{Deserialize, Serialize};

use self::{
    baselines::{Baselines, Single, Wide, frequency_log, own_history, silence_log},
    blend::{Choice, Judged, choose, fit_habit},
    forests::{Forests, HeadRows, Inputs},
};
use super::{
    Example, TrainError, TrainSettings, bgnbd,
    examples::{ExampleSet, Moment, purchase_history, rank_within_cutoffs, repeat_history, unit_hash},
    fit,
    history::{History, HistoryError},
    labels::{is_eligible, items_bought_since},
    logistic::{Examples, Logistic, sigmoid},
    metrics::{BinaryMetrics, best_f1_threshold},
    parallel, predict_all,
    schedule::{Horizons, Schedule},
};
use crate::{
    event::View,
    features::{BgNbd, EncodedUser, Encoder, FeatureSettings, FeatureSpec, ItemVocabulary, RepeatHistory},
    graph::UserGraph,
    model::{Blend, Ensemble, FusedForward, Model, NetworkConfig, Prediction, forest_row, probability_of},
};

/// Why heads cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    /// The history is too short or too small.
    #[error("there is nothing to learn from: {0}")]
    TooLittle(String),
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The network cannot be trained.
    #[error(transparent)]
    Network(#[from] TrainError),
}

/// A probability that is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// No activity in the churn horizon.
    Churn,
    /// A purchase in the purchase horizon.
    Purchase,
}

impl Head {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Churn, Self::Purchase];

    fn label(self, example: &Moment) -> Option<bool> {
        match self {
            Self::Churn => example.churned,
            Self::Purchase => example.purchased,
        }
    }

    fn horizon_ms(self, horizons: &Horizons) -> i64 {
        match self {
            Self::Churn => horizons.churn_ms(),
            Self::Purchase => horizons.purchase_ms(),
        }
    }
}

/// Effort spent on training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadOptions {
    /// Seed of everything random.
    pub seed: u64,
    /// Threads.
    pub threads: NonZeroUsize,
    /// Examples kept at most.
    pub max_examples: usize,
    /// Of these, examples the network is trained on at most.
    pub max_network_examples: usize,
    /// Passes of the network at most.
    pub max_epochs: usize,
    /// Items with embeddings of their own at most.
    pub max_vocabulary: usize,
}

impl Default for HeadOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            max_examples: 150_000,
            max_network_examples: 16_000,
            max_epochs: 8,
            max_vocabulary: 8_000,
        }
    }
}

/// Everything that predicts churn and purchase.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Features with the quantiles of the newest moment.
    pub spec: FeatureSpec,
    /// The served network.
    pub model: Model,
    /// What is made of it and the other members.
    pub ensemble: Ensemble,
    /// Best-F1 thresholds on validation, of the served model: churn, purchase.
    pub thresholds: [f64; 2],
    /// Metrics on the validation window by name, before the refit: churn, purchase.
    pub validation: [BTreeMap<String, BinaryMetrics>; 2],
    baselines: [Baselines; 2],
    baseline_thresholds: [HashMap<&'static str, f64>; 2],
    horizons: Horizons,
}

/// One user as the heads take it.
#[derive(Debug, Clone)]
pub struct HeadInput {
    /// The encoded user.
    pub encoded: EncodedUser,
    /// Active days.
    pub activity: RepeatHistory,
    /// Purchase days.
    pub purchase: Option<RepeatHistory>,
}

impl HeadInput {
    /// Encodes a user.
    pub fn of(encoder: &Encoder, graph: &UserGraph, at_ms: i64) -> Self {
        let none = RepeatHistory { repeats: 0.0, last_days: 0.0, age_days: 0.0 };
        Self {
            encoded: encoder.encode(graph, at_ms),
            activity: repeat_history(graph.activity_days().iter(), at_ms).unwrap_or(none),
            purchase: purchase_history(graph, at_ms),
        }
    }
}

/// What is said of one user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadPrediction {
    /// Served probabilities: churn, purchase.
    pub probabilities: [f64; 2],
    /// Probabilities of each member alone, not calibrated, by head: see [`MEMBERS`].
    pub members: [[f64; MEMBERS.len()]; 2],
}

impl HeadPrediction {
    fn of(ensemble: &Ensemble, prediction: &Prediction, user: &EncodedUser) -> Self {
        let of = |blend: &Blend, network: f32| {
            let members = blend.members(network, user);
            let member = |log_odds: f32| sigmoid(f64::from(log_odds));
            (f64::from(probability_of(blend.blend(members))), [member(members[0]), member(members[1])])
        };
        let (churn, churn_members) = of(&ensemble.churn, prediction.churn_log_odds);
        let (purchase, purchase_members) = of(&ensemble.purchase, prediction.purchase_log_odds);
        Self { probabilities: [churn, purchase], members: [churn_members, purchase_members] }
    }
}

/// Names of the members of what is served that are reported apart; BG/NBD is among the [`BASELINES`].
pub const MEMBERS: [&str; 2] = ["network", "trees"];

/// Names of the baselines of the heads.
pub const BASELINES: [&str; 4] = ["recency", "frequency", "bg_nbd", "logistic"];

impl Heads {
    /// Trains on everything the schedule knows. `report` hears what is being done.
    pub fn train(
        history: &impl History,
        schedule: &Schedule,
        options: &HeadOptions,
        report: &mut dyn FnMut(&str),
    ) -> Result<Self, HeadsError> {
        Training::new(history, schedule, options, report)?.run(report)
    }

    /// Calibrated probabilities of what is served, by the same forward pass as serving: churn and purchase of each user.
    pub fn predict(&self, users: &[&EncodedUser], threads: NonZeroUsize) -> Result<Vec<[f64; 2]>, HeadsError> {
        Ok(self.predict_members(users, threads)?.into_iter().map(|user| user.probabilities).collect())
    }

    /// The same with what each member says alone.
    pub fn predict_members(
        &self,
        users: &[&EncodedUser],
        threads: NonZeroUsize,
    ) -> Result<Vec<HeadPrediction>, HeadsError> {
        let predictions = self.forward(users, threads)?;
        let chunk = users.len().div_ceil(threads.get()).max(1);
        let pieces = parallel::map(threads.get(), users.len().div_ceil(chunk), |piece| {
            let range = piece * chunk..((piece + 1) * chunk).min(users.len());
            let of = |place: usize| HeadPrediction::of(&self.ensemble, &predictions[place], users[place]);
            range.map(of).collect::<Vec<_>>()
        });
        Ok(pieces.into_iter().flatten().collect())
    }

    fn forward(&self, users: &[&EncodedUser], threads: NonZeroUsize) -> Result<Vec<Prediction>, HeadsError> {
        let Ok(fused) = FusedForward::new(&self.model) else { return Ok(predict_all(&self.model, users, threads)?) };
        let chunk = users.len().div_ceil(threads.get()).max(1);
        let pieces = parallel::map(threads.get(), users.len().div_ceil(chunk), |piece| {
            fused.clone().predict(&users[piece * chunk..((piece + 1) * chunk).min(users.len())])
        });
        Ok(pieces.into_iter().flatten().collect())
    }

    /// Probabilities of a baseline of [`BASELINES`]; `None` when it could not be fitted.
    pub fn baseline(&self, name: &str, head: Head, user: &HeadInput) -> Option<f64> {
        let missing = user.encoded.raw.iter().map(|value| value.is_nan());
        let baselines = &self.baselines[head as usize];
        baselines.probability(name, head, &self.horizons, user.activity, user.purchase, &user.encoded.features, missing)
    }

    /// The validation threshold of a baseline.
    pub fn baseline_threshold(&self, name: &str, head: Head) -> f64 {
        self.baseline_thresholds[head as usize].get(name).copied().unwrap_or(0.5)
    }
}

/// Rows of one head: places of examples with their labels.
type Rows = Vec<(usize, bool)>;

struct Training<'a, H> {
    history: &'a H,
    schedule: &'a Schedule,
    options: &'a HeadOptions,
    spec: FeatureSpec,
    set: ExampleSet,
    ranked: Vec<f32>,
    /// Places of the examples of the validation window.
    held_out: HashSet<usize>,
    /// Whether the window is of users instead of time, for want of time.
    by_user: bool,
    /// First moment of the validation window.
    validation_ms: i64,
}

impl<'a, H: History> Training<'a, H> {
    fn new(
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
        let settings = FeatureSettings::for_task(
            i32::try_from(schedule.horizons.churn_days).unwrap_or(i32::MAX),
            i32::try_from(schedule.horizons.purchase_days).unwrap_or(i32::MAX),
            history.params(),
        );
        let spec = FeatureSpec::new(settings, activity, purchase);
        report("reading examples");
        let encoder = Encoder::new(spec.clone());
        let set = ExampleSet::collect(history, schedule, &encoder, options.max_examples, options.seed)?;
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
    fn rows(&self, head: Head, part: Part) -> Rows {
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

    fn run(mut self, report: &mut dyn FnMut(&str)) -> Result<Heads, HeadsError> {
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
            ..TrainSettings::default()
        };
        let (past_examples, held_examples) = (network.past(), network.held_out());
        let mut on_step = |progress: &super::Progress| {
            if let Some(epoch) = &progress.report {
                report(&format!(
                    "network pass {}: validation log-loss churn {:.4}, purchase {:.4}",
                    progress.epoch + 1,
                    epoch.validation_churn,
                    epoch.validation_purchase
                ));
            }
            ControlFlow::Continue(())
        };
        // Without a past there is nothing to judge a network by: it is then left at the mean of nothing and not blended in.
        let has_network = !past_examples.is_empty();
        let (past_model, model) = if has_network {
            let seed = self.options.seed;
            let past = fit(&past_examples, &held_examples, &self.spec, &config, &settings, seed, &mut on_step)?;
            let settings = TrainSettings { epochs: past.best_epoch + 1, ..settings };
            let all = fit(&network.examples, &[], &self.spec, &config, &settings, seed, &mut on_step)?;
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
            baselines,
            baseline_thresholds: judgement.baseline_thresholds,
            horizons: self.schedule.horizons,
        })
    }

    /// Trees of both heads.
    fn forests(&self) -> [Forests; 2] {
        let missing = self.ranked.iter().zip(&self.set.raw);
        let ranked: Vec<f32> = missing.map(|(rank, raw)| if raw.is_nan() { f32::NAN } else { *rank }).collect();
        let users: Vec<u32> = self.set.examples.iter().map(|example| example.user).collect();
        let inputs = Inputs {
            ranked: &ranked,
            raw: &self.set.raw,
            width: self.set.width,
            users: &users,
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
    fn habit(&self, head: Head, part: Part) -> Option<crate::model::Habit> {
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

    fn baselines(&self, part: Part, wides: Vec<Wide>) -> [Baselines; 2] {
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
        self.spec.fit_knots(&rows);
        self.spec.set_vocabulary(ItemVocabulary::admit(counts, self.options.max_vocabulary, 5));
        Ok(())
    }

    /// Draws examples with both labels and encodes them; features keep the ranks of their own cutoff.
    fn network_examples(&self) -> Result<NetworkData, HeadsError> {
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

    /// Chooses members and calibration on the held-out window, and measures the blend, its members and the baselines there.
    fn judge(
        &self,
        model: &Model,
        has_network: bool,
        forests: &[Forests; 2],
        wides: &[Wide],
        network: &NetworkData,
        held: &[Example],
    ) -> Result<Judgement, HeadsError> {
        let users: Vec<&EncodedUser> = held.iter().map(|example| &example.encoded).collect();
        let predictions = predict_all(model, &users, self.options.threads)?;
        let rows: Vec<Vec<f32>> = users.iter().map(|user| forest_row(user)).collect();
        let baselines = self.baselines(Part::Past, wides.to_vec());
        let mut judgement = Judgement::default();
        for head in Head::ALL {
            let forest = &forests[head as usize].past;
            let habit = self.habit(head, Part::Past);
            let judged: Vec<Judged> = predictions
                .iter()
                .zip(held)
                .zip(&rows)
                .zip(&network.held_places)
                .map(|(((prediction, example), row), place)| {
                    let (network, label) = match head {
                        Head::Churn => (prediction.churn_log_odds, example.churned),
                        Head::Purchase => (prediction.purchase_log_odds, example.purchased),
                    };
                    let habit = habit.map_or(0.0, |habit| habit.log_odds(&example.encoded.raw));
                    #[expect(clippy::cast_possible_truncation, reason = "members speak in single precision")]
                    let trees = forest.score(row) as f32;
                    let half = self.set.examples[*place].user.is_multiple_of(2);
                    Judged { members: [network, trees, habit], label, half }
                })
                .collect();
            let choice = choose(&judged, [has_network, forest.tree_count() > 0, habit.is_some()]);
            let blend = Blend {
                forest: crate::model::Forest::default(),
                habit: None,
                weights: choice.weights,
                curve: choice.curve,
            };
            let labels: Vec<bool> = judged.iter().map(|judged| judged.label).collect();
            let mut add = |name: &str, scores: &[f64]| {
                let threshold = best_f1_threshold(&labels, scores);
                judgement.metrics[head as usize].insert(name.to_owned(), BinaryMetrics::of(&labels, scores, threshold));
                threshold
            };
            let served: Vec<f64> =
                judged.iter().map(|judged| f64::from(probability_of(blend.blend(judged.members)))).collect();
            judgement.thresholds[head as usize] = add("model", &served);
            for (member, name) in MEMBERS.into_iter().enumerate() {
                let scores: Vec<f64> = judged.iter().map(|judged| sigmoid(f64::from(judged.members[member]))).collect();
                judgement.baseline_thresholds[head as usize].insert(name, add(name, &scores));
            }
            for name in BASELINES {
                let probability = |place: &usize| {
                    let example = &self.set.examples[*place];
                    let scores = &self.ranked[place * self.set.width..(place + 1) * self.set.width];
                    let missing = self.set.raw(*place).iter().map(|value| value.is_nan());
                    let horizons = &self.schedule.horizons;
                    let own = &baselines[head as usize];
                    own.probability(name, head, horizons, example.activity, example.purchase, scores, missing)
                };
                let scores = network.held_places.iter().map(probability).collect::<Option<Vec<f64>>>();
                let Some(scores) = scores else { continue };
                judgement.baseline_thresholds[head as usize].insert(name, add(name, &scores));
            }
            judgement.choices[head as usize] = choice;
        }
        Ok(judgement)
    }
}

/// What the held-out window said, by head.
#[derive(Default)]
struct Judgement {
    choices: [Choice; 2],
    thresholds: [f64; 2],
    metrics: [BTreeMap<String, BinaryMetrics>; 2],
    baseline_thresholds: [HashMap<&'static str, f64>; 2],
}

/// A part of the examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Everything labelled.
    All,
    /// What was over before the validation window began.
    Past,
    /// The validation window.
    HeldOut,
}

#[derive(Default)]
struct NetworkData {
    examples: Vec<Example>,
    is_past: Vec<bool>,
    is_held: Vec<bool>,
    held_places: Vec<usize>,
}

impl NetworkData {
    fn past(&self) -> Vec<Example> {
        self.pick(&self.is_past)
    }

    fn held_out(&self) -> Vec<Example> {
        self.pick(&self.is_held)
    }

    fn pick(&self, wanted: &[bool]) -> Vec<Example> {
        let chosen = self.examples.iter().zip(wanted).filter(|(_, wanted)| **wanted);
        chosen.map(|(example, _)| example.clone()).collect()
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

/// Kind of the first event at or after a moment, as far as the rings of a later graph remember it.
fn first_kind_since(graph: &UserGraph, since_ms: i64) -> Option<crate::event::EventKind> {
    let since_s = since_ms.div_euclid(1_000);
    let first_of = |view: View| graph.view(view)?.ring().find(|entry| i64::from(entry.time_s) >= since_s);
    View::ALL.into_iter().filter_map(first_of).min_by_key(|entry| entry.time_s).map(|entry| entry.kind)
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
