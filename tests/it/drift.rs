//! Drift on made-up shoppers in the real loop: who moved is told from who stayed, and probabilities are held against what
//! happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use undercurrent::{
    clock::ManualClock,
    daemon::drift::{Cohorts, DriftReport, MIN_USERS, Sampled, measure_blocking, sample},
    decision::DecisionParams,
    event::{DAY_MS, Decoder, PartitionId},
    features::{Encoder, FeatureSettings, FeatureSpec, Reference},
    generate::{GenerateParams, MadeRecord, json_records},
    graph::{GraphParams, NameTable},
    model::References,
    scoring::{RecencyScorer, Scorer},
    stream::{
        BatchLimits, NoSnapshots, Partitions, Step, StreamParams, StreamParts, StreamThread, TimeMode,
        memory::{MemoryBroker, MemoryLog, NoFaults},
    },
};

const P0: PartitionId = PartitionId(0);
const CHURN_DAYS: u32 = 14;
const HISTORY_MS: i64 = 60 * DAY_MS;

/// A daemon's loop on a log of its own.
struct World {
    broker: Arc<MemoryBroker>,
    partitions: Arc<Partitions>,
    thread: StreamThread<MemoryLog>,
}

impl World {
    fn new() -> Self {
        let (broker, partitions) = (Arc::new(MemoryBroker::new(1)), Arc::new(Partitions::default()));
        let thread = StreamThread::new(StreamParts {
            log: MemoryLog::join(&broker, "drift", Box::new(NoFaults)),
            scorer: Arc::new(RecencyScorer::new(CHURN_DAYS, 7)),
            clock: Arc::new(ManualClock::at(i64::MAX / 4)),
            decoder: Decoder::default(),
            partitions: Arc::clone(&partitions),
            snapshots: Box::new(NoSnapshots),
            decision: DecisionParams { enter_threshold: Some(1.0), ..DecisionParams::default() },
            catalogue: Arc::new(NameTable::default()),
            params: StreamParams {
                batch: BatchLimits { max_records: 20_000, max_bytes: usize::MAX, linger_ms: 0, idle_wait_ms: 0 },
                time: TimeMode::Replay,
                max_due_users: 100_000,
                ..StreamParams::default()
            },
        });
        Self { broker, partitions, thread }
    }

    fn read<'a>(&mut self, records: impl IntoIterator<Item = &'a MadeRecord>) {
        for MadeRecord { view, key, time_ms, payload } in records {
            self.broker.append(*view, P0, *time_ms, Some(key.as_bytes()), Some(payload));
        }
        let mut idle_turns = 0;
        while idle_turns < 3 {
            idle_turns = if self.thread.step_blocking().unwrap() == Step::Idle { idle_turns + 1 } else { 0 };
        }
    }

    /// Everyone, those with an even number first.
    fn halves(&self) -> [Vec<Sampled>; 2] {
        let all = sample(&self.partitions, HISTORY_MS, usize::MAX, 1);
        let is_even = |sampled: &Sampled| sampled.user.as_str().bytes().last().is_some_and(|digit| digit % 2 == 0);
        let (even, odd) = all.into_iter().partition(is_even);
        [even, odd]
    }
}

fn encoder() -> Encoder {
    Encoder::new(FeatureSpec::new(FeatureSettings::for_task(14, 7, &GraphParams::default()), None, None))
}

/// What training on these users would store.
fn references(encoder: &Encoder, users: &[Sampled]) -> References {
    let rows: Vec<Vec<f32>> =
        users.iter().map(|sampled| encoder.raw(&sampled.request.graph, sampled.request.as_of_ms)).collect();
    let requests: Vec<_> = users.iter().map(|sampled| sampled.request.clone()).collect();
    let scores = RecencyScorer::new(CHURN_DAYS, 7).score_blocking(&requests).unwrap();
    References {
        features: (0..encoder.spec().features().len())
            .map(|place| Reference::fit(rows.iter().map(|row| row[place])))
            .collect(),
        scores: [
            Reference::fit(scores.iter().map(|scored| scored.churn_probability.get())),
            Reference::fit(scores.iter().map(|scored| scored.purchase_probability.get())),
        ],
    }
}

fn report(encoder: &Encoder, references: &References, users: &[Sampled]) -> DriftReport {
    measure_blocking(encoder, references, &RecencyScorer::new(CHURN_DAYS, 7), users).unwrap().0
}

#[test]
fn a_shifted_feature_is_told_from_those_that_stayed() {
    let params = GenerateParams::new(3_000, 24, 5);
    let records = json_records(&params, 200_000);
    let mut world = World::new();
    world.read(&records);
    let [training, others] = world.halves();
    let encoder = encoder();
    let references = references(&encoder, &training);
    let stayed = report(&encoder, &references, &others);
    assert!(stayed.user_count > 1_000 && stayed.features.len() > 50, "{stayed:?}");
    for (name, psi) in &stayed.features {
        assert!(*psi < 0.1, "`{name}` of users who did not change: {psi}");
    }
    assert!(stayed.scores.iter().flatten().all(|psi| *psi < 0.1), "{stayed:?}");
    assert_eq!(stayed.reason(0.25, 0.0), None);

    // Everything costs twenty times as much; nothing else changes.
    let dearer: Vec<MadeRecord> = records
        .iter()
        .map(|record| {
            let mut event: Value = serde_json::from_slice(&record.payload).unwrap();
            raise_prices(&mut event);
            MadeRecord { payload: event.to_string().into_bytes(), key: record.key.clone(), ..*record }
        })
        .collect();
    let mut world = World::new();
    world.read(&dearer);
    let shifted = report(&encoder, &references, &world.halves()[1]);
    let moved: BTreeSet<&str> =
        shifted.features.iter().filter(|(_, psi)| *psi > 0.25).map(|(name, _)| name.as_ref()).collect();
    assert!(moved.iter().any(|name| name.contains("spend")), "{moved:?}");
    for (name, psi) in shifted.features.iter().filter(|(name, _)| name.starts_with("search_")) {
        assert!(*psi < 0.1, "`{name}` has nothing to do with prices: {psi}");
    }
    assert!(shifted.scores.iter().flatten().all(|psi| *psi < 0.1), "silence does not depend on prices");
    let reason = shifted.reason(0.25, 0.0).unwrap();
    assert!(reason.contains("features moved"), "{reason}");
    assert_eq!(shifted.reason(0.25, 1.0), None, "not all of them");

    // The same users a week later, who did nothing meanwhile: their scores move too.
    let [_, mut silent] = world.halves();
    for sampled in &mut silent {
        sampled.request.as_of_ms += 7 * DAY_MS;
    }
    let silent = report(&encoder, &references, &silent);
    assert!(silent.reason(0.25, 1.0).unwrap().contains("churn probabilities moved"), "{silent:?}");
    let few = DriftReport { user_count: MIN_USERS - 1, ..silent };
    assert_eq!(few.reason(0.25, 0.0), None, "a handful of users says nothing");
}

/// Multiplies every price in an event by 20.
fn raise_prices(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_f64() {
                    Some(price) if name == "price" => *value = Value::from(price * 20.0),
                    _ => raise_prices(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(raise_prices),
        _ => {}
    }
}

#[test]
fn what_a_sample_was_told_is_held_against_what_happened() {
    let params = GenerateParams::new(400, 50, 7);
    let records = json_records(&params, 200_000);
    let end_ms = records.last().unwrap().time_ms;
    let split_ms = end_ms - i64::from(CHURN_DAYS) * DAY_MS - DAY_MS;
    let place = records.partition_point(|record| record.time_ms < split_ms);
    let mut world = World::new();
    world.read(&records[..place]);
    let users = sample(&world.partitions, HISTORY_MS, 300, 1);
    assert_eq!(users.len(), 300);
    assert_ne!(
        users.iter().map(|sampled| &sampled.user).collect::<BTreeSet<_>>(),
        sample(&world.partitions, HISTORY_MS, 300, 2).iter().map(|sampled| &sampled.user).collect(),
        "another round looks at others"
    );
    let requests: Vec<_> = users.iter().map(|sampled| sampled.request.clone()).collect();
    let scores = RecencyScorer::new(CHURN_DAYS, 7).score_blocking(&requests).unwrap();
    let activity = GraphParams::default().activity;
    let mut cohorts = Cohorts::default();
    cohorts.keep(&users, &scores);
    cohorts.keep(&users, &scores);
    assert!(cohorts.settle(&world.partitions, activity).is_none(), "nothing is known yet");

    world.read(&records[place..]);
    let (settled, mean) = cohorts.settle(&world.partitions, activity).unwrap();
    assert!(cohorts.settle(&world.partitions, activity).is_none(), "told once");
    let mut times: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for record in &records {
        times.entry(record.key.as_str()).or_default().push(record.time_ms);
    }
    let has_left = |sampled: &&Sampled| {
        let from_ms = sampled.request.as_of_ms;
        let until_ms = from_ms + i64::from(CHURN_DAYS) * DAY_MS;
        !times[sampled.user.as_str()].iter().any(|time_ms| (from_ms + 1..until_ms).contains(time_ms))
    };
    let left = users.iter().filter(has_left).count();
    assert_eq!(settled.count, 300);
    #[expect(clippy::cast_precision_loss, reason = "300 users")]
    let rate = left as f64 / 300.0;
    // The ring keeps seconds: one who came back within the second of the sample may be missed.
    assert!((settled.rate - rate).abs() < 0.01, "{} {rate}", settled.rate);
    assert!(left > 10 && left < 290 && (0.0..=1.0).contains(&mean), "{left} {mean}");
}
