//! The whole daemon on a real Kafka, killed with SIGKILL in the middle of the stream: it must end where a run without any
//! failure ends, bit for bit, and nobody who reads committed outputs may see that it was killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Child, Command, Stdio},
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
        kafka::{KafkaParams, KafkaProducer, TailRecord},
    },
};

use super::{broker_with_topics, committed_outputs, workload};

const PARTITION_COUNT: i32 = 4;
const KILL_COUNT: usize = 5;
const POLL: Duration = Duration::from_millis(10);
/// A minute of [`POLL`]s without any progress is a failure.
const MAX_IDLE_POLLS: usize = 6_000;

/// How a run ended, as far as two runs must agree.
#[derive(Debug, PartialEq)]
struct Ending {
    committed: BTreeMap<PartitionId, Positions>,
    state_hashes: BTreeMap<PartitionId, u64>,
    last_scores: BTreeMap<String, Value>,
}

#[test]
fn a_daemon_killed_five_times_ends_as_one_that_never_failed() {
    let (Some(calm), Some(wild)) =
        (broker_with_topics("e2e-calm", PARTITION_COUNT), broker_with_topics("e2e-wild", PARTITION_COUNT))
    else {
        return;
    };
    let events = workload::events();
    assert_eq!(events.len(), workload::EVENT_COUNT);
    let users: BTreeSet<&str> = events.iter().map(|event| event.user.as_str()).collect();
    let folder = tempfile::tempdir().unwrap();

    // Large micro-batches without failures, small ones with: where batches are cut must not matter.
    let expected = run(&calm, &folder.path().join("calm"), &events, 10_000, 0);
    let ending = run(&wild, &folder.path().join("wild"), &events, 400, KILL_COUNT);

    assert_eq!(ending.last_scores.keys().map(String::as_str).collect::<BTreeSet<_>>(), users, "every user has a score");
    assert_eq!(ending, expected);
}

/// Sends all events, runs the daemon over them with `kill_count` SIGKILLs, stops it with SIGTERM, and checks its outputs.
fn run(
    params: &KafkaParams,
    folder: &Path,
    events: &[workload::Event],
    max_records: usize,
    kill_count: usize,
) -> Ending {
    std::fs::create_dir(folder).unwrap();
    let producer = KafkaProducer::open(params).unwrap();
    let records = events.iter().map(|event| (event.view, event.user.as_bytes(), event.payload.as_slice()));
    assert_eq!(producer.send_batch(records).unwrap(), events.len());
    drop(producer);

    let watcher = GroupWatcher::new(params);
    let mut daemon = Daemon::start(params, folder, max_records);
    for kill in 0..kill_count {
        watcher.wait_for(&mut daemon, (kill + 1) * events.len() / (kill_count + 2));
        daemon.kill();
        let seen = watcher.committed_count();
        assert!(seen < events.len(), "the daemon was done before kill {kill}");
        daemon = Daemon::start(params, folder, max_records);
    }
    watcher.wait_for(&mut daemon, events.len());
    daemon.stop();

    let committed = watcher.committed();
    let ends: i64 = committed.values().flat_map(|positions| positions.0).map(|offset| offset.0).sum();
    assert_eq!(usize::try_from(ends).unwrap(), events.len(), "the group has read everything");
    assert!(committed_outputs(params, &[OutputTopic::DeadLetters]).is_empty(), "no event is refused");
    let alert_count = check_alerts(&committed_outputs(params, &[OutputTopic::ChurnAlerts]));
    assert!(alert_count > 100, "{alert_count} alerts prove little");
    let last_scores = check_scores(&committed_outputs(params, &[OutputTopic::Scores]));
    Ending { state_hashes: state_hashes(folder, &committed, events.len()), committed, last_scores }
}

/// The daemon as a child process; killed when a test fails.
struct Daemon {
    child: Child,
    log: std::path::PathBuf,
}

impl Daemon {
    fn start(params: &KafkaParams, folder: &Path, max_records: usize) -> Self {
        let path = folder.join("daemon.log");
        let log = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_undercurrent"));
        command.arg("run").current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let timeouts = &params.timeouts;
        let mut settings: Vec<(&str, String)> = vec![
            ("input.log", "kafka".to_owned()),
            ("kafka.brokers", params.bootstrap.clone()),
            ("kafka.group_id", params.group.clone()),
            ("kafka.instance_id", "\"e2e\"".to_owned()),
            ("kafka.session_timeout_ms", timeouts.session_ms.to_string()),
            ("kafka.transaction_timeout_ms", timeouts.transaction_ms.to_string()),
            ("kafka.message_timeout_ms", timeouts.message_ms.to_string()),
            ("stream.max_records", max_records.to_string()),
            // History: event time must move with the events and not with the wall clock (ten years of grace).
            ("stream.live_grace_ms", "315576000000".to_owned()),
            ("scoring.scorer", "recency".to_owned()),
            // Snapshots come in the middle of the run too, so restarts begin with one.
            ("snapshot.interval_s", "1".to_owned()),
            ("http.enabled", "false".to_owned()),
        ];
        let topics = ["clicks", "searches", "purchases", "scores", "churn_alerts", "recommendations", "dead_letters"];
        let names: Vec<String> = topics.into_iter().map(|topic| format!("topics.{topic}")).collect();
        for (key, name) in names.iter().zip(params.topics.inputs.iter().chain(&params.topics.outputs)) {
            settings.push((key, name.clone()));
        }
        for (key, value) in settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        Self { child: command.spawn().unwrap(), log: path }
    }

    fn assert_alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the daemon ended by itself: {ended:?}\n{}", self.log_text());
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.assert_alive();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; must drain and exit with 0.
    fn stop(mut self) {
        self.assert_alive();
        let sent = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "SIGTERM must drain and exit 0, not {status}\n{}", self.log_text());
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Looks at the group's committed offsets from outside.
struct GroupWatcher {
    consumer: BaseConsumer,
    params: KafkaParams,
}

impl GroupWatcher {
    fn new(params: &KafkaParams) -> Self {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", &params.bootstrap)
            .set("group.id", &params.group)
            .create()
            .unwrap();
        Self { consumer, params: params.clone() }
    }

    fn committed(&self) -> BTreeMap<PartitionId, Positions> {
        let mut wanted = TopicPartitionList::new();
        for view in View::ALL {
            wanted.add_partition_range(self.params.topics.input(view), 0, PARTITION_COUNT - 1);
        }
        // The offsets of an open transaction are unstable; librdkafka waits for them.
        let found = self.consumer.committed_offsets(wanted, Duration::from_secs(30)).unwrap();
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

    fn committed_count(&self) -> usize {
        let sum: i64 = self.committed().values().flat_map(|positions| positions.0).map(|offset| offset.0).sum();
        usize::try_from(sum).unwrap()
    }

    /// Waits until `count` events are committed.
    fn wait_for(&self, daemon: &mut Daemon, count: usize) {
        let (mut newest, mut idle_polls) = (0, 0);
        while newest < count {
            daemon.assert_alive();
            assert!(self.consumer.poll(POLL).is_none(), "nothing is subscribed");
            let seen = self.committed_count();
            assert!(seen >= newest, "committed offsets never go back");
            idle_polls = if seen > newest { 0 } else { idle_polls + 1 };
            assert!(idle_polls < MAX_IDLE_POLLS, "no progress past {seen} of {count} events");
            newest = seen;
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

/// Checks every user's scores in order, and returns the last one of each without what may differ between two runs: when it
/// was the last to be written depends on how batches are cut, and so does the alert history.
fn check_scores(records: &[TailRecord]) -> BTreeMap<String, Value> {
    let mut ids = BTreeSet::new();
    let mut positions: BTreeMap<String, [i64; 3]> = BTreeMap::new();
    let mut last = BTreeMap::new();
    for record in records {
        let mut score = json(record);
        let user = score["user_id"].as_str().unwrap().to_owned();
        assert_eq!(record.key, user.as_bytes());
        assert_eq!(score["input_positions"]["partition"], record.partition.0);
        assert!(
            ids.insert(score["score_id"].as_str().unwrap().to_owned()),
            "score {} is there twice",
            score["score_id"]
        );
        let now = ["clicks", "searches", "purchases"].map(|topic| score["input_positions"][topic].as_i64().unwrap());
        if let Some(before) = positions.insert(user.clone(), now) {
            let rises = before != now && before.iter().zip(&now).all(|(before, now)| before <= now);
            assert!(rises, "positions of successive scores of {user}: {before:?}, then {now:?}");
        }
        for differs in ["score_id", "input_positions", "alert"] {
            assert!(score.as_object_mut().unwrap().remove(differs).is_some(), "a score has `{differs}`");
        }
        last.insert(user, score);
    }
    last
}

/// No alert id twice, numbers without gaps, and each user's levels a chain that begins calm. Returns how many there are.
fn check_alerts(records: &[TailRecord]) -> usize {
    let mut ids = BTreeSet::new();
    let mut chains: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for record in records {
        let alert = json(record);
        let text = |key: &str| alert[key].as_str().unwrap().to_owned();
        assert!(ids.insert(text("alert_id")), "alert {} is there twice", alert["alert_id"]);
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
