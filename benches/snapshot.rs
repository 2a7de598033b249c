//! Writes and restores a partition of many users: MB/s and users/s; and replays the input log above a snapshot: events/s.
//!
//! `cargo bench --bench snapshot [-- USERS [EVENTS_A_USER]]`, 1,000,000 and 50 by default. Aims: a restore of the default in 5 s
//! at most, a replay of 500,000 events/s at least, both on one machine of two cores.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "a bench prints, reads the clock and ends at the first problem"
)]

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use smallvec::smallvec;
use undercurrent::{
    clock::SystemClock,
    decision::DecisionParams,
    event::{
        DAY_MS, Decoder, Event, EventKind, Name, NameHash, NameKind, Offset, PartitionId, ProductLine, UserId, View,
    },
    generate::{GenerateParams, json_records},
    graph::{GraphParams, GraphStore, NameTable, PartitionState, Progress, UserGraph},
    scoring::RecencyScorer,
    snapshot::{Compression, LocalStorage, SnapshotOptions, SnapshotRequest, Snapshots},
    stream::{
        BatchLimits, Commit, NoSnapshots, Partitions, RecordBatch, Sink, Source, Step, StreamParams, StreamParts,
        StreamThread, TimeMode,
        memory::{MemoryBroker, MemoryLog, NoFaults},
    },
};

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let users = numbers.first().copied().unwrap_or(1_000_000);
    let events = numbers.get(1).copied().unwrap_or(50);
    let params = GraphParams::default();
    let state = made_up(users, events, &params);
    println!("{users} users of {events} events, {:.0} MB of graphs in memory", mega(state.graphs.byte_count() as u64));
    let started = Instant::now();
    drop(SnapshotRequest::base(&state, None));
    println!("collecting the Arcs on the stream thread: {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    println!(
        "{:<6} {:>8} {:>9} {:>9} {:>10} {:>11} {:>9} {:>10}",
        "", "MB", "B/user", "write s", "write MB/s", "users/s", "read s", "users/s"
    );
    for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)] {
        run(name, compression, &params, &state);
    }
    drop(state);
    replay(REPLAYED_EVENTS);
}

/// Records of the input log that a restore reads again.
const REPLAYED_EVENTS: usize = 500_000;

/// Restores one partition from its input log alone, as the loop does it: decode and fold up to the committed positions.
fn replay(event_count: usize) {
    let broker = Arc::new(MemoryBroker::new(1));
    let partition = PartitionId(0);
    for record in json_records(&GenerateParams::new(20_000, 365, 7), event_count) {
        broker.append(record.view, partition, 0, Some(record.key.as_bytes()), Some(&record.payload));
    }
    let mut log = MemoryLog::join(&broker, "bench", Box::new(NoFaults));
    let mut batch = RecordBatch::default();
    let limits = BatchLimits { max_records: 1, max_bytes: 1, linger_ms: 0, idle_wait_ms: 0 };
    log.poll_blocking(&limits, &mut batch).expect("the memory log assigns its partition");
    let positions = BTreeMap::from([(partition, broker.ends(partition))]);
    log.commit_blocking(&Commit { outputs: Vec::new(), positions }).expect("the memory log commits");
    let partitions = Arc::new(Partitions::default());
    let mut thread = StreamThread::new(StreamParts {
        log: MemoryLog::join(&broker, "bench", Box::new(NoFaults)),
        scorer: Arc::new(RecencyScorer::new(28, 14)),
        clock: Arc::new(SystemClock),
        decoder: Decoder::default(),
        partitions: Arc::clone(&partitions),
        snapshots: Box::new(NoSnapshots),
        decision: DecisionParams::default(),
        catalogue: Arc::new(NameTable::default()),
        params: StreamParams { time: TimeMode::Replay, batch: limits, ..StreamParams::default() },
    });
    let (started, cpu) = (Instant::now(), cpu_s());
    while !matches!(thread.step_blocking().expect("the log is whole"), Step::Restored(_)) {}
    let (seconds, cpu_seconds) = (started.elapsed().as_secs_f64(), cpu_s() - cpu);
    let users = partitions.user_count();
    println!(
        "replay of {event_count} events of {users} users: {seconds:.2} s ({cpu_seconds:.2} s CPU), {:.0} events/s",
        event_count as f64 / seconds
    );
}

fn run(name: &str, compression: Compression, params: &GraphParams, state: &Arc<PartitionState>) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let storage = Arc::new(LocalStorage::open(Path::new(folder.path())).expect("the folder is there"));
    let options = SnapshotOptions { graph_params: params.clone(), compression, ..SnapshotOptions::default() };
    let snapshots = Snapshots::new(storage, options, Arc::new(SystemClock));
    let users = state.graphs.len() as f64;

    let (started, cpu) = (Instant::now(), cpu_s());
    let manifest = snapshots.write_blocking(SnapshotRequest::base(state, None), None).expect("the disk has room");
    let (write_s, write_cpu_s) = (started.elapsed().as_secs_f64(), cpu_s() - cpu);

    let (started, cpu) = (Instant::now(), cpu_s());
    let outcome = snapshots.restore_blocking(state.partition(), &state.progress().next_offsets).expect("readable");
    let restored = outcome.restored.expect("it is whole").into_state();
    let (read_s, read_cpu_s) = (started.elapsed().as_secs_f64(), cpu_s() - cpu);
    assert_eq!(restored.graphs.len(), state.graphs.len());
    if users < 200_000.0 {
        assert_eq!(restored.state_hash(), state.state_hash());
    }
    let megabytes = mega(manifest.counts.bytes);
    println!(
        "{name:<6} {megabytes:>7.0} {:>8.0} {write_s:>9.2} {write_cpu_s:>7.2} {:>7.0} {:>9.0} {read_s:>9.2} {read_cpu_s:>7.2} {:>7.0} {:>9.0}",
        manifest.counts.bytes as f64 / users,
        megabytes / write_s,
        users / write_s,
        megabytes / read_s,
        users / read_s,
    );
}

/// CPU seconds of this process so far, all threads, user and system. On a busy machine they say more than the clock.
fn cpu_s() -> f64 {
    let ticks = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| {
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    });
    ticks.map_or(f64::NAN, |ticks| ticks / 100.0)
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Users who look at, search for and buy items of a catalogue of 50,000 over a year.
fn made_up(users: usize, events: usize, params: &GraphParams) -> Arc<PartitionState> {
    let mut random = StdRng::seed_from_u64(7);
    let (graphs, names) = (GraphStore::default(), NameTable::default());
    let name = |kind: NameKind, text: String| {
        let name = Name { hash: NameHash::of(kind, &text), text: text.into() };
        names.insert(name.hash, Arc::from(&*name.text));
        name
    };
    let items: Vec<Name<'static>> = (0..50_000).map(|item| name(NameKind::Item, format!("item-{item}"))).collect();
    let categories: Vec<Name<'static>> =
        (0..300).map(|category| name(NameKind::Category, format!("category-{category}"))).collect();
    let queries: Vec<Name<'static>> = (0..5_000).map(|query| name(NameKind::Query, format!("query {query}"))).collect();
    let mut progress = Progress::default();
    for user in 0..users {
        let mut graph = UserGraph::default();
        let mut time_ms = 1_700_000_000_000 + random.random_range(0..30) * DAY_MS;
        for _ in 0..events {
            time_ms += random.random_range(0..(330 * DAY_MS / events as i64));
            let kind = match random.random_range(0..10) {
                0..6 => EventKind::View,
                6..8 => EventKind::Search,
                _ => EventKind::Purchase,
            };
            let item = random.random_range(0..items.len());
            let is_search = kind == EventKind::Search;
            let event = Event {
                user: "".into(),
                kind,
                time_ms,
                event_id: random.random(),
                session: Some(random.random()),
                query: is_search.then(|| queries[item % queries.len()].clone()),
                lines: if is_search {
                    smallvec![]
                } else {
                    smallvec![ProductLine {
                        item: Some(items[item].clone()),
                        category: Some(categories[item % categories.len()].clone()),
                        price_minor: Some(999),
                        quantity: 1,
                        value_minor: 999,
                    }]
                },
            };
            graph.view_mut(kind.view()).fold(&event, params);
            progress.note_event(kind.view(), time_ms);
        }
        graphs.insert(UserId::new(&format!("user-{user:08}")), Arc::new(graph));
    }
    for view in View::ALL {
        progress.next_offsets.set(view, Offset((users * events) as i64));
    }
    Arc::new(PartitionState::restored(PartitionId(0), graphs, names, progress))
}
