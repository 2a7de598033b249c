//! Which members count, and how right everything is, on the held-out window.

use std::collections::{BTreeMap, HashMap};

use super::{
    super::{
        Example,
        examples::Moment,
        history::History,
        logistic::sigmoid,
        metrics::{BinaryMetrics, best_f1_threshold},
        predict_all,
    },
    BASELINES, Head, HeadPart, HeadsError, MEMBERS, SEGMENTS,
    baselines::Wide,
    blend::{Choice, Judged, choose},
    forests::Forests,
    network::NetworkData,
    training::{Part, Training},
};
use crate::{
    features::{EncodedUser, Reference},
    model::{Blend, Curve, Forest, Model, forest_row, probability_of},
};

impl<H: History> Training<'_, H> {
    /// Chooses members and calibration on the held-out window, and measures the blend, its members and the baselines there.
    pub(super) fn judge(
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
        let examples: Vec<Moment> = network.held_places.iter().map(|place| self.set.examples[*place]).collect();
        let segments = segments(&examples);
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
            let is_in = |part| self.options.without != Some(part);
            let available = [
                has_network && is_in(HeadPart::Network),
                forest.tree_count() > 0 && is_in(HeadPart::Trees),
                habit.is_some() && is_in(HeadPart::BgNbdMember) && is_in(HeadPart::BgNbdFeatures),
            ];
            let mut choice = choose(&judged, available);
            if !is_in(HeadPart::Calibration) {
                choice.curve = Curve::default();
            }
            let blend = Blend { forest: Forest::default(), habit: None, weights: choice.weights, curve: choice.curve };
            let labels: Vec<bool> = judged.iter().map(|judged| judged.label).collect();
            let mut add = |name: &str, scores: &[f64]| {
                let threshold = best_f1_threshold(&labels, scores);
                judgement.metrics[head as usize].insert(name.to_owned(), BinaryMetrics::of(&labels, scores, threshold));
                threshold
            };
            let served: Vec<f64> =
                judged.iter().map(|judged| f64::from(probability_of(blend.blend(judged.members)))).collect();
            let threshold = add("model", &served);
            judgement.thresholds[head as usize] = threshold;
            #[expect(clippy::cast_possible_truncation, reason = "they are served in single precision")]
            let singles = served.iter().map(|probability| *probability as f32);
            judgement.references[head as usize] = Reference::fit(singles);
            for (segment, name) in SEGMENTS.into_iter().enumerate() {
                let members: Vec<usize> = (0..labels.len()).filter(|user| segments[*user] == segment).collect();
                if members.len() >= SEGMENT_USERS {
                    let labels: Vec<bool> = members.iter().map(|user| labels[*user]).collect();
                    let scores: Vec<f64> = members.iter().map(|user| served[*user]).collect();
                    let metrics = BinaryMetrics::of(&labels, &scores, threshold);
                    judgement.segments[head as usize].insert(name, metrics);
                }
            }
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
pub(super) struct Judgement {
    pub(super) choices: [Choice; 2],
    pub(super) thresholds: [f64; 2],
    pub(super) metrics: [BTreeMap<String, BinaryMetrics>; 2],
    pub(super) baseline_thresholds: [HashMap<&'static str, f64>; 2],
    pub(super) segments: [BTreeMap<&'static str, BinaryMetrics>; 2],
    /// How the served probabilities are distributed.
    pub(super) references: [Option<Reference>; 2],
}

/// Users known for fewer days are new.
const NEW_DAYS: f64 = 60.0;
/// Users a segment must have to be told of.
const SEGMENT_USERS: usize = 30;

/// The segment of each user, in the order of [`SEGMENTS`].
fn segments(examples: &[Moment]) -> Vec<usize> {
    let purchases = |example: &Moment| example.purchase.map_or(0.0, |days| days.repeats + 1.0);
    let mut counts: Vec<f64> = examples.iter().map(purchases).collect();
    counts.sort_unstable_by(f64::total_cmp);
    let heavy = counts.get(counts.len() * 3 / 4).copied().unwrap_or(1.0).max(1.0);
    let of = |example: &Moment| match example {
        example if example.activity.age_days < NEW_DAYS => 0,
        example if purchases(example) >= heavy => 1,
        _ => 2,
    };
    examples.iter().map(of).collect()
}
