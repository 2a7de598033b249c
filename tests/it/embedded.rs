//! Stream threads on the embedded log with Arrow snapshots, as the daemon runs them: started, stopped and started again.

use std::{path::Path, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use undercurrent::{
    clock::{Clock, ManualClock},
    daemon::upkeep::Upkeep,
    decision::DecisionParams,
    event::{DAY_MS, Decoder, Offset, PartitionId, Positions},
    generate::{GenerateParams, json_records},
    graph::NameTable,
    scoring::RecencyScorer,
    snapshot::{LocalStorage, Retention, SnapshotKind, SnapshotOptions, SnapshotWriter, Snapshots},
    stream::{
        ArrowSnapshots, BatchLimits, NoSnapshots, OutputTopic, Partitions, Phase, SnapshotStore, Step, StreamError,
        StreamParams, StreamParts, StreamThread, TimeMode,
        embedded::{EmbeddedConsumer, EmbeddedLog, EmbeddedParams, NewRecord},
    },
};

const PARTITIONS: u32 = 4;
const THREADS: usize = 2;
/// After all events, so that none is from the future.
const NOW_MS: i64 = 1_704_067_200_000 + 400 * DAY_MS;

/// What a run leaves behind.
#[derive(Debug, PartialEq)]
struct End {
    states: Vec<(PartitionId, u64)>,
    /// Ends of `scores` and `churn-alerts`.
    outputs: Vec<(Offset, Offset)>,
}

fn open(folder: &Path) -> Arc<EmbeddedLog> {
    let params = EmbeddedParams {
        partition_count: PARTITIONS,
        retain_input_records: 0,
        ..EmbeddedParams::at(folder.join("log"))
    };
    EmbeddedLog::open(params, Arc::new(ManualClock::at(NOW_MS))).unwrap()
}

/// Two bases with two deltas each, so that old ones go soon.
fn snapshots_in(folder: &Path) -> Snapshots {
    let storage = Arc::new(LocalStorage::open(&folder.join("snapshots")).unwrap());
    let retention = Retention { keep_bases: 2, keep_spaced: 0, ..Retention::default() };
    let options = SnapshotOptions { deltas_per_base: 2, retention, ..SnapshotOptions::default() };
    Snapshots::new(storage, options, Arc::new(ManualClock::at(NOW_MS)))
}

fn thread_on(
    log: EmbeddedConsumer,
    partitions: &Arc<Partitions>,
    snapshots: Box<dyn SnapshotStore>,
) -> StreamThread<EmbeddedConsumer> {
    StreamThread::new(StreamParts {
        log,
        scorer: Arc::new(RecencyScorer::new(28, 14)),
        clock: Arc::new(ManualClock::at(NOW_MS)),
        decoder: Decoder::default(),
        partitions: Arc::clone(partitions),
        snapshots,
        decision: DecisionParams::default(),
        catalogue: Arc::new(NameTable::default()),
        params: StreamParams {
            batch: BatchLimits { max_records: 300, max_bytes: 1 << 20, linger_ms: 0, idle_wait_ms: 5 },
            time: TimeMode::Replay,
            ..StreamParams::default()
        },
    })
}

/// Runs threads until `record_count` records are committed by them, stops them and says how the partitions stand.
fn run(folder: &Path, log: &Arc<EmbeddedLog>, record_count: u64, snapshot_interval_ms: i64) -> End {
    let writer = SnapshotWriter::start(snapshots_in(folder), 8).unwrap();
    run_with(folder, log, record_count, snapshot_interval_ms, writer)
}

fn run_with(
    folder: &Path,
    log: &Arc<EmbeddedLog>,
    record_count: u64,
    snapshot_interval_ms: i64,
    writer: SnapshotWriter,
) -> End {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW_MS));
    let snapshots = snapshots_in(folder);
    let writer = Arc::new(writer);
    let partitions = Arc::new(Partitions::default());
    let stop = CancellationToken::new();
    let all: Vec<PartitionId> = log.partitions().collect();
    let mut threads = Vec::new();
    for share in all.chunks(all.len() / THREADS) {
        let (snapshots, writer) = (snapshots.clone(), Arc::clone(&writer));
        let store = ArrowSnapshots::new(snapshots, writer, Arc::clone(&clock), snapshot_interval_ms);
        let thread = thread_on(log.consumer(share).unwrap(), &partitions, Box::new(store));
        let (status, stop) = (thread.status(), stop.clone());
        let handle = std::thread::Builder::new().spawn(move || {
            // States are gone from the registry when the thread ends: look at them while it still holds them.
            thread.run_blocking(&stop)
        });
        threads.push((status, handle.unwrap()));
    }
    let done = || {
        let statuses: Vec<_> = threads.iter().map(|(status, _)| status.borrow().clone()).collect();
        assert!(statuses.iter().all(|status| status.phase != Phase::Failed), "{statuses:?}");
        let owned: usize = statuses.iter().map(|status| status.partitions.len()).sum();
        owned == all.len() && statuses.iter().map(|status| status.record_count).sum::<u64>() >= record_count
    };
    while !done() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let states: Vec<_> = partitions.all().iter().map(|handle| Arc::clone(&handle.state)).collect();
    stop.cancel();
    for (status, thread) in threads {
        thread.join().unwrap().unwrap();
        assert_eq!(status.borrow().phase, Phase::Stopped);
    }
    writer.finish_blocking();
    assert!(partitions.all().is_empty(), "nobody keeps them up to date any more");
    let ends = |partition| {
        let end = |topic| log.output_range(topic, partition).1;
        (end(OutputTopic::Scores), end(OutputTopic::ChurnAlerts))
    };
    End {
        states: states.iter().map(|state| (state.partition(), state.state_hash())).collect(),
        outputs: all.into_iter().map(ends).collect(),
    }
}

fn append(log: &EmbeddedLog, range: std::ops::Range<usize>) {
    let records = json_records(&GenerateParams::new(300, 300, 11), range.end);
    for batch in records[range].chunks(500) {
        let new: Vec<NewRecord<'_>> = batch
            .iter()
            .map(|record| NewRecord {
                view: record.view,
                key: record.key.as_bytes(),
                payload: &record.payload,
                event_id: None,
            })
            .collect();
        log.append_blocking(&new).unwrap();
    }
}

#[test]
fn a_restart_goes_on_from_snapshots_and_writes_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let first = {
        let log = open(folder.path());
        append(&log, 0..4_000);
        run(folder.path(), &log, 4_000, 0)
    };
    assert!(first.outputs.iter().any(|(_, alerts)| alerts.0 > 0), "{first:?}");

    // Nothing new: the same states, and not one output more. With and without snapshots.
    let log = open(folder.path());
    assert_eq!(run(folder.path(), &log, 0, i64::MAX), first);
    let without = tempfile::tempdir().unwrap();
    assert_eq!(run(without.path(), &log, 0, i64::MAX), first);

    // More events after the restart end where one run over all of them ends.
    append(&log, 4_000..6_000);
    let second = run(folder.path(), &log, 2_000, 0);
    let other = tempfile::tempdir().unwrap();
    let at_once = {
        let log = open(other.path());
        append(&log, 0..6_000);
        run(other.path(), &log, 6_000, i64::MAX)
    };
    assert_eq!(second.states, at_once.states);
}

/// The positions of the oldest full snapshot of `partition`.
fn oldest_base(folder: &Path, partition: PartitionId) -> Positions {
    let listed = snapshots_in(folder).list_blocking(Some(partition)).unwrap();
    let mut manifests = listed.into_iter().map(|listed| listed.manifest.unwrap());
    manifests.find(|manifest| manifest.kind == SnapshotKind::Base).unwrap().next_offsets()
}

/// Keeps of every partition only the oldest full snapshot, or nothing.
fn lose_snapshots(folder: &Path, partition: PartitionId, keep_oldest: bool) {
    for listed in snapshots_in(folder).list_blocking(Some(partition)).unwrap().iter().skip(usize::from(keep_oldest)) {
        std::fs::remove_file(folder.join("snapshots").join(&listed.path)).unwrap();
    }
}

#[test]
fn input_that_snapshots_cover_is_dropped_and_a_restart_lacks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    append(&log, 0..6_000);
    // A snapshot after every micro-batch, however slow the machine is.
    let whole = run_with(folder.path(), &log, 6_000, 0, SnapshotWriter::inline(snapshots_in(folder.path())));
    assert!(log.partitions().all(|partition| log.earliest(partition) == Positions::default()));

    Upkeep::new(Arc::clone(&log), None).tidy_blocking();
    assert!(log.partitions().all(|partition| log.earliest(partition) == Positions::default()), "nothing covers it");

    let upkeep = Upkeep::new(Arc::clone(&log), Some(snapshots_in(folder.path())));
    upkeep.tidy_blocking();
    for partition in log.partitions() {
        let (earliest, covered) = (log.earliest(partition), oldest_base(folder.path(), partition));
        assert!(earliest.at_or_before(&covered), "{earliest} is past the oldest full snapshot at {covered}");
        assert!(earliest.0.iter().any(|offset| offset.0 > 0), "nothing of partition {partition} was dropped");
    }
    assert_eq!(run(folder.path(), &log, 0, i64::MAX), whole);

    // The newer snapshots are lost: the oldest one and the log above it still give the same state.
    log.partitions().for_each(|partition| lose_snapshots(folder.path(), partition, true));
    assert_eq!(run(folder.path(), &log, 0, i64::MAX), whole);
    // One full snapshot is not enough to drop more.
    let before: Vec<Positions> = log.partitions().map(|partition| log.earliest(partition)).collect();
    upkeep.tidy_blocking();
    assert_eq!(log.partitions().map(|partition| log.earliest(partition)).collect::<Vec<_>>(), before);

    // All of them are lost: half a state would be wrong, so the thread ends and says what is missing.
    let first = PartitionId(0);
    lose_snapshots(folder.path(), first, false);
    let partitions = Arc::new(Partitions::default());
    let mut thread = thread_on(log.consumer(&[first]).unwrap(), &partitions, Box::new(NoSnapshots));
    assert_eq!(thread.step_blocking().unwrap(), Step::Assigned(vec![first]));
    let error = thread.step_blocking().unwrap_err();
    assert!(matches!(error, StreamError::Gap { partition, .. } if partition == first), "{error}");
}
