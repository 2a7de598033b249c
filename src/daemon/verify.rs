//! Serving equals training: the same users, once through the daemon's own loop and once through training's reader, must have
//! the same features, the same members' answers and the same scores.
//!
//! The loop is the real one: records of the wire, decoded and folded in micro-batches, scored by the pool, committed in
//! transactions, and a crash in the middle, after which a new thread restores from the last snapshot and the log. Only the
//! log is in memory.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroUsize,
    sync::Arc,
};

use anyhow::{Context, ensure};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{params, pool};
use crate::{
    clock::{Clock, ManualClock},
    config::Config,
    decision::{DecisionParams, UserScore, restore_score},
    event::{CleaningCounts, PartitionId, RowReader, UserId},
    features::{EncodedUser, Encoder},
    graph::UserGraph,
    model::{Bundle, FusedForward, Prediction, forest_row, probability_of},
    snapshot::{SnapshotWriter, Snapshots, open_storage},
    stream::{
        ArrowSnapshots, BatchLimits, OutputTopic, Partitions, Step, StreamParams, StreamParts, StreamThread, TimeMode,
        memory::{MemoryBroker, MemoryLog, NoFaults},
        partitioner::partition_of,
    },
    train::{evaluate::EvaluateOptions, predict_all, verify::TrainingView},
};

/// Partitions of the log in memory.
const PARTITIONS: u32 = 2;
/// Records of a micro-batch at most: small, so that a user's events come in many.
const BATCH_RECORDS: usize = 500;
/// Milliseconds between snapshots, by a clock that is moved once.
const SNAPSHOT_INTERVAL_MS: i64 = 1_000;

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Event files and what counts in them, as training is told.
    pub history: EvaluateOptions,
    /// Users compared, about; drawn by hash.
    pub user_count: usize,
    /// How far two probabilities may be apart.
    pub tolerance: f64,
}

/// What was compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// Users compared.
    pub user_count: usize,
    /// Features of each.
    pub feature_count: usize,
    /// Records that went through the loop.
    pub record_count: usize,
    /// Snapshots written before the crash.
    pub snapshot_count: usize,
    /// The largest distance of two probabilities, members' and served.
    pub largest_distance: f64,
    /// The largest distance of the network's probability between the forward pass that serves and the one that trains.
    pub largest_form_distance: f64,
    /// The first difference, if there is one.
    pub difference: Option<Mismatch>,
}

/// Something that serving and training see differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The user.
    pub user: UserId,
    /// The moment, milliseconds since the Unix epoch.
    pub as_of_ms: i64,
    /// The feature, member or score.
    pub what: String,
    /// What the daemon's way makes of it.
    pub served: String,
    /// What training's way makes of it.
    pub trained: String,
}

/// Verifies `bundle`. Blocks; `report` hears one line a stage.
pub fn run_blocking(
    config: &Config,
    bundle: &Arc<Bundle>,
    options: &VerifyOptions,
    report: &mut dyn FnMut(&str),
) -> anyhow::Result<Verified> {
    let view = TrainingView::read(&options.history, report)?;
    let users = drawn(view.users(), options.user_count, options.history.seed);
    ensure!(!users.is_empty(), "the files hold no user");
    report("through the daemon's loop");
    let served = Served::fold_blocking(config, bundle, options, &users)?;
    report("comparing");
    let mut comparison = Comparison::new(bundle, options.tolerance);
    for (user, graph, score) in &served.users {
        if comparison.found.difference.is_none() {
            comparison.user(user, graph, score, view.graph(user, score.as_of_ms).as_ref())?;
        }
    }
    let Comparison { mut found, .. } = comparison;
    found.record_count = served.record_count;
    found.snapshot_count = served.snapshot_count;
    Ok(found)
}

/// The users with the smallest hashes.
fn drawn(users: &[UserId], count: usize, seed: u64) -> HashSet<UserId> {
    let mut hashed: Vec<(u64, &UserId)> =
        users.iter().map(|user| (xxh3_64_with_seed(user.as_str().as_bytes(), seed), user)).collect();
    hashed.sort_unstable();
    hashed.into_iter().take(count).map(|(_, user)| user.clone()).collect()
}

/// The users after the loop has read everything, by name, with the graphs it holds and the scores it committed.
struct Served {
    users: Vec<(UserId, Arc<UserGraph>, UserScore)>,
    record_count: usize,
    snapshot_count: usize,
}

impl Served {
    fn fold_blocking(
        config: &Config,
        bundle: &Arc<Bundle>,
        options: &VerifyOptions,
        users: &HashSet<UserId>,
    ) -> anyhow::Result<Self> {
        let records = Records::read(config, options, users)?;
        let scoring = pool::start(config, Arc::clone(bundle))?;
        let clock = Arc::new(ManualClock::at(i64::MAX / 4));
        let storage = open_storage("memory:///", &[])?;
        let snapshots = Snapshots::new(storage, params::snapshots(config)?, Arc::clone(&clock) as Arc<dyn Clock>);
        let broker = Arc::new(MemoryBroker::new(PARTITIONS));
        let partitions = Arc::new(Partitions::default());
        let start = || -> anyhow::Result<StreamThread<MemoryLog>> {
            let writer = Arc::new(SnapshotWriter::inline(snapshots.clone()));
            let clock = Arc::clone(&clock) as Arc<dyn Clock>;
            Ok(StreamThread::new(StreamParts {
                log: MemoryLog::join(&broker, "verify", Box::new(NoFaults)),
                scorer: Arc::clone(&scoring.scorer),
                clock: Arc::clone(&clock),
                decoder: params::decoder(config)?,
                partitions: Arc::clone(&partitions),
                snapshots: Box::new(ArrowSnapshots::new(snapshots.clone(), writer, clock, SNAPSHOT_INTERVAL_MS)),
                // Scores are compared, not alerts, whose reasons cost tens of scores each.
                decision: DecisionParams { enter_threshold: Some(1.0), ..params::decision(config, TimeMode::Replay)? },
                catalogue: Arc::clone(&scoring.catalogue),
                params: StreamParams {
                    graph: params::graph(config)?,
                    batch: BatchLimits {
                        max_records: BATCH_RECORDS,
                        max_bytes: usize::MAX,
                        linger_ms: 0,
                        idle_wait_ms: 0,
                    },
                    time: TimeMode::Replay,
                    ..StreamParams::default()
                },
            }))
        };
        let total = records.0.len();
        let (first, second) = (total * 3 / 10, total / 2);
        let mut thread = start()?;
        records.append(&broker, 0..first, clock.as_ref());
        drain_blocking(&mut thread)?;
        clock.advance_ms(2 * SNAPSHOT_INTERVAL_MS);
        // The next micro-batch of each partition is the last one in a snapshot; those after it are in the log alone.
        records.append(&broker, first..second, clock.as_ref());
        drain_blocking(&mut thread)?;
        let snapshot_count = snapshots.list_blocking(None).context("cannot list the snapshots")?.len();
        drop(thread);
        let mut thread = start()?;
        records.append(&broker, second..total, clock.as_ref());
        drain_blocking(&mut thread)?;
        let mut found = Vec::new();
        for partition in broker.partitions() {
            let handle = partitions.get(partition).context("a partition was not restored")?;
            let mut written = BTreeMap::new();
            for record in broker.committed_outputs(OutputTopic::Scores, partition) {
                let user = UserId::new(std::str::from_utf8(&record.key).context("a score's key is no text")?);
                written.insert(user, record.payload);
            }
            for (user, payload) in written {
                let payload = payload.context("a score was taken back")?;
                let score = restore_score(&payload).context("a score that was written cannot be read")?;
                let graph = handle.state.graphs.get(user.as_str()).context("a scored user has no graph")?;
                found.push((user, graph, score));
            }
        }
        found.sort_by(|left, right| left.0.cmp(&right.0));
        drop(thread);
        Ok(Self { users: found, record_count: total, snapshot_count })
    }
}

/// Runs the loop until nothing is left to do.
fn drain_blocking(thread: &mut StreamThread<MemoryLog>) -> anyhow::Result<()> {
    let mut idle = 0;
    while idle < 3 {
        match thread.step_blocking()? {
            Step::Idle => idle += 1,
            _ => idle = 0,
        }
    }
    Ok(())
}

/// Records of the drawn users, as `send` would write them.
struct Records(Vec<(crate::event::View, PartitionId, Vec<u8>, Vec<u8>)>);

impl Records {
    fn read(config: &Config, options: &VerifyOptions, users: &HashSet<UserId>) -> anyhow::Result<Self> {
        let mut edge = params::edge(config)?;
        let mut counts = CleaningCounts::default();
        let mut records = Vec::new();
        for file in &options.history.events {
            let mut reader = RowReader::open(file)?;
            while let Some(row) = reader.next_row()? {
                let Ok(admitted) = edge.admit_row(&row, &mut counts) else { continue };
                let user = UserId::new(&admitted.event.user);
                if admitted.event.time_ms < options.history.cutoff_ms && users.contains(&user) {
                    let key = user.as_str().as_bytes().to_vec();
                    let partition = partition_of(&key, PARTITIONS);
                    records.push((admitted.view(), partition, key, admitted.payload.into_owned()));
                }
            }
        }
        Ok(Self(records))
    }

    fn append(&self, broker: &MemoryBroker, range: std::ops::Range<usize>, clock: &dyn Clock) {
        for (view, partition, key, payload) in &self.0[range] {
            broker.append(*view, *partition, clock.now_ms(), Some(key), Some(payload));
        }
    }
}

struct Comparison<'a> {
    bundle: &'a Bundle,
    encoder: Encoder,
    fused: Option<FusedForward>,
    tolerance: f64,
    found: Verified,
}

impl<'a> Comparison<'a> {
    fn new(bundle: &'a Bundle, tolerance: f64) -> Self {
        Self {
            bundle,
            encoder: Encoder::new(bundle.spec.clone()),
            // The gated form is served by candle.
            fused: FusedForward::new(&bundle.model).ok(),
            tolerance,
            found: Verified {
                user_count: 0,
                feature_count: bundle.spec.features().len(),
                record_count: 0,
                snapshot_count: 0,
                largest_distance: 0.0,
                largest_form_distance: 0.0,
                difference: None,
            },
        }
    }

    fn user(
        &mut self,
        user: &UserId,
        served: &UserGraph,
        score: &UserScore,
        trained: Option<&UserGraph>,
    ) -> anyhow::Result<()> {
        let as_of_ms = score.as_of_ms;
        let mismatch = |what: &str, served: String, trained: String| {
            Some(Mismatch { user: user.clone(), as_of_ms, what: what.to_owned(), served, trained })
        };
        let Some(trained) = trained else {
            self.found.difference = mismatch("user", "scored".to_owned(), "no event".to_owned());
            return Ok(());
        };
        self.found.user_count += 1;
        let raws = [served, trained].map(|graph| self.encoder.raw(graph, as_of_ms));
        let features = self.bundle.spec.features();
        for ((feature, served), trained) in features.iter().zip(&raws[0]).zip(&raws[1]) {
            if served.to_bits() != trained.to_bits() {
                self.found.difference =
                    mismatch(&format!("feature `{}`", feature.name), shown(*served), shown(*trained));
                return Ok(());
            }
        }
        let users = [served, trained].map(|graph| self.encoder.encode(graph, as_of_ms));
        if let Some(what) = inputs_differ(&users[0], &users[1]) {
            self.found.difference = mismatch(what, "other values".to_owned(), "than these".to_owned());
            return Ok(());
        }
        let slow = |user: &EncodedUser| predict_all(&self.bundle.model, &[user], NonZeroUsize::MIN);
        let candle = slow(&users[1])?;
        let predictions = match &mut self.fused {
            Some(fused) => [fused.predict(&[&users[0]]), fused.predict(&[&users[1]])],
            None => [slow(&users[0])?, candle.clone()],
        };
        let [served, trained] = [0, 1].map(|way| self.answers(&predictions[way][0], &users[way]));
        let written = [score.churn_probability, score.purchase_probability].map(|p| f64::from(p.get()));
        let forms = [predictions[1][0].churn_log_odds, candle[0].churn_log_odds].map(|x| f64::from(probability_of(x)));
        self.found.largest_form_distance = self.found.largest_form_distance.max((forms[0] - forms[1]).abs());
        let finals =
            [("churn score", 0), ("purchase score", 1)].map(|(name, head)| (name, written[head], trained[head].1));
        let members = served.iter().zip(&trained).flat_map(|(served, trained)| {
            served.0.iter().zip(&trained.0).map(|((name, served), (_, trained))| (*name, *served, *trained))
        });
        for (name, served, trained) in members.chain(finals) {
            let distance = (served - trained).abs();
            self.found.largest_distance = self.found.largest_distance.max(distance);
            if distance.is_nan() || distance > self.tolerance {
                self.found.difference = mismatch(name, format!("{served:.9}"), format!("{trained:.9}"));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Of each head: what every member says, and what is served.
    fn answers(&self, prediction: &Prediction, user: &EncodedUser) -> [(Vec<(&'static str, f64)>, f64); 2] {
        const NAMES: [[&str; 3]; 2] = [
            ["churn by the network", "churn by the trees", "churn by BG/NBD"],
            ["purchase by the network", "purchase by the trees", "purchase by BG/NBD"],
        ];
        let finals = self.bundle.log_odds(prediction, user).map(|x| f64::from(probability_of(x)));
        let network = [prediction.churn_log_odds, prediction.purchase_log_odds];
        let row = forest_row(user);
        [0, 1].map(|head| {
            let members = match &self.bundle.ensemble {
                Some(ensemble) => {
                    let blend = if head == 0 { &ensemble.churn } else { &ensemble.purchase };
                    blend.members(network[head], user, &row).to_vec()
                }
                None => vec![network[head]],
            };
            let members = members.into_iter().map(|x| f64::from(probability_of(x)));
            (NAMES[head].into_iter().zip(members).collect(), finals[head])
        })
    }
}

fn shown(value: f32) -> String {
    if value.is_nan() { "missing".to_owned() } else { format!("{value} (bits {:08x})", value.to_bits()) }
}

/// Which input of the network differs.
fn inputs_differ(served: &EncodedUser, trained: &EncodedUser) -> Option<&'static str> {
    if served.nodes != trained.nodes {
        Some("graph nodes")
    } else if served.edges != trained.edges {
        Some("graph edges")
    } else if served.events != trained.events {
        Some("sequence of events")
    } else if served.context.map(f32::to_bits) != trained.context.map(f32::to_bits) {
        Some("context")
    } else {
        None
    }
}
