//! Outputs as a consumer reads them: JSON from committed records.

use std::collections::BTreeMap;

use serde_json::Value;
use undercurrent::{
    event::{DAY_MS, Offset, PartitionId, Positions, View},
    stream::{OutputRecord, OutputTopic, memory::MemoryBroker},
};

/// Names of the input topics in view order.
const TOPICS: [&str; View::COUNT] = ["clicks", "searches", "purchases"];

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Score {
    pub(super) positions: Positions,
    pub(super) as_of_ms: i64,
    /// Both probabilities as they are written.
    pub(super) probabilities: [f64; 2],
}

impl Score {
    pub(super) fn bits(&self) -> [u64; 2] {
        self.probabilities.map(f64::to_bits)
    }

    /// `None` when the user's scores are taken back.
    pub(super) fn of(record: &OutputRecord) -> Option<Self> {
        record.payload.as_ref()?;
        let value = json(record);
        let number = |name: &str| value[name].as_f64().unwrap_or_else(|| panic!("SCO-1: `{name}` of {value}"));
        let positions = TOPICS.map(|topic| {
            Offset(value["input_positions"][topic].as_i64().unwrap_or_else(|| panic!("`{topic}` of {value}")))
        });
        Some(Self {
            positions: Positions(positions),
            as_of_ms: time_ms(&value["scored_at"]),
            probabilities: [number("churn_probability"), number("purchase_probability")],
        })
    }
}

/// What became of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) alert_id: String,
    pub(super) verdict: String,
    pub(super) raised_ms: i64,
    pub(super) end_ms: i64,
    pub(super) returned_ms: Option<i64>,
}

impl Settled {
    pub(super) fn of(record: &OutputRecord) -> Self {
        let value = json(record);
        let text = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("`{name}` of {value}")).to_owned();
        assert_eq!(text("outcome_id"), format!("{}-outcome", text("alert_id")));
        Self {
            alert_id: text("alert_id"),
            verdict: text("outcome"),
            raised_ms: time_ms(&value["raised_at"]),
            end_ms: time_ms(&value["horizon_ends_at"]),
            returned_ms: (!value["returned_at"].is_null()).then(|| time_ms(&value["returned_at"])),
        }
    }
}

/// What the last score of a user remembers of alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) positions: Positions,
    pub(super) alert_count: u64,
    /// Ids of open alerts, with the ends of their horizons.
    pub(super) open: BTreeMap<String, i64>,
}

impl Remembered {
    /// `None` when the user's scores are taken back.
    fn of(record: &OutputRecord) -> Option<Self> {
        let score = Score::of(record)?;
        let value = json(record);
        let open = value["alert"]["open"].as_array().cloned().unwrap_or_default();
        let end_of = |alert: &Value| time_ms(&alert["raised_at"]) + alert["churn_days"].as_i64().unwrap() * DAY_MS;
        Some(Self {
            positions: score.positions,
            alert_count: value["alert"]["alert_count"].as_u64().unwrap(),
            open: open.iter().map(|alert| (alert["alert_id"].as_str().unwrap().to_owned(), end_of(alert))).collect(),
        })
    }
}

fn time_ms(value: &Value) -> i64 {
    chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().timestamp_millis()
}

/// Alert id and transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alert {
    pub(super) id: String,
    pub(super) transition: String,
    /// Its number for its user, from 1.
    pub(super) sequence: u64,
}

impl Alert {
    pub(super) fn of(record: &OutputRecord) -> Self {
        let value = json(record);
        let text = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("`{name}` of {value}")).to_owned();
        Self { id: text("alert_id"), transition: text("transition"), sequence: value["sequence"].as_u64().unwrap() }
    }

    /// The user's level after this alert, or `None` when it may not follow `level`.
    pub(super) fn level_after(&self, level: u8) -> Option<u8> {
        match (self.transition.as_str(), level) {
            ("entered", 0) => Some(1),
            ("escalated", 1) => Some(2),
            ("recovered", 1 | 2) => Some(0),
            _ => None,
        }
    }
}

/// Where a refused record stood, and why it was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeadLetter {
    pub(super) view: usize,
    pub(super) partition: PartitionId,
    pub(super) offset: Offset,
    pub(super) reason: String,
}

impl DeadLetter {
    pub(super) fn of(record: &OutputRecord) -> Self {
        let value = json(record);
        let topic = value["topic"].as_str().unwrap();
        Self {
            view: TOPICS.iter().position(|known| *known == topic).unwrap(),
            partition: PartitionId(i32::try_from(value["partition"].as_i64().unwrap()).unwrap()),
            offset: Offset(value["offset"].as_i64().unwrap()),
            reason: value["reason"].as_str().unwrap().to_owned(),
        }
    }
}

/// The user a record is of.
pub(super) fn user_of(record: &OutputRecord) -> String {
    String::from_utf8(record.key.clone()).unwrap()
}

/// Scores of every user, oldest first; `None` where they are taken back.
pub(super) fn scores(broker: &MemoryBroker) -> BTreeMap<(PartitionId, String), Vec<Option<Score>>> {
    let mut scores: BTreeMap<_, Vec<Option<Score>>> = BTreeMap::new();
    for (partition, record) in records(broker, OutputTopic::Scores) {
        scores.entry((partition, user_of(&record))).or_default().push(Score::of(&record));
    }
    scores
}

/// Alerts of every user, oldest first.
pub(super) fn alerts(broker: &MemoryBroker) -> BTreeMap<String, Vec<Alert>> {
    let mut alerts: BTreeMap<String, Vec<Alert>> = BTreeMap::new();
    for (_, record) in records(broker, OutputTopic::ChurnAlerts) {
        alerts.entry(user_of(&record)).or_default().push(Alert::of(&record));
    }
    alerts
}

/// What became of alerts, by user, in the order in which it was told.
pub(super) fn outcomes(broker: &MemoryBroker) -> BTreeMap<String, Vec<Settled>> {
    let mut outcomes: BTreeMap<String, Vec<Settled>> = BTreeMap::new();
    for (_, record) in records(broker, OutputTopic::AlertOutcomes) {
        outcomes.entry(user_of(&record)).or_default().push(Settled::of(&record));
    }
    outcomes
}

/// What the last score of every user remembers of alerts; nobody whose scores are taken back.
pub(super) fn remembered(broker: &MemoryBroker) -> BTreeMap<(PartitionId, String), Remembered> {
    let mut last = BTreeMap::new();
    for (partition, record) in records(broker, OutputTopic::Scores) {
        let place = (partition, user_of(&record));
        match Remembered::of(&record) {
            Some(found) => _ = last.insert(place, found),
            None => _ = last.remove(&place),
        }
    }
    last
}

/// Dead letters in order of origin.
pub(super) fn dead_letters(broker: &MemoryBroker) -> Vec<DeadLetter> {
    let mut letters: Vec<_> =
        records(broker, OutputTopic::DeadLetters).map(|(_, record)| DeadLetter::of(&record)).collect();
    letters.sort();
    letters
}

/// Everything that was written, byte for byte, each topic partition in its order.
pub(super) fn everything(broker: &MemoryBroker) -> Vec<(PartitionId, OutputRecord)> {
    OutputTopic::ALL.into_iter().flat_map(|topic| records(broker, topic)).collect()
}

fn records(broker: &MemoryBroker, topic: OutputTopic) -> impl Iterator<Item = (PartitionId, OutputRecord)> {
    broker.partitions().flat_map(move |partition| {
        broker.committed_outputs(topic, partition).into_iter().map(move |record| (partition, record))
    })
}

fn json(record: &OutputRecord) -> Value {
    serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap()
}
