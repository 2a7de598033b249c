//! Scores, alerts and recommendations as records: JSON with the headers of a `CloudEvent` in binary mode.
//!
//! The schemas are `schemas/{score,alert,recommendation}.schema.json`; tests hold the bytes against them.

use serde::{Serialize, Serializer, ser::SerializeMap};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    AlertDraft, UserScore, alert_id,
    reason::{ReasonWire, name_text},
};
use crate::{
    event::{PartitionId, Positions, UserId, format_time_ms},
    graph::NameLookup,
    score::{ATTENTION_NAMES, RankedItem, Reason, Scored},
};

/// A record to write, without its topic and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// JSON.
    pub payload: Vec<u8>,
    /// Headers, in order.
    pub headers: Vec<(&'static str, String)>,
}

/// Whom a message is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The user.
    pub user: &'a UserId,
    /// The user's partition.
    pub partition: PartitionId,
}

/// The id of a score: 32 hexadecimal digits, equal in every run that scores `user` at `as_of_ms` after reading the same
/// records.
pub fn score_id(user: &UserId, positions: &Positions, as_of_ms: i64) -> String {
    format!("{:032x}", id_of(b"score\0", user, positions, as_of_ms))
}

fn id_of(what: &[u8], user: &UserId, positions: &Positions, as_of_ms: i64) -> u128 {
    let mut bytes = Vec::with_capacity(64 + user.as_str().len());
    bytes.extend_from_slice(what);
    for offset in positions.0 {
        bytes.extend_from_slice(&offset.0.to_le_bytes());
    }
    bytes.extend_from_slice(&as_of_ms.to_le_bytes());
    bytes.extend_from_slice(user.as_str().as_bytes());
    xxh3_128(&bytes)
}

#[derive(Serialize)]
struct ScoreWire<'a> {
    score_id: &'a str,
    user_id: &'a str,
    churn_probability: f32,
    churn_days: u32,
    purchase_probability: f32,
    purchase_days: u32,
    value_at_stake_minor: u64,
    event_time: String,
    scored_at: &'a str,
    model_version: &'a str,
    input_positions: PositionsWire,
    view_attention: AttentionWire<'a>,
    top_factors: Vec<FactorWire<'a>>,
    alert: AlertStateWire,
    recommendations_hash: String,
}

#[derive(Serialize)]
struct PositionsWire {
    partition: i32,
    clicks: i64,
    searches: i64,
    purchases: i64,
}

impl PositionsWire {
    fn new(partition: PartitionId, positions: &Positions) -> Self {
        let [clicks, searches, purchases] = positions.0.map(|offset| offset.0);
        Self { partition: partition.0, clicks, searches, purchases }
    }
}

struct AttentionWire<'a>(&'a [f32; ATTENTION_NAMES.len()]);

impl Serialize for AttentionWire<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(ATTENTION_NAMES.len()))?;
        for (name, weight) in ATTENTION_NAMES.iter().zip(self.0) {
            map.serialize_entry(name, weight)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct FactorWire<'a> {
    name: &'a str,
    value: Option<f32>,
    effect: f32,
}

impl<'a> FactorWire<'a> {
    fn all(scored: &'a Scored) -> Vec<Self> {
        let factors = scored.top_factors.iter();
        factors.map(|factor| Self { name: &factor.name, value: factor.value, effect: factor.effect }).collect()
    }
}

#[derive(Serialize)]
struct AlertStateWire {
    level: &'static str,
    alert_count: u32,
    last_alert_at: Option<String>,
}

/// The record of topic `scores`: compacted, key = user. Holds all of `score`, so that a restart reads it back.
pub fn score_message(subject: Subject<'_>, score: &UserScore, scored: &Scored) -> Message {
    let id = score_id(subject.user, &score.positions, score.as_of_ms);
    let scored_at = format_time_ms(score.as_of_ms);
    let wire = ScoreWire {
        score_id: &id,
        user_id: subject.user.as_str(),
        churn_probability: score.churn_probability.get(),
        churn_days: score.churn_days,
        purchase_probability: score.purchase_probability.get(),
        purchase_days: score.purchase_days,
        value_at_stake_minor: score.value_at_stake_minor,
        event_time: format_time_ms(score.event_ms),
        scored_at: &scored_at,
        model_version: &score.model_version,
        input_positions: PositionsWire::new(subject.partition, &score.positions),
        view_attention: AttentionWire(&score.attention),
        top_factors: FactorWire::all(scored),
        alert: AlertStateWire {
            level: score.alert.level.name(),
            alert_count: score.alert.alert_count,
            last_alert_at: score.alert.last_alert_ms.map(format_time_ms),
        },
        recommendations_hash: format!("{:016x}", score.lists_hash),
    };
    let payload = to_json(&wire);
    Message { payload, headers: cloud_event(id, "score", subject.partition, scored_at) }
}

#[derive(Serialize)]
struct AlertWire<'a> {
    alert_id: &'a str,
    user_id: &'a str,
    transition: &'static str,
    level: &'static str,
    previous_level: &'static str,
    sequence: u32,
    churn_probability: f32,
    churn_days: u32,
    value_at_stake_minor: u64,
    event_time: String,
    raised_at: &'a str,
    score_id: String,
    model_version: &'a str,
    reasons: Vec<ReasonWire>,
    top_factors: Vec<FactorWire<'a>>,
}

/// The record of topic `churn-alerts`. `reasons` are the pieces of the user's own history that moved the score.
pub fn alert_message(
    subject: Subject<'_>,
    alert: &AlertDraft,
    score: &UserScore,
    scored: &Scored,
    reasons: &[Reason],
    names: &dyn NameLookup,
) -> Message {
    let id = alert_id(subject.user, alert.sequence);
    let raised_at = format_time_ms(score.as_of_ms);
    let wire = AlertWire {
        alert_id: &id,
        user_id: subject.user.as_str(),
        transition: alert.transition.name(),
        level: alert.level.name(),
        previous_level: alert.previous_level.name(),
        sequence: alert.sequence,
        churn_probability: score.churn_probability.get(),
        churn_days: score.churn_days,
        value_at_stake_minor: score.value_at_stake_minor,
        event_time: format_time_ms(score.event_ms),
        raised_at: &raised_at,
        score_id: score_id(subject.user, &score.positions, score.as_of_ms),
        model_version: &score.model_version,
        reasons: reasons.iter().map(|reason| ReasonWire::new(reason, score.as_of_ms, names)).collect(),
        top_factors: FactorWire::all(scored),
    };
    let payload = to_json(&wire);
    Message { payload, headers: cloud_event(id, "churn_alert", subject.partition, raised_at) }
}

#[derive(Serialize)]
struct RecommendationWire<'a> {
    recommendation_id: &'a str,
    user_id: &'a str,
    score_id: String,
    event_time: String,
    scored_at: &'a str,
    model_version: &'a str,
    items: Vec<PlaceWire>,
    discoveries: Vec<PlaceWire>,
}

#[derive(Serialize)]
struct PlaceWire {
    item_id: String,
    score: f32,
    reason: &'static str,
}

impl PlaceWire {
    fn all(list: &[RankedItem], list_length: usize, names: &dyn NameLookup) -> Vec<Self> {
        let places = list.iter().take(list_length);
        places
            .map(|place| Self {
                item_id: name_text(names, place.item),
                score: place.score,
                reason: place.reason.name(),
            })
            .collect()
    }
}

/// The record of topic `recommendations`: key = user; written when one of the lists changed.
pub fn recommendation_message(
    subject: Subject<'_>,
    score: &UserScore,
    scored: &Scored,
    list_length: usize,
    names: &dyn NameLookup,
) -> Message {
    let id = format!("{:032x}", id_of(b"recommendation\0", subject.user, &score.positions, score.as_of_ms));
    let scored_at = format_time_ms(score.as_of_ms);
    let wire = RecommendationWire {
        recommendation_id: &id,
        user_id: subject.user.as_str(),
        score_id: score_id(subject.user, &score.positions, score.as_of_ms),
        event_time: format_time_ms(score.event_ms),
        scored_at: &scored_at,
        model_version: &score.model_version,
        items: PlaceWire::all(&scored.items, list_length, names),
        discoveries: PlaceWire::all(&scored.discoveries, list_length, names),
    };
    let payload = to_json(&wire);
    Message { payload, headers: cloud_event(id, "recommendation", subject.partition, scored_at) }
}

/// Headers of a `CloudEvent` 1.0 in Kafka's binary mode.
pub(super) fn cloud_event(id: String, what: &str, partition: PartitionId, time: String) -> Vec<(&'static str, String)> {
    vec![
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", id),
        ("ce_type", format!("dev.undercurrent.{what}.v1")),
        ("ce_source", format!("/undercurrent/partitions/{partition}")),
        ("ce_time", time),
        ("content-type", "application/json".to_owned()),
    ]
}

pub(super) fn to_json(wire: &impl Serialize) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "texts, numbers and lists: nothing that JSON cannot hold, and no I/O")]
    serde_json::to_vec(wire).expect("plain data serialises")
}
