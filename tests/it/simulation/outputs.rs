//! Outputs as a consumer reads them: JSON from committed records.

use std::collections::BTreeMap;

use serde_json::Value;
use undercurrent::{
    event::{Offset, PartitionId, Positions},
    stream::{OutputRecord, OutputTopic, memory::MemoryBroker},
};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Score {
    pub(super) positions: Positions,
    pub(super) as_of_ms: i64,
    /// Bits of both probabilities as they are written.
    pub(super) bits: [u64; 2],
}

/// Scores of every user, oldest first.
pub(super) fn scores(broker: &MemoryBroker) -> BTreeMap<(PartitionId, String), Vec<Score>> {
    let mut scores: BTreeMap<_, Vec<Score>> = BTreeMap::new();
    for (partition, record) in records(broker, OutputTopic::Scores) {
        let user = String::from_utf8(record.key.clone()).unwrap();
        let value = json(&record);
        let number = |name: &str| value[name].as_f64().unwrap_or_else(|| panic!("`{name}` of {value}")).to_bits();
        let positions = ["clicks", "searches", "purchases"].map(|topic| {
            Offset(value["input_positions"][topic].as_i64().unwrap_or_else(|| panic!("`{topic}` of {value}")))
        });
        let scored_at = chrono::DateTime::parse_from_rfc3339(value["scored_at"].as_str().unwrap()).unwrap();
        scores.entry((partition, user)).or_default().push(Score {
            positions: Positions(positions),
            as_of_ms: scored_at.timestamp_millis(),
            bits: [number("churn_probability"), number("purchase_probability")],
        });
    }
    scores
}

/// Alert id and transition of every alert, by user, oldest first.
pub(super) fn alerts(broker: &MemoryBroker) -> BTreeMap<String, Vec<(String, String)>> {
    let mut alerts: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (_, record) in records(broker, OutputTopic::ChurnAlerts) {
        let user = String::from_utf8(record.key.clone()).unwrap();
        let value = json(&record);
        let text = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("`{name}` of {value}")).to_owned();
        alerts.entry(user).or_default().push((text("alert_id"), text("transition")));
    }
    alerts
}

/// Origin and reason of every dead letter, in order of origin.
pub(super) fn dead_letters(broker: &MemoryBroker) -> Vec<((String, i64, i64), String)> {
    let mut letters: Vec<_> = records(broker, OutputTopic::DeadLetters)
        .map(|(_, record)| {
            let value = json(&record);
            let topic = value["topic"].as_str().unwrap().to_owned();
            let origin = (topic, value["partition"].as_i64().unwrap(), value["offset"].as_i64().unwrap());
            (origin, value["reason"].as_str().unwrap().to_owned())
        })
        .collect();
    letters.sort();
    letters
}

fn records(broker: &MemoryBroker, topic: OutputTopic) -> impl Iterator<Item = (PartitionId, OutputRecord)> {
    broker.partitions().flat_map(move |partition| {
        broker.committed_outputs(topic, partition).into_iter().map(move |record| (partition, record))
    })
}

fn json(record: &OutputRecord) -> Value {
    serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap()
}
