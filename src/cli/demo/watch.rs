//! Reads what the daemon commits while it runs: alerts to print, lists and risks to settle later.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::settle::{ListSeen, RiskSpan, Said};
use crate::{
    cli::output,
    event::{NameHash, NameKind, Offset, PartitionId},
    stream::{OutputTopic, embedded::EmbeddedLog},
};

/// Records taken at once.
const PAGE_RECORDS: usize = 2_000;

/// The fields of an output record that are settled later. The rest of the record is for others.
#[derive(Debug, Deserialize)]
struct AlertFields {
    user_id: String,
    transition: String,
    raised_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
struct ListFields {
    user_id: String,
    scored_at: DateTime<Utc>,
    items: Vec<ItemField>,
    discoveries: Vec<ItemField>,
}

#[derive(Debug, Deserialize)]
struct ItemField {
    item_id: String,
}

/// Follows the outputs of all partitions.
pub(super) struct Watch {
    log: Arc<EmbeddedLog>,
    /// Event time from which scores are given; what is dated before it is neither shown nor counted.
    start_ms: i64,
    places: Vec<(OutputTopic, PartitionId, Offset)>,
    /// What was said of each user so far.
    pub(super) said: HashMap<String, Said>,
    /// Alerts by transition, in the order entered, escalated, recovered.
    pub(super) transitions: [u64; 3],
    /// Alerts printed.
    pub(super) printed: u64,
}

/// The order of [`Watch::transitions`].
pub(super) const TRANSITIONS: [&str; 3] = ["entered", "escalated", "recovered"];

impl Watch {
    pub(super) fn new(log: Arc<EmbeddedLog>, start_ms: i64) -> Self {
        let places = [OutputTopic::ChurnAlerts, OutputTopic::Recommendations]
            .into_iter()
            .flat_map(|topic| log.partitions().map(move |partition| (topic, partition, Offset(0))))
            .collect();
        Self { log, start_ms, places, said: HashMap::new(), transitions: [0; 3], printed: 0 }
    }

    /// Takes in everything committed since the last time and returns readable lines of the alerts among it, recoveries last.
    pub(super) fn take(&mut self) -> anyhow::Result<Vec<String>> {
        let mut lines: [Vec<String>; TRANSITIONS.len()] = Default::default();
        for place in 0..self.places.len() {
            loop {
                let (topic, partition, next) = self.places[place];
                let records = self.log.read_outputs(topic, partition, next, PAGE_RECORDS)?;
                let Some(last) = records.last() else { break };
                self.places[place].2 = Offset(last.offset.0 + 1);
                for payload in records.iter().filter_map(|record| record.payload.as_deref()) {
                    match topic {
                        OutputTopic::ChurnAlerts => {
                            if let Some(place) = self.alert(payload)? {
                                lines[place].push(output::record(topic, &String::from_utf8_lossy(payload)));
                            }
                        }
                        _ => self.list(payload)?,
                    }
                }
            }
        }
        Ok(lines.concat())
    }

    /// The alert's place in [`TRANSITIONS`], when it belongs to the stream.
    fn alert(&mut self, payload: &[u8]) -> anyhow::Result<Option<usize>> {
        let alert: AlertFields = serde_json::from_slice(payload)?;
        let time_ms = alert.raised_at.timestamp_millis();
        let risks = &mut self.said.entry(alert.user_id).or_default().risks;
        match alert.transition.as_str() {
            "entered" => risks.push(RiskSpan { entered_ms: time_ms, recovered_ms: None }),
            "recovered" => {
                if let Some(risk) = risks.last_mut() {
                    risk.recovered_ms = Some(time_ms);
                }
            }
            _ => {}
        }
        let place = TRANSITIONS.iter().position(|name| *name == alert.transition);
        let place = place.filter(|_| time_ms >= self.start_ms);
        if let Some(place) = place {
            self.transitions[place] += 1;
        }
        Ok(place)
    }

    fn list(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let list: ListFields = serde_json::from_slice(payload)?;
        let hashes =
            |items: &[ItemField]| items.iter().map(|item| NameHash::of(NameKind::Item, &item.item_id)).collect();
        self.said.entry(list.user_id).or_default().lists.push(ListSeen {
            time_ms: list.scored_at.timestamp_millis(),
            items: hashes(&list.items),
            discoveries: hashes(&list.discoveries),
        });
        Ok(())
    }
}
