//! A challenger beside the champion: it scores the same users for the same moments, and nothing it says decides anything.
//!
//! The challenger is asked on a thread of its own, after the champion has answered. A stream thread waits for it no longer than
//! [`ShadowSettings::timeout_ms`]; one that fails, panics or takes too long rests for a minute, in which nobody waits for it.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use tracing::{error, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    PoolError, ScoreError, Scorer,
    agreement::{Agreement, Comparison, HEADS},
};
use crate::{
    event::UserId,
    graph::UserGraph,
    metrics::{self as names, model_label},
    score::{Reason, ScoreRequest, Scored},
};

/// How long a challenger is left alone after it failed: with it, stream threads wait for a broken one a small share of the time.
const REST: Duration = Duration::from_mins(1);
/// Users of one batch that a challenger may fail on before the batch counts as failed.
const MAX_UNSCORABLE_USERS: usize = 8;

/// Bounds of a shadow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShadowSettings {
    /// Share of the users that the challenger scores, 0 to 1, by a hash of the user: always the same ones.
    pub share: f64,
    /// Milliseconds that a micro-batch waits for the challenger at most.
    pub timeout_ms: u64,
    /// Micro-batches that may wait for the challenger at once; one a stream thread is enough.
    pub queue_capacity: NonZeroUsize,
}

/// The challenger of a daemon, if there is one now.
pub struct Shadow {
    settings: ShadowSettings,
    seat: Arc<Seat>,
    /// Carries micro-batches to the thread `shadow`; bounded, and never waited on: a full one means that the challenger is
    /// behind. Closed when the shadow is dropped, which ends the thread; nobody joins it, because it may never answer.
    queue: SyncSender<Work>,
    /// Guards the end of the rest; held for a look.
    rests_until: Mutex<Option<Instant>>,
    /// Guards what was answered lately; held while a batch is added, or the numbers are worked out.
    comparison: Mutex<Comparison>,
}

/// Who challenges. Written when another challenger takes its place.
#[derive(Default)]
struct Seat(RwLock<Option<Challenger>>);

/// A scorer with the version it answers as.
#[derive(Clone)]
struct Challenger {
    scorer: Arc<dyn Scorer>,
    version: Arc<str>,
}

impl Seat {
    fn challenger(&self) -> Option<Challenger> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_taken(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// One micro-batch for the challenger. The reply has room for the one answer, so the thread never waits on it.
struct Work {
    requests: Vec<ScoreRequest<UserGraph>>,
    reply: SyncSender<Result<Vec<Option<Scored>>, String>>,
}

impl Shadow {
    /// Starts the thread that asks; no challenger yet.
    pub fn start(settings: ShadowSettings) -> Result<Self, PoolError> {
        let (queue, works) = sync_channel(settings.queue_capacity.get());
        let seat = Arc::new(Seat::default());
        let (name, theirs) = ("shadow".to_owned(), Arc::clone(&seat));
        std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || answer_all(&theirs, &works))
            .map_err(|source| PoolError::Thread { name, source })?;
        let comparison = Mutex::new(Comparison::default());
        Ok(Self { settings, seat, queue, rests_until: Mutex::new(None), comparison })
    }

    /// Takes another challenger from the next micro-batch on. The one before ends on a thread of its own, after what it has in
    /// hand.
    pub fn seat(&self, scorer: Arc<dyn Scorer>, version: Arc<str>) {
        gauge!(names::SHADOW_MODEL_INFO, "model_version" => model_label(&version)).set(1.0);
        self.replace(Some(Challenger { scorer, version }));
    }

    /// Has no challenger from the next micro-batch on.
    pub fn vacate(&self) {
        self.replace(None);
    }

    /// The version of the challenger.
    pub fn version(&self) -> Option<Arc<str>> {
        self.seat.challenger().map(|challenger| challenger.version)
    }

    fn replace(&self, next: Option<Challenger>) {
        let version = next.as_ref().map(|next| Arc::clone(&next.version));
        let before = std::mem::replace(&mut *self.seat.0.write().unwrap_or_else(PoisonError::into_inner), next);
        *self.rest() = None;
        let Some(before) = before else { return };
        if version.as_ref() != Some(&before.version) {
            gauge!(names::SHADOW_MODEL_INFO, "model_version" => model_label(&before.version)).set(0.0);
        }
        // A pool joins its workers when it is dropped, and one of them may never end.
        let ended = std::thread::Builder::new().name("shadow-end".to_owned()).spawn(move || drop(before));
        if let Err(error) = ended {
            error!(%error, "no thread to end the challenger on");
        }
    }

    /// How far challenger and champion agree on the newest users that both scored; `None` before there are enough.
    pub fn agreement(&self) -> Option<Agreement> {
        self.comparison().agreement()
    }

    /// Shows the agreement in the metrics.
    pub fn measure(&self) {
        let (version, Some(agreement)) = ({
            let comparison = self.comparison();
            (model_label(comparison.version()), comparison.agreement())
        }) else {
            return;
        };
        for (head, agreed) in HEADS.into_iter().zip(agreement.heads) {
            let Some(agreed) = agreed else { continue };
            gauge!(names::SHADOW_DIFFERENCE, "head" => head, "model_version" => version.clone())
                .set(agreed.mean_difference);
            gauge!(names::SHADOW_RANK_AGREEMENT, "head" => head, "model_version" => version.clone())
                .set(agreed.rank_agreement);
        }
    }

    fn comparison(&self) -> MutexGuard<'_, Comparison> {
        self.comparison.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest(&self) -> MutexGuard<'_, Option<Instant>> {
        self.rests_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn takes(&self, user: &UserId) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a draw")]
        let place = (xxh3_64(user.as_str().as_bytes()) >> 11) as f64 / (1_u64 << 53) as f64;
        place < self.settings.share
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "what a challenger says decides nothing, so neither does when it rests"
    )]
    fn is_resting(&self) -> bool {
        self.rest().is_some_and(|until| Instant::now() < until)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "what a challenger says decides nothing, so neither does when it rests"
    )]
    fn give_rest(&self) {
        *self.rest() = Some(Instant::now() + REST);
    }

    /// What the challenger says of those of `requests` that it takes and the champion has answered, with their places.
    fn challenge_blocking(
        &self,
        users: &[&UserId],
        requests: &[ScoreRequest<UserGraph>],
        champion: &[Option<Scored>],
    ) -> Vec<(usize, Scored)> {
        if !self.seat.is_taken() {
            return Vec::new();
        }
        let answered = champion.iter().enumerate().filter_map(|(place, scored)| scored.as_ref().map(|_| place));
        let places: Vec<usize> = answered.filter(|place| self.takes(users[*place])).collect();
        if places.is_empty() {
            return Vec::new();
        }
        let missed = |reason: &'static str| {
            counter!(names::SHADOW_FAILURES, "reason" => reason).increment(places.len() as u64);
            Vec::new()
        };
        if self.is_resting() {
            return missed("resting");
        }
        let asked = places.iter().map(|place| requests[*place].clone()).collect();
        let (reply, answer) = sync_channel(1);
        if self.queue.try_send(Work { requests: asked, reply }).is_err() {
            return missed("busy");
        }
        let (reason, message) = match answer.recv_timeout(Duration::from_millis(self.settings.timeout_ms)) {
            Ok(Ok(scores)) => {
                let scores: Vec<(usize, Scored)> =
                    places.iter().zip(scores).filter_map(|(place, scored)| Some((*place, scored?))).collect();
                let unscored = places.len() - scores.len();
                if unscored > 0 {
                    counter!(names::SHADOW_FAILURES, "reason" => "failed").increment(unscored as u64);
                }
                self.comparison().add(&scores, champion);
                return scores;
            }
            Ok(Err(message)) => ("failed", message),
            Err(RecvTimeoutError::Timeout) => {
                ("timeout", format!("no answer within {} ms (`scoring.shadow_timeout_ms`)", self.settings.timeout_ms))
            }
            Err(RecvTimeoutError::Disconnected) => ("failed", "the thread that asks it is gone".to_owned()),
        };
        warn!(%message, "the challenger could not score a micro-batch and rests for a minute; the champion has scored it");
        self.give_rest();
        missed(reason)
    }
}

/// Asks whoever challenges, until the queue is closed.
fn answer_all(seat: &Seat, works: &Receiver<Work>) {
    while let Ok(Work { requests, reply }) = works.recv() {
        let answer = match seat.challenger() {
            None => Ok(Vec::new()),
            Some(challenger) => catch_unwind(AssertUnwindSafe(|| score(challenger.scorer.as_ref(), &requests)))
                .unwrap_or_else(|_| Err("it panicked".to_owned())),
        };
        // A stream thread that gave up has closed its end; its answer is not missed.
        drop(reply.send(answer));
    }
}

/// Scores `requests` in their order; `None` for a few that cannot be scored.
fn score(scorer: &dyn Scorer, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Option<Scored>>, String> {
    let mut places: Vec<usize> = (0..requests.len()).collect();
    let mut scores = vec![None; requests.len()];
    loop {
        let asked: Vec<ScoreRequest<UserGraph>> = places.iter().map(|place| requests[*place].clone()).collect();
        match scorer.score_blocking(&asked) {
            Ok(answers) if answers.len() == asked.len() => {
                for (place, answer) in places.into_iter().zip(answers) {
                    scores[place] = Some(answer);
                }
                return Ok(scores);
            }
            Ok(answers) => return Err(format!("it answered {} scores to {} requests", answers.len(), asked.len())),
            Err(ScoreError::User { index, .. })
                if index < places.len() && requests.len() - places.len() < MAX_UNSCORABLE_USERS =>
            {
                places.remove(index);
                if places.is_empty() {
                    return Ok(scores);
                }
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The champion, with a challenger in its shadow.
pub struct Shadowed {
    /// Scores and explains.
    pub champion: Arc<dyn Scorer>,
    /// Scores beside it.
    pub shadow: Arc<Shadow>,
}

impl Scorer for Shadowed {
    fn score_blocking(&self, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Scored>, ScoreError> {
        self.champion.score_blocking(requests)
    }

    fn explain_blocking(&self, request: &ScoreRequest<UserGraph>, limit: usize) -> Result<Vec<Reason>, ScoreError> {
        self.champion.explain_blocking(request, limit)
    }

    fn challenge_blocking(
        &self,
        users: &[&UserId],
        requests: &[ScoreRequest<UserGraph>],
        champion: &[Option<Scored>],
    ) -> Vec<(usize, Scored)> {
        self.shadow.challenge_blocking(users, requests, champion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shadow(share: f64) -> Shadow {
        Shadow::start(ShadowSettings { share, timeout_ms: 1_000, queue_capacity: NonZeroUsize::MIN }).unwrap()
    }

    #[test]
    fn about_the_asked_share_of_users_is_taken_and_always_the_same_ones() {
        let some = shadow(0.1);
        let taken = |number: &u32| some.takes(&UserId::new(&format!("u{number}")));
        let count = (0..10_000).filter(taken).count();
        assert!((900..1_100).contains(&count), "{count}");
        assert_eq!((0..10_000).filter(taken).count(), count);
        assert!(!shadow(0.0).takes(&UserId::new("u")) && shadow(1.0).takes(&UserId::new("u")));
    }
}
