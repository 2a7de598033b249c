//! What a death and a full disk do to snapshots, on a real folder.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use undercurrent::{
    clock::{Clock, ManualClock},
    decision::DecisionParams,
    event::{Decoder, Offset, PartitionId, Positions, View},
    graph::NameTable,
    scoring::RecencyScorer,
    snapshot::{LocalStorage, SnapshotOptions, SnapshotRequest, SnapshotWriter, Snapshots, Storage, StorageError},
    stream::{
        ArrowSnapshots, BatchLimits, Partitions, Step, StreamParams, StreamParts, StreamThread, TimeMode,
        memory::{MemoryBroker, MemoryLog, NoFaults},
    },
};

use crate::snapshot::{Deed, PARTITION, fold, snapshots_in};

const CHILD_FOLDER: &str = "UNDERCURRENT_TEST_SNAPSHOT_FOLDER";
const EVERYTHING: Positions = Positions([Offset(i64::MAX); View::COUNT]);

fn deeds(count: u32) -> Vec<Deed> {
    (0..count)
        .map(|number| {
            let [first, second, third, _] = number.wrapping_mul(2_654_435_761).to_le_bytes();
            (first % 20, second, u16::try_from(number % 40_000).unwrap(), third % 60, second % 4)
        })
        .collect()
}

/// Deeds that the newest whole snapshot holds.
fn newest_count(snapshots: &Snapshots) -> u32 {
    let outcome = snapshots.restore_blocking(PARTITION, &EVERYTHING).unwrap();
    let next = outcome.restored.map(|restored| restored.manifest.next_offsets()).unwrap_or_default();
    u32::try_from(next.0.iter().map(|offset| offset.0).sum::<i64>()).unwrap()
}

/// Not a test by itself: the process that the next test kills. It writes snapshots for ever and says which are whole.
#[test]
fn child_that_is_killed_while_it_writes_snapshots() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let snapshots = snapshots_in(Path::new(&folder));
    let mut count = newest_count(&snapshots);
    loop {
        count += 30;
        snapshots.write_blocking(SnapshotRequest::base(&fold(&deeds(count)), None), None).unwrap();
        println!("written {count}");
        snapshots.retain_blocking(PARTITION).unwrap();
    }
}

#[test]
fn a_process_killed_while_it_writes_snapshots_leaves_whole_ones_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut reported = 0;
    for round in 0..8_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["snapshot_faults::child_that_is_killed_while_it_writes_snapshots", "--exact", "--nocapture"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 1 + round % 3;
        while left > 0 {
            let line = lines.next().expect("the child writes until it is killed").unwrap();
            if let Some((_, number)) = line.split_once("written ") {
                reported = number.parse().unwrap();
                left -= 1;
            }
        }
        // A different moment of the next write in every round.
        std::thread::sleep(std::time::Duration::from_micros(u64::from(700 * round)));
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("written ").and_then(|number| number.parse().ok()) {
                reported = number;
            }
        }
        child.wait().unwrap();

        let snapshots = snapshots_in(folder.path());
        let outcome = snapshots.restore_blocking(PARTITION, &EVERYTHING).unwrap();
        assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
        let count = newest_count(&snapshots);
        assert!(count >= reported, "snapshot {reported} was whole, {count} is the newest");
        assert_eq!(outcome.restored.unwrap().into_state().state_hash(), fold(&deeds(count)).state_hash());
    }
    // What the deaths left goes with the next snapshot.
    let snapshots = snapshots_in(folder.path());
    snapshots.write_blocking(SnapshotRequest::base(&fold(&deeds(10_000)), None), None).unwrap();
    snapshots.retain_blocking(PARTITION).unwrap();
    assert_eq!(LocalStorage::open(folder.path()).unwrap().list_leftovers_blocking("").unwrap(), [""; 0]);
    assert!(snapshots.verify_blocking(None).unwrap().iter().all(|verified| verified.problems.is_empty()));
}

/// A folder on a disk that fills up, and is cleared again.
#[derive(Debug)]
struct FullDisk {
    inner: LocalStorage,
    is_full: AtomicBool,
    /// Nothing is written while somebody else holds it.
    gate: Mutex<()>,
}

impl Storage for FullDisk {
    fn put_blocking(&self, path: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        if self.is_full.load(Ordering::Relaxed) {
            let message = "no space left on device".to_owned();
            return Err(StorageError::Failed { action: "writing", path: path.to_owned(), message });
        }
        drop(self.gate.lock());
        self.inner.put_blocking(path, bytes)
    }

    fn get_blocking(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        self.inner.get_blocking(path)
    }

    fn list_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.inner.list_blocking(prefix)
    }

    fn delete_blocking(&self, path: &str) -> Result<(), StorageError> {
        self.inner.delete_blocking(path)
    }
}

/// A stream whose snapshots go to a disk that may be full.
struct Shop {
    broker: Arc<MemoryBroker>,
    disk: Arc<FullDisk>,
    snapshots: Snapshots,
    thread: StreamThread<MemoryLog>,
    partitions: Arc<Partitions>,
    event_count: i64,
}

const P0: PartitionId = PartitionId(0);
const NOW_MS: i64 = 1_700_000_000_000;

impl Shop {
    fn open(folder: &Path) -> Self {
        Self::with(folder, SnapshotWriter::inline)
    }

    fn with(folder: &Path, writer: impl FnOnce(Snapshots) -> SnapshotWriter) -> Self {
        let inner = LocalStorage::open(folder).unwrap();
        let disk = Arc::new(FullDisk { inner, is_full: AtomicBool::new(false), gate: Mutex::new(()) });
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW_MS));
        let storage: Arc<dyn Storage> = Arc::clone(&disk) as _;
        let snapshots = Snapshots::new(storage, SnapshotOptions::default(), Arc::clone(&clock));
        let writer = Arc::new(writer(snapshots.clone()));
        let (broker, partitions) = (Arc::new(MemoryBroker::new(1)), Arc::new(Partitions::default()));
        let thread = StreamThread::new(StreamParts {
            log: MemoryLog::join(&broker, "a", Box::new(NoFaults)),
            scorer: Arc::new(RecencyScorer::new(28, 14)),
            clock: Arc::clone(&clock),
            decoder: Decoder::default(),
            partitions: Arc::clone(&partitions),
            // A snapshot after every micro-batch.
            snapshots: Box::new(ArrowSnapshots::new(snapshots.clone(), writer, clock, 0)),
            decision: DecisionParams::default(),
            catalogue: Arc::new(NameTable::default()),
            params: StreamParams {
                batch: BatchLimits { max_records: 64, max_bytes: 1 << 20, linger_ms: 0, idle_wait_ms: 0 },
                time: TimeMode::Replay,
                ..StreamParams::default()
            },
        });
        Self { broker, disk, snapshots, thread, partitions, event_count: 0 }
    }

    /// Ten events of ten users, committed.
    fn sell(&mut self) {
        for _ in 0..10 {
            let (user, time_ms) = (format!("u{}", self.event_count % 10), NOW_MS - 1_000_000 + self.event_count);
            let text = format!(
                r#"{{"event_id":"e{}","event":"view","user_id":"{user}","timestamp":{time_ms},"product_id":"i"}}"#,
                self.event_count
            );
            self.broker.append(View::Click, P0, time_ms, Some(user.as_bytes()), Some(text.as_bytes()));
            self.event_count += 1;
        }
        while self.thread.step_blocking().unwrap() != Step::Idle {}
        assert_eq!(self.broker.committed(P0).get(View::Click), Offset(self.event_count), "the stream goes on");
    }

    /// Clicks that the newest snapshot has read, and whether it holds the state of the thread.
    fn newest(&self) -> (i64, bool) {
        let committed = self.broker.committed(P0);
        let restored = self.snapshots.restore_blocking(P0, &committed).unwrap().restored.unwrap();
        let clicks = restored.manifest.next_offsets().get(View::Click).0;
        let state = self.partitions.get(P0).unwrap().state.state_hash();
        (clicks, restored.into_state().state_hash() == state)
    }
}

fn shows(handle: &PrometheusHandle, line: &str) -> bool {
    handle.render().lines().any(|shown| shown == line)
}

#[test]
fn a_full_disk_keeps_the_old_snapshot_and_raises_an_alarm_while_the_stream_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let mut shop = Shop::open(folder.path());
        shop.sell();
        assert_eq!(shop.newest(), (10, true));
        assert!(shows(&handle, r#"undercurrent_snapshot_failing{partition="0"} 0"#), "{}", handle.render());

        shop.disk.is_full.store(true, Ordering::Relaxed);
        shop.sell();
        shop.sell();
        assert_eq!(shop.newest(), (10, false));
        assert!(shows(&handle, r#"undercurrent_snapshot_failing{partition="0"} 1"#), "{}", handle.render());
        assert!(shows(&handle, "undercurrent_snapshot_failures_total 2"), "{}", handle.render());

        shop.disk.is_full.store(false, Ordering::Relaxed);
        shop.sell();
        assert_eq!(shop.newest(), (40, true));
        assert!(shows(&handle, r#"undercurrent_snapshot_failing{partition="0"} 0"#), "{}", handle.render());
    });
}

/// Found by a hundred kills: the end was in no snapshot when one of the same partition was being written at the stop.
#[test]
fn a_stop_in_the_middle_of_a_snapshot_waits_for_it_and_writes_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut shop = Shop::with(folder.path(), |snapshots| SnapshotWriter::start(snapshots, 8).unwrap());
    let (broker, disk, snapshots) = (Arc::clone(&shop.broker), Arc::clone(&shop.disk), shop.snapshots.clone());
    let slow = disk.gate.lock().unwrap();
    shop.sell();
    shop.sell();
    let stop = CancellationToken::new();
    stop.cancel();
    let thread = std::thread::Builder::new().spawn(move || shop.thread.run_blocking(&stop).unwrap()).unwrap();
    // It must not end while the disk is slow.
    for _ in 0..50 {
        assert!(!thread.is_finished(), "the thread ended without its last snapshot");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    drop(slow);
    // With the thread its writer goes, after the last snapshot.
    thread.join().unwrap();
    let restored = snapshots.restore_blocking(P0, &broker.committed(P0)).unwrap().restored.unwrap();
    assert_eq!(restored.manifest.next_offsets().get(View::Click), Offset(20));
}
