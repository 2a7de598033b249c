//! Reasons as a person reads them: the user's own events, edges and habits, with names and times.

use serde::Serialize;

use super::{factor::factor_text, text::format_date};
use crate::{
    event::{EventKind, NameHash, View, format_time_ms},
    graph::NameLookup,
    score::{Evidence, Reason},
};

/// A reason on the wire.
#[derive(Debug, Serialize)]
pub(super) struct ReasonWire {
    /// `event`, `edge` or `feature`.
    kind: &'static str,
    /// One line for a person.
    text: String,
    effect: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f32>,
}

impl ReasonWire {
    pub(super) fn new(reason: &Reason, as_of_ms: i64, names: &dyn NameLookup) -> Self {
        let blank = Self {
            kind: "",
            text: String::new(),
            effect: reason.effect,
            event: None,
            time: None,
            name: None,
            view: None,
            from: None,
            to: None,
            count: None,
            feature: None,
            value: None,
        };
        match &reason.evidence {
            Evidence::Event { kind, time_ms, name } => {
                let name = name.map(|name| name_text(names, name));
                Self {
                    kind: "event",
                    text: event_text(*kind, *time_ms, name.as_deref(), as_of_ms),
                    event: Some(kind.name()),
                    time: Some(format_time_ms(*time_ms)),
                    name,
                    ..blank
                }
            }
            Evidence::Edge { view, from, to, count } => {
                let (from, to) = (name_text(names, *from), name_text(names, *to));
                Self {
                    kind: "edge",
                    text: edge_text(*view, &from, &to, *count),
                    view: Some(view.name()),
                    from: Some(from),
                    to: Some(to),
                    count: Some(*count),
                    ..blank
                }
            }
            Evidence::Feature { name, value } => Self {
                kind: "feature",
                text: factor_text(name, Some(*value)),
                feature: Some(name.to_string()),
                value: Some(*value),
                ..blank
            },
        }
    }
}

/// A reason as it stands in an alert, for those who show one outside of an alert.
pub fn reason_json(reason: &Reason, as_of_ms: i64, names: &dyn NameLookup) -> serde_json::Value {
    serde_json::json!(ReasonWire::new(reason, as_of_ms, names))
}

/// The text of a name; its hash in hexadecimal when nobody knows it (an item that left the catalogue and every graph).
pub fn name_text(names: &dyn NameLookup, name: NameHash) -> String {
    names.text(name).map_or_else(|| format!("#{:012x}", name.0), |text| text.to_string())
}

fn event_text(kind: EventKind, time_ms: i64, name: Option<&str>, as_of_ms: i64) -> String {
    let verb = match kind {
        EventKind::View => "viewed",
        EventKind::Search => "searched for",
        EventKind::CartAdd => "put into the cart",
        EventKind::CartRemove => "took out of the cart",
        EventKind::Purchase => "bought",
        EventKind::Other => "had an event with",
    };
    let what = name.unwrap_or("something");
    let days = (as_of_ms - time_ms).max(0) / crate::event::DAY_MS;
    let ago = match days {
        0 => "less than a day before".to_owned(),
        1 => "1 day before".to_owned(),
        days => format!("{days} days before"),
    };
    format!("{verb} {what} on {} ({ago})", format_date(time_ms))
}

fn edge_text(view: View, from: &str, to: &str, count: u32) -> String {
    let verb = match view {
        View::Click => "went from",
        View::Search => "searched again, from",
        View::Purchase => "bought one after the other,",
    };
    let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
    let joint = if view == View::Purchase { "and" } else { "to" };
    format!("{verb} {from} {joint} {to} {times}")
}
