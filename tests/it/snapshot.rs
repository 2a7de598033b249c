//! Snapshots from outside: polars and pyarrow open them, old formats load for ever, and any state round trips.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use proptest::prelude::*;
use serde_json::{Value, json};
use smallvec::SmallVec;
use undercurrent::{
    clock::ManualClock,
    event::{DAY_MS, Event, EventKind, Name, NameKind, Offset, PartitionId, ProductLine, UserId},
    graph::{GraphParams, GraphStore, NameLookup, NameTable, PartitionState, Progress, UserGraph},
    snapshot::{FileContent, LocalStorage, Manifest, SnapshotOptions, SnapshotRequest, Snapshots},
};

const START_MS: i64 = 1_700_000_000_000;
pub(crate) const PARTITION: PartitionId = PartitionId(2);

/// An event in short: user, kind, hours since the start, name number, units.
pub(crate) type Deed = (u8, u8, u16, u8, u8);

/// Small rings, so that a few dozen events reach the settled part.
pub(crate) fn params() -> GraphParams {
    GraphParams { ring_capacity: 8, ..GraphParams::default() }
}

pub(crate) fn fold(deeds: &[Deed]) -> Arc<PartitionState> {
    let names = NameTable::default();
    let mut users: HashMap<UserId, UserGraph> = HashMap::new();
    let mut progress = Progress::default();
    for (number, (user, kind, hours, name, units)) in deeds.iter().enumerate() {
        let named = |kind: NameKind, text: String| {
            let name = Name::new(kind, text);
            names.insert(name.hash, Arc::from(&*name.text));
            name
        };
        let kind = EventKind::ALL[usize::from(*kind) % 6];
        let is_search = kind == EventKind::Search;
        let line = || ProductLine {
            item: Some(named(NameKind::Item, format!("item {name}"))),
            category: Some(named(NameKind::Category, format!("BÄCKEREI > {}", name % 5))),
            price_minor: Some(250),
            quantity: u32::from(*units),
            value_minor: 250 * u32::from(*units),
        };
        let event = Event {
            user: "".into(),
            kind,
            time_ms: START_MS + i64::from(*hours) * DAY_MS / 24,
            event_id: number as u64 + 1,
            session: name.is_multiple_of(2).then_some(u64::from(*hours) / 2),
            query: is_search.then(|| named(NameKind::Query, format!("query {name}"))),
            lines: if is_search { SmallVec::new() } else { std::iter::once(line()).collect() },
        };
        let graph = users.entry(UserId::new(&format!("user {user}"))).or_default();
        graph.view_mut(kind.view()).fold(&event, &params());
        progress.note_event(kind.view(), event.time_ms);
        let next = progress.next_offsets.get(kind.view()).0 + 1;
        progress.next_offsets.set(kind.view(), Offset(next));
    }
    let graphs = GraphStore::default();
    for (user, graph) in users {
        graphs.insert(user, Arc::new(graph));
    }
    Arc::new(PartitionState::restored(PARTITION, graphs, names, progress))
}

pub(crate) fn snapshots_in(folder: &Path) -> Snapshots {
    let options = SnapshotOptions { graph_params: params(), part_users: 6, ..SnapshotOptions::default() };
    let storage = Arc::new(LocalStorage::open(folder).unwrap());
    Snapshots::new(storage, options, Arc::new(ManualClock::at(START_MS)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_state_round_trips(
        before in prop::collection::vec(any::<Deed>(), 0..300),
        after in prop::collection::vec(any::<Deed>(), 0..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = snapshots_in(folder.path());
        let state = fold(&before);
        let base = snapshots.write_blocking(SnapshotRequest::base(&state, None), None).unwrap();
        let all: Vec<Deed> = before.iter().chain(&after).copied().collect();
        let newer = fold(&all);
        let is_changed = |user: &str, graph: &UserGraph| state.graphs.get(user).is_none_or(|old| *old != *graph);
        let mut changed = newer.graphs.to_vec();
        changed.retain(|(user, graph)| is_changed(user.as_str(), graph));
        snapshots.write_blocking(SnapshotRequest::delta(changed, &newer, None), Some(&base)).unwrap();
        for state in [&newer, &state] {
            let outcome = snapshots.restore_blocking(PARTITION, &state.progress().next_offsets).unwrap();
            prop_assert_eq!(outcome.restored.unwrap().into_state().state_hash(), state.state_hash());
        }
    }
}

/// A history that fills rings, for the fixture and the Python test.
fn history() -> Vec<Deed> {
    (0..900u32)
        .map(|number| {
            let mixed = number.wrapping_mul(2_654_435_761);
            let [first, second, third, _] = mixed.to_le_bytes();
            (first % 20, second, u16::try_from(number).unwrap(), third % 60, second % 4)
        })
        .collect()
}

/// What the fixture is held against: everything here was true when it was written.
fn describe(state: &PartitionState) -> Value {
    let mut users = state.graphs.to_vec();
    users.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    let views = |graph: &UserGraph| -> Vec<Value> {
        let view = |(view, graph): (undercurrent::event::View, &undercurrent::graph::ViewGraph)| {
            let totals = graph.totals();
            let settled = graph.settled();
            json!({
                "view": view.name(),
                "events": totals.event_count,
                "value_minor": totals.value_minor,
                "kind_count": totals.kind_count,
                "first_ms": graph.summary().first_ms,
                "last_ms": graph.summary().last_ms,
                "days": graph.days().iter().collect::<Vec<_>>(),
                "ring": graph.ring().map(|entry| json!([
                    entry.time_s,
                    entry.kind.name(),
                    entry.name.and_then(|name| state.names.text(name)).as_deref(),
                    entry.category.and_then(|name| state.names.text(name)).as_deref(),
                    entry.value_minor,
                    entry.quantity,
                    entry.session,
                    entry.event_id,
                ])).collect::<Vec<_>>(),
                "nodes": settled.map(|settled| settled.nodes.iter().map(|node| json!([
                    state.names.text(node.name).as_deref(), node.count, node.weight_short.to_bits(), node.value_minor,
                ])).collect::<Vec<_>>()),
                "edges": settled.map(|settled| settled.edges.iter().map(|edge| json!([
                    state.names.text(edge.from).as_deref(), state.names.text(edge.to).as_deref(), edge.count,
                ])).collect::<Vec<_>>()),
            })
        };
        graph.views().map(view).collect()
    };
    users.iter().map(|(user, graph)| json!({ "user": user.as_str(), "views": views(graph) })).collect()
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/snapshot_v1")
}

/// The fixture was written once, by format version 1, with `UNDERCURRENT_WRITE_FIXTURE=1`. Never write it again: it
/// stands for what is on users' disks.
#[test]
fn format_version_1_loads() {
    let expected = fixture().join("expected.json");
    if std::env::var_os("UNDERCURRENT_WRITE_FIXTURE").is_some() {
        assert!(!expected.exists(), "the fixture is never rewritten");
        let history = history();
        let snapshots = snapshots_in(&fixture());
        let old = fold(&history[..700]);
        let base = snapshots.write_blocking(SnapshotRequest::base(&old, Some(START_MS)), None).unwrap();
        let state = fold(&history);
        let changed = state.graphs.to_vec();
        snapshots.write_blocking(SnapshotRequest::delta(changed, &state, Some(START_MS + 1)), Some(&base)).unwrap();
        std::fs::write(&expected, serde_json::to_string(&describe(&state)).unwrap()).unwrap();
    }
    let snapshots = snapshots_in(&fixture());
    let listed: Vec<Manifest> =
        snapshots.list_blocking(None).unwrap().into_iter().map(|listed| listed.manifest.unwrap()).collect();
    assert_eq!(listed.iter().map(|manifest| manifest.format_version).collect::<Vec<_>>(), [1, 1]);
    let newest = &listed[1];
    assert_eq!(newest.watermark_ms, Some(START_MS + 1));
    let outcome = snapshots.restore_blocking(PARTITION, &newest.next_offsets()).unwrap();
    assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
    let state = outcome.restored.unwrap().into_state();
    let expected: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    assert_eq!(describe(&state), expected);
    assert_eq!(state.progress().next_offsets.0.iter().map(|offset| offset.0).sum::<i64>(), 900);
}

/// What the Python script prints, computed here.
fn summary(state: &PartitionState) -> Value {
    let users = state.graphs.to_vec();
    let lines = users.iter().flat_map(|(_, graph)| graph.views()).flat_map(|(_, view)| view.ring()).count();
    let recent: Vec<_> = users
        .iter()
        .filter_map(|(_, graph)| graph.view(undercurrent::event::View::Purchase))
        .flat_map(undercurrent::graph::ViewGraph::ring)
        .collect();
    json!({
        "users": users.len(),
        "events": users.iter().map(|(_, graph)| graph.event_count()).sum::<u64>(),
        "value_minor": users.iter().flat_map(|(_, graph)| graph.views()).map(|(_, view)| view.totals().value_minor).sum::<u64>(),
        "last_event_ms": users.iter().filter_map(|(_, graph)| graph.last_event_ms()).max(),
        "lines": lines,
        "bought_item_7": recent.iter().filter(|entry| {
            entry.name.and_then(|name| state.names.text(name)).as_deref() == Some("item 7")
        }).count(),
        "nodes": users.iter().flat_map(|(_, graph)| graph.views()).filter_map(|(_, view)| view.settled()).map(|settled| settled.nodes.len()).sum::<usize>(),
    })
}

const POLARS: &str = r#"
import json, sys, polars as pl
files = json.load(sys.stdin)
users = pl.concat([pl.read_ipc(path) for path in files["users"]])
names = pl.concat([pl.read_ipc(path) for path in files["names"]])
views = ["click", "search", "purchase"]
bought = users.select(pl.col("purchase_ring").explode()).unnest("purchase_ring")
bought = bought.join(names, left_on="name", right_on="hash")
print(json.dumps({
    "users": users.height,
    "events": int(users["event_count"].sum()),
    "value_minor": int(users["value_minor"].sum()),
    "last_event_ms": int(users["last_event_ms"].dt.timestamp("ms").max()),
    "lines": sum(int(users[view + "_ring"].list.len().sum()) for view in views),
    "bought_item_7": bought.filter(pl.col("text") == "item 7").height,
    "nodes": sum(int(users[view + "_settled_nodes"].list.len().sum() or 0) for view in views),
}))
"#;

const PYARROW: &str = r#"
import json, sys, pyarrow as pa, pyarrow.compute as pc
files = json.load(sys.stdin)
read = lambda paths: pa.concat_tables([pa.ipc.open_file(path).read_all() for path in paths])
users, names = read(files["users"]), read(files["names"])
users.validate(full=True)
views = ["click", "search", "purchase"]
texts = dict(zip(names["hash"].to_pylist(), names["text"].to_pylist()))
bought = [texts.get(line["name"]) for ring in users["purchase_ring"].to_pylist() for line in ring or []]
length = lambda column: pc.sum(pc.list_value_length(users[column])).as_py() or 0
print(json.dumps({
    "users": users.num_rows,
    "events": pc.sum(users["event_count"]).as_py(),
    "value_minor": pc.sum(users["value_minor"]).as_py(),
    "last_event_ms": pc.max(users["last_event_ms"].cast(pa.int64())).as_py(),
    "lines": sum(length(view + "_ring") for view in views),
    "bought_item_7": bought.count("item 7"),
    "nodes": sum(length(view + "_settled_nodes") for view in views),
}))
"#;

/// `scripts/test` makes the environment with both libraries and names its interpreter in `UNDERCURRENT_PYTHON`.
#[test]
fn polars_and_pyarrow_open_the_files() {
    let Some(python) = std::env::var_os("UNDERCURRENT_PYTHON") else {
        assert!(std::env::var_os("UNDERCURRENT_REQUIRE_PYTHON").is_none(), "`UNDERCURRENT_PYTHON` is not set");
        println!("skipped: `UNDERCURRENT_PYTHON` names no interpreter with polars and pyarrow; scripts/test does");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let state = fold(&history());
    let manifest = snapshots_in(folder.path()).write_blocking(SnapshotRequest::base(&state, None), None).unwrap();
    let paths = |content: FileContent| -> Vec<PathBuf> {
        let files = manifest.files.iter().filter(|file| file.content == content);
        files.map(|file| folder.path().join(manifest.file_path(file))).collect()
    };
    let input = json!({ "users": paths(FileContent::Users), "names": paths(FileContent::Names) });
    let input_path = folder.path().join("input.json");
    std::fs::write(&input_path, input.to_string()).unwrap();
    for script in [POLARS, PYARROW] {
        let output = Command::new(&python)
            .args(["-c", script])
            .stdin(std::fs::File::open(&input_path).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed, summary(&state));
        assert!(printed["nodes"].as_u64() > Some(0) && printed["bought_item_7"].as_u64() > Some(0), "{printed}");
    }
}
