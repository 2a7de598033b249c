//! What can be tuned, as a cube with sides from 0 to 1, and where the three methods look in it.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "small bounded numbers"
)]

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::train::heads::TreeSettings;

/// One number that is tuned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameter {
    /// Its name in files.
    pub name: &'static str,
    /// Least value.
    pub low: f64,
    /// Largest value.
    pub high: f64,
    /// Whether equal factors are equal steps.
    pub is_logarithmic: bool,
    /// Whether only whole numbers make sense.
    pub is_whole: bool,
}

impl Parameter {
    const fn new(name: &'static str, low: f64, high: f64) -> Self {
        Self { name, low, high, is_logarithmic: false, is_whole: false }
    }

    const fn logarithmic(self) -> Self {
        Self { is_logarithmic: true, ..self }
    }

    const fn whole(self) -> Self {
        Self { is_whole: true, ..self }
    }

    /// The value at a place from 0 to 1 along the side.
    pub fn value(&self, place: f64) -> f64 {
        let place = place.clamp(0.0, 1.0);
        let value = if self.is_logarithmic {
            self.low * (self.high / self.low).powf(place)
        } else {
            self.low + place * (self.high - self.low)
        };
        if self.is_whole { value.round() } else { value }
    }

    /// The place of a value along the side.
    pub fn place(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        if self.is_logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }
}

/// A place in the cube, one number from 0 to 1 for each parameter.
pub type Point = Vec<f64>;

/// The parameters of [`TreeSettings`], in the order of a [`Point`].
pub const PARAMETERS: [Parameter; 7] = [
    Parameter::new("learning_rate", 0.01, 0.2).logarithmic(),
    Parameter::new("max_leaves", 4.0, 64.0).logarithmic().whole(),
    Parameter::new("max_depth", 3.0, 12.0).whole(),
    Parameter::new("leaves_of_least_rows", 30.0, 3_000.0).logarithmic().whole(),
    Parameter::new("ridge", 0.1, 100.0).logarithmic(),
    Parameter::new("row_share", 0.3, 1.0),
    Parameter::new("feature_share", 0.1, 1.0),
];

/// The settings at a point.
pub fn settings_at(point: &[f64]) -> TreeSettings {
    let value = |place: usize| PARAMETERS[place].value(point[place]);
    TreeSettings {
        learning_rate: value(0),
        max_leaves: value(1) as usize,
        max_depth: value(2) as usize,
        leaves_of_least_rows: value(3) as usize,
        ridge: value(4),
        row_share: value(5),
        feature_share: value(6),
    }
}

/// The point of the settings that are shipped.
pub fn default_point() -> Point {
    let settings = TreeSettings::default();
    let values = [
        settings.learning_rate,
        settings.max_leaves as f64,
        settings.max_depth as f64,
        settings.leaves_of_least_rows as f64,
        settings.ridge,
        settings.row_share,
        settings.feature_share,
    ];
    PARAMETERS.iter().zip(values).map(|(parameter, value)| parameter.place(value)).collect()
}

/// Where a search looks next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Where good trials were dense and poor ones were not (Bergstra et al. 2011).
    Tpe,
    /// Anywhere.
    Random,
    /// The corners and middles of a lattice, in an order of the seed, so that a short walk is spread too.
    Grid,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 3] = [Self::Tpe, Self::Random, Self::Grid];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tpe => "tpe",
            Self::Random => "random",
            Self::Grid => "grid",
        }
    }

    /// The method called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// A uniform draw for trial `number` of a search with this seed.
pub(super) fn random_point(dimensions: usize, seed: u64, number: usize) -> Point {
    let mut random = generator(seed, number);
    (0..dimensions).map(|_| random.random()).collect()
}

/// Point `number` of the lattice of three values a side; beyond the last it begins again.
pub(super) fn grid_point(dimensions: usize, seed: u64, number: usize) -> Point {
    const VALUES: usize = 3;
    let count = VALUES.pow(u32::try_from(dimensions).unwrap_or(u32::MAX).min(12));
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x6772_6964));
    let mut rest = order[number % count];
    (0..dimensions)
        .map(|_| {
            let place = rest % VALUES;
            rest /= VALUES;
            // Middles of thirds: the ends of a range are poor almost always.
            (place as f64 + 0.5) / VALUES as f64
        })
        .collect()
}

pub(super) fn generator(seed: u64, number: usize) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_values_are_each_others_inverse() {
        for parameter in PARAMETERS {
            for value in [parameter.low, parameter.high] {
                assert!((parameter.value(parameter.place(value)) - value).abs() < 1e-9, "{parameter:?}");
            }
        }
        let (there, shipped) = (settings_at(&default_point()), TreeSettings::default());
        assert_eq!((there.max_leaves, there.max_depth), (shipped.max_leaves, shipped.max_depth));
        assert_eq!(there.leaves_of_least_rows, shipped.leaves_of_least_rows);
        assert!(
            (there.learning_rate - shipped.learning_rate).abs() < 1e-9 && (there.ridge - shipped.ridge).abs() < 1e-9
        );
        assert!((there.row_share - shipped.row_share).abs() < 1e-9);
        assert!((there.feature_share - shipped.feature_share).abs() < 1e-9);
        assert!((PARAMETERS[4].value(1.0 / 3.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_grid_visits_every_point_once() {
        let mut seen: Vec<String> = (0..27).map(|number| format!("{:?}", grid_point(3, 5, number))).collect();
        assert_eq!(grid_point(3, 5, 0), grid_point(3, 5, 27));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 27);
    }

    #[test]
    fn methods_are_read_back() {
        assert!(Method::ALL.iter().all(|method| Method::from_name(method.name()) == Some(*method)));
        assert_eq!(Method::from_name("genetic"), None);
    }
}
