//! What a restore reads: every committed record once and in order, and nothing that was aborted.

use std::collections::BTreeMap;

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use undercurrent::{
    event::{Offset, PartitionId, Positions, View},
    stream::{
        OutputTopic, RecordBatch, Sink, Source,
        kafka::{KafkaLog, KafkaParams},
    },
};

use super::{LIMITS, MAX_POLLS, advance, await_partitions, broker_with_topics, collect, commit, output, send_events};

const WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// Writes `count` clicks in transactions of ten, aborting every second one: markers and aborted records take offsets.
fn send_clicks_in_transactions(params: &KafkaParams, count: usize) -> Vec<String> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &params.bootstrap)
        .set("transactional.id", format!("{}-sender", params.group))
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    let mut kept = Vec::new();
    for (number, start) in (0..count).step_by(10).enumerate() {
        producer.begin_transaction().unwrap();
        for index in start..start + 10 {
            let payload = format!("click {index}");
            let record = BaseRecord::to(params.topics.input(View::Click)).key("u").payload(&payload);
            producer.send(record).map_err(|(error, _)| error).unwrap();
            if number % 2 == 0 {
                kept.push(payload);
            }
        }
        producer.flush(WAIT).unwrap();
        if number % 2 == 0 { producer.commit_transaction(WAIT) } else { producer.abort_transaction(WAIT) }.unwrap();
    }
    kept
}

/// Replays and returns the payloads of each view.
fn replay(log: &mut KafkaLog, from: Positions, to: Positions) -> BTreeMap<View, Vec<(Offset, String)>> {
    let mut seen: BTreeMap<View, Vec<(Offset, String)>> = BTreeMap::new();
    log.replay_blocking(PartitionId(0), from, to, &mut |batch| {
        for record in batch.iter() {
            let text = String::from_utf8(record.payload.unwrap().to_vec()).unwrap();
            seen.entry(record.origin.view).or_default().push((record.origin.offset, text));
        }
    })
    .unwrap();
    for records in seen.values() {
        assert!(records.is_sorted_by(|(first, _), (second, _)| first < second), "offsets must increase");
    }
    seen
}

#[test]
fn replay_reads_each_committed_record_once_across_markers_and_aborted_records() {
    let Some(params) = broker_with_topics("replay", 1) else { return };
    let kept = send_clicks_in_transactions(&params, 100);
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 1);
    let records = collect(&mut log, kept.len());
    assert_eq!(
        records.iter().map(|(_, payload)| String::from_utf8(payload.clone()).unwrap()).collect::<Vec<_>>(),
        kept
    );
    let mut positions = BTreeMap::new();
    advance(&mut positions, &records);
    log.commit_blocking(&commit(vec![], &positions)).unwrap();

    // To the committed position; the log goes on with an aborted transaction and its marker.
    let committed = log.committed_blocking(PartitionId(0)).unwrap();
    let end = log.end_blocking(PartitionId(0)).unwrap();
    assert!(committed.get(View::Click) < end.get(View::Click));
    let texts = |seen: &BTreeMap<View, Vec<(Offset, String)>>| -> Vec<String> {
        seen.get(&View::Click).map(|records| records.iter().map(|(_, text)| text.clone()).collect()).unwrap_or_default()
    };
    assert_eq!(texts(&replay(&mut log, Positions::default(), committed)), kept);
    // To the very end: the last records are aborted, so no record stands before the end.
    assert_eq!(texts(&replay(&mut log, Positions::default(), end)), kept);
    // From the middle, and of nothing.
    let mut middle = Positions::default();
    middle.set(View::Click, records[25].0.offset);
    assert_eq!(texts(&replay(&mut log, middle, committed)), kept[25..]);
    assert!(replay(&mut log, committed, committed).is_empty());
    // The group's consumer goes on where it was.
    send_events(&params, 5);
    assert_eq!(collect(&mut log, 15).len(), 15);
}

#[test]
fn a_restart_goes_on_at_the_committed_positions() {
    let Some(params) = broker_with_topics("restart", 1) else { return };
    send_events(&params, 100);
    let mut positions = BTreeMap::new();
    let first = {
        let mut log = KafkaLog::open(&params, 0).unwrap();
        await_partitions(&mut log, 1);
        let records = collect(&mut log, 300);
        advance(&mut positions, &records[..100]);
        log.commit_blocking(&commit(vec![], &positions)).unwrap();
        records
    };
    assert_eq!(first.len(), 300);
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 1);
    let mut again = collect(&mut log, 200);
    again.extend(first[..100].iter().cloned());
    again.sort();
    let mut all = first;
    all.sort();
    assert_eq!(again, all, "what was committed is not read again, what was not is");
    assert_eq!(log.earliest_blocking(PartitionId(0)).unwrap(), Positions::default());
    assert_eq!(log.end_blocking(PartitionId(0)).unwrap(), Positions([Offset(100); View::COUNT]));
}

/// A process that was stopped and continued knows ends from before; taken for the end of the log, they made it refuse what the
/// group had committed meanwhile, and would let an alert be settled over events that lie unread.
#[test]
fn the_end_of_the_log_is_asked_for_and_not_remembered() {
    let Some(mut params) = broker_with_topics("ends", 1) else { return };
    params.lag_interval_ms = 100;
    send_events(&params, 10);
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 1);
    assert_eq!(collect(&mut log, 30).len(), 30);
    let lag = log.lag_table();
    let mut batch = RecordBatch::default();
    for _ in 0..MAX_POLLS {
        if lag.ends().values().filter(|end| **end == Offset(10)).count() == View::COUNT {
            break;
        }
        log.poll_blocking(&LIMITS, &mut batch).unwrap();
        assert!(batch.is_empty(), "all was read");
    }
    // Nothing is polled from here on, as in a process that stands still.
    send_events(&params, 20);
    assert_eq!(log.known_end_blocking(PartitionId(0)).unwrap(), Positions([Offset(10); View::COUNT]));
    assert_eq!(log.end_blocking(PartitionId(0)).unwrap(), Positions([Offset(30); View::COUNT]));
}

#[test]
fn scores_are_read_back_newest_last() {
    let Some(params) = broker_with_topics("scores", 2) else { return };
    let mut log = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut log, 2);
    for round in 0..5 {
        let outputs = (0..3)
            .map(|user| output(OutputTopic::Scores, 1, &format!("u{user}"), &format!("{user}:{round}")))
            .chain([output(OutputTopic::Scores, 0, "other", "elsewhere")])
            .collect();
        log.commit_blocking(&commit(outputs, &BTreeMap::new())).unwrap();
    }
    let mut newest = BTreeMap::new();
    log.read_scores_blocking(PartitionId(1), &mut |key, value| {
        newest.insert(String::from_utf8(key.to_vec()).unwrap(), value.map(<[u8]>::to_vec));
    })
    .unwrap();
    let expected: BTreeMap<String, Option<Vec<u8>>> =
        (0..3).map(|user| (format!("u{user}"), Some(format!("{user}:4").into_bytes()))).collect();
    assert_eq!(newest, expected);
}
