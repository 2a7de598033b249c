//! How far the input logs go beyond what was read, from librdkafka's own statistics.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Deserialize;

use crate::event::{Offset, PartitionId, Positions, View};

/// Ends of the assigned input partitions. Written by the stream thread while it polls, read by metrics and the API.
#[derive(Debug, Default)]
pub struct LagTable {
    /// Replaced as a whole every `lag_interval_ms`; held for a copy only.
    ends: Mutex<BTreeMap<(PartitionId, View), Offset>>,
    /// Whether no broker was connected when the client last looked. Same rules.
    is_cut_off: AtomicBool,
}

impl LagTable {
    /// The newest known end (exclusive, committed records only) of each assigned input partition.
    pub fn ends(&self) -> BTreeMap<(PartitionId, View), Offset> {
        self.ends.lock().map(|ends| ends.clone()).unwrap_or_default()
    }

    /// The ends of one partition, if all of its topics have been heard of.
    pub(super) fn ends_of(&self, partition: PartitionId) -> Option<Positions> {
        let known = self.ends.lock().ok()?;
        let mut ends = Positions::default();
        for view in View::ALL {
            ends.set(view, *known.get(&(partition, view))?);
        }
        Some(ends)
    }

    /// Whether no broker is connected, as far as is known.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::Relaxed)
    }

    /// Takes librdkafka's statistics document.
    pub(super) fn update(&self, statistics: &[u8], view_of: impl Fn(&str) -> Option<View>) -> serde_json::Result<()> {
        let statistics: Statistics = serde_json::from_slice(statistics)?;
        let mut ends = BTreeMap::new();
        for (name, topic) in &statistics.topics {
            let Some(view) = view_of(name) else { continue };
            for partition in topic.partitions.values() {
                if partition.fetch_state == "active" && partition.ls_offset >= 0 {
                    ends.insert((PartitionId(partition.partition), view), Offset(partition.ls_offset));
                }
            }
        }
        if let Ok(mut current) = self.ends.lock() {
            *current = ends;
        }
        let is_connected = statistics.brokers.values().any(|broker| broker.state == "UP");
        self.is_cut_off.store(!is_connected, Ordering::Relaxed);
        Ok(())
    }
}

/// The few fields needed of a document of several hundred.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, TopicStatistics>,
    #[serde(default)]
    brokers: HashMap<String, BrokerStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: HashMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    partition: i32,
    #[serde(default)]
    fetch_state: String,
    #[serde(default)]
    ls_offset: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_active_partitions_of_input_topics() {
        let table = LagTable::default();
        let document = br#"{"name":"x","topics":{
            "clicks":{"partitions":{"0":{"partition":0,"fetch_state":"active","ls_offset":7,"hi_offset":9},
                                    "-1":{"partition":-1,"fetch_state":"none","ls_offset":-1001}}},
            "scores":{"partitions":{"0":{"partition":0,"fetch_state":"active","ls_offset":3}}}}}"#;
        table.update(document, |name| (name == "clicks").then_some(View::Click)).unwrap();
        assert_eq!(table.ends(), BTreeMap::from([((PartitionId(0), View::Click), Offset(7))]));
        assert_eq!(table.ends_of(PartitionId(0)), None, "two topics are unknown");
        assert!(table.is_cut_off(), "the document names no broker that is up");
        let up = br#"{"brokers":{"a:1/1":{"state":"UP"},"b:1/2":{"state":"CONNECT"}}}"#;
        table.update(up, |_| None).unwrap();
        assert!(!table.is_cut_off());
    }
}
