//! The whole daemon on a real Kafka, killed with SIGKILL in the middle of the stream: it must end where a run without any
//! failure ends, bit for bit, and nobody who reads committed outputs may see that it was killed.

use std::{collections::BTreeSet, path::Path};

use undercurrent::stream::{
    OutputTopic,
    kafka::{KafkaParams, KafkaProducer},
};

use super::{
    broker_with_topics, committed_outputs,
    daemon::Daemon,
    oracle::{Ending, GroupWatcher, PARTITION_COUNT, check_scores},
    patient, workload,
};

const KILL_COUNT: usize = 5;

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
    let expected = run(&calm, &folder.path().join("calm"), &events, &[("stream.max_records", "10000")], 0);
    let ending = run(&wild, &folder.path().join("wild"), &events, &[("stream.max_records", "100")], KILL_COUNT);

    assert_eq!(ending.last_scores.keys().map(String::as_str).collect::<BTreeSet<_>>(), users, "every user has a score");
    assert_eq!(ending, expected);
}

/// The same with the network as scorer, over fewer events: its scores too must not depend on how batches are cut.
#[test]
fn a_daemon_that_scores_with_the_network_ends_the_same_after_kills() {
    let (Some(calm), Some(wild)) =
        (broker_with_topics("net-calm", PARTITION_COUNT), broker_with_topics("net-wild", PARTITION_COUNT))
    else {
        return;
    };
    let mut events = workload::events();
    events.truncate(4_000);
    let folder = tempfile::tempdir().unwrap();
    let models = format!("\"{}/models\"", env!("CARGO_MANIFEST_DIR"));
    let network = |max_records| {
        [("scoring.scorer", "model"), ("scoring.models", models.as_str()), ("stream.max_records", max_records)]
    };
    let expected = run(&calm, &folder.path().join("calm"), &events, &network("1000"), 0);
    let ending = run(&wild, &folder.path().join("wild"), &events, &network("100"), 2);
    assert_eq!(ending, expected);
    let model = ending.last_scores.values().next().unwrap()["model_version"].as_str().unwrap().to_owned();
    assert_ne!(model, undercurrent::scoring::RECENCY_VERSION, "the network scored");
}

/// That the oracle can fail: without transactions a killed daemon writes outputs of one batch again, and it is seen.
#[test]
fn at_least_once_is_seen_to_repeat_scores_when_killed() {
    let Some(params) = broker_with_topics("e2e-twice", PARTITION_COUNT) else { return };
    let events = workload::events();
    let folder = tempfile::tempdir().unwrap();
    let settings = [("kafka.delivery", "at_least_once"), ("stream.max_records", "100")];
    let watcher = GroupWatcher::new(&params);
    let mut repeated = None;
    // Every daemon finds events that none before it has read, whatever the machine is busy with.
    for fresh in events.chunks(500).take(50) {
        send(&params, fresh);
        let (before, mut daemon) = (watcher.score_ends(), Daemon::start(&params, folder.path(), &settings));
        // Outputs are there a moment before their offsets are committed.
        while watcher.score_ends() == before {
            daemon.assert_alive();
        }
        daemon.kill();
        repeated = check_scores(&committed_outputs(&params, &[OutputTopic::Scores])).err();
        if repeated.is_some() {
            break;
        }
    }
    let repeated = repeated.expect("fifty kills never hit between outputs and offsets");
    assert!(repeated.contains("twice") || repeated.contains("successive scores"), "{repeated}");
}

fn send(params: &KafkaParams, events: &[workload::Event]) {
    let producer = KafkaProducer::open(&patient(params)).unwrap();
    let records = events.iter().map(|event| (event.view, event.user.as_bytes(), event.payload.as_slice()));
    assert_eq!(producer.send_batch(records).unwrap(), events.len());
}

/// Sends all events, runs the daemon over them with `kill_count` SIGKILLs, stops it with SIGTERM, and checks its outputs. Every
/// kill comes while later events are still to be sent: the daemon is never done before the last one. How many hit it between
/// two commits and not waiting for events is up to the machine; at least one must.
fn run(
    params: &KafkaParams,
    folder: &Path,
    events: &[workload::Event],
    settings: &[(&str, &str)],
    kill_count: usize,
) -> Ending {
    std::fs::create_dir(folder).unwrap();
    let watcher = GroupWatcher::new(params);
    // Two parts are ahead of every kill, and the last part is kept back until all kills are done.
    let part = |number: usize| number * events.len() / (kill_count + 3);
    let mut sent = if kill_count == 0 { events.len() } else { part(2) };
    send(params, &events[..sent]);
    let mut daemon = Daemon::start(params, folder, settings);
    let mut mid_stream_count = 0;
    for kill in 0..kill_count {
        send(params, &events[sent..part(kill + 3)]);
        sent = part(kill + 3);
        watcher.wait_for(&mut [&mut daemon], part(kill + 1));
        daemon.kill();
        mid_stream_count += usize::from(watcher.committed_count() < sent);
        daemon = Daemon::start(params, folder, settings);
    }
    assert!(kill_count == 0 || mid_stream_count > 0, "each of {kill_count} kills hit a daemon that had nothing to do");
    send(params, &events[sent..]);
    watcher.wait_for(&mut [&mut daemon], events.len());
    watcher.wait_for_silence();
    daemon.stop();
    // The long workload has about a hundred alerts, fewer where batches are large; the short one is about scores.
    Ending::of(params, folder, events.len(), if events.len() == workload::EVENT_COUNT { 20 } else { 0 })
}
