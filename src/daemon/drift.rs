//! Whether the users of today are those that the champion was trained on, and whether its probabilities come true.
//!
//! Now and then a sample of the users who would be trained on now is scored as of now, and held against what the bundle says of
//! its training: the same kind of users at the same kind of moment. The users that the stream scores would not do: they are
//! those who just did something. What the sample is told of churn is kept until the horizon has passed, and then held against
//! what happened.

use std::{
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    config::{Config, TrainingConfig},
    event::{DAY_MS, UserId},
    features::Encoder,
    graph::{KindSet, UserGraph, first_activity_ms},
    metrics as names,
    model::{Bundle, References},
    score::{ScoreRequest, Scored},
    scoring::{Pool, ScoreError, Scorer},
    stream::Partitions,
    train::{labels::is_eligible, metrics::BinaryMetrics},
};

/// Between two looks at whether it is time.
const LOOK: Duration = Duration::from_secs(1);
/// Users below which nothing is said of drift: chance alone moves the index then.
pub const MIN_USERS: usize = 200;
/// Users scored at once: a small request, so that those of the stream do not wait long behind it.
const AT_ONCE: usize = 64;
/// Users of a sample whose probabilities are kept until their horizon has passed.
const COHORT_USERS: usize = 500;
/// Event time between two samples that are kept.
const COHORT_MS: i64 = DAY_MS;
/// Samples kept at most: a year's, for the longest horizons (LIM-1).
const COHORTS: usize = 400;
/// The heads, in the order of [`DriftReport::scores`].
const HEADS: [&str; 2] = ["churn", "purchase"];

/// A user at the moment they are looked at.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// The user.
    pub user: UserId,
    /// Graph and moment.
    pub request: ScoreRequest<UserGraph>,
}

/// How far the users of a sample are from those of training.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DriftReport {
    /// Users looked at.
    pub user_count: usize,
    /// The stability index of each feature that can be compared, by name.
    pub features: Vec<(Arc<str>, f64)>,
    /// The stability index of each head's probabilities; `None` where the bundle does not hold those of its validation.
    pub scores: [Option<f64>; 2],
}

impl DriftReport {
    /// Why this is drift, in words: probabilities that moved by `psi`, or a share of at least `share` of the features that did.
    /// `None` when it is none, or when there are too few users to say.
    pub fn reason(&self, psi: f64, share: f64) -> Option<String> {
        if self.user_count < MIN_USERS {
            return None;
        }
        for (head, found) in HEADS.iter().zip(self.scores) {
            if let Some(found) = found.filter(|found| *found >= psi) {
                return Some(format!("the {head} probabilities moved (PSI {found:.3})"));
            }
        }
        let moved = self.features.iter().filter(|(_, found)| *found >= psi).count();
        #[expect(clippy::cast_precision_loss, reason = "some hundred features")]
        let moved_share = moved as f64 / self.features.len().max(1) as f64;
        (moved > 0 && moved_share >= share).then(|| format!("{moved} of {} features moved", self.features.len()))
    }

    fn record(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        metrics::gauge!(names::DRIFT_USERS).set(self.user_count as f64);
        if self.user_count < MIN_USERS {
            return;
        }
        for (feature, found) in &self.features {
            metrics::gauge!(names::DRIFT_FEATURE_PSI, "feature" => feature.to_string()).set(*found);
        }
        for (head, found) in HEADS.into_iter().zip(self.scores) {
            if let Some(found) = found {
                metrics::gauge!(names::DRIFT_SCORE_PSI, "head" => head).set(found);
            }
        }
    }
}

/// Scores a sample and compares it. Blocks.
pub fn measure_blocking(
    encoder: &Encoder,
    references: &References,
    scorer: &dyn Scorer,
    sample: &[Sampled],
) -> Result<(DriftReport, Vec<Scored>), ScoreError> {
    let mut scores = Vec::with_capacity(sample.len());
    let mut rows = Vec::with_capacity(sample.len());
    for part in sample.chunks(AT_ONCE) {
        let requests: Vec<_> = part.iter().map(|sampled| sampled.request.clone()).collect();
        scores.extend(scorer.score_blocking(&requests)?);
        rows.extend(requests.iter().map(|request| encoder.raw(&request.graph, request.as_of_ms)));
    }
    let features = encoder.spec().features().iter().zip(&references.features).enumerate();
    let features = features.filter_map(|(place, (feature, reference))| {
        let found = reference.as_ref()?.psi(rows.iter().map(|row| row[place]))?;
        Some((Arc::from(feature.name.as_str()), found))
    });
    let of_scores = |head: usize| {
        let said = scores.iter().map(|scored| match head {
            0 => scored.churn_probability.get(),
            _ => scored.purchase_probability.get(),
        });
        references.scores[head].as_ref()?.psi(said)
    };
    let report = DriftReport { user_count: sample.len(), features: features.collect(), scores: [0, 1].map(of_scores) };
    Ok((report, scores))
}

/// Draws at most `limit` of the users who were active within `history_ms` before their partition's event time, others in every
/// `round`. Walks all users.
pub fn sample(partitions: &Partitions, history_ms: i64, limit: usize, round: u64) -> Vec<Sampled> {
    /// Ordered by the draw alone.
    struct Drawn(u64, UserId, Arc<UserGraph>, i64);
    impl PartialEq for Drawn {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }
    impl Eq for Drawn {}
    impl PartialOrd for Drawn {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    impl Ord for Drawn {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            (self.0, &self.1).cmp(&(other.0, &other.1))
        }
    }
    let mut drawn: BinaryHeap<Drawn> = BinaryHeap::new();
    for handle in partitions.all() {
        let Some(now_ms) = handle.watermark_ms() else { continue };
        handle.state.graphs.for_each(|user, graph| {
            let hash = xxh3_64_with_seed(user.as_str().as_bytes(), round);
            let has_room = drawn.len() < limit || drawn.peek().is_some_and(|last| hash < last.0);
            if has_room && is_eligible(graph, now_ms, history_ms) {
                let as_of_ms = now_ms.max(graph.last_event_ms().unwrap_or(now_ms));
                drawn.push(Drawn(hash, user.clone(), Arc::clone(graph), as_of_ms));
                if drawn.len() > limit {
                    drawn.pop();
                }
            }
        });
    }
    let sampled = drawn.into_sorted_vec().into_iter();
    sampled.map(|Drawn(_, user, graph, as_of_ms)| Sampled { user, request: ScoreRequest { graph, as_of_ms } }).collect()
}

/// What was said of one user, to be held against what happens.
#[derive(Debug, Clone)]
struct Promise {
    user: UserId,
    as_of_ms: i64,
    end_ms: i64,
    churn: f64,
}

/// Samples whose horizons have not passed.
#[derive(Debug, Default)]
pub struct Cohorts {
    cohorts: VecDeque<Vec<Promise>>,
    newest_ms: Option<i64>,
}

impl Cohorts {
    /// Keeps what was said of the first users of a sample, once a day of event time.
    pub fn keep(&mut self, sample: &[Sampled], scores: &[Scored]) {
        let Some(now_ms) = sample.iter().map(|sampled| sampled.request.as_of_ms).max() else { return };
        if self.newest_ms.is_some_and(|newest_ms| now_ms < newest_ms + COHORT_MS) {
            return;
        }
        self.newest_ms = Some(now_ms);
        let promise = |(sampled, scored): (&Sampled, &Scored)| {
            let as_of_ms = sampled.request.as_of_ms;
            Promise {
                user: sampled.user.clone(),
                as_of_ms,
                end_ms: as_of_ms + i64::from(scored.model.churn_days) * DAY_MS,
                churn: f64::from(scored.churn_probability.get()),
            }
        };
        self.cohorts.push_back(sample.iter().zip(scores).take(COHORT_USERS).map(promise).collect());
        if self.cohorts.len() > COHORTS {
            self.cohorts.pop_front();
        }
    }

    /// Takes the samples whose horizons have passed everywhere, and says how right they were: probabilities against what
    /// happened, and the mean probability. Users who are gone from the graphs are left out: nobody knows what they did.
    pub fn settle(&mut self, partitions: &Partitions, activity: KindSet) -> Option<(BinaryMetrics, f64)> {
        let slowest_ms = partitions.all().iter().map(|handle| handle.watermark_ms()).min()??;
        let (mut labels, mut said) = (Vec::new(), Vec::new());
        while let Some(cohort) = self.cohorts.front()
            && cohort.iter().all(|promise| promise.end_ms <= slowest_ms)
        {
            for promise in cohort {
                let Some(found) = partitions.find_user(promise.user.as_str()) else { continue };
                labels.push(first_activity_ms(&found.graph, activity, promise.as_of_ms, promise.end_ms).is_none());
                said.push(promise.churn);
            }
            self.cohorts.pop_front();
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of users")]
        let mean = said.iter().sum::<f64>() / said.len().max(1) as f64;
        (!labels.is_empty()).then(|| (BinaryMetrics::of(&labels, &said, 0.5), mean))
    }
}

/// Looks for drift every `training.drift_interval_h` hours until `stop`, and tells `found` why, while there is any.
pub(super) async fn watch(
    config: Config,
    pool: Arc<Pool>,
    partitions: Arc<Partitions>,
    found: watch::Sender<Option<String>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let every = Duration::from_secs_f64(config.training.drift_interval_h * 3_600.0);
    let mut watcher =
        Watcher { training: config.training, pool, partitions, prepared: None, cohorts: Cohorts::default() };
    for round in 0_u64.. {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // The first look comes soon, so that a new model is not in the dark for an interval.
            () = tokio::time::sleep(if round == 0 { every.min(60 * LOOK) } else { every }) => {}
        }
        let looked;
        (watcher, looked) = tokio::task::spawn_blocking(move || {
            let looked = watcher.look_blocking(round);
            (watcher, looked)
        })
        .await
        .context("looking for drift")?;
        match looked {
            Ok(reason) => {
                if let Some(reason) = &reason {
                    info!(reason, "drift");
                }
                metrics::gauge!(names::DRIFT_DETECTED).set(if reason.is_some() { 1.0 } else { 0.0 });
                found.send_replace(reason);
            }
            Err(ScoreError::Closed) => {
                stop.cancelled().await;
                return Ok(());
            }
            Err(error) => warn!(%error, "a sample could not be scored, so nobody knows whether there is drift"),
        }
    }
    Ok(())
}

struct Watcher {
    training: TrainingConfig,
    pool: Arc<Pool>,
    partitions: Arc<Partitions>,
    /// Encoder and references of the bundle that served at the last look.
    prepared: Option<(Arc<Bundle>, Encoder, References)>,
    cohorts: Cohorts,
}

impl Watcher {
    fn look_blocking(&mut self, round: u64) -> Result<Option<String>, ScoreError> {
        let bundle = self.pool.bundle();
        if self.prepared.as_ref().is_none_or(|(known, ..)| !Arc::ptr_eq(known, &bundle)) {
            let references = bundle.references();
            self.prepared = Some((Arc::clone(&bundle), Encoder::new(bundle.spec.clone()), references));
        }
        let Some((_, encoder, references)) = &self.prepared else { return Ok(None) };
        let history_ms = i64::from(self.training.history_days) * DAY_MS;
        let sample = sample(&self.partitions, history_ms, self.training.drift_users, round);
        let (report, scores) = measure_blocking(encoder, references, self.pool.as_ref(), &sample)?;
        report.record();
        if let Some((settled, mean)) = self.cohorts.settle(&self.partitions, bundle.spec.settings.activity_set()) {
            #[expect(clippy::cast_precision_loss, reason = "a metric")]
            metrics::gauge!(names::DRIFT_CALIBRATION_USERS).set(settled.count as f64);
            metrics::gauge!(names::DRIFT_CALIBRATION_ERROR).set(settled.ece);
            metrics::gauge!(names::DRIFT_CALIBRATION_GAP).set(mean - settled.rate);
        }
        self.cohorts.keep(&sample, &scores);
        Ok(report.reason(self.training.drift_psi, self.training.drift_share))
    }
}
