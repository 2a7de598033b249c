//! What a run of the daemon must end as, whatever was done to it, and who looks at it from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::Value;
use undercurrent::{
    clock::SystemClock,
    event::{Offset, PartitionId, Positions, View},
    snapshot::{LocalStorage, SnapshotOptions, Snapshots},
    stream::{
        OutputTopic,
        kafka::{KafkaParams, TailRecord},
    },
};

use super::{committed_outputs, daemon::Daemon};

pub(super) const PARTITION_COUNT: i32 = 4;
const POLL: Duration = Duration::from_millis(10);
/// Two minutes of [`POLL`]s without any progress are a failure.
const MAX_IDLE_POLLS: usize = 12_000;

/// Half a minute of 20 [`POLL`]s for a coordinator to be found.
const MAX_COORDINATOR_POLLS: usize = 150;

/// How a run ended, as far as two runs must agree.
#[derive(Debug, PartialEq)]
pub(super) struct Ending {
    committed: BTreeMap<PartitionId, Positions>,
    state_hashes: BTreeMap<PartitionId, u64>,
    pub(super) last_scores: BTreeMap<String, Value>,
}

impl Ending {
    /// Looks at what a run over `event_count` events left behind (at least `least_alerts` alerts: how many there are depends on
    /// where micro-batches were cut), and checks what needs no second run to be checked.
    pub(super) fn of(params: &KafkaParams, folder: &Path, event_count: usize, least_alerts: usize) -> Self {
        let committed = GroupWatcher::new(params).committed();
        let ends: i64 = committed.values().flat_map(|positions| positions.0).map(|offset| offset.0).sum();
        assert_eq!(usize::try_from(ends).unwrap(), event_count, "the group has read everything");
        assert!(committed_outputs(params, &[OutputTopic::DeadLetters]).is_empty(), "no event is refused");
        let alert_count = check_alerts(&committed_outputs(params, &[OutputTopic::ChurnAlerts]));
        assert!(alert_count >= least_alerts, "{alert_count} alerts prove little");
        let last_scores = check_scores(&committed_outputs(params, &[OutputTopic::Scores])).unwrap();
        Self { state_hashes: state_hashes(folder, &committed, event_count), committed, last_scores }
    }
}

/// Looks at the group's committed offsets from outside.
pub(super) struct GroupWatcher {
    consumer: BaseConsumer,
    params: KafkaParams,
}

impl GroupWatcher {
    pub(super) fn new(params: &KafkaParams) -> Self {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", &params.bootstrap)
            .set("group.id", &params.group)
            .create()
            .unwrap();
        Self { consumer, params: params.clone() }
    }

    /// Serves the client's events for a while. Brokers that are away are an event; records there are none.
    fn serve(&self, wait: Duration) {
        assert!(!matches!(self.consumer.poll(wait), Some(Ok(_))), "nothing is subscribed");
    }

    pub(super) fn committed(&self) -> BTreeMap<PartitionId, Positions> {
        let mut wanted = TopicPartitionList::new();
        for view in View::ALL {
            wanted.add_partition_range(self.params.topics.input(view), 0, PARTITION_COUNT - 1);
        }
        // The offsets of an open transaction are unstable; librdkafka waits for them.
        let mut attempts = 0;
        let found = loop {
            match self.consumer.committed_offsets(wanted.clone(), Duration::from_secs(30)) {
                Ok(found) => break found,
                // A broker that has just started says for a moment that it does not coordinate the group.
                Err(error) if attempts < MAX_COORDINATOR_POLLS => {
                    assert!(error.to_string().contains("oordinator"), "{error}");
                    attempts += 1;
                    self.serve(POLL * 20);
                }
                Err(error) => panic!("{error}"),
            }
        };
        let mut committed = BTreeMap::new();
        for partition in (0..PARTITION_COUNT).map(PartitionId) {
            let mut positions = Positions::default();
            for view in View::ALL {
                let place = found.find_partition(self.params.topics.input(view), partition.0).unwrap();
                if let KafkaOffset::Offset(offset) = place.offset() {
                    positions.set(view, Offset(offset));
                }
            }
            committed.insert(partition, positions);
        }
        committed
    }

    pub(super) fn committed_count(&self) -> usize {
        let sum: i64 = self.committed().values().flat_map(|positions| positions.0).map(|offset| offset.0).sum();
        usize::try_from(sum).unwrap()
    }

    /// Waits until `count` events are committed; all of `daemons` must live meanwhile.
    pub(super) fn wait_for(&self, daemons: &mut [&mut Daemon], count: usize) {
        let (mut newest, mut idle_polls) = (0, 0);
        while newest < count {
            for daemon in daemons.iter_mut() {
                daemon.assert_alive();
            }
            self.serve(POLL);
            let seen = self.committed_count();
            assert!(seen >= newest, "committed offsets never go back");
            idle_polls = if seen > newest { 0 } else { idle_polls + 1 };
            let said = || daemons.iter().map(|daemon| daemon.log_text()).collect::<Vec<_>>().join("\n");
            assert!(idle_polls < MAX_IDLE_POLLS, "no progress past {seen} of {count} events\n{}", said());
            newest = seen;
        }
    }

    /// The sum of the ends of all partitions of the scores.
    pub(super) fn score_ends(&self) -> i64 {
        let topic = self.params.topics.output(OutputTopic::Scores);
        let end = |partition| self.consumer.fetch_watermarks(topic, partition, Duration::from_secs(30)).unwrap().1;
        (0..PARTITION_COUNT).map(end).sum()
    }

    /// Waits until nothing is written to the scores any more: users that were due are scored after the last event too.
    pub(super) fn wait_for_silence(&self) {
        let mut before = -1;
        loop {
            let now = self.score_ends();
            if now == before {
                return;
            }
            before = now;
            // Nothing is subscribed: a wait that serves the client's events.
            self.serve(Duration::from_millis(1_500));
        }
    }
}

/// What the daemon's last snapshots say the states are; they must stand exactly where the group does.
fn state_hashes(
    folder: &Path,
    committed: &BTreeMap<PartitionId, Positions>,
    event_count: usize,
) -> BTreeMap<PartitionId, u64> {
    let storage = Arc::new(LocalStorage::open(&folder.join(".undercurrent/snapshots")).unwrap());
    let snapshots = Snapshots::new(storage, SnapshotOptions::default(), Arc::new(SystemClock));
    let mut folded = 0;
    let mut hashes = BTreeMap::new();
    for (&partition, positions) in committed {
        let outcome = snapshots.restore_blocking(partition, positions).unwrap();
        assert!(outcome.rejected.is_empty(), "a snapshot is damaged");
        let state = outcome.restored.unwrap().into_state();
        assert_eq!(state.progress().next_offsets, *positions, "the last snapshot is of the end");
        folded += state.graphs.to_vec().iter().map(|(_, graph)| graph.event_count()).sum::<u64>();
        hashes.insert(partition, state.state_hash());
    }
    assert_eq!(usize::try_from(folded).unwrap(), event_count, "each event is folded once");
    hashes
}

fn json(record: &TailRecord) -> Value {
    serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap()
}

/// Checks every user's scores in order: says what is wrong, or returns the last one of each without what may differ between two runs: when it
/// was the last to be written depends on how batches are cut, and so does the alert history.
pub(super) fn check_scores(records: &[TailRecord]) -> Result<BTreeMap<String, Value>, String> {
    let mut ids = BTreeSet::new();
    let mut positions: BTreeMap<String, [i64; 3]> = BTreeMap::new();
    let mut last = BTreeMap::new();
    for record in records {
        let mut score = json(record);
        let user = score["user_id"].as_str().unwrap().to_owned();
        assert_eq!(record.key, user.as_bytes());
        assert_eq!(score["input_positions"]["partition"], record.partition.0);
        if !ids.insert(score["score_id"].as_str().unwrap().to_owned()) {
            return Err(format!("score {} is there twice", score["score_id"]));
        }
        let now = ["clicks", "searches", "purchases"].map(|topic| score["input_positions"][topic].as_i64().unwrap());
        if let Some(before) = positions.insert(user.clone(), now) {
            let rises = before != now && before.iter().zip(&now).all(|(before, now)| before <= now);
            if !rises {
                return Err(format!("positions of successive scores of {user}: {before:?}, then {now:?}"));
            }
        }
        for differs in ["score_id", "input_positions", "alert"] {
            assert!(score.as_object_mut().unwrap().remove(differs).is_some(), "a score has `{differs}`");
        }
        last.insert(user, score);
    }
    Ok(last)
}

/// No alert id twice, numbers without gaps, and each user's levels a chain that begins calm. Returns how many there are.
fn check_alerts(records: &[TailRecord]) -> usize {
    let mut ids = BTreeMap::new();
    let mut chains: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for record in records {
        let alert = json(record);
        let text = |key: &str| alert[key].as_str().unwrap().to_owned();
        let place = (record.partition, record.offset, record.timestamp_ms);
        let before = ids.insert(text("alert_id"), place);
        assert!(before.is_none(), "{alert} is there twice: at {before:?} and {place:?}");
        let (sequence, level) = chains.entry(text("user_id")).or_insert((0, "calm".to_owned()));
        *sequence += 1;
        assert_eq!(alert["sequence"], *sequence, "alerts of a user are numbered without gaps");
        assert_eq!(text("previous_level"), *level, "an alert begins where the one before ended: {alert}");
        let legal = match text("transition").as_str() {
            "entered" => *level == "calm" && text("level") != "calm",
            "escalated" => *level == "at_risk" && text("level") == "high_risk",
            "recovered" => *level != "calm" && text("level") == "calm",
            _ => false,
        };
        assert!(legal, "not a legal transition: {alert}");
        *level = text("level");
    }
    records.len()
}
