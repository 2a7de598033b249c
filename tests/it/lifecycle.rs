//! A model's life while events stream in: promoted and taken back under load, and kept out when the window is poisoned.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use undercurrent::{
    clock::{Clock, ManualClock, SystemClock},
    config::Config,
    daemon::{
        engine,
        replay::{Moments, ReplayOptions, run_blocking},
    },
    event::{DAY_MS, Offset},
    generate::{GenerateParams, json_records},
    graph::UserGraph,
    model::Bundle,
    score::{Probability, Reason, ScoreRequest, Scored},
    scoring::{RecencyScorer, ScoreError, Scorer},
    stream::{
        OutputTopic,
        embedded::{EmbeddedLog, EmbeddedParams},
        partitioner::partition_of,
    },
    train::{
        gate::{GateParams, Verdict, Window, judge},
        history::SnapshotHistory,
        schedule::Horizons,
    },
};

pub(crate) const PARTITIONS: u32 = 4;
/// A minute of these is enough for everything that is waited for.
const POLL: Duration = Duration::from_millis(20);
const MAX_POLLS: usize = 6_000;

/// The daemon as a child process; killed when a test fails.
pub(crate) struct Daemon {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
    settings: Vec<String>,
}

impl Daemon {
    pub(crate) fn start(folder: &Path, more: &[&str]) -> Self {
        // Free a moment ago; nobody else asks for it in between.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings: Vec<String> = [
            format!("http.listen={address}"),
            "scoring.bundle=first".to_owned(),
            "scoring.workers=1".to_owned(),
            format!("embedded.partitions={PARTITIONS}"),
        ]
        .into_iter()
        .chain(more.iter().map(|setting| (*setting).to_owned()))
        .flat_map(|setting| ["--set".to_owned(), setting])
        .collect();
        let log = std::fs::File::create(folder.join("daemon.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_undercurrent"))
            .arg("run")
            .args(&settings)
            .current_dir(folder)
            .env_remove("UNDERCURRENT_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Self { child, folder: folder.to_owned(), address, settings };
        daemon.wait_for("readiness", |daemon| daemon.get("/readyz").starts_with("HTTP/1.1 200"));
        daemon
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn wait_for(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..MAX_POLLS {
            assert!(self.child.try_wait().unwrap().is_none(), "the daemon ended by itself\n{}", self.log());
            if is_so(self) {
                return;
            }
            std::thread::sleep(POLL);
        }
        panic!("no {what}\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default()
    }

    pub(crate) fn get(&self, path: &str) -> String {
        exchange(self.address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    /// Whether `version` scores now.
    pub(crate) fn scores_with(&self, version: &str) -> bool {
        let line = format!("undercurrent_scoring_model_info{{model_version=\"{version}\"}} 1");
        self.get("/metrics").lines().any(|found| found == line)
    }

    /// A counter of the metrics page; 0 before it was counted.
    pub(crate) fn counted(&self, metric: &str) -> usize {
        let page = self.get("/metrics");
        let value = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0)
    }

    /// Runs a command on its models, which must succeed, and returns what it printed.
    pub(crate) fn models(&self, arguments: &[&str]) -> String {
        let output = self.run_models(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command on its models, which must fail, and returns what it complained of.
    pub(crate) fn models_refused(&self, arguments: &[&str]) -> String {
        let output = self.run_models(arguments);
        assert!(!output.status.success(), "{arguments:?} must be refused");
        String::from_utf8(output.stderr).unwrap()
    }

    fn run_models(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_undercurrent"))
            .arg("models")
            .args(arguments)
            .args(&self.settings)
            .current_dir(&self.folder)
            .env_remove("UNDERCURRENT_CONFIG")
            .output()
            .unwrap()
    }

    /// SIGTERM; must drain and exit with 0.
    pub(crate) fn stop(mut self) {
        assert!(Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap().success());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "SIGTERM must drain and exit 0, not {status}\n{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// One HTTP exchange on a connection of its own; an empty answer while nobody listens.
pub(crate) fn exchange(address: SocketAddr, request: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).is_err() || stream.read_to_string(&mut answer).is_err() {
        return String::new();
    }
    answer
}

/// Posts events of some users until `stop` and returns who did something, in the order of the log.
fn stream_events(address: SocketAddr, stop: &AtomicBool) -> Vec<String> {
    const USERS: usize = 40;
    const AT_ONCE: usize = 8;
    let mut sent: Vec<String> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut body = String::new();
        for _ in 0..AT_ONCE {
            let number = sent.len();
            let user = format!("user {}", (number * 7) % USERS);
            let event = serde_json::json!({
                "user_id": user, "event": "view", "event_id": format!("e{number}"),
                "timestamp": SystemClock.now_ms(), "product_id": format!("item {}", number % 13),
            });
            body.push_str(&event.to_string());
            body.push('\n');
            sent.push(user);
        }
        let answer = exchange(
            address,
            &format!(
                "POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    sent
}

/// Copies a shipped bundle and says its version.
pub(crate) fn copy_bundle(name: &str, target: &Path) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
    std::fs::create_dir_all(target).unwrap();
    for entry in std::fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
    }
    Bundle::load(target).unwrap().version.to_string()
}

#[test]
fn a_promotion_and_a_rollback_under_load_lose_no_score_and_mix_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let first = copy_bundle("default", &folder.path().join("models/first"));
    let second = copy_bundle("demo", &folder.path().join("models/second"));
    assert_ne!(first, second);
    let mut daemon = Daemon::start(folder.path(), &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let feeder = {
        let (stop, address) = (Arc::clone(&stop), daemon.address);
        std::thread::Builder::new().spawn(move || stream_events(address, &stop)).unwrap()
    };
    let scores_grow = |daemon: &mut Daemon| {
        let before = daemon.counted("undercurrent_decision_scores_total");
        daemon.wait_for("scores", |daemon| daemon.counted("undercurrent_decision_scores_total") >= before + 80);
    };
    scores_grow(&mut daemon);
    daemon.models(&["promote", "second"]);
    daemon.wait_for("swap", |daemon| daemon.scores_with(&second));
    scores_grow(&mut daemon);
    daemon.models(&["rollback"]);
    daemon.wait_for("rollback", |daemon| daemon.scores_with(&first));
    scores_grow(&mut daemon);
    stop.store(true, Ordering::Relaxed);
    let sent = feeder.join().unwrap();
    daemon.wait_for("the last events", |daemon| {
        daemon.counted("undercurrent_stream_records_total{view=\"click\"}") >= sent.len()
    });
    daemon.stop();
    check_scores(folder.path(), &sent, &[&first, &second, &first]);
}

/// Every event has its score, every score one of the models, and the models follow each other in this order.
fn check_scores(folder: &Path, sent: &[String], versions: &[&str]) {
    let params = EmbeddedParams { partition_count: PARTITIONS, ..EmbeddedParams::at(folder.join(".undercurrent/log")) };
    let log = EmbeddedLog::open(params, Arc::new(ManualClock::at(0))).unwrap();
    let mut events: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
    for user in sent {
        events.entry(partition_of(user.as_bytes(), PARTITIONS).0).or_default().push(user);
    }
    for partition in log.partitions() {
        let events = &events[&partition.0];
        let outputs = log.read_outputs(OutputTopic::Scores, partition, Offset(0), usize::MAX).unwrap();
        let scores: Vec<Value> =
            outputs.iter().map(|output| serde_json::from_slice(output.payload.as_ref().unwrap()).unwrap()).collect();
        let of = |score: &Value, key: &str| score[key].as_str().unwrap().to_owned();
        // Where the micro-batches of this partition ended, and who was scored at each end.
        let mut batches: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        let mut by_batch: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        for score in &scores {
            let end = score["input_positions"]["clicks"].as_u64().unwrap();
            batches.entry(end).or_default().insert(of(score, "user_id"));
            by_batch.entry(end).or_default().insert(of(score, "model_version"));
            order.push(of(score, "model_version"));
        }
        assert!(by_batch.values().all(|models| models.len() == 1), "a micro-batch was scored by two models");
        order.dedup();
        assert_eq!(order, versions, "in partition {partition}");
        assert_eq!(batches.keys().last().copied(), Some(events.len() as u64), "the last event has a score");
        for (offset, user) in events.iter().enumerate() {
            let (end, scored) = batches.range(offset as u64 + 1..).next().unwrap();
            assert!(scored.contains(*user), "{user} of offset {offset} was not scored with the batch up to {end}");
        }
    }
}

/// The processes that `parent` started, with their niceness.
fn children(parent: u32) -> Vec<(u32, i64)> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let child = |id: u32| {
        let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // After the name in parentheses: state, parent, and as the 17th field niceness.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        (fields[0] != "Z" && fields[1].parse() == Ok(parent)).then(|| Some((id, fields[16].parse().ok()?)))?
    };
    ids.filter_map(child).collect()
}

#[test]
fn a_training_runs_beside_the_daemon_and_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    copy_bundle("default", &folder.path().join("models/first"));
    let file = folder.path().join("events.jsonl");
    write_events(&file, &GenerateParams::new(150, 150, 5), |_| ());
    let options = ReplayOptions {
        files: vec![file],
        moments: Moments::Every { every_ms: 7 * DAY_MS, from_ms: None, until_ms: None },
        horizons_ms: vec![30 * DAY_MS],
        location: folder.path().join("history").display().to_string(),
        partition_count: 1,
    };
    run_blocking(&Config::default(), &options, &mut |_, _| ()).unwrap();
    let settings =
        ["training.enabled=true", "training.interval_h=0.0001", "training.niceness=7", "snapshot.location=history"];
    let mut daemon = Daemon::start(folder.path(), &settings);
    // It has found the snapshots, the champion's horizons and a window with known labels, and has begun to learn.
    daemon.wait_for("training", |daemon| daemon.log().contains("stage=\"fitting BG/NBD\""));
    let training = children(daemon.child.id());
    let [(child, niceness)] = training[..] else { panic!("{training:?}\n{}", daemon.log()) };
    assert_eq!(niceness, 7);
    daemon.stop();
    // One that nobody has asked about yet is dead all the same.
    let is_running = || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with('Z'))
    };
    assert!((0..100).any(|_| !is_running() || (std::thread::sleep(POLL), false).1), "the training outlived the daemon");
    assert_eq!(std::fs::read_dir(folder.path().join("models")).unwrap().count(), 1, "half a model was left");
}

/// Says the same of everyone: what a champion must not lose to, unless the window says nothing.
struct Flat(RecencyScorer);

impl Scorer for Flat {
    fn score_blocking(&self, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Scored>, ScoreError> {
        let mut scored = self.0.score_blocking(requests)?;
        for score in &mut scored {
            score.churn_probability = Probability::clamped(0.5);
            score.purchase_probability = Probability::clamped(0.5);
        }
        Ok(scored)
    }

    fn explain_blocking(&self, _: &ScoreRequest<UserGraph>, _: usize) -> Result<Vec<Reason>, ScoreError> {
        Ok(Vec::new())
    }
}

const TASK: Horizons = Horizons { history_days: 60, churn_days: 14, purchase_days: 7 };
const DAYS: u32 = 100;

/// Writes made-up shoppers as JSON lines, changed by `change`.
fn write_events(file: &Path, params: &GenerateParams, change: impl Fn(&mut Value)) {
    let mut lines = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
    for record in json_records(params, 200_000) {
        let mut event: Value = serde_json::from_slice(&record.payload).unwrap();
        change(&mut event);
        writeln!(lines, "{event}").unwrap();
    }
}

/// Replays shoppers, changed by `poison`, and holds recency against a model that knows nothing, on the newest window.
fn verdict(poison: impl Fn(&mut Value, i64)) -> Verdict {
    let params = GenerateParams::new(400, DAYS, 5);
    let end_ms = params.end_ms();
    let window_ms = end_ms - i64::from(TASK.churn_days) * DAY_MS;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    write_events(&file, &params, |event| poison(event, window_ms));
    let mut config = Config::default();
    config.snapshot.location = folder.path().join("snapshots").display().to_string();
    let options = ReplayOptions {
        files: vec![file],
        moments: Moments::At(vec![window_ms, window_ms + 7 * DAY_MS, end_ms]),
        horizons_ms: Vec::new(),
        location: config.snapshot.location.clone(),
        partition_count: 2,
    };
    run_blocking(&config, &options, &mut |_, _| ()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(0));
    let history = SnapshotHistory::open(engine::snapshots(&config, &clock).unwrap(), "here", i64::MAX, 2).unwrap();
    let gate = GateParams { max_loss: 1.0, ..GateParams::default() };
    let window = Window::read(&history, window_ms, &TASK, &gate).unwrap();
    assert!(window.labels.iter().all(|labels| labels.iter().all(Option::is_some)), "labels are exact at snapshots");
    let candidate = window.score_blocking(&RecencyScorer::new(14, 7)).unwrap();
    let champion = window.score_blocking(&Flat(RecencyScorer::new(14, 7))).unwrap();
    judge(&window, &candidate, &champion, &gate, 0)
}

#[test]
fn a_poisoned_window_promotes_nobody() {
    let clean = verdict(|_, _| ());
    assert!(clean.passed, "{clean:?}");
    // Labels shuffled: after the window's moment everyone acts in another's name, who never knows.
    let shuffled = verdict(|event, window_ms| {
        if event["timestamp"].as_i64().unwrap() >= window_ms {
            let user = event["user_id"].as_str().unwrap();
            let hash = xxhash_rust::xxh3::xxh3_64_with_seed(user.as_bytes(), 9);
            event["user_id"] = Value::String(format!("u{:07}", hash % 400));
        }
    });
    assert!(!shuffled.passed, "{shuffled:?}");
    // Features gone: before the moment everyone did the same at the same time.
    let zeroed = verdict(|event, window_ms| {
        if event["timestamp"].as_i64().unwrap() < window_ms {
            event["timestamp"] = Value::from(window_ms - DAY_MS);
        }
    });
    assert!(!zeroed.passed, "{zeroed:?}");
    assert!(zeroed.reasons.iter().any(|reason| reason.contains("cannot tell users apart")), "{zeroed:?}");
}
