//! A trained network off any device, and what it says of single users.

use candle_core::{Device, Result, Tensor};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    Batch, Calibration, Dropout, ITEM_TABLE, Network, NetworkConfig, Padding, Parameters, calibration::sigmoid,
};
use crate::{
    features::{EVENT_KINDS, EncodedUser},
    score::ATTENTION_NAMES,
};

/// Shape, parameters and calibration: everything a bundle needs of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The shape.
    pub config: NetworkConfig,
    /// The parameters.
    pub parameters: Parameters,
    /// Makes the log-odds honest.
    pub calibration: Calibration,
}

/// What the network says of one user.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prediction {
    /// Churn log-odds, not calibrated.
    pub churn_log_odds: f32,
    /// Purchase log-odds, not calibrated.
    pub purchase_log_odds: f32,
    /// Fusion weights in the order of [`ATTENTION_NAMES`].
    pub attention: [f32; ATTENTION_NAMES.len()],
    /// Log weights of the next event's kind.
    pub kind: [f32; EVENT_KINDS],
    /// Query against the item table.
    pub query: Vec<f32>,
}

impl Prediction {
    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        let numbers = [self.churn_log_odds, self.purchase_log_odds];
        numbers.iter().chain(&self.attention).chain(&self.kind).chain(&self.query).all(|number| number.is_finite())
    }
}

impl Model {
    /// A network with fresh parameters.
    pub fn initialise(config: NetworkConfig, seed: u64) -> Self {
        let parameters = Parameters::initialise(&config, seed);
        Self { config, parameters, calibration: Calibration::default() }
    }

    /// Contribution of feature `place` to the churn log-odds (not calibrated) over the linear path, against the training
    /// median.
    pub fn wide_effect(&self, user: &EncodedUser, place: usize) -> f32 {
        self.wide_effect_of(self.wide_weight(), user, place)
    }

    /// The contributions of all features, in their order.
    pub fn wide_effects<'a>(&'a self, user: &'a EncodedUser) -> impl Iterator<Item = f32> + 'a {
        let weight = self.wide_weight();
        (0..user.features.len()).map(move |place| self.wide_effect_of(weight, user, place))
    }

    fn wide_weight(&self) -> &[f32] {
        self.parameters.get("wide.weight").map_or(&[], |parameter| &parameter.values)
    }

    fn wide_effect_of(&self, weight: &[f32], user: &EncodedUser, place: usize) -> f32 {
        let of = |row: usize| weight.get(2 * row).copied().unwrap_or(0.0);
        of(place) * user.features[place] + of(self.config.features + place) * user.missing_bit(place)
    }

    /// The rows of the item table, `[rows, D]`.
    pub fn item_table(&self) -> &[f32] {
        self.parameters.get(ITEM_TABLE).map_or(&[], |parameter| &parameter.values)
    }

    /// P(each event kind is next), given log weights.
    pub fn kind_probabilities(kind: &[f32; EVENT_KINDS]) -> [f32; EVENT_KINDS] {
        let largest = kind.iter().copied().fold(f32::MIN, f32::max);
        let weights = kind.map(|value| (value - largest).exp());
        let total: f32 = weights.iter().sum();
        weights.map(|weight| weight / total)
    }
}

/// A network on a device with the item table beside it, scoring encoded users with plain candle operations.
#[derive(Debug)]
pub struct CandleForward {
    network: Network,
    items: Tensor,
    device: Device,
}

/// Users scored at once. Always this many, padded with empty users: the shapes of all products, and so the order of all
/// sums, do not depend on who else is there (SCO-1).
const TILE_USERS: usize = 8;

impl CandleForward {
    /// Copies `model` to `device`.
    pub fn new(model: &Model, device: Device) -> Result<Self> {
        let network = Network::from_parameters(&model.parameters, &model.config, &device)?;
        let shape = (model.config.item_rows, model.config.hidden);
        let items = Tensor::from_slice(model.item_table(), shape, &device)?;
        Ok(Self { network, items, device })
    }

    /// Scores `users` in order. Users of one padding share tiles; the answer for a user does not depend on the others.
    pub fn predict(&self, users: &[&EncodedUser]) -> Result<Vec<Prediction>> {
        let config = self.network.config();
        let mut order: Vec<(Padding, usize)> =
            users.iter().enumerate().map(|(place, user)| (Padding::of(user, config), place)).collect();
        order.sort_unstable();
        let mut answers: Vec<Option<Prediction>> = vec![None; users.len()];
        for same in order.chunk_by(|left, right| left.0 == right.0) {
            for tile in same.chunks(TILE_USERS) {
                let places: Vec<usize> = tile.iter().map(|(_, place)| *place).collect();
                let members: Vec<&EncodedUser> = places.iter().map(|place| users[*place]).collect();
                for (place, prediction) in places.into_iter().zip(self.tile(&members, tile[0].0)?) {
                    answers[place] = Some(prediction);
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn tile(&self, members: &[&EncodedUser], padding: Padding) -> Result<Vec<Prediction>> {
        let mut filled = members.to_vec();
        filled.resize(TILE_USERS, members[0]);
        let config = self.network.config();
        let batch = Batch::build(&filled, padding, config, &[], None::<Dropout<'_, Xoshiro256PlusPlus>>, &self.device)?;
        let rows = Tensor::from_slice(&batch.item_rows, batch.item_rows.len(), &self.device)?;
        let output = self.network.forward(&batch, &self.items.index_select(&rows, 0)?)?;
        let binary: Vec<f32> = output.binary.flatten_all()?.to_vec1()?;
        let kind: Vec<f32> = output.kind.flatten_all()?.to_vec1()?;
        let query: Vec<f32> = output.query.flatten_all()?.to_vec1()?;
        let attention: Vec<f32> = output.attention.flatten_all()?.to_vec1()?;
        let width = config.hidden;
        Ok((0..members.len())
            .map(|place| Prediction {
                churn_log_odds: binary[2 * place],
                purchase_log_odds: binary[2 * place + 1],
                attention: std::array::from_fn(|view| attention[place * ATTENTION_NAMES.len() + view]),
                kind: std::array::from_fn(|kind_place| kind[place * EVENT_KINDS + kind_place]),
                query: query[place * width..][..width].to_vec(),
            })
            .collect())
    }
}

/// `σ(x)`, for callers that hold calibrated log-odds.
pub fn probability_of(log_odds: f32) -> f32 {
    sigmoid(log_odds)
}
