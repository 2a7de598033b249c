//! Which of our kinds each event name of a file is, given what the caller calls activity and purchase.

use std::{collections::BTreeMap, path::Path};

use crate::{
    event::{EventKind, EventMapping, FileError, RowReader},
    graph::KindSet,
};

/// What an event name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindClass {
    /// Our kind.
    pub kind: EventKind,
    /// Whether it counts as activity.
    pub activity: bool,
}

/// What a first reading of a file found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Rows of each event name.
    pub names: BTreeMap<String, u64>,
    /// First and newest time, milliseconds since the Unix epoch.
    pub range_ms: Option<(i64, i64)>,
}

impl Survey {
    /// Reads event names and times of a file.
    pub fn of(file: &Path) -> Result<Self, FileError> {
        let mut survey = Self::default();
        let mut reader = RowReader::open(file)?;
        while let Some(row) = reader.next_row()? {
            match survey.names.get_mut(row.name()) {
                Some(count) => *count += 1,
                None => {
                    survey.names.insert(row.name().to_owned(), 1);
                }
            }
            if let Some(time_ms) = row.time_ms() {
                let (first, last) = survey.range_ms.unwrap_or((time_ms, time_ms));
                survey.range_ms = Some((first.min(time_ms), last.max(time_ms)));
            }
        }
        survey.names.remove("");
        Ok(survey)
    }

    /// Adds what was found in another file.
    pub fn add(&mut self, other: Self) {
        for (name, count) in other.names {
            *self.names.entry(name).or_default() += count;
        }
        self.range_ms = match (self.range_ms, other.range_ms) {
            (Some(mine), Some(theirs)) => Some((mine.0.min(theirs.0), mine.1.max(theirs.1))),
            (mine, theirs) => mine.or(theirs),
        };
    }
}

/// Why event names cannot be told apart as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no event of the file is `{name}`; it has {}", known.join(", "))]
pub struct UnknownKind {
    /// The name asked for.
    pub name: String,
    /// Names in the file, most frequent first, in backticks.
    pub known: Vec<String>,
}

/// The class of every event name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindPlan {
    classes: BTreeMap<String, KindClass>,
    activity: KindSet,
}

impl KindPlan {
    /// Plans for the names of a survey. `activity` and `buy` are names of the file, which then mean exactly these, or
    /// kinds of ours that no name of the file spells, which then mean every name mapped to them.
    pub fn new(survey: &Survey, activity: &[String], buy: &[String]) -> Result<Self, UnknownKind> {
        let default = EventMapping::default();
        let selects = |wanted: &[String], name: &str| {
            wanted.iter().any(|wanted| {
                wanted == name
                    || (!survey.names.contains_key(wanted)
                        && default.known(name).is_some_and(|kind| kind.name() == wanted))
            })
        };
        for wanted in [activity, buy] {
            // A list may name more than this file has, but something of it must be there.
            if !survey.names.keys().any(|name| selects(wanted, name)) {
                let mut known: Vec<(&String, &u64)> = survey.names.iter().collect();
                known.sort_by(|left, right| right.1.cmp(left.1));
                let known = known.iter().map(|(name, _)| format!("`{name}`")).collect();
                return Err(UnknownKind { name: wanted.join(","), known });
            }
        }
        let mut classes = BTreeMap::new();
        let mut kinds = Vec::new();
        for name in survey.names.keys() {
            let active = selects(activity, name);
            let kind = if selects(buy, name) {
                EventKind::Purchase
            } else {
                match default.known(name) {
                    // What is not bought is no purchase, and what counts as activity must have a kind that does.
                    Some(EventKind::Purchase | EventKind::Other) | None if active => EventKind::View,
                    Some(EventKind::Purchase) | None => EventKind::Other,
                    Some(kind) => kind,
                }
            };
            if active {
                kinds.push(kind);
            }
            classes.insert(name.clone(), KindClass { kind, activity: active });
        }
        let activity = KindSet::of(&kinds);
        for class in classes.values_mut() {
            // A purchase stays one: it is a label of its own. Its graph's view then counts as activity where its kind
            // does, which happens only when another bought name is activity and this one is not.
            if !class.activity && activity.contains(class.kind) && class.kind != EventKind::Purchase {
                class.kind = EventKind::Other;
            }
        }
        Ok(Self { classes, activity })
    }

    /// The class of an event name; `None` for a name that the survey did not see.
    pub fn class(&self, name: &str) -> Option<KindClass> {
        self.classes.get(name).copied()
    }

    /// The kind of every name.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, EventKind)> {
        self.classes.iter().map(|(name, class)| (name.as_str(), class.kind))
    }

    /// The kinds that count as activity.
    pub fn activity(&self) -> KindSet {
        self.activity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(names: &[&str], activity: &[&str], buy: &[&str]) -> Result<KindPlan, UnknownKind> {
        let names = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        KindPlan::new(&Survey { names, range_ms: None }, &owned(activity), &owned(buy))
    }

    fn class(plan: &KindPlan, name: &str) -> (EventKind, bool) {
        let class = plan.class(name).unwrap();
        (class.kind, class.activity)
    }

    #[test]
    fn purchases_only() {
        let plan = plan(&["purchase", "coupon_redemption"], &["purchase"], &["purchase"]).unwrap();
        assert_eq!(class(&plan, "purchase"), (EventKind::Purchase, true));
        assert_eq!(class(&plan, "coupon_redemption"), (EventKind::Other, false));
        assert!(!plan.activity().contains(EventKind::Other));
    }

    #[test]
    fn custom_names_become_activity_and_purchase() {
        let plan = plan(&["rating", "visit", "edit", "view"], &["visit", "edit"], &["edit"]).unwrap();
        assert_eq!(class(&plan, "visit"), (EventKind::View, true));
        assert_eq!(class(&plan, "edit"), (EventKind::Purchase, true));
        // Ours, but not asked for: it must not count as activity, though visits share its kind.
        assert_eq!(class(&plan, "view"), (EventKind::Other, false));
        assert_eq!(class(&plan, "rating"), (EventKind::Other, false));
    }

    #[test]
    fn our_kinds_mean_every_name_mapped_to_them() {
        let plan = plan(&["Product Viewed", "Order Completed"], &["view", "purchase"], &["purchase"]).unwrap();
        assert_eq!(class(&plan, "Product Viewed"), (EventKind::View, true));
        assert_eq!(class(&plan, "Order Completed"), (EventKind::Purchase, true));
    }

    #[test]
    fn an_absent_name_is_refused_with_what_there_is() {
        let error = plan(&["buy"], &["bought"], &["buy"]).unwrap_err();
        assert_eq!(error.to_string(), "no event of the file is `bought`; it has `buy`");
    }
}
