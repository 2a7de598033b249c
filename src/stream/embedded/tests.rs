use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use super::*;
use crate::{
    clock::ManualClock,
    event::{Offset, Positions, View},
    stream::{BatchLimits, Commit, OutputRecord, OutputTopic, Polled, RecordBatch, Sink, Source},
};

const LIMITS: BatchLimits = BatchLimits { max_records: 1_000, max_bytes: 1 << 20, linger_ms: 0, idle_wait_ms: 0 };
const P0: PartitionId = PartitionId(0);

fn open(path: &Path, partition_count: u32) -> Result<Arc<EmbeddedLog>, EmbeddedError> {
    let params = EmbeddedParams { partition_count, ..EmbeddedParams::at(path) };
    EmbeddedLog::open(params, Arc::new(ManualClock::at(1_000)))
}

fn record(view: View, payload: &str, event_id: u64) -> NewRecord<'_> {
    NewRecord { view, key: b"user", payload: payload.as_bytes(), event_id: Some(event_id) }
}

fn started(log: &Arc<EmbeddedLog>) -> EmbeddedConsumer {
    let partitions: Vec<PartitionId> = log.partitions().collect();
    let mut consumer = log.consumer(&partitions).unwrap();
    let mut batch = RecordBatch::default();
    assert_eq!(consumer.poll_blocking(&LIMITS, &mut batch).unwrap(), Polled::Assigned(partitions.clone()));
    for partition in partitions {
        let committed = consumer.committed_blocking(partition).unwrap();
        consumer.start_at(partition, committed).unwrap();
    }
    consumer
}

fn poll(consumer: &mut EmbeddedConsumer, limits: &BatchLimits) -> Vec<(View, i64, String)> {
    let mut batch = RecordBatch::default();
    consumer.poll_blocking(limits, &mut batch).unwrap();
    batch
        .iter()
        .map(|record| {
            let text = String::from_utf8(record.payload.unwrap().to_vec()).unwrap();
            (record.origin.view, record.origin.offset.0, text)
        })
        .collect()
}

fn score(key: &str, payload: &str) -> OutputRecord {
    OutputRecord {
        topic: OutputTopic::Scores,
        partition: P0,
        key: key.as_bytes().to_vec(),
        payload: Some(payload.as_bytes().to_vec()),
        headers: vec![("ce_id", payload.to_owned())],
    }
}

fn commit(outputs: Vec<OutputRecord>, next: i64) -> Commit {
    Commit { outputs, positions: BTreeMap::from([(P0, Positions([Offset(next), Offset(0), Offset(next)]))]) }
}

#[test]
fn records_come_in_the_order_of_arrival_in_any_batch_split_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let views = [View::Click, View::Purchase, View::Click, View::Search, View::Search, View::Click];
    let texts: Vec<String> = (0..60).map(|number| format!("event {number}")).collect();
    {
        let log = open(folder.path(), 1).unwrap();
        for (index, batch) in texts.chunks(7).enumerate() {
            let records: Vec<NewRecord<'_>> = batch
                .iter()
                .enumerate()
                .map(|(place, text)| record(views[(index + place) % views.len()], text, (index * 7 + place + 1) as u64))
                .collect();
            log.append_blocking(&records).unwrap();
        }
        let mut consumer = started(&log);
        let mut seen = Vec::new();
        for max_records in [1, 5, 13].into_iter().cycle() {
            let batch = poll(&mut consumer, &BatchLimits { max_records, ..LIMITS });
            assert!(batch.len() <= max_records);
            if batch.is_empty() {
                break;
            }
            seen.extend(batch.into_iter().map(|(_, _, text)| text));
        }
        assert_eq!(seen, texts);
    }
    let log = open(folder.path(), 1).unwrap();
    let mut consumer = started(&log);
    let seen: Vec<String> = poll(&mut consumer, &LIMITS).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(seen, texts);

    // Beginning in the middle of a chunk, and a replay of a range.
    let clicks: Vec<i64> =
        poll_from(&mut consumer, Positions([Offset(3), Offset(1_000), Offset(1_000)])).iter().map(|r| r.1).collect();
    let end = log.ends(P0).get(View::Click).0;
    assert_eq!(clicks, (3..end).collect::<Vec<_>>());
    let mut replayed = Vec::new();
    let (from, to) = (Positions([Offset(2), Offset(0), Offset(0)]), Positions([Offset(9), Offset(1), Offset(0)]));
    consumer
        .replay_blocking(P0, from, to, &mut |batch| {
            replayed.extend(batch.iter().map(|record| (record.origin.view, record.origin.offset.0)));
        })
        .unwrap();
    let expected: Vec<_> = (2..9).map(|offset| (View::Click, offset)).chain([(View::Search, 0)]).collect();
    assert_eq!(replayed, expected);
}

fn poll_from(consumer: &mut EmbeddedConsumer, positions: Positions) -> Vec<(View, i64, String)> {
    consumer.start_at(P0, positions).unwrap();
    poll(consumer, &LIMITS)
}

#[test]
fn a_batch_sent_again_is_recognised_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let batch = [record(View::Click, "a", 1), record(View::Purchase, "b", 2), record(View::Click, "a again", 1)];
    {
        let log = open(folder.path(), 1).unwrap();
        let outcome = log.append_blocking(&batch).unwrap();
        assert!(matches!(outcome[..], [Appended::At(_), Appended::At(_), Appended::Repeated]), "{outcome:?}");
        assert_eq!(log.append_blocking(&batch).unwrap(), [Appended::Repeated; 3]);
    }
    let log = open(folder.path(), 1).unwrap();
    assert_eq!(log.append_blocking(&batch).unwrap(), [Appended::Repeated; 3]);
    let without_id = NewRecord { event_id: None, ..batch[0] };
    let outcome = log.append_blocking(&[without_id, without_id]).unwrap();
    assert!(matches!(outcome[..], [Appended::At(_), Appended::At(_)]));
    assert_eq!(log.ends(P0), Positions([Offset(3), Offset(0), Offset(1)]));
}

#[test]
fn outputs_and_positions_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let log = open(folder.path(), 1).unwrap();
        let mut consumer = started(&log);
        let mut commits = log.subscribe_commits();
        commits.mark_unchanged();
        consumer.commit_blocking(&commit(vec![score("u", "1"), score("v", "2")], 7)).unwrap();
        assert!(commits.has_changed().unwrap());
    }
    let log = open(folder.path(), 1).unwrap();
    assert_eq!(log.committed(P0).unwrap(), Positions([Offset(7), Offset(0), Offset(7)]));
    let read = log.read_outputs(OutputTopic::Scores, P0, Offset(1), 10).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!((read[0].offset, read[0].key.as_slice()), (Offset(1), b"v".as_slice()));
    assert_eq!(read[0].headers, [("ce_id".to_owned(), "2".to_owned())]);
}

#[test]
fn a_folder_belongs_to_one_log_and_a_partition_to_one_consumer() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path(), 2).unwrap();
    assert!(matches!(open(folder.path(), 2), Err(EmbeddedError::InUse { .. })));
    let consumer = log.consumer(&[P0]).unwrap();
    assert!(matches!(log.consumer(&[PartitionId(1), P0]), Err(EmbeddedError::Taken { partition: P0 })));
    assert!(matches!(log.consumer(&[PartitionId(2)]), Err(EmbeddedError::NoPartition { .. })));
    drop(consumer);
    drop(log.consumer(&[P0, PartitionId(1)]).unwrap());
    drop(log);
    assert!(matches!(open(folder.path(), 3), Err(EmbeddedError::PartitionCount { found: 2, wanted: 3, .. })));
}

#[test]
fn maintenance_keeps_the_newest_score_of_every_user() {
    let folder = tempfile::tempdir().unwrap();
    let params = EmbeddedParams {
        partition_count: 1,
        compact_after_records: 1,
        retain_output_records: 2,
        ..EmbeddedParams::at(folder.path())
    };
    let log = EmbeddedLog::open(params, Arc::new(ManualClock::at(0))).unwrap();
    let mut consumer = started(&log);
    for round in 0..4_i64 {
        let mut outputs: Vec<OutputRecord> =
            (0..10 - round).map(|user| score(&format!("u{user}"), &format!("{round}"))).collect();
        outputs.push(OutputRecord { topic: OutputTopic::ChurnAlerts, ..score("u0", &format!("alert {round}")) });
        consumer.commit_blocking(&commit(outputs, round)).unwrap();
    }
    let newest = |consumer: &mut EmbeddedConsumer| {
        let mut newest = BTreeMap::new();
        let mut count = 0;
        consumer
            .read_scores_blocking(P0, &mut |key, payload| {
                newest.insert(key.to_vec(), payload.unwrap().to_vec());
                count += 1;
            })
            .unwrap();
        (newest, count)
    };
    let (before, count_before) = newest(&mut consumer);
    log.maintain_blocking().unwrap();
    let (after, count_after) = newest(&mut consumer);
    assert_eq!((before.len(), count_before, count_after), (10, 34, 10));
    assert_eq!(before, after);
    // Offsets stay what they were: the last record of the last round.
    let (_, end) = log.output_range(OutputTopic::Scores, P0);
    assert_eq!(end, Offset(34));
    let last = log.read_outputs(OutputTopic::Scores, P0, Offset(0), 100).unwrap();
    assert_eq!(last.last().unwrap().offset, Offset(33));
    let alerts = log.read_outputs(OutputTopic::ChurnAlerts, P0, Offset(0), 100).unwrap();
    assert_eq!(alerts.iter().map(|alert| alert.offset.0).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn users_who_are_gone_leave_the_scores_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let params = EmbeddedParams {
        partition_count: 1,
        compact_after_records: 1,
        retain_output_records: 3,
        ..EmbeddedParams::at(folder.path())
    };
    let log = EmbeddedLog::open(params, Arc::new(ManualClock::at(0))).unwrap();
    let mut consumer = started(&log);
    let mut kept = Vec::new();
    for round in 0..60_i64 {
        // Each user comes once and is taken back in the next round, as one is who is evicted.
        let gone = OutputRecord { payload: None, ..score(&format!("u{}", round - 1), "") };
        consumer.commit_blocking(&commit(vec![gone, score(&format!("u{round}"), "here")], round)).unwrap();
        log.maintain_blocking().unwrap();
        let (mut newest, mut count) = (BTreeMap::new(), 0);
        consumer
            .read_scores_blocking(P0, &mut |key, payload| {
                newest.insert(key.to_vec(), payload.is_some());
                count += 1;
            })
            .unwrap();
        newest.retain(|_, is_there| *is_there);
        assert_eq!(newest.into_keys().collect::<Vec<_>>(), [format!("u{round}").into_bytes()]);
        kept.push(count);
    }
    assert!(kept.iter().all(|count| *count <= 25), "of 120 records few stay: {kept:?}");
}

/// Files of the log, and their bytes.
fn stored(folder: &Path) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            let (more, of_them) = stored(&entry.path());
            (count, bytes) = (count + more, bytes + of_them);
        } else if let Ok(about) = entry.metadata() {
            (count, bytes) = (count + 1, bytes + about.len());
        }
    }
    (count, bytes)
}

/// What retention dropped is off the disk soon, and its files are no longer open: counted in files and bytes, after many times what
/// is kept.
#[test]
fn the_log_keeps_its_size_while_input_comes_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let params =
        EmbeddedParams { partition_count: 1, retain_input_records: 4_000, ..EmbeddedParams::at(folder.path()) };
    let log = EmbeddedLog::open(params, Arc::new(ManualClock::at(0))).unwrap();
    let mut consumer = started(&log);
    // Bytes that cannot be compressed.
    let mut noise = 1_u64;
    let mut payload = || {
        let word = || {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            noise.to_le_bytes()
        };
        std::iter::repeat_with(word).take(500).flatten().collect::<Vec<u8>>()
    };
    let (mut sizes, mut next) = (Vec::new(), 0);
    for _ in 0..60 {
        let payloads: Vec<Vec<u8>> = std::iter::repeat_with(&mut payload).take(1_000).collect();
        let record = |payload| NewRecord { view: View::Click, key: b"user", payload, event_id: None };
        log.append_blocking(&payloads.iter().map(|payload| record(payload)).collect::<Vec<_>>()).unwrap();
        next += 1_000;
        consumer.commit_blocking(&commit(Vec::new(), next)).unwrap();
        log.trim_inputs(P0, &Positions([Offset(next), Offset(0), Offset(0)])).unwrap();
        sizes.push(stored(folder.path()));
    }
    // Of 240 MB, 16 MB are kept, as much again waits to be written out, and journals have their bound.
    let (files, bytes) = sizes.iter().fold((0, 0), |(files, bytes), size| (size.0.max(files), size.1.max(bytes)));
    let input_files = stored(&folder.path().join("keyspaces/2")).0;
    assert!(bytes <= 330 << 20, "{bytes} bytes: {sizes:?}");
    assert!(files <= sizes[10].0 + 30 && input_files <= 20, "{files} files, {input_files} of the input: {sizes:?}");
}

#[test]
fn inputs_below_a_snapshot_can_be_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let params = EmbeddedParams { partition_count: 1, retain_input_records: 0, ..EmbeddedParams::at(folder.path()) };
    let log = EmbeddedLog::open(params, Arc::new(ManualClock::at(0))).unwrap();
    for id in 1..=5 {
        log.append_blocking(&[record(View::Click, "x", id)]).unwrap();
    }
    let covered = Positions([Offset(4), Offset(0), Offset(0)]);
    // Nothing is committed: whatever a snapshot says, all of it is still needed.
    assert_eq!(log.trim_inputs(P0, &covered).unwrap(), 0);
    let mut consumer = started(&log);
    consumer.commit_blocking(&commit(Vec::new(), 3)).unwrap();
    assert_eq!(log.trim_inputs(P0, &covered).unwrap(), 3);
    assert_eq!(log.earliest(P0).get(View::Click), Offset(3));
    let offsets: Vec<i64> = poll(&mut consumer, &LIMITS).into_iter().map(|(_, offset, _)| offset).collect();
    assert_eq!(offsets, [3, 4]);
}

#[test]
fn the_newest_inputs_stay_whatever_snapshots_cover() {
    let folder = tempfile::tempdir().unwrap();
    let params = EmbeddedParams { partition_count: 1, retain_input_records: 3, ..EmbeddedParams::at(folder.path()) };
    let log = EmbeddedLog::open(params, Arc::new(ManualClock::at(0))).unwrap();
    for id in 1..=5 {
        log.append_blocking(&[record(View::Click, "x", id)]).unwrap();
    }
    let mut consumer = started(&log);
    consumer.commit_blocking(&commit(Vec::new(), 5)).unwrap();
    assert_eq!(log.trim_inputs(P0, &Positions([Offset(5), Offset(0), Offset(0)])).unwrap(), 2);
    assert_eq!(log.earliest(P0).get(View::Click), Offset(2));
}

const CHILD_FOLDER: &str = "UNDERCURRENT_TEST_EMBEDDED_FOLDER";

/// Not a test by itself: the process that the next test kills. It appends and commits for ever, and says which commit
/// has returned.
#[test]
fn child_that_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let log = open(Path::new(&folder), 1).unwrap();
    let mut consumer = started(&log);
    let mut next = log.committed(P0).unwrap().get(View::Click).0;
    loop {
        let payload = "x".repeat(500);
        let records: Vec<NewRecord<'_>> =
            (0..20_u64).map(|place| record(View::Click, &payload, next.unsigned_abs() * 20 + place + 1)).collect();
        log.append_blocking(&records).unwrap();
        next += 1;
        // One score a commit, numbered like the position: the two must never part.
        let outputs = vec![score(&format!("u{}", next % 50), &next.to_string())];
        consumer.commit_blocking(&commit(outputs, next)).unwrap();
        println!("committed {next}");
        if next % 100 == 0 {
            log.maintain_blocking().unwrap();
        }
    }
}

#[test]
fn killing_the_process_between_any_two_instructions_loses_and_splits_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut reported = 0;
    for round in 0..6_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["stream::embedded::tests::child_that_is_killed", "--exact", "--nocapture"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 20 + 13 * round;
        while left > 0 {
            let line = lines.next().expect("the child commits until it is killed").unwrap();
            if let Some((_, number)) = line.split_once("committed ") {
                reported = number.parse().unwrap();
                left -= 1;
            }
        }
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("committed ").and_then(|number| number.parse().ok()) {
                reported = number;
            }
        }
        child.wait().unwrap();

        let log = open(folder.path(), 1).unwrap();
        let committed = log.committed(P0).unwrap().get(View::Click).0;
        assert!(committed >= reported, "commit {reported} had returned, {committed} is there");
        let scores = log.read_outputs(OutputTopic::Scores, P0, Offset(0), usize::MAX).unwrap();
        assert_eq!(scores.last().unwrap().payload.as_deref(), Some(committed.to_string().as_bytes()));
        assert_eq!(log.output_range(OutputTopic::Scores, P0).1, Offset(committed));
        let appended = log.ends(P0).get(View::Click).0;
        assert_eq!(appended % 20, 0, "a batch of 20 is there whole or not at all");
        let mut consumer = log.consumer(&[P0]).unwrap();
        let mut replayed = 0;
        consumer.replay_blocking(P0, Positions::default(), log.ends(P0), &mut |batch| replayed += batch.len()).unwrap();
        assert_eq!(i64::try_from(replayed).unwrap(), appended);
    }
}
