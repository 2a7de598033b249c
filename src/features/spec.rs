//! Everything the encoder learned from training, as stored in a bundle's `features.json`.

use serde::{Deserialize, Serialize};

use super::{BgNbd, FeatureInfo, ItemVocabulary, Knots, Missing, encode, missing};
use crate::{
    event::{EventKind, NameHash},
    graph::{GraphParams, KindSet},
};

/// What the encoder needs to know of the task and of the fold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSettings {
    /// Days without activity that count as churn; also the width of the past windows named `churn`.
    pub churn_days: i32,
    /// Days in which a purchase is predicted; also the width of the past windows named `purchase`.
    pub purchase_days: i32,
    /// Kinds that count as activity, by name. The graph marks its active days by the same kinds.
    pub activity: Vec<String>,
    /// Half-life of the graph's short node weights, days.
    pub half_life_short_days: f32,
    /// Half-life of the graph's long node weights, days.
    pub half_life_long_days: f32,
    /// Most nodes of a user given to the network, all views together.
    pub node_capacity: usize,
    /// Most edges of a user given to the network.
    pub edge_capacity: usize,
    /// Most recent events of a user given to the network.
    pub sequence_capacity: usize,
    /// What stands for missing values.
    #[serde(default, skip_serializing_if = "is_learned")]
    pub missing: Missing,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_learned(missing: &Missing) -> bool {
    *missing == Missing::Learned
}

impl Default for FeatureSettings {
    fn default() -> Self {
        Self::for_task(30, 14, &GraphParams::default())
    }
}

impl FeatureSettings {
    /// Settings for horizons in days and the parameters the graphs are folded with.
    pub fn for_task(churn_days: i32, purchase_days: i32, graph: &GraphParams) -> Self {
        Self {
            churn_days,
            purchase_days,
            activity: EventKind::ALL
                .into_iter()
                .filter(|kind| graph.activity.contains(*kind))
                .map(|kind| kind.name().to_owned())
                .collect(),
            half_life_short_days: graph.half_life_short_days,
            half_life_long_days: graph.half_life_long_days,
            node_capacity: 24,
            edge_capacity: 48,
            sequence_capacity: 32,
            missing: Missing::Learned,
        }
    }

    /// Parameters to expand graphs with: the half-lives they were folded with.
    pub fn graph_params(&self) -> GraphParams {
        GraphParams {
            half_life_short_days: self.half_life_short_days,
            half_life_long_days: self.half_life_long_days,
            activity: self.activity_set(),
            ..GraphParams::default()
        }
    }

    /// The label horizons, by the name used in feature names.
    pub fn horizons(&self) -> [(&'static str, i32); 2] {
        [("churn", self.churn_days), ("purchase", self.purchase_days)]
    }

    /// The activity kinds as a set; unknown names are skipped (loading a bundle refuses them first).
    pub fn activity_set(&self) -> KindSet {
        let kinds: Vec<EventKind> = self.activity.iter().filter_map(|name| EventKind::from_name(name)).collect();
        KindSet::of(&kinds)
    }
}

/// One user feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// Stable name.
    pub name: String,
    /// Unit of the raw value.
    pub unit: String,
    /// Training quantiles. A value that stays missing takes the median's place (score 0) and sets the feature's missing bit.
    pub knots: Knots,
    /// What stands for a missing value, where [`FeatureSettings::missing`] puts one number there.
    pub fill: Option<f32>,
}

/// The feature specification: every feature in the encoder's order, the vocabulary and the fitted parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureSpec {
    /// Task and fold.
    pub settings: FeatureSettings,
    /// BG/NBD of active days, when fitted.
    pub bgnbd_activity: Option<BgNbd>,
    /// BG/NBD of purchase days, when fitted.
    pub bgnbd_purchase: Option<BgNbd>,
    features: Vec<Feature>,
    /// Places of each regular series, where gaps in them are interpolated.
    series: Vec<Vec<usize>>,
    vocabulary: ItemVocabulary,
}

impl FeatureSpec {
    /// A specification that knows no training data yet: every transformed feature is missing and every item unseen.
    pub fn new(settings: FeatureSettings, bgnbd_activity: Option<BgNbd>, bgnbd_purchase: Option<BgNbd>) -> Self {
        let features: Vec<Feature> = encode::describe(&settings)
            .into_iter()
            .map(|FeatureInfo { name, unit }| Feature {
                name,
                unit: unit.to_owned(),
                knots: Knots::default(),
                fill: None,
            })
            .collect();
        let series =
            if settings.missing == Missing::Interpolated { missing::regular_series(&features) } else { Vec::new() };
        Self { bgnbd_activity, bgnbd_purchase, features, series, ..Self::empty(settings) }
    }

    /// A specification without features, enough to list them.
    pub(super) fn empty(settings: FeatureSettings) -> Self {
        Self {
            settings,
            bgnbd_activity: None,
            bgnbd_purchase: None,
            features: Vec::new(),
            series: Vec::new(),
            vocabulary: ItemVocabulary::default(),
        }
    }

    /// Learns from raw rows of training users what stands for missing values, and puts it there. Each row is as long as
    /// [`features`](Self::features).
    pub fn fit_fills(&mut self, rows: &mut [f32]) {
        let (width, way) = (self.features.len().max(1), self.settings.missing);
        for (place, feature) in self.features.iter_mut().enumerate() {
            feature.fill = way.fill_of(rows.iter().skip(place).step_by(width).copied());
        }
        for row in rows.chunks_exact_mut(width) {
            self.fill(row);
        }
    }

    /// Puts into one raw row what stands for its missing values.
    pub(super) fn fill(&self, row: &mut [f32]) {
        for series in &self.series {
            missing::interpolate(row, series);
        }
        if matches!(self.settings.missing, Missing::Median | Missing::Mean) {
            for (value, feature) in row.iter_mut().zip(&self.features) {
                if let Some(fill) = feature.fill.filter(|_| value.is_nan()) {
                    *value = fill;
                }
            }
        }
    }

    /// Learns the quantile knots from raw rows of training users (see [`Encoder::raw`](super::Encoder::raw)), each as
    /// long as [`features`](Self::features). Some ten thousand rows are enough.
    pub fn fit_knots(&mut self, rows: &[Vec<f32>]) {
        for (place, feature) in self.features.iter_mut().enumerate() {
            feature.knots = Knots::fit(rows.iter().map(|row| row[place]));
        }
    }

    /// Sets the items with rows of their own.
    pub fn set_vocabulary(&mut self, vocabulary: ItemVocabulary) {
        self.vocabulary = vocabulary;
    }

    /// All user features in the encoder's order.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// Items with rows of their own.
    pub fn vocabulary(&self) -> &ItemVocabulary {
        &self.vocabulary
    }

    /// Writes `features.json`.
    pub fn to_json(&self) -> Result<Vec<u8>, SpecError> {
        Ok(serde_json::to_vec(&Stored::from(self))?)
    }

    /// Reads `features.json`, checking that this program computes exactly the listed features.
    pub fn from_json(json: &[u8]) -> Result<Self, SpecError> {
        let stored: Stored = serde_json::from_slice(json)?;
        if stored.format != FORMAT {
            return Err(SpecError::Format { found: stored.format });
        }
        if let Some(name) = stored.settings.activity.iter().find(|name| EventKind::from_name(name).is_none()) {
            return Err(SpecError::Activity { name: name.clone() });
        }
        let mut spec = Self::new(stored.settings, stored.bgnbd_activity, stored.bgnbd_purchase);
        if spec.features.len() != stored.features.len() {
            return Err(SpecError::Count { found: stored.features.len(), expected: spec.features.len() });
        }
        for (mine, theirs) in spec.features.iter_mut().zip(stored.features) {
            if mine.name != theirs.name || mine.unit != theirs.unit {
                return Err(SpecError::Feature { found: theirs.name, expected: mine.name.clone() });
            }
            if !theirs.knots.is_valid() {
                return Err(SpecError::Knots { name: theirs.name });
            }
            if theirs.fill.is_some_and(|fill| !fill.is_finite()) {
                return Err(SpecError::Fill { name: theirs.name });
            }
            (mine.knots, mine.fill) = (theirs.knots, theirs.fill);
        }
        let mut items = Vec::with_capacity(stored.items.len());
        for hash in &stored.items {
            let item = u64::from_str_radix(hash, 16).map_err(|_| SpecError::Item { hash: hash.clone() })?;
            items.push(NameHash(item));
        }
        if items.len() != stored.item_shares.len() {
            return Err(SpecError::Item { hash: "as many shares as items".to_owned() });
        }
        spec.vocabulary = ItemVocabulary::from_parts(items, stored.item_shares);
        Ok(spec)
    }
}

/// Why a `features.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// No JSON of the expected shape.
    #[error("the feature specification is malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by another format.
    #[error("the feature specification has format `{found}`, this program reads `{FORMAT}`")]
    Format {
        /// Format in the file.
        found: u32,
    },
    /// An activity kind this program does not know.
    #[error("`{name}` is no event kind")]
    Activity {
        /// The name in the file.
        name: String,
    },
    /// Another number of features than the encoder computes.
    #[error("the specification lists `{found}` features, the encoder computes `{expected}`: train the bundle again")]
    Count {
        /// In the file.
        found: usize,
        /// In this program.
        expected: usize,
    },
    /// A feature differs from the encoder's.
    #[error(
        "the specification lists feature `{found}` where the encoder computes `{expected}`: train the bundle again"
    )]
    Feature {
        /// In the file.
        found: String,
        /// In this program.
        expected: String,
    },
    /// Quantiles that are not finite, not ascending or too many.
    #[error("the quantiles of feature `{name}` are not ascending finite numbers")]
    Knots {
        /// The feature.
        name: String,
    },
    /// Something that is not finite stands for missing values.
    #[error("what stands for missing values of feature `{name}` is not finite")]
    Fill {
        /// The feature.
        name: String,
    },
    /// An item of the vocabulary that is no 64-bit hash, or shares that do not match.
    #[error("the item vocabulary is malformed at `{hash}`")]
    Item {
        /// The text in the file.
        hash: String,
    },
}

/// Number of the stored form.
const FORMAT: u32 = 1;

/// The stored form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    settings: FeatureSettings,
    bgnbd_activity: Option<BgNbd>,
    bgnbd_purchase: Option<BgNbd>,
    features: Vec<StoredFeature>,
    /// Hashes in hexadecimal: JSON readers elsewhere round large integers.
    items: Vec<String>,
    item_shares: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFeature {
    name: String,
    unit: String,
    /// What a value that stays missing becomes; always the training median (score 0), with the missing bit set.
    default: String,
    /// What stands for a missing value, which then does not stay missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fill: Option<f32>,
    knots: Knots,
}

impl From<&FeatureSpec> for Stored {
    fn from(spec: &FeatureSpec) -> Self {
        let stored = |feature: &Feature| StoredFeature {
            name: feature.name.clone(),
            unit: feature.unit.clone(),
            default: "median".to_owned(),
            fill: feature.fill,
            knots: feature.knots.clone(),
        };
        Self {
            format: FORMAT,
            settings: spec.settings.clone(),
            bgnbd_activity: spec.bgnbd_activity,
            bgnbd_purchase: spec.bgnbd_purchase,
            features: spec.features.iter().map(stored).collect(),
            items: spec.vocabulary.items().iter().map(|item| format!("{:016x}", item.0)).collect(),
            item_shares: spec.vocabulary.shares().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> FeatureSpec {
        let parameters = BgNbd { r: 0.3, alpha: 5.0, a: 0.7, b: 2.0 };
        let mut spec = FeatureSpec::new(FeatureSettings::default(), Some(parameters), None);
        let width = spec.features().len();
        let rows: Vec<Vec<f32>> = (0..50_u8).map(|row| vec![f32::from(row); width]).collect();
        spec.fit_knots(&rows);
        spec.set_vocabulary(ItemVocabulary::admit([(NameHash(u64::MAX), 3), (NameHash(7), 1)], 10, 1));
        spec
    }

    #[test]
    fn json_round_trip() {
        let spec = spec();
        assert_eq!(FeatureSpec::from_json(&spec.to_json().unwrap()).unwrap(), spec);
    }

    #[test]
    fn what_stands_for_missing_values_is_kept_and_put_in() {
        for (way, expected) in [(Missing::Median, 24.5), (Missing::Mean, 24.5), (Missing::Learned, f32::NAN)] {
            let settings = FeatureSettings { missing: way, ..FeatureSettings::default() };
            let mut spec = FeatureSpec::new(settings, None, None);
            let width = spec.features().len();
            let mut rows: Vec<f32> = (0..50_u8).flat_map(|row| vec![f32::from(row); width]).collect();
            rows.extend(vec![f32::NAN; width]);
            spec.fit_fills(&mut rows);
            let last = rows[50 * width];
            assert!(last.to_bits() == expected.to_bits(), "{way:?} {last}");
            let read = FeatureSpec::from_json(&spec.to_json().unwrap()).unwrap();
            assert_eq!(read, spec);
            let mut row = vec![f32::NAN; width];
            read.fill(&mut row);
            assert!(row.iter().all(|value| value.to_bits() == expected.to_bits()), "{way:?}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = spec().features().iter().map(|feature| feature.name.clone()).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_renamed_feature_is_refused_by_name() {
        let json = String::from_utf8(spec().to_json().unwrap()).unwrap();
        let renamed = json.replacen("activity_recency", "activity_recentness", 1);
        let error = FeatureSpec::from_json(renamed.as_bytes()).unwrap_err();
        assert!(matches!(error, SpecError::Feature { .. }), "{error}");
    }
}
