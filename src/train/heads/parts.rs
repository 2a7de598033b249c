//! Parts of what predicts churn and purchase that can be left out, to see what each is worth.

use serde::Serialize;

/// A part that training can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadPart {
    /// The network, with the logistic regression in its linear path.
    Network,
    /// The boosted trees.
    Trees,
    /// BG/NBD as a member of the blend; its features stay.
    BgNbdMember,
    /// The calibration of the blended log-odds.
    Calibration,
    /// The graph's nodes and edges in the network.
    Graph,
    /// The sequence of events in the network.
    Sequence,
    /// Features by BG/NBD (the member reads one of them and goes too).
    BgNbdFeatures,
    /// Active days in windows, and ever.
    WindowFeatures,
    /// Exponentially decayed active days.
    DecayFeatures,
    /// Statistics of gaps, and the silence against them.
    GapFeatures,
    /// What was spent, and baskets.
    SpendFeatures,
    /// Items, queries and categories: how many, how concentrated, what is due.
    InterestFeatures,
    /// Shares by weekday, part of the day and kind of event, and sessions.
    ProfileFeatures,
}

impl HeadPart {
    /// All parts, the members first.
    pub const ALL: [Self; 13] = [
        Self::Network,
        Self::Trees,
        Self::BgNbdMember,
        Self::Calibration,
        Self::Graph,
        Self::Sequence,
        Self::BgNbdFeatures,
        Self::WindowFeatures,
        Self::DecayFeatures,
        Self::GapFeatures,
        Self::SpendFeatures,
        Self::InterestFeatures,
        Self::ProfileFeatures,
    ];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Trees => "trees",
            Self::BgNbdMember => "bg_nbd_member",
            Self::Calibration => "calibration",
            Self::Graph => "graph",
            Self::Sequence => "sequence",
            Self::BgNbdFeatures => "bg_nbd_features",
            Self::WindowFeatures => "window_features",
            Self::DecayFeatures => "decay_features",
            Self::GapFeatures => "gap_features",
            Self::SpendFeatures => "spend_features",
            Self::InterestFeatures => "interest_features",
            Self::ProfileFeatures => "profile_features",
        }
    }

    /// The part called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    /// Whether a feature goes with this part.
    pub(super) fn takes(self, feature: &str) -> bool {
        let holds = |texts: &[&str]| texts.iter().any(|text| feature.contains(text));
        match self {
            Self::BgNbdFeatures => holds(&["_bgnbd_"]) || feature.ends_with("_alive"),
            Self::WindowFeatures => holds(&["_active_days_", "_active_share"]),
            Self::DecayFeatures => holds(&["_decayed_days_"]),
            Self::GapFeatures => holds(&["_gap_", "_gaps_", "_silence_per_"]),
            Self::SpendFeatures => holds(&["spend_", "last_basket", "value_per_unit"]),
            Self::InterestFeatures => holds(&[
                "_names",
                "_categories",
                "_top_share",
                "_concentration",
                "_decayed_count",
                "_repeat_share",
                "_habits",
            ]),
            Self::ProfileFeatures => {
                holds(&["weekday_share", "daypart_share", "kind_share", "_session", "_since_purchase"])
            }
            Self::Network | Self::Trees | Self::BgNbdMember | Self::Calibration | Self::Graph | Self::Sequence => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{FeatureSettings, FeatureSpec};

    #[test]
    fn names_are_read_back_and_every_feature_part_takes_features_of_its_own() {
        let spec = FeatureSpec::new(FeatureSettings::default(), None, None);
        let mut taken = std::collections::HashSet::new();
        for part in HeadPart::ALL {
            assert_eq!(HeadPart::from_name(part.name()), Some(part));
            let count = spec.features().iter().filter(|feature| part.takes(&feature.name)).count();
            assert_eq!(count > 0, part.name().ends_with("_features"), "{}", part.name());
            for feature in spec.features().iter().filter(|feature| part.takes(&feature.name)) {
                assert!(taken.insert(feature.name.clone()), "{} goes with two parts", feature.name);
            }
        }
    }
}
