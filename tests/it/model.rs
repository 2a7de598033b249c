//! Golden tests of the model: what is stored comes back, company and padding change nothing, and nothing that is not
//! finite leaves the pool.

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;
use undercurrent::{
    event::{DAY_MS, Event, EventKind, Name, NameHash, NameKind, ProductLine},
    features::{EncodedUser, Encoder, FeatureSettings, FeatureSpec, ItemVocabulary},
    graph::{GraphParams, UserGraph},
    model::{
        Batch, Blend, Bundle, BundleError, BundleParts, CandleForward, Curve, Dropout, Ensemble, Forest, FusedForward,
        GraphForm, Habit, Model, Network, NetworkConfig, Padding, Prediction, TreeNode, Weights, forest_row,
        probability_of,
    },
    score::{Evidence, Probability, ScoreRequest},
    scoring::{Pool, PoolSettings, ScoreError, Scorer},
};

const AS_OF_MS: i64 = 1_700_000_000_000;

/// A user with `event_count` events of all kinds over the last months, made from `seed` alone.
fn graph(seed: u64, event_count: usize) -> UserGraph {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut times: Vec<i64> = (0..event_count).map(|_| AS_OF_MS - random.random_range(0..120 * DAY_MS)).collect();
    times.sort_unstable();
    let (mut graph, params) = (UserGraph::default(), GraphParams::default());
    for (number, time_ms) in times.into_iter().enumerate() {
        let kind = EventKind::ALL[random.random_range(0..EventKind::ALL.len())];
        let item = format!("item {}", random.random_range(0..40));
        let line = ProductLine {
            item: Some(Name::new(NameKind::Item, item)),
            category: Some(Name::new(NameKind::Category, format!("category {}", random.random_range(0..5)))),
            price_minor: Some(250),
            quantity: 1,
            value_minor: 250,
        };
        let event = Event {
            user: "user".into(),
            kind,
            time_ms,
            event_id: number as u64 + 1,
            session: None,
            query: (kind == EventKind::Search).then(|| Name::new(NameKind::Query, "tea")),
            lines: if kind == EventKind::Search { [].into_iter().collect() } else { [line].into_iter().collect() },
        };
        graph.view_mut(kind.view()).fold(&event, &params);
    }
    graph
}

fn requests(count: usize) -> Vec<ScoreRequest<UserGraph>> {
    let sizes = [0, 1, 2, 5, 17, 60, 300];
    (0..count)
        .map(|place| ScoreRequest {
            graph: Arc::new(graph(place as u64, sizes[place % sizes.len()])),
            as_of_ms: AS_OF_MS,
        })
        .collect()
}

fn spec() -> FeatureSpec {
    let mut spec = FeatureSpec::new(FeatureSettings::default(), None, None);
    let encoder = Encoder::new(spec.clone());
    let rows: Vec<Vec<f32>> = requests(70).iter().map(|request| encoder.raw(&request.graph, AS_OF_MS)).collect();
    spec.fit_knots(&rows);
    let counts = (0..30_u64).map(|item| (NameHash::of(NameKind::Item, &format!("item {item}")), 100 - item));
    spec.set_vocabulary(ItemVocabulary::admit(counts, 1_000, 1));
    spec
}

/// A model in which every parameter matters.
fn model(spec: &FeatureSpec, seed: u64, graph_form: GraphForm) -> Model {
    let mut model = Model::initialise(NetworkConfig { graph_form, ..NetworkConfig::for_spec(spec) }, seed);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    for (_, parameter) in model.parameters.iter_mut() {
        for value in &mut parameter.values {
            *value += 0.1 * (random.random::<f32>() - 0.5);
        }
    }
    model
}

fn bundle(seed: u64) -> Bundle {
    let spec = spec();
    let encoder = Encoder::new(spec.clone());
    let users: Vec<EncodedUser> =
        requests(7).iter().map(|request| encoder.encode(&request.graph, request.as_of_ms)).collect();
    let parts = parts(model(&spec, seed, GraphForm::TypedBias), spec);
    Bundle::new(parts, &users.iter().collect::<Vec<_>>()).unwrap()
}

fn parts(model: Model, spec: FeatureSpec) -> BundleParts {
    BundleParts {
        name: "test".to_owned(),
        model,
        ensemble: Some(ensemble(&spec)),
        spec,
        items: None,
        churn_threshold: Probability::new(0.4).unwrap(),
        purchase_threshold: Probability::new(0.6).unwrap(),
        metrics: serde_json::json!({ "churn": { "roc_auc": 0.5 } }),
        card: "# Test\n".to_owned(),
    }
}

/// All members of both heads, calibrated.
fn ensemble(spec: &FeatureSpec) -> Ensemble {
    let width = spec.features().len();
    let mut forest = Forest::new(2 * width, -0.5);
    for feature in [0, 5, u32::try_from(width).unwrap() + 3] {
        let split = TreeNode::Split { feature, threshold: 0.25, missing_left: feature == 5, left: 1, right: 2 };
        forest.push(&[split, TreeNode::Leaf(-0.4), TreeNode::Leaf(0.7)]);
    }
    let blend = |feature: usize, scale: f32| Blend {
        forest: forest.clone(),
        habit: Some(Habit { feature, scale, offset: 0.2, missing: -1.0 }),
        weights: Weights { network: 0.5, trees: 0.3, habit: 0.2 },
        curve: Curve { rise: 0.9, fall: 1.2, offset: -0.1 },
    };
    Ensemble { churn: blend(4, 1.0), purchase: blend(7, -0.8) }
}

fn pool(bundle: Bundle, workers: usize) -> Pool {
    let settings = PoolSettings { workers: NonZeroUsize::new(workers).unwrap(), ..PoolSettings::default() };
    Pool::start(Arc::new(bundle), settings).unwrap()
}

fn close(left: &Prediction, right: &Prediction, tolerance: f32) -> bool {
    let near = |left: f32, right: f32| (left - right).abs() <= tolerance * (1.0 + left.abs());
    near(left.churn_log_odds, right.churn_log_odds)
        && near(left.purchase_log_odds, right.purchase_log_odds)
        && left.attention.iter().zip(&right.attention).all(|(left, right)| near(*left, *right))
        && left.kind.iter().zip(&right.kind).all(|(left, right)| near(*left, *right))
        && left.query.iter().zip(&right.query).all(|(left, right)| near(*left, *right))
}

#[test]
fn a_batch_scores_like_its_members_bit_for_bit() {
    let requests = requests(150);
    let two = pool(bundle(1), 2);
    let together = two.score_blocking(&requests).unwrap();
    let one = pool(bundle(1), 1);
    for (request, expected) in requests.iter().zip(&together).step_by(11) {
        let alone = one.score_blocking(std::slice::from_ref(request)).unwrap();
        assert_eq!(alone, std::slice::from_ref(expected));
    }
    let backwards: Vec<_> = requests.iter().rev().cloned().collect();
    let mut scores = two.score_blocking(&backwards).unwrap();
    scores.reverse();
    assert!(scores == together);
}

#[test]
fn scores_are_complete() {
    let scores = pool(bundle(1), 1).score_blocking(&requests(40)).unwrap();
    for score in &scores {
        assert!((score.attention.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        assert!(!score.items.is_empty() && !score.discoveries.is_empty());
        assert!(score.top_factors.len() <= 5);
        let effects: Vec<f32> = score.top_factors.iter().map(|factor| factor.effect.abs()).collect();
        assert!(effects.is_sorted_by(|left, right| left >= right));
    }
    // A user without any event has no graph and no sequence to attend to.
    assert!(scores[0].attention[..4].iter().all(|weight| *weight == 0.0));
    assert!(scores[6].value_at_stake_minor > 0);
}

#[test]
fn node_order_and_padding_change_nothing() {
    let spec = spec();
    let encoder = Encoder::new(spec.clone());
    let user = encoder.encode(&graph(6, 300), AS_OF_MS);
    assert!(user.nodes.len() > 10 && user.edges.len() > 5, "{} nodes, {} edges", user.nodes.len(), user.edges.len());
    let mut order: Vec<usize> = (0..user.nodes.len()).collect();
    order.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(1));
    let small = |place: usize| u8::try_from(place).unwrap();
    let mut shuffled = user.clone();
    for (from, to) in order.iter().enumerate() {
        shuffled.nodes[*to] = user.nodes[from];
    }
    for edge in &mut shuffled.edges {
        (edge.from, edge.to) = (small(order[usize::from(edge.from)]), small(order[usize::from(edge.to)]));
    }
    for form in [GraphForm::TypedBias, GraphForm::Gated] {
        let model = model(&spec, 2, form);
        let candle = CandleForward::new(&model, Device::Cpu).unwrap();
        let answers = candle.predict(&[&user, &shuffled]).unwrap();
        assert!(close(&answers[0], &answers[1], 1e-4), "{form:?}");
        if form == GraphForm::TypedBias {
            let fused = FusedForward::new(&model).unwrap().predict(&[&user, &shuffled]);
            assert!(close(&fused[0], &fused[1], 1e-4) && close(&fused[0], &answers[0], 1e-4));
        }
    }
    // The same user with few nodes, padded to the smallest and to the largest size.
    let small = encoder.encode(&graph(2, 2), AS_OF_MS);
    let model = model(&spec, 2, GraphForm::Gated);
    let network = Network::from_parameters(&model.parameters, &model.config, &Device::Cpu).unwrap();
    let table =
        Tensor::from_slice(model.item_table(), (model.config.item_rows, model.config.hidden), &Device::Cpu).unwrap();
    let log_odds = |padding: Padding| -> Vec<f32> {
        let dropout = None::<Dropout<'_, Xoshiro256PlusPlus>>;
        let batch = Batch::build(&[&small], padding, &model.config, &[], dropout, &Device::Cpu).unwrap();
        let rows = Tensor::from_slice(&batch.item_rows, batch.item_rows.len(), &Device::Cpu).unwrap();
        let output = network.forward(&batch, &table.index_select(&rows, 0).unwrap()).unwrap();
        output.binary.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (tight, loose) = (log_odds(Padding { nodes: 8, events: 8 }), log_odds(Padding { nodes: 24, events: 32 }));
    assert!(tight.iter().zip(&loose).all(|(left, right)| (left - right).abs() < 1e-4), "{tight:?} {loose:?}");
}

#[test]
fn stored_scores_come_out_again() {
    // Update these only together with a change of the encoder, of the network or of its initialisation.
    #[expect(clippy::unreadable_literal, reason = "printed by the program")]
    const STORED: [[f32; 2]; 3] = include!("../fixtures/model/log_odds.in");
    let spec = spec();
    let encoder = Encoder::new(spec.clone());
    let users: Vec<EncodedUser> =
        [0, 5, 6].map(|place| encoder.encode(&requests(7)[place].graph, AS_OF_MS)).into_iter().collect();
    let mut forward = FusedForward::new(&model(&spec, 3, GraphForm::TypedBias)).unwrap();
    let found: Vec<[f32; 2]> = forward
        .predict(&users.iter().collect::<Vec<_>>())
        .iter()
        .map(|prediction| [prediction.churn_log_odds, prediction.purchase_log_odds])
        .collect();
    let near = |left: &f32, right: &f32| (left - right).abs() < 2e-3 * (1.0 + left.abs());
    let same = STORED.iter().flatten().zip(found.iter().flatten()).all(|(left, right)| near(left, right));
    assert!(same, "stored {STORED:?}, found {found:?}");
}

#[test]
fn a_bundle_comes_back_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let stored = bundle(4);
    stored.save(folder.path()).unwrap();
    let loaded = Bundle::load(folder.path()).unwrap();
    assert_eq!(loaded.version, stored.version);
    assert!(loaded.model == stored.model && loaded.spec == stored.spec && loaded.ensemble == stored.ensemble);
    // Missing features are NaN, so users are compared by what they are shown as.
    assert_eq!(format!("{:?}", loaded.probe()), format!("{:?}", stored.probe()));
    let requests = requests(20);
    assert!(pool(loaded, 1).score_blocking(&requests).unwrap() == pool(stored, 1).score_blocking(&requests).unwrap());
}

#[test]
fn a_bundle_without_trees_is_served_by_its_network() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec();
    let mut parts = parts(model(&spec, 4, GraphForm::TypedBias), spec);
    parts.ensemble = None;
    Bundle::new(parts, &[]).unwrap().save(folder.path()).unwrap();
    let manifest = std::fs::read_to_string(folder.path().join("MANIFEST.json")).unwrap();
    assert!(manifest.contains("\"format\": 1") && !folder.path().join("trees.safetensors").exists());
    let loaded = Bundle::load(folder.path()).unwrap();
    let user = Encoder::new(loaded.spec.clone()).encode(&graph(5, 60), AS_OF_MS);
    let prediction = FusedForward::new(&loaded.model).unwrap().predict(&[&user]).remove(0);
    let [churn, _] = loaded.log_odds(&prediction, &user);
    assert!((churn - prediction.churn_log_odds).abs() < 1e-6, "not calibrated, so the network's own");
}

#[test]
fn what_is_served_is_the_blend_of_all_members() {
    let bundle = bundle(1);
    let request = ScoreRequest { graph: Arc::new(graph(6, 300)), as_of_ms: AS_OF_MS };
    let user = Encoder::new(bundle.spec.clone()).encode(&request.graph, AS_OF_MS);
    let prediction = FusedForward::new(&bundle.model).unwrap().predict(&[&user]).remove(0);
    let expected = bundle.log_odds(&prediction, &user).map(probability_of);
    let blend = &bundle.ensemble.as_ref().unwrap().churn;
    for member in 0..3 {
        let mut members = blend.members(prediction.churn_log_odds, &user, &forest_row(&user));
        let whole = blend.blend(members);
        members[member] += 1.0;
        assert!(blend.blend(members) > whole, "member {member} counts");
    }
    let served = pool(bundle.clone(), 1).score_blocking(&[request]).unwrap().remove(0);
    assert!((served.churn_probability.get() - expected[0]).abs() < 1e-6);
    assert!((served.purchase_probability.get() - expected[1]).abs() < 1e-6);
}

#[test]
fn a_damaged_bundle_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    bundle(4).save(folder.path()).unwrap();
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 8);
    for file in &files {
        let original = std::fs::read(file).unwrap();
        let mut damaged = original.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x20;
        for broken in [damaged, original[..original.len() - 1].to_vec()] {
            std::fs::write(file, broken).unwrap();
            let error = Bundle::load(folder.path()).unwrap_err();
            let named = matches!(error, BundleError::Mismatch { .. } | BundleError::Malformed { .. });
            assert!(named, "{}: {error}", file.display());
        }
        std::fs::remove_file(file).unwrap();
        assert!(matches!(Bundle::load(folder.path()), Err(BundleError::Io { .. })), "{}", file.display());
        std::fs::write(file, original).unwrap();
    }
    Bundle::load(folder.path()).unwrap();
    assert!(matches!(Bundle::load(Path::new("/nowhere")), Err(BundleError::Io { action: "read", .. })));
}

#[test]
fn numbers_that_are_not_finite_never_leave() {
    let spec = spec();
    let mut poisoned = model(&spec, 5, GraphForm::TypedBias);
    poisoned.parameters.iter_mut().find(|(name, _)| *name == "trunk.weight").unwrap().1.values[3] = f32::NAN;
    let error = Bundle::new(parts(poisoned, spec.clone()), &[]).unwrap_err();
    assert!(matches!(&error, BundleError::Parameter { name, .. } if name == "trunk.weight"), "{error}");
    // Every parameter is finite, but the sum over the features overflows.
    let mut overflowing = model(&spec, 5, GraphForm::TypedBias);
    let wide = overflowing.parameters.iter_mut().find(|(name, _)| *name == "wide.weight").unwrap().1;
    wide.values.fill(f32::MAX);
    let pool = pool(Bundle::new(parts(overflowing, spec), &[]).unwrap(), 1);
    let error = pool.score_blocking(&requests(12)[5..]).unwrap_err();
    assert!(matches!(error, ScoreError::User { index: 0, .. }), "{error}");
}

/// Subtracting the newest event from this moment overflows, which panics where debug assertions are on.
#[cfg(debug_assertions)]
#[test]
fn a_worker_that_panics_on_one_user_names_it_and_goes_on_with_the_others() {
    let pool = pool(bundle(1), 2);
    let healthy = requests(40);
    let expected = pool.score_blocking(&healthy).unwrap();
    let mut requests = healthy.clone();
    requests[23].as_of_ms = i64::MIN;
    for _ in 0..3 {
        let error = pool.score_blocking(&requests).unwrap_err();
        assert!(matches!(&error, ScoreError::User { index: 23, message } if message.contains("panicked")), "{error}");
    }
    assert!(pool.explain_blocking(&requests[23], 3).is_err());
    assert_eq!(pool.score_blocking(&healthy).unwrap(), expected);
}

#[test]
fn a_bundle_that_is_refused_leaves_the_old_one_serving() {
    let pool = pool(bundle(1), 1);
    let requests = requests(12);
    let before = pool.score_blocking(&requests).unwrap();
    let spec = spec();
    let broken = |change: fn(&mut Vec<f32>)| {
        let mut model = model(&spec, 2, GraphForm::TypedBias);
        change(&mut model.parameters.iter_mut().find(|(name, _)| *name == "trunk.weight").unwrap().1.values);
        Bundle::new(parts(model, spec.clone()), &[])
    };
    let not_a_number = broken(|values| values[0] = f32::NAN);
    let wrong_shape = broken(|values| values.truncate(3));
    let folder = tempfile::tempdir().unwrap();
    bundle(2).save(folder.path()).unwrap();
    let manifest = folder.path().join("MANIFEST.json");
    std::fs::write(&manifest, &std::fs::read(&manifest).unwrap()[1..]).unwrap();
    // As the daemon does it with a promoted bundle: what cannot be read never reaches the pool.
    for bundle in [not_a_number, wrong_shape, Bundle::load(folder.path())] {
        let swapped = bundle.map(|bundle| pool.swap(Arc::new(bundle)));
        assert!(swapped.is_err());
        assert_eq!(pool.score_blocking(&requests).unwrap(), before);
    }
}

#[test]
fn a_swap_falls_between_requests() {
    let (first, second) = (bundle(1), bundle(2));
    let versions = [Arc::clone(&first.version), Arc::clone(&second.version)];
    assert_ne!(versions[0], versions[1]);
    let pool = pool(first, 2);
    let requests = requests(200);
    std::thread::scope(|scope| {
        let scorer = scope.spawn(|| {
            let mut seen = Vec::new();
            // Requests before and after the swap; each must have one version throughout.
            while seen.len() < 3 || seen.last() == Some(&versions[0]) {
                let scores = pool.score_blocking(&requests).unwrap();
                let version = Arc::clone(&scores[0].model.version);
                assert!(scores.iter().all(|score| score.model.version == version));
                seen.push(version);
            }
            seen
        });
        pool.swap(Arc::new(second)).unwrap();
        let seen = scorer.join().unwrap();
        assert!(seen.is_sorted_by_key(|version| *version == versions[1]));
    });
    pool.close();
    assert!(matches!(pool.score_blocking(&requests), Err(ScoreError::Closed)));
}

#[test]
fn reasons_are_the_users_own_and_strongest_first() {
    let pool = pool(bundle(1), 1);
    let request = ScoreRequest { graph: Arc::new(graph(6, 300)), as_of_ms: AS_OF_MS };
    let reasons = pool.explain_blocking(&request, 200).unwrap();
    assert!(reasons.len() > 20);
    assert!(reasons.is_sorted_by(|left, right| left.effect.abs() >= right.effect.abs()));
    for (kind, present) in [("event", 0), ("edge", 1), ("feature", 2)] {
        let is = |evidence: &Evidence| match evidence {
            Evidence::Event { .. } => present == 0,
            Evidence::Edge { .. } => present == 1,
            Evidence::Feature { .. } => present == 2,
        };
        assert!(reasons.iter().any(|reason| is(&reason.evidence)), "no {kind} among the reasons");
    }
    let few = pool.explain_blocking(&request, 3).unwrap();
    assert_eq!(few, reasons[..3]);
    let nobody = ScoreRequest { graph: Arc::default(), as_of_ms: AS_OF_MS };
    assert_eq!(pool.explain_blocking(&nobody, 3).unwrap(), []);
}
