//! Training on small and odd histories: it ends with probabilities or says why not, and the pool serves what it evaluated.

use std::{fmt::Write as _, num::NonZeroUsize, sync::Arc};

use undercurrent::{
    event::{DAY_MS, NameHash, NameKind},
    features::{EncodedUser, Encoder, Missing},
    graph::{GraphParams, UserGraph},
    model::{
        Bundle, BundleParts,
        items::{CandidateWork, UserItems},
    },
    score::{Probability, ScoreRequest},
    scoring::{Pool, PoolSettings, Scorer},
    train::{
        corpus::{Corpus, CorpusOptions},
        heads::{HeadOptions, Heads, HeadsError},
        history::{FileHistory, History},
        item_training::{Catalogue, ItemOptions, train_items},
        kinds::{KindPlan, Survey},
        schedule::{Horizons, Schedule},
    },
};

/// A Monday.
const START_MS: i64 = 1_699_833_600_000;

/// Events of `users` over `days`: each acts on every `gap`-th day from a day of its own on, some stop half-way.
fn rows(users: i64, days: i64, kinds: &[&str], leaves: impl Fn(i64) -> bool, item: bool) -> String {
    let mut text = String::from("user_id,event_type,timestamp,item_id,category,query,price,quantity,session_id\n");
    for day in 0..days {
        for user in 0..users {
            let gap = 2 + user % 5;
            if (day + user) % gap != 0 || (leaves(user) && day > days / 2 + user % 7) {
                continue;
            }
            let kind = kinds[usize::try_from(day / gap).unwrap() % kinds.len()];
            let item = if item { format!("item {}", (user + day) % 9) } else { String::new() };
            let at_ms = START_MS + day * DAY_MS + user * 61_000;
            writeln!(text, "user {user},{kind},{at_ms},{item},,,2.50,1,").unwrap();
        }
    }
    text
}

fn history(text: &str, buy: &str) -> FileHistory {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.csv");
    std::fs::write(&file, text).unwrap();
    let survey = Survey::of(&file).unwrap();
    let activity: Vec<String> = survey.names.keys().cloned().collect();
    let plan = KindPlan::new(&survey, &activity, &[buy.to_owned()]).unwrap();
    let options =
        CorpusOptions { plan: &plan, item_categories: Arc::default(), cutoff_ms: i64::MAX, horizons_ms: [0; 2] };
    let (corpus, _) = Corpus::read(&[file], &options, &mut |_| {}).unwrap();
    let params = GraphParams { activity: plan.activity(), ..GraphParams::default() };
    FileHistory { corpus, params, threads: 1 }
}

fn train(history: &FileHistory, horizons: Horizons) -> Result<(Heads, i64), HeadsError> {
    train_with(history, horizons, Missing::Learned)
}

fn train_with(history: &FileHistory, horizons: Horizons, missing: Missing) -> Result<(Heads, i64), HeadsError> {
    let end_ms = history.corpus.last_ms() + 1;
    let schedule = Schedule::new(history.corpus.first_ms(), end_ms, horizons);
    let options = HeadOptions {
        threads: NonZeroUsize::MIN,
        max_network_examples: 40,
        max_epochs: 1,
        missing,
        ..HeadOptions::default()
    };
    Ok((Heads::train(history, &schedule, &options, &mut |_| {})?, end_ms))
}

/// Every user's graph and encoding at a moment.
fn users(history: &FileHistory, heads: &Heads, at_ms: i64) -> Vec<(UserGraph, EncodedUser)> {
    let encoder = Encoder::new(heads.spec.clone());
    history
        .observe(&[at_ms], &|_| true, &|_, _, graph: &UserGraph| Some((graph.clone(), encoder.encode(graph, at_ms))))
        .unwrap()
}

const WEEK: Horizons = Horizons { history_days: 30, churn_days: 7, purchase_days: 4 };

#[test]
fn the_pool_serves_what_evaluation_measured() {
    let history = history(&rows(30, 70, &["view", "purchase"], |user| user % 3 == 0, true), "purchase");
    let missing_values = Missing::ALL.map(|way| {
        let (heads, end_ms) = train_with(&history, WEEK, way).unwrap();
        serves_what_it_measured(&history, heads, end_ms)
    });
    let [learned, median, mean, interpolated] = missing_values;
    assert!(median == mean && median < interpolated && interpolated <= learned, "{missing_values:?}");
}

/// Values that stay missing, of all users.
fn serves_what_it_measured(history: &FileHistory, heads: Heads, end_ms: i64) -> usize {
    let users = users(history, &heads, end_ms);
    let encoded: Vec<&EncodedUser> = users.iter().map(|(_, user)| user).collect();
    let missing_count = encoded.iter().flat_map(|user| &user.raw).filter(|value| value.is_nan()).count();
    let evaluated = heads.predict(&encoded, NonZeroUsize::MIN).unwrap();
    let parts = BundleParts {
        name: "test".to_owned(),
        churn_threshold: Probability::new(0.4).unwrap(),
        purchase_threshold: Probability::new(0.6).unwrap(),
        model: heads.model,
        ensemble: Some(heads.ensemble),
        spec: heads.spec,
        items: None,
        metrics: serde_json::json!({}),
        card: String::new(),
    };
    let folder = tempfile::tempdir().unwrap();
    Bundle::new(parts, &encoded).unwrap().save(folder.path()).unwrap();
    let bundle = Arc::new(Bundle::load(folder.path()).unwrap());
    let pool = Pool::start(bundle, PoolSettings { workers: NonZeroUsize::MIN, ..PoolSettings::default() }).unwrap();
    let requests: Vec<ScoreRequest<UserGraph>> =
        users.into_iter().map(|(graph, _)| ScoreRequest { graph: Arc::new(graph), as_of_ms: end_ms }).collect();
    let served = pool.score_blocking(&requests).unwrap();
    assert_eq!(served.len(), 30);
    for (served, evaluated) in served.iter().zip(&evaluated) {
        let pairs = [served.churn_probability, served.purchase_probability].into_iter().zip(*evaluated);
        for (served, evaluated) in pairs {
            assert!((f64::from(served.get()) - evaluated).abs() < 1e-6, "{served:?} {evaluated}");
        }
    }
    let churn: Vec<f64> = evaluated.iter().map(|user| user[0]).collect();
    let spread = churn.iter().copied().fold(0.0, f64::max) - churn.iter().copied().fold(1.0, f64::min);
    assert!(spread > 0.05, "users who left and users who did not are told apart: {churn:?}");
    missing_count
}

#[test]
fn odd_histories_end_with_probabilities_or_a_reason() {
    let nobody = |_| false;
    let cases = [
        ("no items", rows(12, 60, &["purchase"], nobody, false), "purchase"),
        ("nobody ever leaves, all buy", rows(10, 60, &["purchase"], nobody, true), "purchase"),
        (
            "hardly a purchase",
            format!(
                "{}user 0,buy,{},,,,1,1,\n",
                rows(10, 60, &["visit"], |user| user == 1, false),
                START_MS + 59 * DAY_MS
            ),
            "buy",
        ),
        ("five days", rows(20, 5, &["view", "purchase"], nobody, true), "purchase"),
        ("everybody left", rows(9, 60, &["purchase"], |_| true, true), "purchase"),
    ];
    for (name, text, buy) in cases {
        let history = history(&text, buy);
        let (heads, end_ms) = train(&history, WEEK).unwrap_or_else(|error| panic!("{name}: {error}"));
        let users = users(&history, &heads, end_ms);
        let encoded: Vec<&EncodedUser> = users.iter().map(|(_, user)| user).collect();
        for user in heads.predict(&encoded, NonZeroUsize::MIN).unwrap() {
            let fine = |p: &f64| (0.0..=1.0).contains(p);
            assert!(user.iter().all(fine), "{name}: {user:?}");
        }
    }
    let two = history(&rows(2, 60, &["edit"], |user| user == 1, true), "edit");
    let error = train(&two, WEEK).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("too few users"), "{error}");
    let hours = history(&rows(5, 1, &["purchase"], nobody, true), "purchase");
    let error = train(&hours, WEEK).map(|_| ()).unwrap_err();
    assert!(matches!(error, HeadsError::TooLittle(_)), "{error}");
}

/// People who take something new of their own kind each day, as readers and film lovers do.
#[test]
fn what_nobody_takes_twice_is_not_offered_again() {
    const ITEMS: i64 = 61;
    /// Items somebody takes in the window that is learned from.
    const NEXT: usize = 4;
    let mut text = String::from("user_id,event_type,timestamp,item_id,category,query,price,quantity,session_id\n");
    for day in 0..50 {
        for user in 0..80 {
            let (kind, item) = (user % 2, (user * 7 + day * 13) % ITEMS);
            writeln!(text, "user {user},rating,{},{kind}-{item},,,,,", START_MS + day * DAY_MS + user * 1_000).unwrap();
        }
    }
    let history = history(&text, "rating");
    let (first_ms, end_ms) = (history.corpus.first_ms(), history.corpus.last_ms() + 1);
    let catalogue = Catalogue::default();
    let trained =
        train_items(&history, end_ms, first_ms, 4 * DAY_MS, &catalogue, &ItemOptions::default(), &mut |_| {}).unwrap();
    let of = |kind: i64| -> Vec<NameHash> {
        (0..ITEMS).map(|item| NameHash::of(NameKind::Item, &format!("{kind}-{item}"))).collect()
    };
    let kinds = [of(0), of(1)];
    let seen = history
        .observe(&[end_ms], &|_| true, &|user, _, graph: &UserGraph| {
            Some((history.users()[user].to_string(), UserItems::of(graph, &history.params)))
        })
        .unwrap();
    assert_eq!(seen.len(), 80);
    for (name, user) in seen {
        let lists = trained.model.recommend(&user, end_ms, &mut CandidateWork::default());
        let number: usize = name.rsplit(' ').next().unwrap().parse().unwrap();
        let offered: Vec<NameHash> = lists.items.iter().map(|item| item.item).collect();
        assert!(offered.len() >= NEXT, "{name}: {offered:?}");
        for item in &offered[..NEXT] {
            assert!(user.bought.iter().all(|node| node.name != *item), "{name} had {item:?}");
            assert!(kinds[number % 2].contains(item), "{name}: {item:?} is of the other kind");
        }
    }
}
