//! Files folded into snapshots: what the daemon can start from, and what training reads as it reads the files.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use undercurrent::{
    clock::ManualClock,
    config::Config,
    daemon::{
        engine,
        feed::{EventBatch, append_blocking},
        params,
        replay::{Moments, ReplayOptions, Replayed, run_blocking},
    },
    event::{CleaningCounts, DAY_MS, NameHash, Offset, RowReader, View},
    generate::{GenerateParams, json_records},
    graph::{GraphParams, UserGraph},
    snapshot::Snapshots,
    stream::embedded::{EmbeddedLog, EmbeddedParams},
    train::{
        corpus::{Corpus, CorpusOptions},
        history::{FileHistory, History, HistoryError, SnapshotHistory},
        kinds::{KindPlan, Survey},
        labels::{LabelMark, items_bought_since},
    },
};

const PARTITIONS: u32 = 3;
/// Days between two snapshots.
const EVERY_DAYS: i64 = 7;

/// Made-up shoppers in a file, and what `replay` made of it.
struct Replay {
    _folder: tempfile::TempDir,
    file: PathBuf,
    config: Config,
    replayed: Replayed,
}

fn write_events(folder: &Path, users: u32, days: u32, count: usize) -> PathBuf {
    let file = folder.join("events.jsonl");
    let mut lines = std::io::BufWriter::new(std::fs::File::create(&file).unwrap());
    for record in json_records(&GenerateParams::new(users, days, 5), count) {
        lines.write_all(&record.payload).unwrap();
        lines.write_all(b"\n").unwrap();
    }
    file
}

/// One replay for all tests of this file.
fn replay() -> &'static Replay {
    static ONCE: OnceLock<Replay> = OnceLock::new();
    ONCE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = write_events(folder.path(), 150, 90, 40_000);
        let mut config = Config::default();
        config.snapshot.location = folder.path().join("snapshots").display().to_string();
        let options = ReplayOptions {
            files: vec![file.clone()],
            moments: Moments::Every { every_ms: EVERY_DAYS * DAY_MS, from_ms: None, until_ms: None },
            horizons_ms: Vec::new(),
            location: config.snapshot.location.clone(),
            partition_count: PARTITIONS,
        };
        let replayed = run_blocking(&config, &options, &mut |_, _| ()).unwrap();
        Replay { _folder: folder, file, config, replayed }
    })
}

impl Replay {
    fn snapshots(&self) -> Snapshots {
        let clock: Arc<dyn undercurrent::clock::Clock> = Arc::new(ManualClock::at(0));
        engine::snapshots(&self.config, &clock).unwrap()
    }

    fn of_snapshots(&self) -> SnapshotHistory {
        SnapshotHistory::open(self.snapshots(), "here", i64::MAX, 2).unwrap()
    }

    fn of_file(&self) -> FileHistory {
        let survey = Survey::of(&self.file).unwrap();
        let activity = self.config.events.activity.clone();
        let plan = KindPlan::new(&survey, &activity, &["purchase".to_owned()]).unwrap();
        let options =
            CorpusOptions { plan: &plan, item_categories: Arc::default(), cutoff_ms: i64::MAX, horizons_ms: [0, 0] };
        let (corpus, _) = Corpus::read(std::slice::from_ref(&self.file), &options, &mut |_| {}).unwrap();
        FileHistory { corpus, params: GraphParams::default(), threads: 2 }
    }
}

/// What a history shows of every user at every moment, by the user's name.
fn seen<H: History, R: Send>(
    history: &H,
    moments_ms: &[i64],
    look: impl Fn(usize, &UserGraph) -> R + Sync,
) -> BTreeMap<(String, usize), R> {
    let shown = history.observe(moments_ms, &|_| true, &|user, place, graph| Some((user, place, look(place, graph))));
    let name = |user: usize| history.users()[user].as_str().to_owned();
    shown.unwrap().into_iter().map(|(user, place, seen)| ((name(user), place), seen)).collect()
}

#[test]
fn a_snapshot_shows_the_graphs_that_the_file_shows() {
    let replay = replay();
    let (of_file, of_snapshots) = (replay.of_file(), replay.of_snapshots());
    assert_eq!(of_snapshots.rounds_ms(), replay.replayed.moments_ms);
    assert_eq!(of_snapshots.params(), of_file.params());
    assert_eq!(
        (of_snapshots.first_ms(), of_snapshots.event_count()),
        (of_file.first_ms(), replay.replayed.event_count)
    );
    let moments_ms: Vec<i64> = of_snapshots.rounds_ms().iter().rev().step_by(3).rev().copied().collect();
    let (expected, found) = (
        seen(&of_file, &moments_ms, |_, graph| graph.clone()),
        seen(&of_snapshots, &moments_ms, |_, graph| graph.clone()),
    );
    assert!(expected.len() > 300, "only {} users and moments", expected.len());
    assert!(found == expected, "the graphs differ");
}

/// What labels are made of.
type Marks = (LabelMark, Vec<NameHash>);

#[test]
fn labels_between_snapshots_are_exact_or_absent() {
    let replay = replay();
    let (of_file, of_snapshots) = (replay.of_file(), replay.of_snapshots());
    let rounds_ms = of_snapshots.rounds_ms();
    // Whole seconds, nowhere near a snapshot, and each a few days after the cutoff that its labels are of.
    let moments_ms: Vec<i64> =
        rounds_ms[..rounds_ms.len() - 1].iter().map(|round_ms| round_ms / 1_000 * 1_000 + 2 * DAY_MS + 7_000).collect();
    let marks = |params: &GraphParams, place: usize, graph: &UserGraph| -> Marks {
        let mut items: Vec<NameHash> =
            items_bought_since(graph, moments_ms[place] - 2 * DAY_MS, params).into_iter().collect();
        items.sort_unstable();
        (LabelMark::of(graph), items)
    };
    let expected = seen(&of_file, &moments_ms, |place, graph| marks(&of_file.params, place, graph));
    let found = seen(&of_snapshots, &moments_ms, |place, graph| marks(of_snapshots.params(), place, graph));
    for (key, marks) in &found {
        assert_eq!(Some(marks), expected.get(key), "{key:?}");
    }
    let bought: usize = found.values().map(|(_, items)| items.len()).sum();
    assert!(bought > 50 && found.len() * 100 > expected.len() * 95, "{bought}, {} of {}", found.len(), expected.len());
}

#[test]
fn a_ring_that_does_not_reach_back_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_events(folder.path(), 20, 60, 20_000);
    let mut config = Config::default();
    config.graph.ring_capacity = 8;
    config.snapshot.location = folder.path().join("snapshots").display().to_string();
    let options = ReplayOptions {
        files: vec![file],
        moments: Moments::Every { every_ms: 20 * DAY_MS, from_ms: None, until_ms: None },
        horizons_ms: Vec::new(),
        location: config.snapshot.location.clone(),
        partition_count: 1,
    };
    let replayed = run_blocking(&config, &options, &mut |_, _| ()).unwrap();
    let clock: Arc<dyn undercurrent::clock::Clock> = Arc::new(ManualClock::at(0));
    let history = SnapshotHistory::open(engine::snapshots(&config, &clock).unwrap(), "here", i64::MAX, 1).unwrap();
    let end_ms = replayed.moments_ms.last().unwrap();
    let refused = history.observe(&[end_ms - 10 * DAY_MS], &|_| true, &|_, _, _| Some(()));
    let Err(HistoryError::Unreachable { unknown, asked, .. }) = &refused else { panic!("{refused:?}") };
    assert!(unknown * 20 > *asked);
    // A second replay into the same place would mix two histories.
    let again = run_blocking(&config, &options, &mut |_, _| ()).unwrap_err();
    assert!(again.to_string().contains("a place of its own"), "{again}");
}

#[test]
fn a_log_filled_from_the_file_stands_where_the_newest_snapshot_stands() {
    let replay = replay();
    let folder = tempfile::tempdir().unwrap();
    let log_params = EmbeddedParams { partition_count: PARTITIONS, ..EmbeddedParams::at(folder.path().join("log")) };
    let log = EmbeddedLog::open(log_params, Arc::new(ManualClock::at(0))).unwrap();
    let mut edge = params::edge(&replay.config).unwrap();
    let (mut batch, mut counts) = (EventBatch::default(), CleaningCounts::default());
    let mut reader = RowReader::open(&replay.file).unwrap();
    while let Some(row) = reader.next_row().unwrap() {
        if let Ok(admitted) = edge.admit_row(&row, &mut counts) {
            batch.push(&admitted);
        }
    }
    append_blocking(&log, &batch).unwrap();
    let mut users = HashSet::new();
    for partition in log.partitions() {
        let ends = log.ends(partition);
        // Exactly at the end of the log: one record less, and the snapshot would be ahead of it.
        let restored = replay.snapshots().restore_blocking(partition, &ends).unwrap().restored.unwrap();
        assert_eq!(restored.manifest.next_offsets(), ends);
        users.extend(restored.users.iter().map(|(user, _)| user.clone()));
        let mut before = ends;
        before.set(View::Click, Offset(ends.get(View::Click).0 - 1));
        let earlier = replay.snapshots().restore_blocking(partition, &before).unwrap().restored.unwrap();
        assert!(earlier.manifest.next_offsets() != ends);
    }
    assert_eq!(users.len() as u64, replay.replayed.user_count);
}
