//! A challenger in shadow: whatever it does, what the champion decides is the same bit for bit.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, sync_channel},
    },
};

use serde_json::Value;
use undercurrent::{
    clock::ManualClock,
    event::{DAY_MS, Offset, PartitionId, View},
    graph::UserGraph,
    score::{ModelInfo, Probability, Reason, ScoreRequest, Scored},
    scoring::{RecencyScorer, ScoreError, Scorer, Shadow, ShadowSettings, Shadowed},
    stream::{
        OutputTopic, Step, StreamError, StreamThread,
        embedded::{EmbeddedLog, EmbeddedParams},
        memory::{self, Fault, FaultPlan, MemoryBroker, MemoryLog},
    },
};

use crate::{
    lifecycle::{Daemon, PARTITIONS, copy_bundle, exchange},
    threads::plain_parts,
};

const P0: PartitionId = PartitionId(0);
const START_MS: i64 = 1_700_000_000_000;
const USERS: i64 = 12;
const DAYS: i64 = 90;

/// Users who come every few days, and one after the other no more.
fn fill(broker: &MemoryBroker) {
    for day in 0..DAYS {
        for user in (0..USERS).filter(|user| day % (1 + user % 4) == 0 && day < 30 + 6 * user) {
            let (key, time_ms) = (format!("u{user}"), START_MS + day * DAY_MS + user);
            let text = format!(
                r#"{{"event_id":"e{day}-{user}","event":"purchase","user_id":"{key}","timestamp":{time_ms},"product_id":"i{}","price":"1.00","quantity":1}}"#,
                day % 5
            );
            broker.append(View::Purchase, P0, time_ms, Some(key.as_bytes()), Some(text.as_bytes()));
        }
    }
}

/// Dies once, right before or after the transaction of its n-th micro-batch ends.
struct Dies {
    after: usize,
    fault: Fault,
}

impl FaultPlan for Dies {
    fn at(&mut self, step: memory::Step) -> Fault {
        if step != memory::Step::CommitEnd {
            return Fault::None;
        }
        self.after = self.after.wrapping_sub(1);
        if self.after == 0 { self.fault } else { Fault::None }
    }
}

/// What a challenger does with what it is asked.
enum Challenge {
    /// Says the opposite of the champion.
    Opposite,
    /// Cannot score the first user of any batch, and the others it can.
    OneUser,
    Fails,
    Panics,
    /// Never answers while the test runs.
    Hangs(Mutex<Receiver<()>>),
}

struct Challenger {
    inner: RecencyScorer,
    does: Challenge,
    calls: Arc<AtomicUsize>,
}

impl Scorer for Challenger {
    fn score_blocking(&self, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Scored>, ScoreError> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let failed =
            |message: &str| ScoreError::Model { model_version: "challenger".to_owned(), message: message.to_owned() };
        match &self.does {
            Challenge::OneUser if call.is_multiple_of(2) => {
                return Err(ScoreError::User { index: 0, message: "not this one".to_owned() });
            }
            Challenge::Opposite | Challenge::OneUser => {}
            Challenge::Fails => return Err(failed("no")),
            Challenge::Panics => panic!("a challenger that panics"),
            Challenge::Hangs(never) => {
                let ended = never.lock().unwrap().recv();
                return Err(failed(&format!("the test is over: {ended:?}")));
            }
        }
        let mut scored = self.inner.score_blocking(requests)?;
        for score in &mut scored {
            score.churn_probability = Probability::clamped(1.0 - score.churn_probability.get());
            let version = Arc::from("challenger");
            score.model = Arc::new(ModelInfo { version, ..(*score.model).clone() });
            score.items.clear();
        }
        Ok(scored)
    }

    fn explain_blocking(&self, _: &ScoreRequest<UserGraph>, _: usize) -> Result<Vec<Reason>, ScoreError> {
        panic!("nobody asks a challenger for reasons");
    }
}

/// Runs the loop to the end of the input, through a crash if there is one, and returns all that was committed.
fn run(shadow: Option<Arc<Shadow>>, dies: Option<Dies>) -> Outputs {
    let broker = Arc::new(MemoryBroker::new(1));
    fill(&broker);
    let champion: Arc<dyn Scorer> = Arc::new(RecencyScorer::new(28, 14));
    let scorer: Arc<dyn Scorer> = match shadow {
        Some(shadow) => Arc::new(Shadowed { champion, shadow }),
        None => champion,
    };
    let mut plan: Box<dyn FaultPlan> = dies.map_or_else(|| Box::new(memory::NoFaults) as _, |dies| Box::new(dies) as _);
    let mut crashes = 0;
    loop {
        let log = MemoryLog::join(&broker, "a", plan);
        let mut thread = StreamThread::new(plain_parts(log, Arc::clone(&scorer), START_MS, 7));
        let ended = loop {
            match thread.step_blocking() {
                Ok(Step::Idle) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        match ended {
            Ok(()) => return Outputs::of(&broker, crashes),
            Err(StreamError::Log(_)) if crashes == 0 => crashes += 1,
            Err(error) => panic!("{error}"),
        }
        plan = Box::new(memory::NoFaults);
    }
}

struct Outputs {
    /// Payloads by topic, in order.
    topics: BTreeMap<OutputTopic, Vec<Vec<u8>>>,
    crashes: usize,
}

impl Outputs {
    fn of(broker: &MemoryBroker, crashes: usize) -> Self {
        let payloads =
            |topic| broker.committed_outputs(topic, P0).into_iter().filter_map(|record| record.payload).collect();
        Self { topics: OutputTopic::ALL.map(|topic| (topic, payloads(topic))).into(), crashes }
    }

    fn champions(&self) -> BTreeMap<OutputTopic, &Vec<Vec<u8>>> {
        let topics = self.topics.iter().filter(|(topic, _)| !topic.is_optional());
        topics.map(|(topic, payloads)| (*topic, payloads)).collect()
    }

    fn json(&self, topic: OutputTopic) -> Vec<Value> {
        self.topics[&topic].iter().map(|payload| serde_json::from_slice(payload).unwrap()).collect()
    }
}

fn shadow(timeout_ms: u64) -> Arc<Shadow> {
    let settings = ShadowSettings { share: 1.0, timeout_ms, queue_capacity: NonZeroUsize::MIN };
    Arc::new(Shadow::start(settings).unwrap())
}

fn seated(does: Challenge, timeout_ms: u64) -> (Arc<Shadow>, Arc<AtomicUsize>) {
    let shadow = shadow(timeout_ms);
    let calls = Arc::new(AtomicUsize::new(0));
    let challenger = Challenger { inner: RecencyScorer::new(28, 14), does, calls: Arc::clone(&calls) };
    shadow.seat(Arc::new(challenger), Arc::from("challenger"));
    (shadow, calls)
}

const PATIENT_MS: u64 = 60_000;

/// Every shadow score is of a score that is there, by id and by number; returns the last one of each user.
fn check_pairs(outputs: &Outputs) -> BTreeMap<String, Value> {
    let scores: BTreeMap<String, Value> = outputs
        .json(OutputTopic::Scores)
        .into_iter()
        .map(|score| (score["score_id"].as_str().unwrap().to_owned(), score))
        .collect();
    let (mut ids, mut last) = (BTreeSet::new(), BTreeMap::new());
    for shadow in outputs.json(OutputTopic::ShadowScores) {
        let score = &scores[shadow["score_id"].as_str().unwrap()];
        assert!(ids.insert(shadow["shadow_id"].as_str().unwrap().to_owned()), "twice: {shadow}");
        assert_eq!(shadow["champion"]["churn_probability"], score["churn_probability"]);
        assert_eq!(shadow["scored_at"], score["scored_at"]);
        assert_eq!(shadow["challenger"]["model_version"], "challenger");
        assert_eq!(
            (&shadow["shared_items_ratio"], &shadow["shared_discoveries_ratio"]),
            (&Value::from(0.0), &Value::Null)
        );
        last.insert(shadow["user_id"].as_str().unwrap().to_owned(), shadow);
    }
    last
}

#[test]
fn whatever_a_challenger_does_the_champions_outputs_are_the_same_bit_for_bit() {
    let alone = run(None, None);
    assert!(alone.topics[&OutputTopic::ChurnAlerts].len() > 5 && alone.topics[&OutputTopic::AlertOutcomes].len() > 2);
    assert!(alone.topics[&OutputTopic::ShadowScores].is_empty());
    let score_count = alone.topics[&OutputTopic::Scores].len();

    let (opposite, _) = seated(Challenge::Opposite, PATIENT_MS);
    let outputs = run(Some(Arc::clone(&opposite)), None);
    assert_eq!(outputs.champions(), alone.champions());
    assert_eq!(i64::try_from(check_pairs(&outputs).len()), Ok(USERS));
    assert_eq!(outputs.topics[&OutputTopic::ShadowScores].len(), score_count, "each score has its shadow");
    let [Some(churn), Some(purchase)] = opposite.agreement().unwrap().heads else { panic!("both heads are compared") };
    assert_eq!(churn.user_count, score_count.min(2_000));
    assert!((churn.rank_agreement + 1.0).abs() < 1e-9 && churn.mean_difference > 0.1, "{churn:?}");
    assert!((purchase.rank_agreement - 1.0).abs() < 1e-9 && purchase.mean_difference < 1e-9, "{purchase:?}");

    // One user of each batch is missing, and no more.
    let (one_user, calls) = seated(Challenge::OneUser, PATIENT_MS);
    let outputs = run(Some(one_user), None);
    assert_eq!(outputs.champions(), alone.champions());
    check_pairs(&outputs);
    let batches = calls.load(Ordering::Relaxed).div_ceil(2);
    assert!(batches > 10);
    let missing = score_count - outputs.topics[&OutputTopic::ShadowScores].len();
    assert!((batches / 2..=batches).contains(&missing), "{missing} of {batches} batches");
    drop(calls);

    let (never, waits) = sync_channel(1);
    let (patient, hasty) = (PATIENT_MS, 5);
    for (does, timeout_ms) in
        [(Challenge::Fails, patient), (Challenge::Panics, patient), (Challenge::Hangs(Mutex::new(waits)), hasty)]
    {
        let (broken, calls) = seated(does, timeout_ms);
        let outputs = run(Some(Arc::clone(&broken)), None);
        assert_eq!(outputs.champions(), alone.champions());
        assert!(outputs.topics[&OutputTopic::ShadowScores].is_empty());
        assert_eq!(calls.load(Ordering::Relaxed), 1, "it rests after its first failure");
        assert_eq!(broken.agreement(), None);
    }
    drop(never);
    // A seat that was left, or never taken, is the same as none.
    opposite.vacate();
    assert_eq!(run(Some(opposite), None).topics, alone.topics);
}

#[test]
fn a_crash_leaves_one_shadow_for_every_score() {
    let calm = run(Some(seated(Challenge::Opposite, PATIENT_MS).0), None);
    let expected = check_pairs(&calm);
    for fault in [Fault::Crash, Fault::CrashAfter, Fault::CrashLate] {
        for after in [1, 4, 9] {
            let outputs = run(Some(seated(Challenge::Opposite, PATIENT_MS).0), Some(Dies { after, fault }));
            assert_eq!(outputs.crashes, 1);
            assert_eq!(check_pairs(&outputs), expected, "{fault:?} after {after}");
            assert_eq!(
                outputs.topics[&OutputTopic::ShadowScores].len(),
                outputs.topics[&OutputTopic::Scores].len(),
                "both are committed together or not at all"
            );
        }
    }
}

#[test]
fn a_bundle_is_put_into_shadow_and_promoted_out_of_it_while_the_daemon_runs() {
    let folder = tempfile::tempdir().unwrap();
    let first = copy_bundle("default", &folder.path().join("models/first"));
    let second = copy_bundle("demo", &folder.path().join("models/second"));
    let mut daemon = Daemon::start(folder.path(), &[]);
    let mut sent = 0;
    let mut send = |daemon: &Daemon, count: usize| {
        let events: Vec<String> = (sent..sent + count)
            .map(|number| {
                format!(
                    r#"{{"event_id":"e{number}","event":"view","user_id":"u{}","timestamp":{},"product_id":"i{}"}}"#,
                    number % 20,
                    START_MS + i64::try_from(number).unwrap() * 60_000,
                    number % 7
                )
            })
            .collect();
        sent += count;
        let body = events.join("\n");
        let head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n";
        let answer = exchange(daemon.address(), &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
        assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
    };
    let is_shadow = |daemon: &Daemon, version: &str, state: u8| {
        let line = format!("undercurrent_shadow_model_info{{model_version=\"{version}\"}} {state}");
        daemon.get("/metrics").lines().any(|found| found == line)
    };
    let refused = daemon.models_refused(&["shadow", "first"]);
    assert!(refused.contains("cannot be its own challenger"), "{refused}");
    assert!(daemon.models_refused(&["shadow", "nobody"]).contains("`nobody`"));

    daemon.models(&["shadow", "second"]);
    assert!(daemon.models(&["list"]).contains("~ second"));
    daemon.wait_for("challenger", |daemon| is_shadow(daemon, &second, 1));
    send(&daemon, 60);
    daemon.wait_for("shadow scores", |daemon| daemon.counted("undercurrent_shadow_scores_total") >= 20);
    assert!(daemon.scores_with(&first), "the champion scores on");
    let compared = format!("undercurrent_shadow_rank_agreement_ratio{{head=\"churn\",model_version=\"{second}\"}} ");
    daemon.wait_for("comparison", |daemon| daemon.get("/metrics").contains(&compared));

    // Promotion takes it out of the shadow.
    daemon.models(&["promote", "second"]);
    daemon.wait_for("promotion", |daemon| daemon.scores_with(&second) && is_shadow(daemon, &second, 0));
    assert!(daemon.models(&["list"]).contains("* second"));
    let before = daemon.counted("undercurrent_shadow_scores_total");
    let scored = daemon.counted("undercurrent_decision_scores_total");
    send(&daemon, 60);
    daemon.wait_for("scores", |daemon| daemon.counted("undercurrent_decision_scores_total") >= scored + 20);
    assert_eq!(daemon.counted("undercurrent_shadow_scores_total"), before);
    daemon.stop();

    let params =
        EmbeddedParams { partition_count: PARTITIONS, ..EmbeddedParams::at(folder.path().join(".undercurrent/log")) };
    let log = EmbeddedLog::open(params, Arc::new(ManualClock::at(0))).unwrap();
    let read = |topic| -> Vec<Value> {
        let records =
            log.partitions().flat_map(|partition| log.read_outputs(topic, partition, Offset(0), usize::MAX).unwrap());
        records.map(|record| serde_json::from_slice(&record.payload.unwrap()).unwrap()).collect()
    };
    let by_id: BTreeMap<String, Value> = read(OutputTopic::Scores)
        .into_iter()
        .map(|score| (score["score_id"].as_str().unwrap().to_owned(), score))
        .collect();
    let shadows = read(OutputTopic::ShadowScores);
    assert_eq!(shadows.len(), before);
    for shadow in shadows {
        let score = &by_id[shadow["score_id"].as_str().unwrap()];
        assert_eq!(
            (&score["model_version"], &shadow["champion"]["model_version"]),
            (&Value::from(&*first), &Value::from(&*first))
        );
        assert_eq!(shadow["challenger"]["model_version"], *second);
    }
}
