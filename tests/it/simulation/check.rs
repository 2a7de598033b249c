//! What must hold at the end of any run, and between a run and the one without failures.

use std::collections::{BTreeMap, BTreeSet};

use undercurrent::{
    event::PartitionId,
    stream::{SCORING_FAILED, TimeMode, memory::MemoryBroker},
};

use super::outputs::{self, DeadLetter, Score};

/// How a run ended.
#[derive(Debug, PartialEq)]
pub(super) struct Ending {
    /// Hash of the final state of every partition.
    pub(super) states: BTreeMap<PartitionId, u64>,
    /// Moment and probabilities of every user's last score.
    pub(super) last_scores: BTreeMap<(PartitionId, String), (i64, [u64; 2])>,
    /// Records refused by a rule.
    pub(super) refused: Vec<DeadLetter>,
}

impl Ending {
    /// Reads the outputs and checks all that holds for one run alone.
    pub(super) fn checked(
        broker: &MemoryBroker,
        time: TimeMode,
        states: BTreeMap<PartitionId, u64>,
    ) -> Result<Self, String> {
        let scores = outputs::scores(broker);
        for ((_, user), scores) in &scores {
            let said: Vec<&Score> = scores.iter().flatten().collect();
            for pair in said.windows(2) {
                check_order(user, pair[0], pair[1], time)?;
            }
        }
        check_alerts(broker, &scores)?;
        let last_scores = scores
            .into_iter()
            .filter_map(|(user, scores)| scores.last()?.map(|score| (user, (score.as_of_ms, score.bits()))))
            .collect();
        let letters = outputs::dead_letters(broker);
        let origins: BTreeSet<_> =
            letters.iter().map(|letter| (letter.view, letter.partition, letter.offset)).collect();
        if origins.len() != letters.len() {
            return Err(format!("TXN-1: a record is in the dead letters twice: {letters:?}"));
        }
        // Which records share a batch with an unscorable user depends on how batches are cut.
        let refused = letters.into_iter().filter(|letter| letter.reason != SCORING_FAILED).collect();
        Ok(Self { states, last_scores, refused })
    }

    /// Compares with the run without failures.
    pub(super) fn check_equals(&self, expected: &Self) -> Result<(), String> {
        if self.states != expected.states {
            return Err(format!("DET-1: final state hashes {:?}, without failures {:?}", self.states, expected.states));
        }
        if self.refused != expected.refused {
            return Err(format!("TXN-1: dead letters {:?}, without failures {:?}", self.refused, expected.refused));
        }
        for (user, score) in &expected.last_scores {
            match self.last_scores.get(user) {
                Some(ours) if ours == score => {}
                Some(ours) if ours.0 == score.0 => {
                    return Err(format!("SCO-1: last score of {user:?} is {ours:?}, without failures {score:?}"));
                }
                ours => return Err(format!("DET-1: last score of {user:?} is {ours:?}, without failures {score:?}")),
            }
        }
        match self.last_scores.keys().find(|user| !expected.last_scores.contains_key(user)) {
            Some(user) => Err(format!("DET-1: {user:?} has a score, without failures none")),
            None => Ok(()),
        }
    }
}

/// Successive scores of a user stand at strictly increasing positions; in live use a user may also age while nothing comes.
pub(super) fn check_order(user: &str, older: &Score, newer: &Score, time: TimeMode) -> Result<(), String> {
    let moved = older.positions != newer.positions;
    let aged = matches!(time, TimeMode::Live { .. }) && older.as_of_ms < newer.as_of_ms;
    if older.positions.at_or_before(&newer.positions) && (moved || aged) {
        return Ok(());
    }
    Err(format!("TXN-1: input positions of successive scores of {user} do not increase: {older:?} {newer:?}"))
}

/// Alert ids never repeat, and a user's transitions follow each other legally. They begin anew as often at most as the user's
/// scores were taken back.
fn check_alerts(
    broker: &MemoryBroker,
    scores: &BTreeMap<(PartitionId, String), Vec<Option<Score>>>,
) -> Result<(), String> {
    let mut ids = BTreeSet::new();
    let mut taken_back: BTreeMap<&str, usize> = BTreeMap::new();
    for ((_, user), scores) in scores {
        *taken_back.entry(user).or_default() += scores.iter().filter(|score| score.is_none()).count();
    }
    for (user, alerts) in outputs::alerts(broker) {
        let mut level = 0;
        let mut beginnings = 0;
        for alert in &alerts {
            if alert.sequence == 1 {
                level = 0;
                beginnings += 1;
            }
            if !ids.insert(alert.id.clone()) {
                return Err(format!("ALR-1: alert id {} of {user} occurs twice: {alerts:?}", alert.id));
            }
            level = alert
                .level_after(level)
                .ok_or_else(|| format!("ALR-1: alert `{}` of {user} at level {level}: {alerts:?}", alert.transition))?;
        }
        if beginnings > 1 + taken_back.get(user.as_str()).copied().unwrap_or(0) {
            return Err(format!("ALR-1: the alerts of {user} begin {beginnings} times: {alerts:?}"));
        }
    }
    Ok(())
}
