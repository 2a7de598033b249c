//! What stands for a value that a user does not have: nothing that was made up by default, or one of the usual fillings.

use serde::{Deserialize, Serialize};

use super::Feature;

/// How missing values are treated, by training and serving alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// They stay missing and what that means is learned: the network and the regression weigh a bit that says so, trees choose
    /// a side at each question.
    #[default]
    Learned,
    /// The median of the training users who have the value.
    Median,
    /// Their mean.
    Mean,
    /// Inside a regular series (`…_window_0`, `…_window_1`, …) on the line between the neighbours that are there, at its ends the
    /// nearest; everywhere else as [`Learned`](Self::Learned).
    Interpolated,
}

impl Missing {
    /// All ways.
    pub const ALL: [Self; 4] = [Self::Learned, Self::Median, Self::Mean, Self::Interpolated];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Median => "median",
            Self::Mean => "mean",
            Self::Interpolated => "interpolated",
        }
    }

    /// The way called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }

    /// What is put in the place of missing ones among `values`; `None` where nothing is, or no value is present.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "features are single precision")]
    pub(super) fn fill_of(self, values: impl Iterator<Item = f32>) -> Option<f32> {
        if !matches!(self, Self::Median | Self::Mean) {
            return None;
        }
        let mut present: Vec<f32> = values.filter(|value| value.is_finite()).collect();
        if present.is_empty() {
            return None;
        }
        if self == Self::Mean {
            let sum: f64 = present.iter().map(|value| f64::from(*value)).sum();
            return Some((sum / present.len() as f64) as f32);
        }
        let middle = present.len() / 2;
        let (below, upper, _) = present.select_nth_unstable_by(middle, f32::total_cmp);
        let upper = *upper;
        let lower = below.iter().copied().max_by(f32::total_cmp).unwrap_or(upper);
        Some(if present.len().is_multiple_of(2) { f32::midpoint(lower, upper) } else { upper })
    }
}

/// Places of the members of each regular series of two or more, in order.
pub(super) fn regular_series(features: &[Feature]) -> Vec<Vec<usize>> {
    let mut found: Vec<Vec<usize>> = Vec::new();
    let mut open: Option<&str> = None;
    for (place, feature) in features.iter().enumerate() {
        let series = feature.name.rsplit_once("_window_").filter(|(_, number)| number.parse::<usize>().is_ok());
        let name = series.map(|(name, _)| name);
        match (name, found.last_mut()) {
            (Some(name), Some(last)) if open == Some(name) => last.push(place),
            (Some(_), _) => found.push(vec![place]),
            (None, _) => {}
        }
        open = name;
    }
    found.retain(|places| places.len() > 1);
    found
}

/// Puts values on the line between present neighbours of a series into its gaps, and the nearest one at its ends. A series
/// without any value stays as it is.
#[expect(clippy::cast_precision_loss, reason = "a handful of places")]
pub(super) fn interpolate(row: &mut [f32], series: &[usize]) {
    let known: Vec<(usize, f32)> = series
        .iter()
        .enumerate()
        .map(|(step, place)| (step, row[*place]))
        .filter(|(_, value)| value.is_finite())
        .collect();
    for (step, place) in series.iter().enumerate() {
        if row[*place].is_finite() {
            continue;
        }
        let after = known.iter().find(|(known, _)| *known > step);
        let before = known.iter().rev().find(|(known, _)| *known < step);
        row[*place] = match (before, after) {
            (Some((left, low)), Some((right, high))) => {
                low + (high - low) * (step - left) as f32 / (right - left) as f32
            }
            (Some((_, value)), None) | (None, Some((_, value))) => *value,
            (None, None) => continue,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureSettings, FeatureSpec};

    #[test]
    fn names_are_read_back() {
        assert!(Missing::ALL.into_iter().all(|way| Missing::from_name(way.name()) == Some(way)));
        assert_eq!(Missing::from_name("zero"), None);
    }

    #[test]
    fn median_and_mean_are_of_the_values_that_are_there() {
        let values = || [f32::NAN, 1.0, 2.0, f32::INFINITY, 9.0, 4.0].into_iter();
        assert_eq!(Missing::Median.fill_of(values()), Some(3.0));
        assert_eq!(Missing::Median.fill_of(values().take(4).chain([7.0])), Some(2.0));
        assert_eq!(Missing::Mean.fill_of(values()), Some(4.0));
        assert_eq!(Missing::Mean.fill_of([f32::NAN].into_iter()), None);
        assert_eq!(Missing::Learned.fill_of(values()), None);
        assert_eq!(Missing::Interpolated.fill_of(values()), None);
    }

    #[test]
    fn gaps_of_a_series_lie_on_the_line_and_its_ends_are_the_nearest() {
        let mut row = [f32::NAN, 7.0, 2.0, f32::NAN, f32::NAN, 5.0, f32::NAN];
        interpolate(&mut row, &[0, 2, 3, 4, 5, 6]);
        assert!(
            row.iter()
                .zip([2.0, 7.0, 2.0, 3.0, 4.0, 5.0, 5.0])
                .all(|(value, expected)| (value - expected).abs() < 1e-6)
        );
        let mut nothing = [f32::NAN; 3];
        interpolate(&mut nothing, &[0, 1, 2]);
        assert!(nothing.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn the_series_of_the_encoder_are_found() {
        let spec = FeatureSpec::new(FeatureSettings::default(), None, None);
        let series = regular_series(spec.features());
        assert!(series.len() >= 8 && series.iter().all(|places| places.len() == 8), "{series:?}");
        for places in series {
            for (step, place) in places.iter().enumerate() {
                assert!(spec.features()[*place].name.ends_with(&format!("_window_{step}")));
            }
        }
    }
}
