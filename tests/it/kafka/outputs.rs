//! The daemon's outputs on a real broker, under what is done to users and models: erasures, webhooks, promotions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use undercurrent::stream::{
    OutputTopic,
    kafka::{KafkaParams, KafkaProducer, TailRecord},
};

use super::{
    broker_with_topics,
    chaos::Scene,
    committed_outputs,
    daemon::Daemon,
    oracle::{GroupWatcher, PARTITION_COUNT},
    patient, workload,
};
use crate::{
    receiver::{Answer, Receiver},
    webhook::{SECRET, check_requests, check_taken},
};

fn send(params: &KafkaParams, events: &[workload::Event]) {
    let producer = KafkaProducer::open(&patient(params)).unwrap();
    let records = events.iter().map(|event| (event.view, event.user.as_bytes(), event.payload.as_slice()));
    assert_eq!(producer.send_batch(records).unwrap(), events.len());
}

fn json(record: &TailRecord) -> Value {
    serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap()
}

/// Users whose newest record in `topic` is no tombstone.
fn users_in(params: &KafkaParams, topic: OutputTopic) -> BTreeSet<String> {
    let mut newest = BTreeMap::new();
    for record in committed_outputs(params, &[topic]) {
        newest.insert(String::from_utf8(record.key.clone()).unwrap(), record.payload.is_some());
    }
    newest.into_iter().filter(|(_, is_there)| *is_there).map(|(user, _)| user).collect()
}

/// Fault 35 on a real broker.
#[test]
fn users_erased_on_kafka_leave_the_outputs_and_stay_away_over_a_kill() {
    let Some(params) = broker_with_topics("erase", PARTITION_COUNT) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut events = workload::events();
    events.truncate(8_000);
    let late = events.split_off(7_000);
    let all: BTreeSet<String> = events.iter().map(|event| event.user.clone()).collect();
    let erased: Vec<&str> = all.iter().map(String::as_str).step_by(9).take(5).collect();
    send(&params, &events);
    let watcher = GroupWatcher::new(&params);
    let mut daemon = Daemon::start(&params, folder.path(), &[]);
    watcher.wait_for(&mut [&mut daemon], events.len());
    // In flight: the daemon is killed with the requests in the topics, and perhaps read.
    let said = Daemon::output(&params, folder.path(), &[&["erase"], &erased[..]].concat());
    assert_eq!(said.trim(), "asked to erase 5 users");
    daemon.kill();
    let mut daemon = Daemon::start(&params, folder.path(), &[]);
    // Events that were on their way come after the request, and are older than it.
    send(&params, &late);
    watcher.wait_for(&mut [&mut daemon], events.len() + late.len() + 3 * erased.len());
    watcher.wait_for_silence();
    daemon.stop();
    let mut left: BTreeSet<String> =
        all.union(&late.iter().map(|event| event.user.clone()).collect()).cloned().collect();
    left.retain(|user| !erased.contains(&user.as_str()));
    assert_eq!(users_in(&params, OutputTopic::Scores), left);
    let lists = users_in(&params, OutputTopic::Recommendations);
    assert!(lists.iter().all(|user| !erased.contains(&user.as_str())), "lists are taken back too");
    let refused = late.iter().filter(|event| erased.contains(&event.user.as_str())).count();
    assert!(refused > 0, "late events of erased users are part of the test");
    let letters = committed_outputs(&params, &[OutputTopic::DeadLetters]);
    assert!(letters.len() <= refused, "nothing else is refused");
}

/// Fault 36 on a real broker: over a kill, and over a rebalance that moves half of the partitions to another instance.
#[test]
fn alerts_on_kafka_reach_a_receiver_over_a_kill_and_a_second_instance() {
    let Some(params) = broker_with_topics("webhook", PARTITION_COUNT) else { return };
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|id, attempt| match (u8::from_str_radix(&id[..1], 16).unwrap() % 4, attempt) {
        (0, 1) => Answer::Status(503),
        (0, 2) => Answer::Hang,
        _ => Answer::Status(200),
    });
    std::fs::write(folder.path().join("secret"), SECRET).unwrap();
    let settings = |instance: &'static str| {
        [
            ("kafka.instance_id", instance),
            ("webhook.url", receiver.url.as_str()),
            ("webhook.secret_file", "secret"),
            ("webhook.timeout_ms", "300"),
            ("webhook.first_backoff_ms", "10"),
            ("webhook.max_backoff_ms", "50"),
        ]
    };
    let mut events = workload::events();
    events.truncate(24_000);
    let watcher = GroupWatcher::new(&params);
    let mut first = Daemon::start(&params, folder.path(), &settings("a"));
    send(&params, &events[..8_000]);
    watcher.wait_for(&mut [&mut first], 8_000);
    first.kill();
    let mut first = Daemon::start(&params, folder.path(), &settings("a"));
    let mut second = Daemon::start(&params, folder.path(), &settings("b"));
    send(&params, &events[8_000..]);
    watcher.wait_for(&mut [&mut first, &mut second], events.len());
    watcher.wait_for_silence();
    let alerts: Vec<Value> = committed_outputs(&params, &[OutputTopic::ChurnAlerts]).iter().map(json).collect();
    assert!(alerts.len() >= 20, "{} alerts prove little", alerts.len());
    let is_done = || {
        let taken: BTreeSet<String> = receiver.taken().into_iter().map(|request| request.id).collect();
        taken.len() >= alerts.len()
    };
    for _ in 0..1_200 {
        if is_done() {
            break;
        }
        first.assert_alive();
        second.assert_alive();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    first.stop();
    second.stop();
    check_requests(&receiver.received());
    check_taken(&receiver.taken(), &alerts);
}

/// Fault 30 on a real broker, while the load runs and with a kill between the two swaps.
#[test]
fn a_model_is_swapped_and_taken_back_under_load_on_kafka_without_a_gap() {
    let Some(params) = broker_with_topics("swap", PARTITION_COUNT) else { return };
    // The scorer is slow here: the load waits for it.
    let scene = Scene::with("swap", params, 20_000, 500);
    let folder = scene.folder().to_owned();
    let first = crate::lifecycle::copy_bundle("default", &folder.join("models/first"));
    let second = crate::lifecycle::copy_bundle("demo", &folder.join("models/second"));
    let settings = [("scoring.scorer", "model"), ("scoring.bundle", "first"), ("stream.max_records", "100")];
    let mut daemon = scene.start(&settings);
    scene.wait_for_progress(&mut [&mut daemon], 200);
    let swaps = |daemon: &Daemon| daemon.log_text().matches("another model scores from now on").count();
    let models = |arguments: &[&str]| Daemon::output(&scene.params, &folder, &[&["models"], arguments].concat());
    let wait_for_swap = |daemon: &mut Daemon, count: usize| {
        while swaps(daemon) < count {
            scene.wait_for_progress(&mut [daemon], 1);
        }
        scene.wait_for_progress(&mut [daemon], 300);
    };
    models(&["promote", "second"]);
    wait_for_swap(&mut daemon, 1);
    daemon.kill();
    let mut daemon = scene.start(&settings);
    scene.wait_for_progress(&mut [&mut daemon], 100);
    // A start begins with the champion; the rollback is a swap again.
    models(&["promote", "first"]);
    wait_for_swap(&mut daemon, 2);
    let params = scene.params.clone();
    let sent = scene.finish(daemon);

    let mut versions: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    let mut of_batch: BTreeMap<(i32, String), BTreeSet<String>> = BTreeMap::new();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for record in committed_outputs(&params, &[OutputTopic::Scores]) {
        let score = json(&record);
        let version = score["model_version"].as_str().unwrap().to_owned();
        let positions = score["input_positions"].to_string();
        of_batch.entry((record.partition.0, positions)).or_default().insert(version.clone());
        versions.entry(record.partition.0).or_default().push(version);
        let read = ["clicks", "searches", "purchases"].map(|topic| score["input_positions"][topic].as_i64().unwrap());
        last.insert(score["user_id"].as_str().unwrap().to_owned(), read.iter().sum());
    }
    assert!(of_batch.values().all(|models| models.len() == 1), "a micro-batch was scored by two models");
    for (partition, mut order) in versions {
        order.dedup();
        assert_eq!(order, [first.clone(), second.clone(), first.clone()], "in partition {partition}");
    }
    let users: BTreeSet<String> = scene_users(sent);
    assert_eq!(last.keys().cloned().collect::<BTreeSet<_>>(), users, "every user has a score");
}

/// Who did something in the first `count` events of that load.
fn scene_users(count: usize) -> BTreeSet<String> {
    super::load::Events::sized_for(20_000).take(count).map(|event| event.key).collect()
}
