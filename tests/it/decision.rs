//! Outputs against their schemas, and scores read back.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;
use undercurrent::{
    decision::{
        DeadLetter, Decision, DecisionParams, Message, Standing, Subject, UserScore, Verdict, alert_message,
        dead_letter_message, decide, outcome_message, recommendation_message, restore_score, score_message,
        shadow_message,
    },
    event::{Event, EventKind, NameHash, NameKind, Offset, Origin, PartitionId, Positions, UserId, View},
    graph::{GraphParams, NameLookup, UserGraph},
    score::{Evidence, Factor, ItemReason, ModelInfo, Probability, RankedItem, Reason, Scored},
};

const DAY_MS: i64 = 86_400_000;
const START_MS: i64 = 1_700_000_000_123;

struct Texts(HashMap<NameHash, Arc<str>>);

impl NameLookup for Texts {
    fn text(&self, name: NameHash) -> Option<Arc<str>> {
        self.0.get(&name).cloned()
    }
}

fn texts() -> Texts {
    let texts = ["tea", "milk", "cup"].map(|text| (NameHash::of(NameKind::Item, text), Arc::from(text)));
    Texts(texts.into())
}

fn item(text: &str) -> NameHash {
    NameHash::of(NameKind::Item, text)
}

fn scored(churn: f32) -> Scored {
    let place = |text, reason| RankedItem { item: item(text), score: 0.75, reason };
    Scored {
        churn_probability: Probability::new(churn).unwrap(),
        purchase_probability: Probability::new(0.1).unwrap(),
        attention: [0.1, 0.2, 0.3, 0.15, 0.15, 0.1],
        top_factors: vec![
            Factor { name: "activity_recency_days".into(), value: Some(31.25), effect: 1.5 },
            Factor { name: "spend_8w".into(), value: None, effect: -0.25 },
        ],
        value_at_stake_minor: 12_345,
        items: vec![place("tea", ItemReason::Habit), place("milk", ItemReason::Popularity)],
        discoveries: vec![place("cup", ItemReason::Model)],
        model: Arc::new(ModelInfo {
            version: "2024-03-01-a".into(),
            churn_days: 30,
            purchase_days: 14,
            churn_threshold: Probability::new(0.6).unwrap(),
        }),
    }
}

fn graph() -> UserGraph {
    let mut graph = UserGraph::default();
    let event = Event {
        user: "u1".into(),
        kind: EventKind::View,
        time_ms: START_MS,
        event_id: 1,
        session: None,
        query: None,
        lines: [].into_iter().collect(),
    };
    graph.view_mut(View::Click).fold(&event, &GraphParams::default());
    graph
}

fn decide_at(previous: Option<&UserScore>, scored: &Scored, day: i64) -> Decision {
    let positions = Positions([Offset(7 + day), Offset(0), Offset(1 << 40)]);
    let as_of_ms = START_MS + day * DAY_MS;
    let standing = Standing { positions, watermark_ms: as_of_ms, settle_ms: as_of_ms };
    let user = UserId::new("u1");
    decide(subject(&user), previous, scored, &graph(), as_of_ms, standing, &DecisionParams::default())
}

fn subject(user: &UserId) -> Subject<'_> {
    Subject { user, partition: PartitionId(3), erased_ms: None }
}

/// Holds a message against its schema and the CloudEvents rules; gives back the payload.
fn check(message: &Message, schema: &str, id_field: &str) -> Value {
    let schema: Value = serde_json::from_str(schema).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let payload: Value = serde_json::from_slice(&message.payload).unwrap();
    let errors: Vec<String> = validator.iter_errors(&payload).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{payload:#}\n{errors:?}");
    for field in schema["required"].as_array().unwrap() {
        let mut without = payload.clone();
        without.as_object_mut().unwrap().remove(field.as_str().unwrap());
        assert!(!validator.is_valid(&without), "the schema must ask for {field}");
    }
    let mut with_more = payload.clone();
    with_more["surprise"] = Value::from(1);
    assert!(!validator.is_valid(&with_more), "the schema names every field");
    let header = |name: &str| {
        message.headers.iter().find(|(header, _)| *header == name).unwrap_or_else(|| panic!("no {name}")).1.as_str()
    };
    assert_eq!(header("ce_specversion"), "1.0");
    assert_eq!(header("ce_id"), payload[id_field]);
    assert_eq!(header("ce_source"), "/undercurrent/partitions/3");
    assert!(header("ce_type").starts_with("dev.undercurrent."));
    assert!(header("ce_time").ends_with('Z'));
    assert_eq!(header("content-type"), "application/json");
    payload
}

const SCORE_SCHEMA: &str = include_str!("../../schemas/score.schema.json");
const ALERT_SCHEMA: &str = include_str!("../../schemas/alert.schema.json");
const OUTCOME_SCHEMA: &str = include_str!("../../schemas/alert_outcome.schema.json");
const RECOMMENDATION_SCHEMA: &str = include_str!("../../schemas/recommendation.schema.json");
const SHADOW_SCHEMA: &str = include_str!("../../schemas/shadow_score.schema.json");
const DEAD_LETTER_SCHEMA: &str = include_str!("../../schemas/dead_letter.schema.json");

#[test]
fn a_score_matches_its_schema_and_is_read_back() {
    let user = UserId::new("u1");
    let calm = scored(0.123_456_79);
    let at_risk = scored(0.9);
    let first = decide_at(None, &calm, 0).score;
    let second = decide_at(Some(&first), &at_risk, 40).score;
    for (score, scored, level) in [(&first, &calm, "calm"), (&second, &at_risk, "high_risk")] {
        let message = score_message(subject(&user), score, scored);
        let payload = check(&message, SCORE_SCHEMA, "score_id");
        assert_eq!(payload["alert"]["level"], level);
        assert_eq!(restore_score(&message.payload).unwrap(), *score);
    }
    let (first, second) =
        (score_message(subject(&user), &first, &calm), score_message(subject(&user), &second, &at_risk));
    assert_ne!(first.headers, second.headers, "two scores have two ids");
}

#[test]
fn a_damaged_score_is_refused_by_field() {
    let user = UserId::new("u1");
    let scored = scored(0.5);
    let message = score_message(subject(&user), &decide_at(None, &scored, 0).score, &scored);
    let payload: Value = serde_json::from_slice(&message.payload).unwrap();
    for (path, value, expected) in [
        ("/churn_probability", Value::from(1.5), "churn_probability"),
        ("/alert/level", Value::from("lost"), "alert.level"),
        ("/alert/open", serde_json::json!([{"alert_id": "x"}]), "not a score"),
        ("/scored_at", Value::from("yesterday"), "scored_at"),
        ("/recommendations_hash", Value::from("xyz"), "recommendations_hash"),
        ("/view_attention", serde_json::json!({"context": 1.0}), "view_attention"),
        ("/input_positions", Value::Null, "not a score"),
    ] {
        let mut damaged = payload.clone();
        let (parent, name) = path.rsplit_once('/').unwrap();
        damaged.pointer_mut(parent).unwrap()[name] = value;
        let error = restore_score(damaged.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{path}: {error}");
    }
}

#[test]
fn an_alert_matches_its_schema_and_names_its_reasons() {
    let user = UserId::new("u1");
    let scored = scored(0.9);
    let decision = decide_at(None, &scored, 40);
    let alert = decision.alert.unwrap();
    let reasons = [
        Reason {
            evidence: Evidence::Event { kind: EventKind::Purchase, time_ms: START_MS, name: Some(item("tea")) },
            effect: 0.5,
        },
        Reason { evidence: Evidence::Event { kind: EventKind::Other, time_ms: START_MS, name: None }, effect: 0.4 },
        Reason {
            evidence: Evidence::Edge { view: View::Click, from: item("milk"), to: item("nobody knows"), count: 3 },
            effect: -0.25,
        },
        Reason { evidence: Evidence::Feature { name: "activity_recency".into(), value: 40.5 }, effect: 0.125 },
    ];
    let message = alert_message(subject(&user), &alert, &decision.score, &scored, &reasons, &texts());
    let payload = check(&message, ALERT_SCHEMA, "alert_id");
    let text = |place: usize| payload["reasons"][place]["text"].as_str().unwrap().to_owned();
    assert_eq!(text(0), "bought tea on 2023-11-14 (40 days before)");
    assert_eq!(text(1), "had an event with something on 2023-11-14 (40 days before)");
    assert!(text(2).starts_with("went from milk to #") && text(2).ends_with(" 3 times"), "{}", text(2));
    assert_eq!(text(3), "last was active 40.5 days ago");
    assert_eq!((&payload["transition"], &payload["level"]), (&Value::from("entered"), &Value::from("high_risk")));
    assert_eq!(payload["sequence"], 1);
}

#[test]
fn an_alert_is_open_until_its_horizon_has_passed_and_then_told_once() {
    let user = UserId::new("u1");
    let (scored, subject) = (scored(0.9), subject(&user));
    let raised = decide_at(None, &scored, 10);
    let alert = raised.alert.unwrap();
    let alert = alert_message(subject, &alert, &raised.score, &scored, &[], &texts());
    let alert: Value = serde_json::from_slice(&alert.payload).unwrap();
    let open = &check(&score_message(subject, &raised.score, &scored), SCORE_SCHEMA, "score_id")["alert"]["open"];
    assert_eq!((&open[0]["alert_id"], open.as_array().unwrap().len()), (&alert["alert_id"], 1));

    let waiting = decide_at(Some(&raised.score), &scored, 39);
    assert!(waiting.outcomes.is_empty());
    let settled = decide_at(Some(&waiting.score), &scored, 40);
    assert!(settled.score.open_alerts.is_empty());
    assert_eq!(settled.outcomes[0].verdict, Verdict::Right);
    let payload = check(&outcome_message(subject, &settled.outcomes[0]), OUTCOME_SCHEMA, "outcome_id");
    for name in ["alert_id", "raised_at", "churn_probability", "model_version", "transition", "level"] {
        assert_eq!(payload[name], alert[name], "{name}");
    }
    assert_eq!((&payload["outcome"], &payload["returned_at"]), (&Value::from("right"), &Value::Null));
    assert_eq!((&payload["days_silent"], &payload["days_of_warning"]), (&Value::from(10.0), &Value::from(20.0)));
    assert!(decide_at(Some(&settled.score), &scored, 90).outcomes.is_empty(), "told once");

    let mut back = settled.outcomes[0].clone();
    back.verdict = Verdict::Wrong;
    back.alert.returned_ms = Some(back.alert.raised_ms + 3 * DAY_MS);
    let payload = check(&outcome_message(subject, &back), OUTCOME_SCHEMA, "outcome_id");
    assert_eq!((&payload["days_of_warning"], &payload["days_to_return"]), (&Value::Null, &Value::from(3.0)));
}

#[test]
fn a_score_without_open_alerts_is_read_as_ever() {
    let user = UserId::new("u1");
    let scored = scored(0.9);
    let raised = decide_at(None, &scored, 10).score;
    let message = score_message(subject(&user), &raised, &scored);
    let mut older: Value = serde_json::from_slice(&message.payload).unwrap();
    older["alert"].as_object_mut().unwrap().remove("open").unwrap();
    let restored = restore_score(older.to_string().as_bytes()).unwrap();
    assert!(restored.open_alerts.is_empty());
    assert_eq!(restored.alert, raised.alert);
}

#[test]
fn lists_match_their_schema_and_are_written_when_they_change() {
    let user = UserId::new("u1");
    let mut scored = scored(0.2);
    let first = decide_at(None, &scored, 0);
    assert!(first.recommendations_changed);
    let message = recommendation_message(subject(&user), &first.score, &scored, 1, &texts());
    let payload = check(&message, RECOMMENDATION_SCHEMA, "recommendation_id");
    assert_eq!(payload["items"], serde_json::json!([{"item_id": "tea", "score": 0.75, "reason": "habit"}]));
    assert_eq!(payload["discoveries"][0]["item_id"], "cup");

    scored.items[0].score = 0.5;
    let second = decide_at(Some(&first.score), &scored, 1);
    assert!(!second.recommendations_changed, "ranking scores alone are no change");
    scored.items.swap(0, 1);
    assert!(decide_at(Some(&second.score), &scored, 2).recommendations_changed);
}

#[test]
fn a_shadow_score_matches_its_schema_and_is_no_score() {
    let user = UserId::new("u1");
    let (champion, mut challenger) = (scored(0.2), scored(0.9));
    challenger.model = Arc::new(ModelInfo { version: "2024-04-01-b".into(), ..(*challenger.model).clone() });
    challenger.items.swap(0, 1);
    let score = decide_at(None, &champion, 0).score;
    let message = shadow_message(subject(&user), &score, &champion, &challenger, 20);
    let payload = check(&message, SHADOW_SCHEMA, "shadow_id");
    let of_score = check(&score_message(subject(&user), &score, &champion), SCORE_SCHEMA, "score_id");
    assert_eq!(payload["score_id"], of_score["score_id"]);
    assert_ne!(payload["shadow_id"], of_score["score_id"]);
    assert_eq!(payload["champion"]["churn_probability"], of_score["churn_probability"]);
    assert_eq!(payload["challenger"]["model_version"], "2024-04-01-b");
    assert_eq!(
        (&payload["shared_items_ratio"], &payload["shared_discoveries_ratio"]),
        (&Value::from(1.0), &Value::from(1.0))
    );
    assert!(restore_score(&message.payload).is_err(), "nothing takes it for a score");
    // Only the first place of each list: tea against milk.
    let first = shadow_message(subject(&user), &score, &champion, &challenger, 1);
    assert_eq!(serde_json::from_slice::<Value>(&first.payload).unwrap()["shared_items_ratio"], 0.0);
}

#[test]
fn dead_letters_keep_every_byte() {
    let origin = Origin { view: View::Search, partition: PartitionId(3), offset: Offset(42) };
    let letter = DeadLetter {
        first: None,
        topic: "searches",
        origin,
        timestamp_ms: START_MS,
        key: Some(b"u1"),
        payload: Some(b"{\"event\":"),
        reason: "invalid_json",
        field: "record",
        message: "EOF while parsing a value at line 1 column 9",
    };
    let message = dead_letter_message(&letter);
    let payload = check(&message, DEAD_LETTER_SCHEMA, "dead_letter_id");
    assert_eq!(payload["payload"], "{\"event\":");
    let header = |name| message.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str());
    assert_eq!(header("__connect.errors.topic"), Some("searches"));
    assert_eq!(header("__connect.errors.partition"), Some("3"));
    assert_eq!(header("__connect.errors.offset"), Some("42"));
    assert_eq!(header("__connect.errors.exception.class.name"), Some("invalid_json"));

    let binary = dead_letter_message(&DeadLetter { key: None, payload: Some(&[0xFF, 0xFE, 0xFD]), ..letter });
    let payload = check(&binary, DEAD_LETTER_SCHEMA, "dead_letter_id");
    assert_eq!((&payload["key"], &payload["payload_base64"]), (&Value::Null, &Value::from("//79")));
    assert_eq!(payload.get("payload"), None);

    let tombstone = dead_letter_message(&DeadLetter { payload: None, key: Some(&[0xFF]), ..letter });
    let payload = check(&tombstone, DEAD_LETTER_SCHEMA, "dead_letter_id");
    assert_eq!((&payload["payload"], &payload["key_base64"]), (&Value::Null, &Value::from("/w==")));
}
