//! Round trips, damage, fallback, retention and interrupted writes, on a storage in memory that can fail.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use smallvec::smallvec;

use super::{
    SnapshotKind::{Base, Delta},
    *,
};
use crate::{
    clock::ManualClock,
    event::{DAY_MS, Event, EventKind, Name, NameKind, Offset, PartitionId, Positions, ProductLine, UserId, View},
    graph::{GraphStore, NameTable, PartitionState, Progress, UserGraph},
};

/// A storage in memory whose puts can be told to fail.
#[derive(Debug, Default)]
struct MemoryStorage {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Puts that still succeed; `None` for all.
    puts_left: Mutex<Option<usize>>,
}

impl Storage for MemoryStorage {
    fn put_blocking(&self, path: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        if let Some(left) = self.puts_left.lock().unwrap().as_mut() {
            let message = "no space left on device".to_owned();
            *left = left.checked_sub(1).ok_or(StorageError::Failed {
                action: "writing",
                path: path.to_owned(),
                message,
            })?;
        }
        self.objects.lock().unwrap().insert(path.to_owned(), bytes);
        Ok(())
    }

    fn get_blocking(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        let found = self.objects.lock().unwrap().get(path).cloned();
        found.ok_or_else(|| StorageError::NotFound { path: path.to_owned() })
    }

    fn list_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        Ok(self.objects.lock().unwrap().keys().filter(|path| path.starts_with(prefix)).cloned().collect())
    }

    fn delete_blocking(&self, path: &str) -> Result<(), StorageError> {
        self.objects.lock().unwrap().remove(path);
        Ok(())
    }
}

const PARTITION: PartitionId = PartitionId(3);
const START_MS: i64 = 1_700_000_000_000;

/// A place with small files, so that every snapshot has several.
struct Place {
    storage: Arc<MemoryStorage>,
    snapshots: Snapshots,
}

impl Place {
    fn new(options: SnapshotOptions) -> Self {
        let storage = Arc::new(MemoryStorage::default());
        let dynamic: Arc<dyn Storage> = Arc::clone(&storage) as _;
        Self { snapshots: Snapshots::new(dynamic, options, Arc::new(ManualClock::at(START_MS))), storage }
    }

    fn small() -> Self {
        Self::new(SnapshotOptions { part_users: 7, read_threads: 3, ..SnapshotOptions::default() })
    }

    fn restore(&self, state: &PartitionState) -> (Option<u64>, Vec<SnapshotError>) {
        let outcome = self.snapshots.restore_blocking(PARTITION, &state.progress().next_offsets).unwrap();
        let hash = outcome.restored.map(|restored| restored.into_state().state_hash());
        (hash, outcome.rejected.into_iter().map(|rejected| rejected.error).collect())
    }

    /// Paths ending so, in order.
    fn paths(&self, end: &str) -> Vec<String> {
        self.storage.objects.lock().unwrap().keys().filter(|path| path.ends_with(end)).cloned().collect()
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.storage.objects.lock().unwrap().get_mut(path).unwrap());
    }
}

/// A partition whose users do random things; every call of [`advance`](Self::advance) makes a new version.
struct World {
    random: StdRng,
    users: HashMap<UserId, Arc<UserGraph>>,
    names: HashMap<crate::event::NameHash, Arc<str>>,
    progress: Progress,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            users: HashMap::new(),
            names: HashMap::new(),
            progress: Progress::default(),
        }
    }

    /// Folds `count` events of `user_count` users; returns the changed users.
    fn advance(&mut self, count: usize, user_count: u32) -> Vec<UserEntry> {
        let params = GraphParams { ring_capacity: 16, ..GraphParams::default() };
        let mut changed = HashMap::new();
        for _ in 0..count {
            let user = UserId::new(&format!("user-{}", self.random.random_range(0..user_count)));
            let kind = EventKind::ALL[self.random.random_range(0..6)];
            let event = self.event(kind);
            let mut graph = UserGraph::clone(self.users.get(&user).map_or(&UserGraph::default(), |graph| graph));
            graph.view_mut(kind.view()).fold(&event, &params);
            self.progress.note_event(kind.view(), event.time_ms);
            let next = self.progress.next_offsets.get(kind.view()).0 + 1;
            self.progress.next_offsets.set(kind.view(), Offset(next));
            let graph = Arc::new(graph);
            self.users.insert(user.clone(), Arc::clone(&graph));
            changed.insert(user, graph);
        }
        changed.into_iter().collect()
    }

    fn event(&mut self, kind: EventKind) -> Event<'static> {
        let mut name = |kind: NameKind, stem: &str, most: u32, random: &mut StdRng| {
            let name = Name::new(kind, format!("{stem} {} é", random.random_range(0..most)));
            self.names.insert(name.hash, Arc::from(&*name.text));
            name
        };
        let random = &mut self.random;
        let query = (kind == EventKind::Search).then(|| name(NameKind::Query, "query", 40, random));
        let mut line = |random: &mut StdRng| ProductLine {
            item: random.random_bool(0.9).then(|| name(NameKind::Item, "item", 300, random)),
            category: random.random_bool(0.7).then(|| name(NameKind::Category, "category", 9, random)),
            price_minor: Some(random.random_range(0..5_000)),
            quantity: random.random_range(0..4),
            value_minor: random.random_range(0..20_000),
        };
        Event {
            user: "unused".into(),
            kind,
            time_ms: START_MS + random.random_range(0..300) * DAY_MS / 3,
            event_id: random.random(),
            session: random.random_bool(0.5).then(|| random.random()),
            lines: if query.is_some() {
                smallvec![]
            } else {
                (0..random.random_range(0..3)).map(|_| line(random)).collect()
            },
            query,
        }
    }

    fn state(&self) -> Arc<PartitionState> {
        let (graphs, names) = (GraphStore::default(), NameTable::default());
        for (user, graph) in &self.users {
            graphs.insert(user.clone(), Arc::clone(graph));
        }
        for (hash, text) in &self.names {
            names.insert(*hash, Arc::clone(text));
        }
        Arc::new(PartitionState::restored(PARTITION, graphs, names, self.progress))
    }
}

/// A base and two deltas, with the state at each.
fn chain_of_three(place: &Place) -> Vec<(Manifest, Arc<PartitionState>)> {
    chain_in(place, &mut World::new(1))
}

fn chain_in(place: &Place, world: &mut World) -> Vec<(Manifest, Arc<PartitionState>)> {
    let mut chain: Vec<(Manifest, Arc<PartitionState>)> = Vec::new();
    for step in 0..3 {
        let changed = world.advance(if step == 0 { 2_000 } else { 30 }, 60);
        let state = world.state();
        let request = match step {
            0 => SnapshotRequest::base(&state, Some(START_MS)),
            _ => SnapshotRequest::delta(changed, &state, Some(START_MS)),
        };
        let manifest = place.snapshots.write_blocking(request, chain.last().map(|(manifest, _)| manifest)).unwrap();
        chain.push((manifest, state));
    }
    chain
}

#[test]
fn a_base_and_its_deltas_restore_bit_for_bit() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let place =
            Place::new(SnapshotOptions { part_users: 7, read_threads: 3, compression, ..SnapshotOptions::default() });
        let chain = chain_of_three(&place);
        assert!(chain[0].0.files.len() > 8, "the base has several files");
        assert!(chain[0].0.counts.nodes > 0 && chain[0].0.counts.edges > 0, "some rings have spilled");
        for (manifest, state) in &chain {
            let (hash, rejected) = place.restore(state);
            assert_eq!(hash, Some(state.state_hash()), "{}", manifest.id);
            let ahead = rejected.iter().filter(|error| matches!(error, SnapshotError::SnapshotAhead { .. })).count();
            assert_eq!(ahead, rejected.len(), "{rejected:?}");
        }
        assert!(place.snapshots.verify_blocking(None).unwrap().iter().all(|verified| verified.problems.is_empty()));
    }
}

#[test]
fn training_reads_each_user_once_in_the_newest_version() {
    let place = Place::small();
    let chain = chain_of_three(&place);
    for (manifest, state) in &chain {
        let users: Vec<UserEntry> =
            place.snapshots.users_blocking(manifest).unwrap().collect::<Result<_, SnapshotError>>().unwrap();
        assert_eq!(users.len(), state.graphs.len());
        for (user, graph) in users {
            assert_eq!(graph, state.graphs.get(user.as_str()).unwrap());
        }
        let names = place.snapshots.names_blocking(manifest).unwrap();
        assert!(names.iter().all(|name| name.kind.is_some()));
    }
}

#[test]
fn an_empty_partition_round_trips() {
    let place = Place::small();
    let state = World::new(1).state();
    let manifest = place.snapshots.write_blocking(SnapshotRequest::base(&state, None), None).unwrap();
    assert_eq!((manifest.files.len(), manifest.watermark_ms), (0, None));
    let (hash, rejected) = place.restore(&state);
    assert_eq!((hash, rejected.len()), (Some(state.state_hash()), 0));
}

/// Damages the newest snapshot of a chain of three with `damage` and expects the one before, and an error that `is_it`.
fn check_fallback(damage: impl FnOnce(&Place, &Manifest), is_it: fn(&SnapshotError) -> bool) {
    let place = Place::small();
    let chain = chain_of_three(&place);
    let ((newest, state), (_, before)) = (&chain[2], &chain[1]);
    damage(&place, newest);
    let (hash, rejected) = place.restore(state);
    assert_eq!(hash, Some(before.state_hash()));
    assert!(rejected.len() == 1 && is_it(&rejected[0]), "{rejected:?}");
    let verified = place.snapshots.verify_blocking(Some(PARTITION)).unwrap();
    let problems: Vec<usize> = verified.iter().map(|verified| verified.problems.len()).collect();
    assert_eq!(problems, [0, 0, 1], "{verified:?}");
}

fn path_of(manifest: &Manifest, content: FileContent) -> String {
    manifest.file_path(manifest.files.iter().find(|file| file.content == content).unwrap())
}

#[test]
fn a_flipped_bit_in_a_file_is_found() {
    for content in [FileContent::Users, FileContent::Names] {
        check_fallback(
            |place, newest| {
                place.change(&path_of(newest, content), |bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x10;
                });
            },
            |error| matches!(error, SnapshotError::FileChecksum { .. }),
        );
    }
}

#[test]
fn a_torn_file_is_found() {
    check_fallback(
        |place, newest| place.change(&path_of(newest, FileContent::Users), |bytes| bytes.truncate(bytes.len() / 3)),
        |error| matches!(error, SnapshotError::FileSize { .. }),
    );
}

#[test]
fn a_missing_file_is_found() {
    check_fallback(
        |place, newest| place.storage.delete_blocking(&path_of(newest, FileContent::Names)).unwrap(),
        |error| matches!(error, SnapshotError::FileMissing { .. }),
    );
}

#[test]
fn a_damaged_manifest_is_found() {
    check_fallback(
        |place, newest| place.change(&newest.path(), |bytes| bytes.truncate(100)),
        |error| matches!(error, SnapshotError::ManifestSyntax { .. }),
    );
    check_fallback(
        |place, newest| {
            place.change(&newest.path(), |bytes| {
                let text = String::from_utf8(bytes.clone()).unwrap();
                *bytes = text.replacen("\"users\": ", "\"users\": 1", 1).into_bytes();
            });
        },
        |error| matches!(error, SnapshotError::ManifestChecksum { .. }),
    );
}

#[test]
fn a_future_version_is_refused_by_number() {
    check_fallback(
        |place, newest| {
            place.change(&newest.path(), |bytes| *bytes = br#"{"format_version": 99, "new": {}}"#.to_vec());
        },
        |error| matches!(error, SnapshotError::FutureVersion { version: 99, supported: FORMAT_VERSION, .. }),
    );
}

#[test]
fn a_column_that_holds_something_else_is_named() {
    let place = Place::small();
    let mut manifest = chain_of_three(&place).swap_remove(0).0;
    for file in &manifest.files {
        let columns: Vec<&str> = file.columns.iter().map(|column| column.name.as_str()).collect();
        let expected = if file.content == FileContent::Users { "user_id" } else { "hash" };
        assert!(columns.first() == Some(&expected) && columns.len() >= 3, "{columns:?}");
    }
    let column = &mut manifest.files[1].columns[5];
    column.xxh3_128 = "0".repeat(32);
    let name = column.name.clone();
    place.storage.put_blocking(&manifest.path(), manifest.to_text().unwrap().into_bytes()).unwrap();
    let problems: Vec<String> = place
        .snapshots
        .verify_blocking(None)
        .unwrap()
        .swap_remove(0)
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(problems.len() == 1 && problems[0].contains(&format!("column `{name}`")), "{problems:?}");
}

#[test]
fn a_moved_snapshot_is_refused() {
    let place = Place::small();
    let (newest, state) = chain_of_three(&place).pop().unwrap();
    let text = place.storage.get_blocking(&newest.path()).unwrap();
    place.storage.put_blocking(&Manifest::path_of(PARTITION, &SnapshotId::new(9, 7)), text).unwrap();
    let (hash, rejected) = place.restore(&state);
    assert_eq!(hash, Some(state.state_hash()));
    assert!(matches!(rejected[..], [SnapshotError::Misplaced { .. }]), "{rejected:?}");
}

#[test]
fn a_broken_base_takes_its_deltas_with_it_and_the_base_before_is_used() {
    let place = Place::small();
    let mut world = World::new(1);
    let old = chain_in(&place, &mut world).pop().unwrap().1;
    let new = chain_in(&place, &mut world);
    place.change(&path_of(&new[0].0, FileContent::Users), |bytes| bytes[20] ^= 1);
    let (hash, rejected) = place.restore(&new[2].1);
    assert_eq!(hash, Some(old.state_hash()));
    let damaged = rejected.iter().filter(|error| matches!(error, SnapshotError::FileChecksum { .. })).count();
    let broken = rejected.iter().filter(|error| matches!(error, SnapshotError::BrokenChain { .. })).count();
    assert_eq!((damaged, broken), (1, 2), "{rejected:?}");
}

#[test]
fn nothing_usable_means_a_full_replay() {
    let place = Place::small();
    let chain = chain_of_three(&place);
    for (manifest, _) in &chain {
        place.change(&path_of(manifest, FileContent::Users), |bytes| bytes[30] ^= 1);
    }
    let (hash, rejected) = place.restore(&chain[2].1);
    assert_eq!((hash, rejected.len()), (None, 3));
}

#[test]
fn other_graph_parameters_are_refused_and_named() {
    let place = Place::small();
    let (_, state) = chain_of_three(&place).pop().unwrap();
    let graph_params = GraphParams { ring_capacity: 64, half_life_short_days: 7.0, ..GraphParams::default() };
    let options = SnapshotOptions { graph_params, ..SnapshotOptions::default() };
    let other = Snapshots::new(Arc::clone(&place.snapshots.storage), options, Arc::new(ManualClock::at(0)));
    let outcome = other.restore_blocking(PARTITION, &state.progress().next_offsets).unwrap();
    assert!(outcome.restored.is_none());
    let message = outcome.rejected[0].error.to_string();
    assert!(message.contains("`ring_capacity` is `128` in the snapshot, `64` here"), "{message}");
    assert!(message.contains("`half_life_short_days`"), "{message}");
}

#[test]
fn a_snapshot_ahead_of_the_group_is_not_taken() {
    let place = Place::small();
    let chain = chain_of_three(&place);
    let mut committed = chain[1].1.progress().next_offsets;
    let purchases = committed.get(View::Purchase).0;
    committed.set(View::Purchase, Offset(purchases - 1));
    let outcome = place.snapshots.restore_blocking(PARTITION, &committed).unwrap();
    assert_eq!(outcome.restored.unwrap().manifest.id, chain[0].0.id);
    assert!(outcome.rejected.iter().all(|rejected| matches!(rejected.error, SnapshotError::SnapshotAhead { .. })));
    let nothing = place.snapshots.restore_blocking(PARTITION, &Positions::default()).unwrap();
    assert!(nothing.restored.is_none());
}

#[test]
fn a_write_cut_short_anywhere_leaves_the_snapshot_before() {
    let place = Place::small();
    let mut world = World::new(2);
    world.advance(500, 40);
    let before = world.state();
    place.snapshots.write_blocking(SnapshotRequest::base(&before, None), None).unwrap();
    world.advance(500, 40);
    let after = world.state();
    let mut cut_short = 0;
    for puts in 0.. {
        *place.storage.puts_left.lock().unwrap() = Some(puts);
        let written = place.snapshots.write_blocking(SnapshotRequest::base(&after, None), None);
        *place.storage.puts_left.lock().unwrap() = None;
        let expected = if written.is_ok() { &after } else { &before };
        let (hash, rejected) = place.restore(&after);
        assert_eq!((hash, rejected.len()), (Some(expected.state_hash()), 0), "after {puts} puts");
        match written {
            Ok(_) => break,
            Err(error) => assert!(error.to_string().contains("no space left"), "{error}"),
        }
        cut_short += 1;
    }
    assert!(cut_short > 5, "files, names and the manifest");
    // What the interrupted writes left goes with the next retention.
    place.snapshots.retain_blocking(PARTITION).unwrap();
    let manifests: Vec<Manifest> =
        place.snapshots.list_blocking(None).unwrap().into_iter().map(|listed| listed.manifest.unwrap()).collect();
    let named: usize = manifests.iter().map(|manifest| manifest.files.len()).sum();
    assert_eq!(place.paths(".arrow").len(), named);
}

#[test]
fn retention_keeps_new_bases_with_their_deltas_and_spaced_old_ones() {
    let retention = Retention { keep_bases: 2, keep_spaced: 2, spacing_ms: 10 * DAY_MS };
    let place = Place::new(SnapshotOptions { retention, ..SnapshotOptions::default() });
    let mut world = World::new(3);
    let mut written: Vec<Manifest> = Vec::new();
    // Bases every four days, each with one delta.
    for day in [0, 4, 8, 12, 16, 20, 24, 28, 32] {
        let changed = world.advance(20, 10);
        let state = world.state();
        let watermark = Some(START_MS + day * DAY_MS);
        let base = place.snapshots.write_blocking(SnapshotRequest::base(&state, watermark), None).unwrap();
        let delta = SnapshotRequest::delta(changed, &state, watermark);
        written.push(place.snapshots.write_blocking(delta, Some(&base)).unwrap());
        written.push(base);
    }
    assert_eq!(place.snapshots.retain_blocking(PARTITION).unwrap(), 18 - 4 - 2);
    let kept: Vec<(i64, SnapshotKind)> = place
        .snapshots
        .list_blocking(Some(PARTITION))
        .unwrap()
        .into_iter()
        .map(|listed| listed.manifest.unwrap())
        .map(|manifest| ((manifest.watermark_ms.unwrap() - START_MS) / DAY_MS, manifest.kind))
        .collect();
    assert_eq!(kept, [(4, Base), (16, Base), (28, Base), (28, Delta), (32, Base), (32, Delta)]);
    assert_eq!(place.snapshots.retain_blocking(PARTITION).unwrap(), 0);
    assert_eq!(place.restore(&world.state()).0, Some(world.state().state_hash()));
    assert!(place.snapshots.verify_blocking(None).unwrap().iter().all(|verified| verified.problems.is_empty()));
}

#[test]
fn the_writer_builds_a_chain_and_starts_anew_after_a_failure() {
    let place = Place::new(SnapshotOptions { deltas_per_base: 2, ..SnapshotOptions::default() });
    let writer = SnapshotWriter::start(place.snapshots.clone(), 1).unwrap();
    let mut status = writer.status();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut world = World::new(4);
    let mut changed = Vec::new();
    let mut kinds = Vec::new();
    for step in 0..7 {
        changed.extend(world.advance(50, 20));
        let newest: HashMap<_, _> = std::mem::take(&mut changed).into_iter().collect();
        let state = world.state();
        let kind = writer.wanted(PARTITION).expect("the last snapshot is done");
        *place.storage.puts_left.lock().unwrap() = (step == 2).then_some(1);
        writer
            .submit(match kind {
                Base => SnapshotRequest::base(&state, None),
                Delta => SnapshotRequest::delta(newest.into_iter().collect(), &state, None),
            })
            .unwrap();
        runtime
            .block_on(status.wait_for(|status| status.written_count + status.failed_count > step))
            .map(|_| ())
            .unwrap();
        kinds.push(kind);
        if step != 2 {
            assert_eq!(place.restore(&state).0, Some(state.state_hash()), "step {step}");
        }
    }
    assert_eq!(kinds, [Base, Delta, Delta, Base, Delta, Delta, Base]);
    assert_eq!((status.borrow().written_count, status.borrow().failed_count), (6, 1));
    let manifest = Arc::clone(&status.borrow().newest[&PARTITION]);
    writer.forget(PARTITION);
    assert_eq!(writer.wanted(PARTITION), Some(Base));
    writer.restored(&manifest);
    assert_eq!(writer.wanted(PARTITION), Some(Delta));
    writer.finish_blocking();
}

#[test]
fn a_full_queue_gives_the_request_back() {
    // The writer waits inside a put until the test lets it go on.
    #[derive(Debug)]
    struct Gate(MemoryStorage, Mutex<std::sync::mpsc::Receiver<()>>);
    impl Storage for Gate {
        fn put_blocking(&self, path: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
            self.1.lock().unwrap().recv().ok();
            self.0.put_blocking(path, bytes)
        }
        fn get_blocking(&self, path: &str) -> Result<Vec<u8>, StorageError> {
            self.0.get_blocking(path)
        }
        fn list_blocking(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
            self.0.list_blocking(prefix)
        }
        fn delete_blocking(&self, path: &str) -> Result<(), StorageError> {
            self.0.delete_blocking(path)
        }
    }
    let (open, gate) = std::sync::mpsc::channel();
    let storage = Arc::new(Gate(MemoryStorage::default(), Mutex::new(gate)));
    let snapshots = Snapshots::new(storage, SnapshotOptions::default(), Arc::new(ManualClock::at(0)));
    let writer = SnapshotWriter::start(snapshots, 1).unwrap();
    let request = |partition: i32| {
        let mut request = SnapshotRequest::base(&World::new(1).state(), None);
        request.partition = PartitionId(partition);
        request
    };
    // One is being written and one waits: the queue is full for at least two of four.
    let accepted: Vec<bool> = (0..4).map(|partition| writer.submit(request(partition)).is_ok()).collect();
    let refused = accepted.iter().filter(|accepted| !**accepted).count();
    assert!((2..=3).contains(&refused), "{accepted:?}");
    assert_eq!(writer.status().borrow().busy_count, refused as u64);
    for (partition, accepted) in (0..).zip(accepted) {
        let wanted = if accepted { None } else { Some(Base) };
        assert_eq!(writer.wanted(PartitionId(partition)), wanted, "partition {partition}");
    }
    drop(open);
    writer.finish_blocking();
}

#[test]
fn a_local_folder_keeps_whole_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open_storage(&format!("file://{}", folder.path().display()), &[]).unwrap();
    check_storage(storage.as_ref());
    std::fs::write(folder.path().join("a/half.tmp"), b"half").unwrap();
    assert_eq!(storage.list_blocking("a").unwrap(), ["a/y"]);
    storage.delete_blocking("a/y").unwrap();
}

#[test]
fn an_object_store_serves_as_well() {
    let store = Arc::new(object_store::memory::InMemory::new());
    let storage = RemoteStorage::new(store, "some/prefix".into()).unwrap();
    check_storage(&storage);
    // From inside a runtime too: the stream thread has one.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { storage.get_blocking("a/y").unwrap() });
    let place = Snapshots::new(Arc::new(storage), SnapshotOptions::default(), Arc::new(ManualClock::at(0)));
    let mut world = World::new(5);
    world.advance(100, 10);
    let state = world.state();
    place.write_blocking(SnapshotRequest::base(&state, None), None).unwrap();
    let outcome = place.restore_blocking(PARTITION, &state.progress().next_offsets).unwrap();
    assert_eq!(outcome.restored.unwrap().into_state().state_hash(), state.state_hash());
}

/// Leaves `a/y`.
fn check_storage(storage: &dyn Storage) {
    assert!(storage.list_blocking("nowhere").unwrap().is_empty());
    assert!(matches!(storage.get_blocking("a/x"), Err(StorageError::NotFound { .. })));
    storage.put_blocking("a/x", b"one".to_vec()).unwrap();
    storage.put_blocking("a/x", b"two".to_vec()).unwrap();
    storage.put_blocking("a/y", b"three".to_vec()).unwrap();
    storage.put_blocking("b/z", b"four".to_vec()).unwrap();
    assert_eq!(storage.get_blocking("a/x").unwrap(), b"two");
    let sorted = |prefix| {
        let mut paths = storage.list_blocking(prefix).unwrap();
        paths.sort_unstable();
        paths
    };
    assert_eq!(sorted("a"), ["a/x", "a/y"]);
    assert_eq!(sorted(""), ["a/x", "a/y", "b/z"]);
    for path in ["a/x", "a/x", "b/z"] {
        storage.delete_blocking(path).unwrap();
    }
    assert_eq!(sorted(""), ["a/y"]);
}

#[test]
fn a_location_that_cannot_be_used_is_named() {
    for location in ["ftp://host/x", "s3://", "file://host/relative"] {
        let message = open_storage(location, &[]).unwrap_err().to_string();
        assert!(message.contains(location.trim_end_matches('/')), "{message}");
    }
}

#[test]
fn every_column_is_in_the_documentation() {
    let place = Place::small();
    let manifest = chain_of_three(&place).swap_remove(0).0;
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/snapshots.md")).unwrap();
    for content in [FileContent::Users, FileContent::Names] {
        let bytes = place.storage.get_blocking(&path_of(&manifest, content)).unwrap();
        let reader = arrow::ipc::reader::FileReader::try_new(std::io::Cursor::new(bytes), None).unwrap();
        for field in reader.schema().fields() {
            let view = View::ALL.iter().find_map(|view| field.name().strip_prefix(view.name()));
            let column = view.map_or_else(|| field.name().clone(), |rest| format!("<view>{rest}"));
            assert!(page.contains(&format!("`{column}`")), "{column}");
        }
    }
}
