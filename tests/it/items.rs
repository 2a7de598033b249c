//! What is recommended: the daemon's lists are evaluation's, no list is empty, and each reason is one.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
};

use arrow::array::{Array, AsArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use undercurrent::{
    event::{
        CleaningCounts, CleaningParams, DAY_MS, Decoder, Event, EventKind, EventMapping, Name, NameHash, NameKind,
        ProductLine, RawRecord, View,
    },
    features::Missing,
    generate::{EventFormat, GenerateParams, json_records, write_files},
    graph::{GraphParams, KindSet, UserGraph},
    model::{
        Bundle,
        items::{ItemModel, UserItems},
    },
    score::{ItemReason, ScoreRequest, Scored},
    scoring::{Pool, PoolSettings, RecencyScorer, Scorer},
    train::{Pretraining, bundle::train_bundle, evaluate, evaluate::EvaluateOptions, schedule::Horizons},
};

const USERS: u32 = 150;
const DAYS: u32 = 70;

fn made() -> GenerateParams {
    GenerateParams { items: 300, ..GenerateParams::new(USERS, DAYS, 3) }
}

fn options(folder: &Path, out: &str) -> EvaluateOptions {
    let params = made();
    EvaluateOptions {
        events: vec![folder.join(EventFormat::Csv.file_name())],
        items: Some(folder.join("items.csv")),
        text_model: None,
        pretraining: Pretraining::None,
        cutoff_ms: params.start_ms + i64::from(params.cutoff_day) * DAY_MS,
        activity: ["view", "search", "cart_add", "purchase"].map(str::to_owned).to_vec(),
        buy: vec!["purchase".to_owned()],
        horizons: Horizons { history_days: 30, churn_days: 14, purchase_days: 7 },
        seed: 1,
        missing: Missing::Learned,
        out: folder.join(out),
        threads: NonZeroUsize::new(2).unwrap(),
        report: false,
    }
}

fn params() -> GraphParams {
    let activity = [EventKind::View, EventKind::Search, EventKind::CartAdd, EventKind::Purchase];
    GraphParams { activity: KindSet::of(&activity), ..GraphParams::default() }
}

/// Graphs of all users before `until_ms`, folded from the records a daemon reads.
fn graphs(until_ms: i64) -> HashMap<String, UserGraph> {
    let decoder = Decoder::new(EventMapping::default(), CleaningParams::default());
    let (params, mut counts) = (params(), CleaningCounts::default());
    let mut graphs: HashMap<String, UserGraph> = HashMap::new();
    for record in json_records(&made(), 300_000) {
        if record.time_ms >= until_ms {
            break;
        }
        let raw = RawRecord {
            key: Some(record.key.as_bytes()),
            payload: Some(&record.payload),
            timestamp_ms: record.time_ms,
        };
        let event = decoder.decode(record.view, &raw, &mut counts).unwrap();
        graphs.entry(record.key.clone()).or_default().view_mut(record.view).fold(&event, &params);
    }
    graphs
}

fn pool(bundle: Bundle) -> Pool {
    let settings = PoolSettings { workers: NonZeroUsize::MIN, ..PoolSettings::default() };
    Pool::start(Arc::new(bundle), settings).unwrap()
}

fn score(scorer: &dyn Scorer, graph: UserGraph, as_of_ms: i64) -> Scored {
    scorer.score_blocking(&[ScoreRequest { graph: Arc::new(graph), as_of_ms }]).unwrap().remove(0)
}

/// Lists of `predictions.parquet` by user: items, discoveries.
fn predicted(path: &Path) -> HashMap<String, [Vec<String>; 2]> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let mut lists = HashMap::new();
    for batch in reader {
        let batch = batch.unwrap();
        let users = batch.column_by_name("user_id").unwrap().as_string::<i32>().clone();
        let of = |name: &str, row: usize| -> Vec<String> {
            let texts = batch.column_by_name(name).unwrap().as_list::<i32>().value(row);
            let texts = texts.as_string::<i32>();
            (0..texts.len()).map(|place| texts.value(place).to_owned()).collect()
        };
        for row in 0..batch.num_rows() {
            lists.insert(users.value(row).to_owned(), [of("items", row), of("discoveries", row)]);
        }
    }
    lists
}

/// A purchase or a view of one item.
fn event(kind: EventKind, item: &str, time_ms: i64) -> Event<'static> {
    Event {
        user: "u".into(),
        kind,
        time_ms,
        event_id: time_ms.unsigned_abs(),
        session: None,
        query: None,
        lines: std::iter::once(ProductLine {
            item: Some(Name::new(NameKind::Item, item.to_owned())),
            category: None,
            price_minor: Some(100),
            quantity: 1,
            value_minor: 100,
        })
        .collect(),
    }
}

fn no_list_is_empty(model: &ItemModel, scored: &Scored, graph: &UserGraph, what: &str) {
    assert!(!scored.items.is_empty() && !scored.discoveries.is_empty(), "{what}: an empty list");
    let own = UserItems::of(graph, &params());
    let bought: HashSet<NameHash> = own.bought.iter().map(|node| node.name).collect();
    let touched: HashSet<NameHash> = own.bought.iter().chain(&own.seen).map(|node| node.name).collect();
    for (list, places) in [&scored.items, &scored.discoveries].into_iter().enumerate() {
        let distinct: HashSet<NameHash> = places.iter().map(|place| place.item).collect();
        assert_eq!(distinct.len(), places.len(), "{what}: an item stands twice");
        assert!(places.windows(2).all(|pair| pair[0].score >= pair[1].score), "{what}: not best first");
        for place in places {
            assert!(list == 0 || !bought.contains(&place.item), "{what}: a discovery was bought before");
            match place.reason {
                ItemReason::Habit => assert!(touched.contains(&place.item), "{what}: a habit of nothing"),
                ItemReason::Category => {
                    let category =
                        model.tables().row(place.item).map(|row| model.tables().rows()[row as usize].category);
                    let known = own.categories.iter().any(|node| Some(node.name) == category);
                    assert!(known || touched.contains(&place.item), "{what}: a category the user never bought in");
                }
                ItemReason::Popularity => assert!(model.tables().row(place.item).is_some(), "{what}: an unknown item"),
                ItemReason::Neighbours => assert!(!touched.is_empty(), "{what}: neighbours of nothing"),
                ItemReason::Model => panic!("{what}: the network does not rank where there is an item model"),
            }
        }
    }
}

#[test]
fn the_daemon_serves_the_lists_of_the_evaluation_and_none_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    write_files(&made(), folder.path(), EventFormat::Csv, |_, _| {}).unwrap();
    let evaluation = options(folder.path(), "evaluation");
    evaluate::run(&evaluation, &mut |_| {}).unwrap();
    let predicted = predicted(&evaluation.out.join("predictions.parquet"));
    assert!(predicted.len() > 50, "{} users", predicted.len());

    let bundle_options = options(folder.path(), "bundle");
    train_bundle(&bundle_options, &mut |_| {}).unwrap();
    let bundle = Bundle::load(&bundle_options.out).unwrap();
    let model = Arc::clone(bundle.items.as_ref().unwrap());
    let (pool, recency) = (pool(bundle), RecencyScorer::default().with_items(Arc::clone(&model)));
    let at_ms = evaluation.cutoff_ms;
    let text = |name: NameHash| model.name(NameKind::Item, name).unwrap().text.clone();
    let mut compared = 0;
    for (user, graph) in graphs(at_ms) {
        let scored = score(&pool, graph.clone(), at_ms);
        no_list_is_empty(&model, &scored, &graph, &user);
        no_list_is_empty(&model, &score(&recency, graph.clone(), at_ms), &graph, "recency");
        if let Some([items, discoveries]) = predicted.get(&user) {
            let texts = |list: &[undercurrent::score::RankedItem]| {
                list.iter().map(|place| text(place.item)).collect::<Vec<_>>()
            };
            assert_eq!(
                (texts(&scored.items), texts(&scored.discoveries)),
                (items.clone(), discoveries.clone()),
                "{user}"
            );
            compared += 1;
        }
    }
    assert_eq!(compared, predicted.len(), "every evaluated user is served");

    // Who never did anything, and who only ever did things the bundle has not heard of.
    let nobody = UserGraph::default();
    no_list_is_empty(&model, &score(&pool, nobody.clone(), at_ms), &nobody, "nobody");
    no_list_is_empty(&model, &score(&recency, nobody.clone(), at_ms), &nobody, "nobody, recency");
    for kind in [EventKind::Purchase, EventKind::View] {
        let mut graph = UserGraph::default();
        graph.view_mut(kind.view()).fold(&event(kind, "unheard of", at_ms - DAY_MS), &params());
        no_list_is_empty(&model, &score(&pool, graph.clone(), at_ms), &graph, "unheard of");
        no_list_is_empty(&model, &score(&recency, graph.clone(), at_ms), &graph, "unheard of, recency");
    }

    // An event changes the lists at the next score.
    let (_, graph) = graphs(at_ms).into_iter().find(|(_, graph)| graph.view(View::Purchase).is_some()).unwrap();
    let before = score(&pool, graph.clone(), at_ms);
    let discovered = text(before.discoveries[0].item);
    let mut after = graph;
    after.view_mut(View::Purchase).fold(&event(EventKind::Purchase, &discovered, at_ms - 1), &params());
    let after = score(&pool, after, at_ms);
    assert!(after.discoveries.iter().all(|place| place.item != before.discoveries[0].item));
    assert!(after.items.iter().any(|place| place.item == before.discoveries[0].item));
}

#[test]
fn without_a_bundle_the_recency_rule_names_what_is_in_the_graph() {
    let mut graph = UserGraph::default();
    for (kind, item, time_ms) in [
        (EventKind::View, "a", 1),
        (EventKind::View, "b", 2),
        (EventKind::Purchase, "a", 3),
        (EventKind::Purchase, "c", 4),
    ] {
        graph.view_mut(kind.view()).fold(&event(kind, item, time_ms * DAY_MS), &params());
    }
    let scored = score(&RecencyScorer::default(), graph, 9 * DAY_MS);
    let names = |list: &[undercurrent::score::RankedItem]| list.iter().map(|place| place.item).collect::<Vec<_>>();
    assert_eq!(names(&scored.items), [NameHash::of(NameKind::Item, "a")]);
    assert_eq!(names(&scored.discoveries), [NameHash::of(NameKind::Item, "b")]);
}
