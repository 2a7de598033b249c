//! A cheap scorer with exact arithmetic, that fails now and then, always on some users, is slow, and dies.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use rand::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;
use undercurrent::{
    event::{DAY_MS, EventKind, NameHash},
    graph::{UserGraph, due},
    score::{Evidence, ItemReason, ModelInfo, Probability, RankedItem, Reason, ScoreRequest, Scored},
    scoring::{ScoreError, Scorer},
    stream::memory::MemoryBroker,
};

/// A user whose newest event is at this millisecond of a second cannot be scored: a worker panics on it, and the pool
/// answers with its place.
pub(super) const POISON_MS: i64 = 777;

/// The longer the silence in typical gaps, the higher the risk.
pub(super) struct SilenceScorer {
    pub(super) rng: Mutex<Xoshiro256PlusPlus>,
    pub(super) quiet: Arc<AtomicBool>,
    /// Whether the last call failed: two in a row are not drawn, so a healthy user never uses its attempts up.
    pub(super) has_failed: AtomicBool,
    /// Whether a score depends on the place in the batch, which it must not.
    pub(super) minds_company: bool,
    /// What a slow score meets: the group goes on without this member.
    pub(super) broker: Arc<MemoryBroker>,
    pub(super) name: &'static str,
    /// Whether it neither dies nor is slow.
    pub(super) is_steady: bool,
    /// Set when the process dies between fold and score.
    pub(super) died: Arc<AtomicBool>,
}

impl SilenceScorer {
    fn draws(&self, one_in: u32) -> bool {
        !self.quiet.load(Ordering::Relaxed) && self.rng.lock().unwrap().random_ratio(1, one_in)
    }
}

impl Scorer for SilenceScorer {
    fn score_blocking(&self, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Scored>, ScoreError> {
        if !self.is_steady && self.draws(150) {
            self.died.store(true, Ordering::Relaxed);
            return Err(ScoreError::Closed);
        }
        if !self.is_steady && self.draws(100) {
            // Longer than the session timeout, or than the poll interval.
            self.broker.expire(self.name);
        }
        if !self.is_steady && self.draws(60) {
            self.broker.rebalance();
        }
        if let Some(index) = requests.iter().position(|request| is_poison(&request.graph)) {
            return Err(ScoreError::User { index, message: "a worker panicked: poison".to_owned() });
        }
        let fails = !self.has_failed.load(Ordering::Relaxed) && !requests.is_empty() && self.draws(30);
        self.has_failed.store(fails, Ordering::Relaxed);
        if fails {
            let message = "drawn".to_owned();
            let mut rng = self.rng.lock().unwrap();
            return Err(if rng.random_bool(0.5) {
                ScoreError::User { index: rng.random_range(0..requests.len()), message }
            } else {
                ScoreError::Model { model_version: "silence".to_owned(), message }
            });
        }
        let company = if self.minds_company { requests.len() } else { 1 };
        Ok(requests.iter().map(|request| score(request, company)).collect())
    }

    fn explain_blocking(&self, request: &ScoreRequest<UserGraph>, limit: usize) -> Result<Vec<Reason>, ScoreError> {
        if self.draws(20) {
            return Err(ScoreError::User { index: 0, message: "drawn".to_owned() });
        }
        let last_ms = request.graph.last_event_ms().unwrap_or_default();
        let evidence = Evidence::Event { kind: EventKind::View, time_ms: last_ms, name: None };
        Ok(vec![Reason { evidence, effect: 0.5 }; limit.min(1)])
    }
}

pub(super) fn is_poison(graph: &UserGraph) -> bool {
    graph.last_event_ms().is_some_and(|last_ms| last_ms % 1_000 == POISON_MS)
}

fn score(request: &ScoreRequest<UserGraph>, company: usize) -> Scored {
    let graph = &request.graph;
    let last_ms = graph.last_event_ms().expect("only users with events are scored");
    assert!(request.as_of_ms >= last_ms, "a score never stands before an event");
    #[expect(clippy::cast_precision_loss, reason = "silences and gaps are small")]
    let gaps = (request.as_of_ms - last_ms) as f32 / due::typical_gap_ms(graph) as f32;
    let churn = gaps / (1.0 + gaps);
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let events = ((graph.event_count() * company as u64) % 100) as f32;
    let item = RankedItem { item: NameHash(1), score: 1.0, reason: ItemReason::Popularity };
    Scored {
        churn_probability: Probability::new(churn).expect("in range"),
        purchase_probability: Probability::new(events / 100.0).expect("in range"),
        attention: [0.5, 0.1, 0.1, 0.1, 0.1, 0.1],
        top_factors: Vec::new(),
        value_at_stake_minor: u64::try_from(request.as_of_ms / DAY_MS).unwrap_or(0),
        items: vec![item],
        discoveries: vec![item],
        model: Arc::new(ModelInfo {
            version: Arc::from("silence"),
            churn_days: 30,
            purchase_days: 7,
            churn_threshold: Probability::new(0.55).expect("in range"),
        }),
    }
}
