//! From scores to output records: the decision, its reasons, and the bytes.

use std::sync::Arc;

use tracing::warn;

use super::{OutputRecord, OutputTopic, Record, StreamError, report::BatchReport};
use crate::{
    decision::{
        DeadLetter, DecisionParams, FirstOrigin, Message, Outcomes, ScoreBook, Standing, Subject, Transition,
        UserScore, alert_message, dead_letter_message, decide, outcome_message, recommendation_message, restore_score,
        score_message, shadow_message,
    },
    event::{NameHash, Origin, PartitionId, UserId},
    graph::{BatchNames, NameLookup, UserGraph},
    score::{Reason, ScoreRequest, Scored},
    scoring::{ScoreError, Scorer},
};

/// What a decision needs besides the score.
pub(super) struct DecisionContext<'a> {
    pub(super) scorer: &'a dyn Scorer,
    pub(super) params: &'a DecisionParams,
    pub(super) reason_limit: usize,
    pub(super) partition: PartitionId,
    pub(super) standing: Standing,
    pub(super) names: OutputNames<'a>,
}

/// Names of a batch, then those of the bundle's catalogue: a recommended item need not be in any graph of the partition.
#[derive(Clone, Copy)]
pub(super) struct OutputNames<'a> {
    pub(super) batch: BatchNames<'a>,
    pub(super) catalogue: &'a dyn NameLookup,
}

impl NameLookup for OutputNames<'_> {
    fn text(&self, name: NameHash) -> Option<Arc<str>> {
        self.batch.text(name).or_else(|| self.catalogue.text(name))
    }
}

/// What was decided about one user.
pub(super) struct Decided {
    pub(super) score: Arc<UserScore>,
    transition: Option<Transition>,
    outcomes: Outcomes,
    has_recommendation: bool,
}

impl BatchReport {
    pub(super) fn note_decision(&mut self, decided: &Decided) {
        self.score_count += 1;
        self.alerts.extend(decided.transition.map(Transition::name));
        for outcome in &decided.outcomes {
            let model_version = Arc::clone(&outcome.alert.model_version);
            *self.outcomes.entry((outcome.verdict, model_version)).or_default() += 1;
        }
        self.recommendation_count += u64::from(decided.has_recommendation);
    }
}

impl DecisionContext<'_> {
    /// Decides about one user and adds its records to `outputs`. Asks the scorer for reasons when there is an alert.
    pub(super) fn decide_blocking(
        &self,
        (user, erased_ms): (&UserId, Option<i64>),
        request: &ScoreRequest<UserGraph>,
        scored: &Scored,
        previous: Option<&UserScore>,
        outputs: &mut Vec<OutputRecord>,
    ) -> Result<Decided, StreamError> {
        let subject = Subject { user, partition: self.partition, erased_ms };
        let decision = decide(subject, previous, scored, &request.graph, request.as_of_ms, self.standing, self.params);
        let mut put = |topic, message: Message| {
            let key = user.as_str().as_bytes().to_vec();
            let Message { payload, headers } = message;
            outputs.push(OutputRecord { topic, partition: self.partition, key, payload: Some(payload), headers });
        };
        let score = Arc::new(decision.score);
        put(OutputTopic::Scores, score_message(subject, &score, scored));
        if let Some(alert) = &decision.alert {
            let reasons = self.reasons_blocking(request)?;
            put(OutputTopic::ChurnAlerts, alert_message(subject, alert, &score, scored, &reasons, &self.names));
        }
        for outcome in &decision.outcomes {
            put(OutputTopic::AlertOutcomes, outcome_message(subject, outcome));
        }
        if decision.recommendations_changed {
            let message = recommendation_message(subject, &score, scored, self.params.list_length, &self.names);
            put(OutputTopic::Recommendations, message);
        }
        Ok(Decided {
            score,
            transition: decision.alert.map(|alert| alert.transition),
            outcomes: decision.outcomes,
            has_recommendation: decision.recommendations_changed,
        })
    }

    /// An alert without reasons is better than none: what fails on one user is logged, and the alert still carries the
    /// factors of its score.
    fn reasons_blocking(&self, request: &ScoreRequest<UserGraph>) -> Result<Vec<Reason>, StreamError> {
        match self.scorer.explain_blocking(request, self.reason_limit) {
            Ok(reasons) => Ok(reasons),
            Err(error @ ScoreError::Closed) => Err(error.into()),
            Err(error) => {
                warn!(partition = %self.partition, %error, "an alert goes out without reasons");
                metrics::counter!(crate::metrics::SCORING_FAILURES).increment(1);
                Ok(Vec::new())
            }
        }
    }
}

/// What a challenger said of a user, beside the champion's score.
pub(super) fn shadow_record(
    (partition, user): (PartitionId, &UserId),
    score: &UserScore,
    champion: &Scored,
    challenger: &Scored,
    list_length: usize,
) -> OutputRecord {
    let subject = Subject { user, partition, erased_ms: None };
    let Message { payload, headers } = shadow_message(subject, score, champion, challenger, list_length);
    let key = user.as_str().as_bytes().to_vec();
    OutputRecord { topic: OutputTopic::ShadowScores, partition, key, payload: Some(payload), headers }
}

/// Puts a record of `scores` back into the book; a tombstone forgets the user. False when it cannot be read.
pub(super) fn restore_into(scores: &ScoreBook, key: &[u8], payload: Option<&[u8]>) -> bool {
    let Ok(user) = std::str::from_utf8(key) else { return false };
    let Some(payload) = payload else {
        scores.remove(user);
        return true;
    };
    match restore_score(payload) {
        Ok(score) => {
            scores.insert(UserId::new(user), Arc::new(score));
            true
        }
        Err(error) => {
            warn!(%error, "a stored score cannot be read");
            false
        }
    }
}

/// Takes back what the compacted topics say of `user`: the last score with its alert state, and the lists.
pub(super) fn take_back(partition: PartitionId, user: &UserId, outputs: &mut Vec<OutputRecord>) {
    for topic in [OutputTopic::Scores, OutputTopic::Recommendations] {
        let key = user.as_str().as_bytes().to_vec();
        outputs.push(OutputRecord { topic, partition, key, payload: None, headers: Vec::new() });
    }
}

/// Why a record goes to the dead letters.
pub(super) struct Refusal<'a> {
    pub(super) reason: &'static str,
    pub(super) field: &'a str,
    pub(super) message: &'a str,
}

/// A record that was refused, as one of topic `dead-letters`.
pub(super) fn dead_letter(topic: &str, record: &Record<'_>, refusal: &Refusal<'_>) -> OutputRecord {
    let Record { origin, timestamp_ms, key, payload, first_origin } = *record;
    // A header that cannot be read is no origin of ours: the record counts as refused for the first time.
    let first = first_origin.and_then(FirstOrigin::parse);
    let first = first.as_ref();
    let Refusal { reason, field, message } = *refusal;
    let letter = DeadLetter { topic, origin, first, timestamp_ms, key, payload, reason, field, message };
    let Message { payload, headers } = dead_letter_message(&letter);
    let (topic, partition) = (OutputTopic::DeadLetters, origin.partition);
    OutputRecord { topic, partition, key: key.unwrap_or_default().to_vec(), payload: Some(payload), headers }
}

/// Dead letters of one batch, with the origins they are of: a record is in it at most once.
#[derive(Default)]
pub(super) struct DeadLetters {
    pub(super) records: Vec<OutputRecord>,
    origins: std::collections::HashSet<Origin>,
}

impl DeadLetters {
    /// Adds `record`, unless it is there. Returns whether it was added.
    pub(super) fn add(&mut self, topic: &str, record: &Record<'_>, refusal: &Refusal<'_>) -> bool {
        let is_new = self.origins.insert(record.origin);
        if is_new {
            self.records.push(dead_letter(topic, record, refusal));
        }
        is_new
    }
}
