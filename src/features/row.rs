//! One row of raw feature values; the same code that computes a value also names it, so the list cannot drift.

use std::fmt;

/// What a feature is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureInfo {
    /// Stable name.
    pub name: String,
    /// Unit of the raw value.
    pub unit: &'static str,
}

/// Collects values in a fixed order, and their names when asked to describe.
#[derive(Debug, Default)]
pub(super) struct Row {
    values: Vec<f32>,
    infos: Option<Vec<FeatureInfo>>,
}

impl Row {
    /// A row that keeps values only.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { values: Vec::with_capacity(capacity), infos: None }
    }

    /// A row that also keeps names.
    pub(super) fn describing() -> Self {
        Self { values: Vec::new(), infos: Some(Vec::new()) }
    }

    /// Appends a value; `None` and non-finite values are missing and stored as NaN. The name is only formatted when
    /// describing.
    #[expect(clippy::cast_possible_truncation, reason = "features are single precision")]
    pub(super) fn put(&mut self, name: fmt::Arguments<'_>, unit: &'static str, value: impl Into<Option<f64>>) {
        let value = value.into().filter(|value| value.is_finite()).map_or(f32::NAN, |value| value as f32);
        self.values.push(value);
        if let Some(infos) = &mut self.infos {
            infos.push(FeatureInfo { name: name.to_string(), unit });
        }
    }

    /// The values, NaN for missing.
    pub(super) fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// The names, when describing.
    pub(super) fn into_infos(self) -> Vec<FeatureInfo> {
        self.infos.unwrap_or_default()
    }
}
