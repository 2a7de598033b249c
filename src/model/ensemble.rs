//! What is served for churn and purchase: network, boosted trees and BG/NBD, blended in log-odds and calibrated.

#![expect(clippy::cast_possible_truncation, reason = "blended in double, served in single precision")]

use serde::{Deserialize, Serialize};

use super::{Forest, LaneForest, Prediction};
use crate::features::EncodedUser;

/// Both heads.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensemble {
    /// No activity in the churn horizon.
    pub churn: Blend,
    /// A purchase in the purchase horizon.
    pub purchase: Blend,
}

/// The members of one head and what is made of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Blend {
    /// Trees over what [`forest_row`] makes of a user.
    pub forest: Forest,
    /// BG/NBD by way of its feature; absent where it was not fitted.
    pub habit: Option<Habit>,
    /// Share of each member in the log-odds. All 0 for the base rate alone.
    pub weights: Weights,
    /// From blended to honest log-odds.
    pub curve: Curve,
}

/// Shares of the members; not negative.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Of the network (with the logistic regression in its linear path).
    pub network: f32,
    /// Of the trees.
    pub trees: f32,
    /// Of BG/NBD.
    pub habit: f32,
}

/// BG/NBD's probability of silence, read from the user's features, as log-odds of the head.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Habit {
    /// Place of the feature that holds the probability of silence in the head's horizon.
    pub feature: usize,
    /// Factor of its log-odds: negative where the head asks for the opposite of silence.
    pub scale: f32,
    /// Added to the scaled log-odds.
    pub offset: f32,
    /// Log-odds of a user of whom BG/NBD says nothing.
    pub missing: f32,
}

impl Habit {
    /// The log-odds of one user, given the raw features.
    pub fn log_odds(&self, raw: &[f32]) -> f32 {
        match Self::silence_log_odds(raw[self.feature]) {
            Some(silence) => self.scale * silence + self.offset,
            None => self.missing,
        }
    }

    /// Log-odds of a probability of silence, within ±12; `None` when it is missing.
    pub fn silence_log_odds(probability: f32) -> Option<f32> {
        let p = f64::from(probability);
        probability.is_finite().then(|| ((p.max(1e-9) / (1.0 - p).max(1e-9)).ln() as f32).clamp(-12.0, 12.0))
    }
}

/// Calibration of log-odds, ascending everywhere, so that the order of users stays.
///
/// Beta calibration (Kull, Silva Filho & Flach 2017): `rise · ln p − fall · ln(1 − p) + offset` of the probability `p` that
/// the log-odds claim. With `rise = fall` it is Platt scaling, with both 1 and no offset it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// Factor of `ln p`, positive.
    pub rise: f32,
    /// Factor of `−ln(1 − p)`, positive.
    pub fall: f32,
    /// Added.
    pub offset: f32,
}

impl Default for Curve {
    /// Changes nothing.
    fn default() -> Self {
        Self { rise: 1.0, fall: 1.0, offset: 0.0 }
    }
}

impl Curve {
    /// The calibrated log-odds.
    pub fn log_odds(self, log_odds: f64) -> f64 {
        // ln p = −softplus(−x) and −ln(1 − p) = softplus(x).
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        f64::from(self.offset) + f64::from(self.fall) * softplus(log_odds) - f64::from(self.rise) * softplus(-log_odds)
    }
}

impl Blend {
    /// Log-odds of each member for one user of this [`forest_row`]: network, trees, BG/NBD (0 where it was not fitted).
    pub fn members(&self, network: f32, user: &EncodedUser, row: &[f32]) -> [f32; 3] {
        let habit = self.habit.map_or(0.0, |habit| habit.log_odds(&user.raw));
        [network, self.forest.score(row) as f32, habit]
    }

    /// The calibrated log-odds given those of the members.
    pub fn blend(&self, members: [f32; 3]) -> f32 {
        let weights = [self.weights.network, self.weights.trees, self.weights.habit];
        let sum: f64 = weights.iter().zip(members).map(|(weight, member)| f64::from(*weight) * f64::from(member)).sum();
        self.curve.log_odds(sum) as f32
    }

    /// The calibrated log-odds of one user, given the network's. Trees that do not count are not walked.
    pub(super) fn log_odds(&self, network: f32, user: &EncodedUser, row: &[f32]) -> f32 {
        if self.weights.trees > 0.0 {
            return self.blend(self.members(network, user, row));
        }
        let habit = self.habit.map_or(0.0, |habit| habit.log_odds(&user.raw));
        self.blend([network, 0.0, habit])
    }

    /// The trees made ready for many users; `None` when they do not count.
    fn lanes(&self) -> Option<LaneForest> {
        (self.weights.trees > 0.0).then(|| LaneForest::new(&self.forest))
    }

    /// [`log_odds`](Self::log_odds) of many users.
    fn many(&self, lanes: Option<&LaneForest>, network: &[f32], users: &[&EncodedUser], rows: &[&[f32]]) -> Vec<f32> {
        let trees = lanes.map_or_else(|| vec![0.0; users.len()], |lanes| lanes.scores(rows));
        let members = network.iter().zip(users).zip(trees).map(|((network, user), trees)| {
            [*network, trees as f32, self.habit.map_or(0.0, |habit| habit.log_odds(&user.raw))]
        });
        members.map(|members| self.blend(members)).collect()
    }

    /// About how much the calibrated log-odds move with the network's.
    pub fn network_share(&self) -> f32 {
        self.weights.network * (self.curve.rise + self.curve.fall) / 2.0
    }

    /// Says what does not fit `features` features or is not finite, if anything.
    pub fn problem(&self, features: usize) -> Option<String> {
        let Weights { network, trees, habit } = self.weights;
        let Curve { rise, fall, offset } = self.curve;
        let habit_numbers = self.habit.map_or([0.0; 3], |habit| [habit.scale, habit.offset, habit.missing]);
        if !([network, trees, habit, rise, fall, offset].iter().chain(&habit_numbers).all(|number| number.is_finite()))
        {
            return Some("a weight or the calibration is not finite".to_owned());
        }
        if [network, trees, habit].iter().any(|weight| *weight < 0.0) || rise <= 0.0 || fall <= 0.0 {
            return Some("a weight is negative, or the calibration does not ascend".to_owned());
        }
        if self.forest.width() != 2 * features {
            let width = self.forest.width();
            return Some(format!("the trees read rows of `{width}`, not twice the `{features}` features"));
        }
        self.habit.filter(|habit| habit.feature >= features).map(|_| "BG/NBD's feature does not exist".to_owned())
    }
}

/// The trees of both heads made ready for many users.
#[derive(Debug, Clone)]
pub struct HeadLanes([Option<LaneForest>; 2]);

impl Ensemble {
    /// Makes the trees ready for [`log_odds_of`](Self::log_odds_of).
    pub fn lanes(&self) -> HeadLanes {
        HeadLanes([self.churn.lanes(), self.purchase.lanes()])
    }

    /// Calibrated log-odds of many users, churn and purchase: those of [`log_odds`](Self::log_odds) bit for bit.
    pub fn log_odds_of(&self, lanes: &HeadLanes, predictions: &[Prediction], users: &[&EncodedUser]) -> Vec<[f32; 2]> {
        let rows: Vec<Vec<f32>> = users.iter().map(|user| forest_row(user)).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let network = |of: fn(&Prediction) -> f32| predictions.iter().map(of).collect::<Vec<_>>();
        let churn = network(|prediction| prediction.churn_log_odds);
        let churn = self.churn.many(lanes.0[0].as_ref(), &churn, users, &rows);
        let purchase = network(|prediction| prediction.purchase_log_odds);
        let purchase = self.purchase.many(lanes.0[1].as_ref(), &purchase, users, &rows);
        churn.into_iter().zip(purchase).map(|(churn, purchase)| [churn, purchase]).collect()
    }

    /// Calibrated log-odds of one user: churn, purchase.
    pub fn log_odds(&self, prediction: &Prediction, user: &EncodedUser) -> [f32; 2] {
        let row = forest_row(user);
        [
            self.churn.log_odds(prediction.churn_log_odds, user, &row),
            self.purchase.log_odds(prediction.purchase_log_odds, user, &row),
        ]
    }
}

/// What trees read of a user: the features as ranks, NaN where missing, then the same as raw values. Ranks say where a
/// user stands among the others of the time, raw values how much it is.
pub fn forest_row(user: &EncodedUser) -> Vec<f32> {
    let ranks = user.features.iter().zip(&user.raw).map(|(score, raw)| if raw.is_nan() { f32::NAN } else { *score });
    ranks.chain(user.raw.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TreeNode;

    #[test]
    fn curves_by_hand() {
        for x in [-30.0, -1.5, 0.0, 2.0, 30.0] {
            assert!((Curve::default().log_odds(x) - x).abs() < 1e-9);
            let platt = Curve { rise: 0.5, fall: 0.5, offset: 1.0 };
            assert!((platt.log_odds(x) - (0.5 * x + 1.0)).abs() < 1e-6);
        }
        // p = 0.8: 2 ln 0.8 − 0.5 ln 0.2 + 0.1.
        let beta = Curve { rise: 2.0, fall: 0.5, offset: 0.1 };
        let expected = 2.0 * 0.8_f64.ln() - 0.5 * 0.2_f64.ln() + 0.1;
        assert!((beta.log_odds((0.8_f64 / 0.2).ln()) - expected).abs() < 1e-6);
    }

    #[test]
    fn many_users_score_as_one_does_bit_for_bit() {
        let mut forest = Forest::new(4, 0.1);
        let split = TreeNode::Split { feature: 3, threshold: 2.0, missing_left: false, left: 1, right: 2 };
        forest.push(&[split, TreeNode::Leaf(-0.7), TreeNode::Leaf(0.9)]);
        let habit = Some(Habit { feature: 1, scale: 0.5, offset: 0.5, missing: -3.0 });
        let blend = |trees: f32| Blend {
            forest: forest.clone(),
            habit,
            weights: Weights { network: 0.3, trees, habit: 0.2 },
            curve: Curve { rise: 1.1, fall: 0.9, offset: 0.05 },
        };
        let ensemble = Ensemble { churn: blend(0.6), purchase: blend(0.0) };
        let users: Vec<EncodedUser> = (0..40_u8)
            .map(|number| EncodedUser {
                raw: vec![f32::from(number) / 9.0, if number % 3 == 0 { f32::NAN } else { f32::from(number) / 50.0 }],
                features: vec![0.3, f32::from(number)],
                ..EncodedUser::default()
            })
            .collect();
        let predictions: Vec<Prediction> = (0..40_u8)
            .map(|number| Prediction {
                churn_log_odds: f32::from(number) - 20.0,
                purchase_log_odds: 3.0 - f32::from(number) / 7.0,
                ..Prediction::default()
            })
            .collect();
        let users: Vec<&EncodedUser> = users.iter().collect();
        let found = ensemble.log_odds_of(&ensemble.lanes(), &predictions, &users);
        let bits = |log_odds: [f32; 2]| log_odds.map(f32::to_bits);
        for ((found, prediction), user) in found.iter().zip(&predictions).zip(&users) {
            assert_eq!(bits(*found), bits(ensemble.log_odds(prediction, user)));
        }
        assert!(found.iter().any(|log_odds| log_odds[0].to_bits() != found[0][0].to_bits()));
    }

    #[test]
    fn habits_by_hand() {
        let habit = Habit { feature: 1, scale: -2.0, offset: 0.5, missing: -3.0 };
        assert!((habit.log_odds(&[9.0, 0.5]) - 0.5).abs() < 1e-6);
        assert!((habit.log_odds(&[9.0, 0.8]) - (0.5 - 2.0 * 4.0_f32.ln())).abs() < 1e-5);
        assert!((habit.log_odds(&[9.0, f32::NAN]) + 3.0).abs() < 1e-9);
        assert!(habit.log_odds(&[9.0, 0.0]).is_finite() && habit.log_odds(&[9.0, 1.0]).is_finite());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let fine = Blend {
            forest: Forest::new(4, 0.0),
            habit: Some(Habit { feature: 1, scale: 1.0, offset: 0.0, missing: 0.0 }),
            weights: Weights { network: 0.5, trees: 0.5, habit: 0.0 },
            curve: Curve::default(),
        };
        assert_eq!(fine.problem(2), None);
        assert!(fine.problem(3).unwrap().contains("features"));
        let change = |change: &dyn Fn(&mut Blend)| {
            let mut blend = fine.clone();
            change(&mut blend);
            blend.problem(2).unwrap()
        };
        assert!(change(&|blend| blend.weights.trees = f32::NAN).contains("finite"));
        assert!(change(&|blend| blend.curve.rise = 0.0).contains("ascend"));
        assert!(change(&|blend| blend.weights.habit = -0.1).contains("negative"));
    }
}
