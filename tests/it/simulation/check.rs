//! What must hold after any run, and between a run and the one without failures.

use std::collections::{BTreeMap, BTreeSet};

use undercurrent::{
    event::PartitionId,
    stream::{SCORING_FAILED, TimeMode, memory::MemoryBroker},
};

use super::outputs::{self, Score};

/// How a run ended.
#[derive(Debug, PartialEq)]
pub(super) struct Ending {
    /// Hash of the final state of every partition.
    pub(super) states: BTreeMap<PartitionId, u64>,
    /// Moment and probabilities of every user's last score.
    pub(super) last_scores: BTreeMap<(PartitionId, String), (i64, [u64; 2])>,
    /// Records refused by a rule.
    pub(super) refused: Vec<((String, i64, i64), String)>,
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
            check_order(user, scores, time)?;
        }
        let last_scores = scores
            .into_iter()
            .filter_map(|(user, scores)| scores.last().map(|score| (user, (score.as_of_ms, score.bits))))
            .collect();
        check_alerts(broker)?;
        let letters = outputs::dead_letters(broker);
        let origins: BTreeSet<_> = letters.iter().map(|(origin, _)| origin).collect();
        if origins.len() != letters.len() {
            return Err(format!("a record is in the dead letters twice: {letters:?}"));
        }
        // Which records share a batch with an unscorable user depends on how batches are cut.
        let refused = letters.into_iter().filter(|(_, reason)| reason != SCORING_FAILED).collect();
        Ok(Self { states, last_scores, refused })
    }

    /// Compares with the run without failures.
    pub(super) fn check_equals(&self, expected: &Self) -> Result<(), String> {
        if self.states != expected.states {
            return Err(format!("final state hashes {:?}, without failures {:?}", self.states, expected.states));
        }
        if self.refused != expected.refused {
            return Err(format!("dead letters {:?}, without failures {:?}", self.refused, expected.refused));
        }
        for (user, score) in &expected.last_scores {
            let ours = self.last_scores.get(user);
            if ours != Some(score) {
                return Err(format!("last score of {user:?} is {ours:?}, without failures {score:?}"));
            }
        }
        match self.last_scores.keys().find(|user| !expected.last_scores.contains_key(user)) {
            Some(user) => Err(format!("{user:?} has a score, without failures none")),
            None => Ok(()),
        }
    }
}

/// Successive scores of a user stand at strictly increasing positions; in live use a user may also age while nothing comes.
fn check_order(user: &str, scores: &[Score], time: TimeMode) -> Result<(), String> {
    for pair in scores.windows(2) {
        let (older, newer) = (pair[0], pair[1]);
        let moved = older.positions != newer.positions;
        let aged = matches!(time, TimeMode::Live { .. }) && older.as_of_ms < newer.as_of_ms;
        if !older.positions.at_or_before(&newer.positions) || !(moved || aged) {
            return Err(format!("input positions of successive scores of {user} do not increase: {older:?} {newer:?}"));
        }
    }
    Ok(())
}

/// Alert ids never repeat, and a user's transitions follow each other legally.
fn check_alerts(broker: &MemoryBroker) -> Result<(), String> {
    let mut ids = BTreeSet::new();
    for (user, alerts) in outputs::alerts(broker) {
        let mut level = 0;
        for (id, transition) in &alerts {
            if !ids.insert(id.clone()) {
                return Err(format!("alert id {id} of {user} occurs twice: {alerts:?}"));
            }
            level = match (transition.as_str(), level) {
                ("entered", 0) => 1,
                ("escalated", 1) => 2,
                ("recovered", 1 | 2) => 0,
                _ => return Err(format!("alert `{transition}` of {user} at level {level}: {alerts:?}")),
            };
        }
    }
    Ok(())
}
