//! Scores, alerts, what became of them, and lists as records: JSON with the headers of a `CloudEvent` in binary mode.
//!
//! The schemas are `schemas/{score,alert,alert_outcome,recommendation}.schema.json`; tests hold the bytes against them.

use serde::Serialize;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    AlertDraft, OpenAlert, Outcome, UserScore, Verdict, alert_id,
    factor::factor_text,
    json::{Json, hexadecimal},
    reason::{ReasonWire, name_text},
};
use crate::{
    event::{DAY_MS, PartitionId, Positions, UserId, format_time_ms},
    graph::NameLookup,
    score::{ATTENTION_NAMES, Factor, RankedItem, Reason, Scored},
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
    /// When the user was erased last, milliseconds since the Unix epoch, as far as it is remembered: alerts are numbered from 1
    /// again since then.
    pub erased_ms: Option<i64>,
}

/// The id of a score: 32 hexadecimal digits, equal in every run that scores `user` at `as_of_ms` after reading the same
/// records.
pub fn score_id(user: &UserId, positions: &Positions, as_of_ms: i64) -> String {
    hexadecimal(&id_of(b"score\0", user, positions, as_of_ms).to_be_bytes())
}

pub(super) fn id_of(what: &[u8], user: &UserId, positions: &Positions, as_of_ms: i64) -> u128 {
    let mut bytes: SmallVec<[u8; 128]> = SmallVec::new();
    bytes.extend_from_slice(what);
    for offset in positions.0 {
        bytes.extend_from_slice(&offset.0.to_le_bytes());
    }
    bytes.extend_from_slice(&as_of_ms.to_le_bytes());
    bytes.extend_from_slice(user.as_str().as_bytes());
    xxh3_128(&bytes)
}

/// A factor in an alert, in words. A score has none: it is for programs, and there are many of them.
#[derive(Serialize)]
struct FactorWire<'a> {
    name: &'a str,
    value: Option<f32>,
    effect: f32,
    text: String,
}

impl<'a> FactorWire<'a> {
    fn all(scored: &'a Scored) -> Vec<Self> {
        let wire = |factor: &'a Factor| Self {
            name: &factor.name,
            value: factor.value,
            effect: factor.effect,
            text: factor_text(&factor.name, factor.value),
        };
        scored.top_factors.iter().map(wire).collect()
    }
}

/// The record of topic `scores`: compacted, key = user. Holds all of `score`, so that a restart reads it back.
///
/// Written by hand, as is the record of lists: one a scored user, these two are most of what the loop writes.
pub fn score_message(subject: Subject<'_>, score: &UserScore, scored: &Scored) -> Message {
    let id = score_id(subject.user, &score.positions, score.as_of_ms);
    let scored_at = format_time_ms(score.as_of_ms);
    let [clicks, searches, purchases] = score.positions.0.map(|offset| offset.0);
    let mut json = Json::with_capacity(896);
    json.plain("{\"score_id\":", &id);
    json.text(",\"user_id\":", subject.user.as_str());
    json.number(",\"churn_probability\":", score.churn_probability.get());
    json.number(",\"churn_days\":", score.churn_days);
    json.number(",\"purchase_probability\":", score.purchase_probability.get());
    json.number(",\"purchase_days\":", score.purchase_days);
    json.number(",\"value_at_stake_minor\":", score.value_at_stake_minor);
    json.plain(",\"event_time\":", &format_time_ms(score.event_ms));
    json.plain(",\"scored_at\":", &scored_at);
    json.text(",\"model_version\":", &score.model_version);
    json.number(",\"input_positions\":{\"partition\":", subject.partition.0);
    json.number(",\"clicks\":", clicks);
    json.number(",\"searches\":", searches);
    json.number(",\"purchases\":", purchases);
    json.raw("},\"view_attention\":{");
    for (place, (name, weight)) in ATTENTION_NAMES.iter().zip(&score.attention).enumerate() {
        json.plain(if place == 0 { "" } else { "," }, name);
        json.number(":", *weight);
    }
    json.raw("},\"top_factors\":[");
    for (place, Factor { name, value, effect }) in scored.top_factors.iter().enumerate() {
        json.text(if place == 0 { "{\"name\":" } else { ",{\"name\":" }, name);
        json.number(",\"value\":", *value);
        json.number(",\"effect\":", *effect);
        json.raw("}");
    }
    json.plain("],\"alert\":{\"level\":", score.alert.level.name());
    json.number(",\"alert_count\":", score.alert.alert_count);
    match score.alert.last_alert_ms {
        Some(time_ms) => json.plain(",\"last_alert_at\":", &format_time_ms(time_ms)),
        None => json.raw(",\"last_alert_at\":null"),
    }
    open_alerts(&mut json, &score.open_alerts);
    json.plain("},\"recommendations_hash\":", &hexadecimal(&score.lists_hash.to_be_bytes()));
    json.raw("}");
    Message { payload: json.into_bytes(), headers: cloud_event(id, Kind::Score, subject.partition, scored_at) }
}

/// The alerts that are open still; nothing where there is none, as for nearly everyone.
fn open_alerts(json: &mut Json, open: &[OpenAlert]) {
    for (place, alert) in open.iter().enumerate() {
        let start = if place == 0 { ",\"open\":[{\"alert_id\":" } else { ",{\"alert_id\":" };
        json.plain(start, &hexadecimal(&alert.id.to_be_bytes()));
        json.plain(",\"transition\":", alert.transition.name());
        json.plain(",\"level\":", alert.level.name());
        json.plain(",\"raised_at\":", &format_time_ms(alert.raised_ms));
        json.number(",\"churn_probability\":", alert.churn_probability.get());
        json.number(",\"churn_days\":", alert.churn_days);
        json.text(",\"model_version\":", &alert.model_version);
        json.number(",\"last_activity_at\":", alert.last_activity_ms.map(format_time_ms));
        json.number(",\"returned_at\":", alert.returned_ms.map(format_time_ms));
        json.raw(if place + 1 == open.len() { "}]" } else { "}" });
    }
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
    let id = alert_id(subject, alert.sequence, score.as_of_ms);
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
    Message { payload, headers: cloud_event(id, Kind::ChurnAlert, subject.partition, raised_at) }
}

#[derive(Serialize)]
struct OutcomeWire<'a> {
    outcome_id: &'a str,
    alert_id: &'a str,
    user_id: &'a str,
    outcome: &'static str,
    transition: &'static str,
    level: &'static str,
    churn_probability: f32,
    churn_days: u32,
    model_version: &'a str,
    last_activity_at: Option<String>,
    raised_at: String,
    horizon_ends_at: String,
    settled_at: &'a str,
    returned_at: Option<String>,
    days_silent: Option<f64>,
    days_of_warning: Option<f64>,
    days_to_return: Option<f64>,
}

/// The record of topic `alert-outcomes`: key = user; one an alert that entered or escalated.
pub fn outcome_message(subject: Subject<'_>, outcome: &Outcome) -> Message {
    let Outcome { alert, verdict, settled_ms } = outcome;
    let alert_id = hexadecimal(&alert.id.to_be_bytes());
    let id = format!("{alert_id}-outcome");
    let settled_at = format_time_ms(*settled_ms);
    let days_silent = alert.last_activity_ms.map(|last_ms| days(alert.raised_ms - last_ms));
    let right = *verdict == Verdict::Right;
    let wire = OutcomeWire {
        outcome_id: &id,
        alert_id: &alert_id,
        user_id: subject.user.as_str(),
        outcome: verdict.name(),
        transition: alert.transition.name(),
        level: alert.level.name(),
        churn_probability: alert.churn_probability.get(),
        churn_days: alert.churn_days,
        model_version: &alert.model_version,
        last_activity_at: alert.last_activity_ms.map(format_time_ms),
        raised_at: format_time_ms(alert.raised_ms),
        horizon_ends_at: format_time_ms(alert.end_ms()),
        settled_at: &settled_at,
        returned_at: alert.returned_ms.map(format_time_ms),
        days_silent,
        days_of_warning: days_silent.filter(|_| right).map(|silent| (f64::from(alert.churn_days) - silent).max(0.0)),
        days_to_return: alert.returned_ms.map(|returned_ms| days(returned_ms - alert.raised_ms)),
    };
    let payload = to_json(&wire);
    Message { payload, headers: cloud_event(id, Kind::AlertOutcome, subject.partition, settled_at) }
}

#[expect(clippy::cast_precision_loss, reason = "times of this age, to the millisecond")]
fn days(milliseconds: i64) -> f64 {
    milliseconds as f64 / DAY_MS as f64
}

/// The record of topic `recommendations`: key = user; written when one of the lists changed.
pub fn recommendation_message(
    subject: Subject<'_>,
    score: &UserScore,
    scored: &Scored,
    list_length: usize,
    names: &dyn NameLookup,
) -> Message {
    let id = hexadecimal(&id_of(b"recommendation\0", subject.user, &score.positions, score.as_of_ms).to_be_bytes());
    let scored_at = format_time_ms(score.as_of_ms);
    let mut json = Json::with_capacity(512 + 64 * (scored.items.len() + scored.discoveries.len()));
    json.plain("{\"recommendation_id\":", &id);
    json.text(",\"user_id\":", subject.user.as_str());
    json.plain(",\"score_id\":", &score_id(subject.user, &score.positions, score.as_of_ms));
    json.plain(",\"event_time\":", &format_time_ms(score.event_ms));
    json.plain(",\"scored_at\":", &scored_at);
    json.text(",\"model_version\":", &score.model_version);
    for (start, list) in [(",\"items\":[", &scored.items), ("],\"discoveries\":[", &scored.discoveries)] {
        json.raw(start);
        for (place, RankedItem { item, score, reason }) in list.iter().take(list_length).enumerate() {
            let start = if place == 0 { "{\"item_id\":" } else { ",{\"item_id\":" };
            match names.text(*item) {
                Some(text) => json.text(start, &text),
                None => json.text(start, &name_text(names, *item)),
            }
            json.number(",\"score\":", *score);
            json.plain(",\"reason\":", reason.name());
            json.raw("}");
        }
    }
    json.raw("]}");
    Message { payload: json.into_bytes(), headers: cloud_event(id, Kind::Recommendation, subject.partition, scored_at) }
}

/// What a record is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Score,
    ChurnAlert,
    AlertOutcome,
    Recommendation,
    DeadLetter,
    ShadowScore,
}

/// Headers of a `CloudEvent` 1.0 in Kafka's binary mode.
pub(super) fn cloud_event(id: String, kind: Kind, partition: PartitionId, time: String) -> Vec<(&'static str, String)> {
    let kind = match kind {
        Kind::Score => "dev.undercurrent.score.v1",
        Kind::ChurnAlert => "dev.undercurrent.churn_alert.v1",
        Kind::AlertOutcome => "dev.undercurrent.alert_outcome.v1",
        Kind::Recommendation => "dev.undercurrent.recommendation.v1",
        Kind::DeadLetter => "dev.undercurrent.dead_letter.v1",
        Kind::ShadowScore => "dev.undercurrent.shadow_score.v1",
    };
    vec![
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", id),
        ("ce_type", kind.to_owned()),
        ("ce_source", format!("/undercurrent/partitions/{partition}")),
        ("ce_time", time),
        ("content-type", "application/json".to_owned()),
    ]
}

pub(super) fn to_json(wire: &impl Serialize) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "texts, numbers and lists: nothing that JSON cannot hold, and no I/O")]
    serde_json::to_vec(wire).expect("plain data serialises")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        decision::{AlertState, RiskLevel},
        event::{NameHash, Offset},
        score::{ItemReason, ModelInfo, Probability},
    };

    struct Known;

    impl NameLookup for Known {
        fn text(&self, name: NameHash) -> Option<Arc<str>> {
            (!name.0.is_multiple_of(3)).then(|| Arc::from(format!("item \"{}\"", name.0)))
        }
    }

    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![Just(0.0_f32), 0.0_f32..1.0, any::<f32>().prop_filter("finite", |value| value.is_finite())]
    }

    fn inputs() -> impl Strategy<Value = (String, UserScore, Scored)> {
        let factor = (".{0,8}", prop::option::of(number()), number()).prop_map(|(name, value, effect)| Factor {
            name: Arc::from(name),
            value,
            effect,
        });
        let item = (0_u64..1 << 48, number(), 0..5_usize).prop_map(|(item, score, reason)| {
            use ItemReason::{Category, Habit, Model, Neighbours, Popularity};
            let reason = [Habit, Neighbours, Category, Popularity, Model][reason];
            RankedItem { item: NameHash(item), score, reason }
        });
        let list = prop::collection::vec(item, 0..6);
        (
            (".{0,20}", ".{0,8}"),
            (0.0_f32..=1.0, 0.0_f32..=1.0, any::<u64>(), prop::array::uniform6(number()), any::<u64>()),
            (0_i64..4_102_444_800_000, 0_i64..4_102_444_800_000, prop::array::uniform3(any::<i64>())),
            (0..3_usize, any::<u32>(), prop::option::of(0_i64..4_102_444_800_000)),
            prop::collection::vec(factor, 0..4),
            prop::array::uniform2(list),
        )
            .prop_map(
                |(
                    (user, version),
                    numbers,
                    (as_of_ms, event_ms, positions),
                    alert,
                    top_factors,
                    [items, discoveries],
                )| {
                    let (churn, purchase, value_at_stake_minor, attention, lists_hash) = numbers;
                    let version: Arc<str> = Arc::from(version);
                    let (churn, purchase) = (Probability::clamped(churn), Probability::clamped(purchase));
                    let model = ModelInfo {
                        version: Arc::clone(&version),
                        churn_days: 30,
                        purchase_days: 7,
                        churn_threshold: churn,
                    };
                    let score = UserScore {
                        churn_probability: churn,
                        purchase_probability: purchase,
                        churn_days: 30,
                        purchase_days: 7,
                        value_at_stake_minor,
                        attention,
                        as_of_ms,
                        event_ms,
                        positions: Positions(positions.map(Offset)),
                        lists_hash,
                        alert: AlertState {
                            level: RiskLevel::ALL[alert.0],
                            alert_count: alert.1,
                            last_alert_ms: alert.2,
                        },
                        open_alerts: Box::default(),
                        model_version: version,
                    };
                    let scored = Scored {
                        churn_probability: churn,
                        purchase_probability: purchase,
                        attention,
                        top_factors,
                        value_at_stake_minor,
                        items,
                        discoveries,
                        model: Arc::new(model),
                    };
                    (user, score, scored)
                },
            )
    }

    /// The number that the shortest digits of a single-precision one read back as.
    fn digits(number: f32) -> Value {
        serde_json::from_str(&serde_json::to_string(&number).unwrap()).unwrap()
    }

    fn places(list: &[RankedItem]) -> Vec<Value> {
        list.iter()
            .take(4)
            .map(|place| {
                json!({"item_id": name_text(&Known, place.item), "score": digits(place.score), "reason": place.reason.name()})
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_is_written_by_hand_is_what_serde_writes((user, score, scored) in inputs()) {
            let user = UserId::new(&user);
            let subject = Subject { user: &user, partition: PartitionId(7), erased_ms: None };
            let [clicks, searches, purchases] = score.positions.0.map(|offset| offset.0);
            let attention: serde_json::Map<String, Value> =
                ATTENTION_NAMES.iter().zip(score.attention).map(|(name, weight)| ((*name).to_owned(), digits(weight))).collect();
            let score_id = format!("{:032x}", id_of(b"score\0", &user, &score.positions, score.as_of_ms));
            let expected = json!({
                "score_id": score_id,
                "user_id": user.as_str(),
                "churn_probability": digits(score.churn_probability.get()),
                "churn_days": 30,
                "purchase_probability": digits(score.purchase_probability.get()),
                "purchase_days": 7,
                "value_at_stake_minor": score.value_at_stake_minor,
                "event_time": format_time_ms(score.event_ms),
                "scored_at": format_time_ms(score.as_of_ms),
                "model_version": &*score.model_version,
                "input_positions": {"partition": 7, "clicks": clicks, "searches": searches, "purchases": purchases},
                "view_attention": attention,
                "top_factors": scored.top_factors.iter().map(|factor| json!({
                    "name": &*factor.name, "value": factor.value.map(digits), "effect": digits(factor.effect),
                })).collect::<Vec<_>>(),
                "alert": {
                    "level": score.alert.level.name(),
                    "alert_count": score.alert.alert_count,
                    "last_alert_at": score.alert.last_alert_ms.map(format_time_ms),
                },
                "recommendations_hash": format!("{:016x}", score.lists_hash),
            });
            let read = |payload: &[u8]| serde_json::from_slice::<Value>(payload).expect("it is JSON");
            let message = score_message(subject, &score, &scored);
            prop_assert_eq!(read(&message.payload), expected);
            prop_assert_eq!(&message.headers[1].1, &score_id);

            let expected = json!({
                "recommendation_id":
                    format!("{:032x}", id_of(b"recommendation\0", &user, &score.positions, score.as_of_ms)),
                "user_id": user.as_str(),
                "score_id": score_id,
                "event_time": format_time_ms(score.event_ms),
                "scored_at": format_time_ms(score.as_of_ms),
                "model_version": &*score.model_version,
                "items": places(&scored.items),
                "discoveries": places(&scored.discoveries),
            });
            let message = recommendation_message(subject, &score, &scored, 4, &Known);
            prop_assert_eq!(read(&message.payload), expected);
        }
    }
}
