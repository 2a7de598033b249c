//! Users scored a second on one core: the hand-written forward against plain candle operations, encoding, the whole
//! pool, a step of training, and what each part of a score costs with the shipped bundle for the users it was made for.
//!
//! `cargo bench --bench score [-- USERS] [parts]`, 4,096 by default; `parts` runs the last part alone. Users are made up and the network has the default size, except
//! in the last part, which reads `models/demo` and `data/completejourney`. Cargo
//! sets `RAYON_NUM_THREADS=1` here, as the program does for itself: without it candle spins on a thread pool of its own,
//! its forward is half as fast and training a tenth.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a bench prints, reads the clock and ends at the first problem"
)]

use std::{hint::black_box, num::NonZeroUsize, ops::ControlFlow, path::Path, sync::Arc, time::Instant};

use candle_core::Device;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use undercurrent::{
    event::{DAY_MS, Event, EventKind, Name, NameHash, NameKind, ProductLine, View},
    features::{EncodedUser, Encoder, FeatureSettings, FeatureSpec, ItemVocabulary},
    graph::{GraphParams, UserGraph},
    model::{
        Bundle, BundleParts, CandleForward, FusedForward, GraphForm, Model, NetworkConfig, forest_row,
        items::{CandidateSet, CandidateWork, UserItems},
    },
    score::{Probability, ScoreRequest},
    scoring::{Pool, PoolSettings, Scorer},
    train::{
        Example, TrainSettings,
        corpus::{Corpus, CorpusOptions},
        fit,
        kinds::{KindPlan, Survey},
    },
};

const AS_OF_MS: i64 = 1_700_000_000_000;
const ITEMS: usize = 2_000;
const EVENTS: usize = 60;

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let users: usize = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(4_096);
    gemm::set_threading_threshold(usize::MAX);
    if std::env::args().any(|argument| argument == "parts") {
        return parts();
    }
    let requests: Vec<ScoreRequest<UserGraph>> =
        (0..users).map(|user| ScoreRequest { graph: Arc::new(graph(user as u64)), as_of_ms: AS_OF_MS }).collect();
    let encoder = Encoder::new(spec(&requests));
    println!("{:<34} {:>9} {:>12} {:>12}", "what", "users", "users/s", "us/user");
    let mut encoded = Vec::new();
    measure("encode, one core", users, || {
        encoded = requests.iter().map(|request| encoder.encode(&request.graph, request.as_of_ms)).collect();
    });
    let references: Vec<&EncodedUser> = encoded.iter().collect();
    forwards(&encoder, &references);
    pools(&encoder, &requests);
    training(&encoder, &encoded);
    parts();
}

/// Prints the best of three runs, after one that warms up.
fn measure(what: &str, users: usize, mut run: impl FnMut()) {
    run();
    let seconds = |_| {
        let started = Instant::now();
        run();
        started.elapsed().as_secs_f64()
    };
    report(what, users, (0..3).map(seconds).fold(f64::MAX, f64::min));
}

fn report(what: &str, users: usize, seconds: f64) {
    println!("{what:<34} {users:>9} {:>12.0} {:>12.1}", users as f64 / seconds, seconds * 1e6 / users as f64);
}

fn forwards(encoder: &Encoder, users: &[&EncodedUser]) {
    let few = &users[..users.len().min(512)];
    for (name, graph_form) in [("typed bias", GraphForm::TypedBias), ("gated", GraphForm::Gated)] {
        let config = NetworkConfig { graph_form, ..NetworkConfig::for_spec(encoder.spec()) };
        let model = Model::initialise(config, 1);
        println!("-- {name}: {} parameters, {} of them item rows", model.parameters.count(), model.item_table().len());
        let candle = CandleForward::new(&model, Device::Cpu).expect("the model is whole");
        for batch in [1, 8, 256] {
            measure(&format!("candle, batch {batch}"), few.len(), || {
                for part in few.chunks(batch) {
                    candle.predict(part).expect("the users fit the model");
                }
            });
        }
        let Ok(mut fused) = FusedForward::new(&model) else { continue };
        for batch in [1, 8, 256] {
            measure(&format!("hand-written, batch {batch}"), users.len(), || {
                for part in users.chunks(batch) {
                    fused.predict(part);
                }
            });
        }
    }
}

fn pools(encoder: &Encoder, requests: &[ScoreRequest<UserGraph>]) {
    println!("-- whole score: expand, encode, forward, factors, lists");
    let model = Model::initialise(NetworkConfig::for_spec(encoder.spec()), 1);
    let probability = Probability::new(0.5).expect("a half is a probability");
    let parts = BundleParts {
        name: "bench".to_owned(),
        model,
        ensemble: None,
        spec: encoder.spec().clone(),
        items: None,
        churn_threshold: probability,
        purchase_threshold: probability,
        metrics: serde_json::Value::Null,
        card: String::new(),
    };
    let bundle = Arc::new(Bundle::new(parts, &[]).expect("the parts fit"));
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    for workers in [NonZeroUsize::MIN, cores] {
        let settings = PoolSettings { workers, ..PoolSettings::default() };
        let pool = Pool::start(Arc::clone(&bundle), settings).expect("threads start");
        measure(&format!("pool, {workers} worker(s), request of all"), requests.len(), || {
            pool.score_blocking(requests).expect("every user is scored");
        });
        measure(&format!("pool, {workers} worker(s), one by one"), requests.len().min(512), || {
            for request in requests.iter().take(512) {
                pool.score_blocking(std::slice::from_ref(request)).expect("the user is scored");
            }
        });
    }
}

/// Each part of a score by the shipped bundle, for the real users of the stream that the demo plays.
fn parts() {
    const USERS: usize = 1_024;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bundle = Arc::new(Bundle::load(&root.join("models/demo")).expect("the shipped bundle is whole"));
    let file = root.join("data/completejourney/events.csv.zst");
    let survey = Survey::of(&file).expect("the shipped data are whole");
    let purchase = ["purchase".to_owned()];
    let plan = KindPlan::new(&survey, &purchase, &purchase).expect("the data hold purchases");
    let options =
        CorpusOptions { plan: &plan, item_categories: Arc::default(), cutoff_ms: i64::MAX, horizons_ms: [0; 2] };
    let (corpus, _) = Corpus::read(&[file], &options, &mut |_| {}).expect("the shipped data are whole");
    let as_of_ms = corpus.last_ms() + 1;
    let params = bundle.spec.settings.graph_params();
    let mut requests = Vec::new();
    for user in 0..corpus.users().len().min(USERS) {
        corpus.replay(user, &[as_of_ms], &params, |_, graph| {
            requests.push(ScoreRequest { graph: Arc::new(graph.clone()), as_of_ms });
        });
    }
    let count = requests.len();
    println!("-- parts of a score: models/demo, {count} users of data/completejourney, one core");
    let encoder = Encoder::new(bundle.spec.clone());
    let mut graphs = Vec::new();
    measure("expand the graph", count, || {
        graphs = requests.iter().map(|request| encoder.expand(&request.graph)).collect();
    });
    let mut encoded = Vec::new();
    measure("encode", count, || {
        encoded = graphs.iter().map(|graph| encoder.encode_expanded(graph, as_of_ms)).collect();
    });
    let mut fused = FusedForward::new(&bundle.model).expect("the typed-bias form");
    let references: Vec<&EncodedUser> = encoded.iter().collect();
    let mut predictions = Vec::new();
    measure("network", count, || predictions = references.chunks(64).flat_map(|part| fused.predict(part)).collect());
    let ensemble = bundle.ensemble.as_ref().expect("the bundle has an ensemble");
    for (name, blend) in [("churn", &ensemble.churn), ("purchase", &ensemble.purchase)] {
        measure(&format!("trees of {name} ({})", blend.forest.tree_count()), count, || {
            for user in &encoded {
                black_box(blend.forest.score(&forest_row(user)));
            }
        });
    }
    let lanes = bundle.lanes();
    measure("both heads, blended, batch 64", count, || {
        for (users, predictions) in references.chunks(64).zip(predictions.chunks(64)) {
            black_box(bundle.log_odds_of(lanes.as_ref(), predictions, users));
        }
    });
    let items = bundle.items.as_ref().expect("the bundle has items");
    let mut users = Vec::new();
    measure("items: read the graph", count, || {
        let (click, purchase) = (View::Click, View::Purchase);
        users = graphs.iter().map(|graph| UserItems::of_expanded(graph.view(click), graph.view(purchase))).collect();
    });
    let (mut work, mut candidates) = (CandidateWork::default(), 0);
    measure("items: candidates and features", count, || {
        let sets = users.iter().map(|user| CandidateSet::of(items.tables(), user, as_of_ms, &mut work));
        candidates = sets.map(|set| set.candidates().len()).sum();
    });
    measure("items: candidates, features, lists", count, || {
        for user in &users {
            black_box(items.recommend(user, as_of_ms, &mut work));
        }
    });
    println!("   {:.0} candidates a user", candidates as f64 / count as f64);
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    for workers in [NonZeroUsize::MIN, cores] {
        let settings = PoolSettings { workers, ..PoolSettings::default() };
        let pool = Pool::start(Arc::clone(&bundle), settings).expect("threads start");
        measure(&format!("whole score, {workers} worker(s)"), count, || {
            pool.score_blocking(&requests).expect("every user is scored");
        });
    }
}

fn training(encoder: &Encoder, encoded: &[EncodedUser]) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    let examples: Vec<Example> = encoded
        .iter()
        .map(|user| Example {
            encoded: user.clone(),
            churned: random.random(),
            purchased: random.random(),
            next_items: vec![item(random.random_range(0..ITEMS)).hash],
            next_kind: Some(EventKind::View),
            cutoff_ms: AS_OF_MS,
        })
        .collect();
    let config = NetworkConfig::for_spec(encoder.spec());
    let settings = TrainSettings { epochs: 1, ..TrainSettings::default() };
    let started = Instant::now();
    fit(&examples, &[], encoder.spec(), &config, &settings, 1, &mut |_| ControlFlow::Continue(()))
        .expect("the examples fit");
    report(&format!("training, {} thread(s)", settings.threads), examples.len(), started.elapsed().as_secs_f64());
}

fn item(number: usize) -> Name<'static> {
    Name::new(NameKind::Item, format!("item {number}"))
}

fn spec(requests: &[ScoreRequest<UserGraph>]) -> FeatureSpec {
    let mut spec = FeatureSpec::new(FeatureSettings::default(), None, None);
    let encoder = Encoder::new(spec.clone());
    let rows: Vec<Vec<f32>> =
        requests.iter().take(1_000).map(|request| encoder.raw(&request.graph, AS_OF_MS)).collect();
    spec.fit_knots(&rows);
    let counts = (0..ITEMS).map(|number| -> (NameHash, u64) { (item(number).hash, (2 * ITEMS - number) as u64) });
    spec.set_vocabulary(ItemVocabulary::admit(counts, ITEMS, 1));
    spec
}

/// A shopper with 60 events over 120 days.
fn graph(seed: u64) -> UserGraph {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut times: Vec<i64> = (0..EVENTS).map(|_| AS_OF_MS - random.random_range(0..120 * DAY_MS)).collect();
    times.sort_unstable();
    let (mut graph, params) = (UserGraph::default(), GraphParams::default());
    for (event_id, time_ms) in (1..).zip(times) {
        let kind = EventKind::ALL[random.random_range(0..EventKind::ALL.len())];
        let line = ProductLine {
            item: Some(item(random.random_range(0..ITEMS))),
            category: Some(Name::new(NameKind::Category, format!("category {}", random.random_range(0..20)))),
            price_minor: Some(250),
            quantity: 1,
            value_minor: 250,
        };
        let is_search = kind == EventKind::Search;
        let event = Event {
            user: "user".into(),
            kind,
            time_ms,
            event_id,
            session: None,
            query: is_search.then(|| Name::new(NameKind::Query, "tea")),
            lines: if is_search { [].into_iter().collect() } else { [line].into_iter().collect() },
        };
        graph.view_mut(kind.view()).fold(&event, &params);
    }
    graph
}
