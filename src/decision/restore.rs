//! Reads a record of `scores` back: alert state and last scores after a restart (ALR-1).

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;

use super::{AlertState, OpenAlert, RiskLevel, Transition, UserScore};
use crate::{
    event::{Offset, Positions},
    score::{ATTENTION_NAMES, Probability},
};

/// Why a record of `scores` cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// No JSON, or not of the schema.
    #[error("not a score: {0}")]
    Json(#[from] serde_json::Error),
    /// A field has a value it cannot have.
    #[error("field `{field}` of a score cannot be `{value}`")]
    Field {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: String,
    },
}

#[derive(Deserialize)]
struct ScoreRead {
    churn_probability: f32,
    churn_days: u32,
    purchase_probability: f32,
    purchase_days: u32,
    value_at_stake_minor: u64,
    event_time: String,
    scored_at: String,
    model_version: String,
    input_positions: PositionsRead,
    view_attention: HashMap<String, f32>,
    alert: AlertStateRead,
    recommendations_hash: String,
}

#[derive(Deserialize)]
struct PositionsRead {
    clicks: i64,
    searches: i64,
    purchases: i64,
}

#[derive(Deserialize)]
struct AlertStateRead {
    level: String,
    alert_count: u32,
    last_alert_at: Option<String>,
    /// Absent in records of programs that did not settle alerts, and where no alert is open.
    #[serde(default)]
    open: Vec<OpenAlertRead>,
}

#[derive(Deserialize)]
struct OpenAlertRead {
    alert_id: String,
    transition: String,
    level: String,
    raised_at: String,
    churn_probability: f32,
    churn_days: u32,
    model_version: String,
    last_activity_at: Option<String>,
    returned_at: Option<String>,
}

impl OpenAlertRead {
    fn restored(self) -> Result<OpenAlert, RestoreError> {
        let Self { alert_id, transition, level, .. } = &self;
        let known = Transition::ALL.into_iter().find(|known| known.name() == transition);
        let maybe = |field, text: Option<&String>| text.map(|text| time(field, text)).transpose();
        Ok(OpenAlert {
            id: u128::from_str_radix(alert_id, 16).map_err(|_| invalid("alert.open.alert_id", alert_id))?,
            transition: known.ok_or_else(|| invalid("alert.open.transition", transition))?,
            level: level.parse().map_err(|_| invalid("alert.open.level", level))?,
            raised_ms: time("alert.open.raised_at", &self.raised_at)?,
            churn_days: self.churn_days,
            churn_probability: probability("alert.open.churn_probability", self.churn_probability)?,
            last_activity_ms: maybe("alert.open.last_activity_at", self.last_activity_at.as_ref())?,
            returned_ms: maybe("alert.open.returned_at", self.returned_at.as_ref())?,
            model_version: Arc::from(self.model_version),
        })
    }
}

/// Reads the payload of a `scores` record. The inverse of [`score_message`](super::score_message).
pub fn restore_score(payload: &[u8]) -> Result<UserScore, RestoreError> {
    let read: ScoreRead = serde_json::from_slice(payload)?;
    let mut attention = [0.0; ATTENTION_NAMES.len()];
    for (weight, name) in attention.iter_mut().zip(ATTENTION_NAMES) {
        *weight = *read.view_attention.get(name).ok_or_else(|| invalid("view_attention", name))?;
    }
    let PositionsRead { clicks, searches, purchases } = read.input_positions;
    let level: RiskLevel = read.alert.level.parse().map_err(|_| invalid("alert.level", &read.alert.level))?;
    let hash = &read.recommendations_hash;
    Ok(UserScore {
        churn_probability: probability("churn_probability", read.churn_probability)?,
        purchase_probability: probability("purchase_probability", read.purchase_probability)?,
        churn_days: read.churn_days,
        purchase_days: read.purchase_days,
        value_at_stake_minor: read.value_at_stake_minor,
        attention,
        as_of_ms: time("scored_at", &read.scored_at)?,
        event_ms: time("event_time", &read.event_time)?,
        positions: Positions([clicks, searches, purchases].map(Offset)),
        lists_hash: u64::from_str_radix(hash, 16).map_err(|_| invalid("recommendations_hash", hash))?,
        alert: AlertState {
            level,
            alert_count: read.alert.alert_count,
            last_alert_ms: read.alert.last_alert_at.map(|text| time("alert.last_alert_at", &text)).transpose()?,
        },
        open_alerts: read.alert.open.into_iter().map(OpenAlertRead::restored).collect::<Result<_, _>>()?,
        model_version: Arc::from(read.model_version),
    })
}

fn probability(field: &'static str, value: f32) -> Result<Probability, RestoreError> {
    Probability::new(value).ok_or_else(|| invalid(field, &value.to_string()))
}

fn time(field: &'static str, text: &str) -> Result<i64, RestoreError> {
    let time = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| invalid(field, text))?;
    Ok(time.timestamp_millis())
}

fn invalid(field: &'static str, value: &str) -> RestoreError {
    RestoreError::Field { field, value: value.to_owned() }
}
