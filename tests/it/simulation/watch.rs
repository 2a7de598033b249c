//! Looks at every step of every member: what it did must hold now, not only at the end.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use undercurrent::{
    event::{Offset, PartitionId, Positions, View},
    stream::{OutputRecord, OutputTopic, PartitionHandle, Step, TimeMode, memory::MemoryBroker},
};

use super::{
    check::check_order,
    outputs::{Alert, DeadLetter, Score, Settled, user_of},
};

/// Ring entries a view that a graph may hold; see `World::params`.
pub(super) const RING_CAPACITY: usize = 16;

/// What a consumer that reads `read_committed` has seen so far, and the states there were.
#[derive(Default)]
pub(super) struct Watch {
    next: BTreeMap<(OutputTopic, PartitionId), usize>,
    scores: BTreeMap<(PartitionId, String), Score>,
    levels: BTreeMap<String, u8>,
    /// How often users' alerts began anew.
    beginnings: BTreeMap<String, usize>,
    alert_ids: BTreeSet<String>,
    /// Ids of alerts that are settled.
    settled_ids: BTreeSet<String>,
    refused: BTreeSet<(usize, PartitionId, Offset)>,
    /// State by partition and positions: two states at one place are one state.
    hashes: BTreeMap<(PartitionId, [i64; View::COUNT]), u64>,
}

impl Watch {
    /// Checks what is visible after a step.
    pub(super) fn check_outputs(&mut self, broker: &MemoryBroker, time: TimeMode) -> Result<(), String> {
        for topic in OutputTopic::ALL {
            for partition in broker.partitions() {
                let next = self.next.entry((topic, partition)).or_default();
                let (records, after) = broker.read_committed(topic, partition, *next);
                *next = after;
                let committed = broker.committed(partition);
                for record in &records {
                    self.check_output(broker, (partition, record), &committed, time)?;
                }
            }
        }
        Ok(())
    }

    fn check_output(
        &mut self,
        broker: &MemoryBroker,
        (partition, record): (PartitionId, &OutputRecord),
        committed: &Positions,
        time: TimeMode,
    ) -> Result<(), String> {
        let user = user_of(record);
        match record.topic {
            OutputTopic::Scores => {
                let Some(score) = Score::of(record) else { return Ok(()) };
                if !score.positions.at_or_before(committed) {
                    return Err(format!("TXN-1: {user} is scored at {}, committed is {committed}", score.positions));
                }
                if !score.probabilities.iter().all(|probability| (0.0..=1.0).contains(probability)) {
                    return Err(format!("SCO-1: {user} has {score:?}"));
                }
                if let Some(older) = self.scores.insert((partition, user.clone()), score) {
                    check_order(&user, &older, &score, time)?;
                }
            }
            OutputTopic::ChurnAlerts => {
                let alert = Alert::of(record);
                if !self.alert_ids.insert(alert.id.clone()) {
                    return Err(format!("ALR-1: alert id {} of {user} occurs twice", alert.id));
                }
                // A reader of `scores` may wait on a transaction that a dead member left open, and a reader of alerts not: so
                // what is committed counts, not what was read.
                if alert.sequence == 1 && self.levels.contains_key(&user) {
                    let begun = self.beginnings.entry(user.clone()).or_default();
                    if *begun < times_taken_back(broker, partition, &user) {
                        *begun += 1;
                        self.levels.remove(&user);
                    }
                }
                let level = self.levels.entry(user.clone()).or_default();
                *level = alert
                    .level_after(*level)
                    .ok_or_else(|| format!("ALR-1: alert `{}` of {user} at level {level}", alert.transition))?;
            }
            OutputTopic::ShadowScores => return Err(format!("nobody is in shadow, and {user} has a shadow score")),
            OutputTopic::AlertOutcomes => {
                let outcome = Settled::of(record);
                // That it is of an alert is checked at the end: a reader of alerts may wait where this one does not.
                if !self.settled_ids.insert(outcome.alert_id.clone()) {
                    return Err(format!("ALR-2: an alert of {user} is settled twice: {outcome:?}"));
                }
            }
            OutputTopic::Recommendations => {}
            OutputTopic::DeadLetters => {
                let letter = DeadLetter::of(record);
                if letter.offset >= committed.get(View::ALL[letter.view]) {
                    return Err(format!("TXN-1: {letter:?} is refused, committed is {committed}"));
                }
                if !self.refused.insert((letter.view, letter.partition, letter.offset)) {
                    return Err(format!("TXN-1: a record is in the dead letters twice: {letter:?}"));
                }
            }
        }
        Ok(())
    }

    /// Checks the states a member shows after `step`; `is_current` says whether the group knows it as their owner. Partitions in
    /// `restoring` wait for a restore after an abort, whose outcome may have been another than what was answered.
    pub(super) fn check_states(
        &mut self,
        broker: &MemoryBroker,
        step: Option<&Step>,
        is_current: bool,
        (handles, restoring): (&[Arc<PartitionHandle>], &[PartitionId]),
    ) -> Result<(), String> {
        let has_committed = step == Some(&Step::Committed);
        if has_committed && !is_current {
            return Err("OWN-1: a member committed that does not own its partitions any more".to_owned());
        }
        for handle in handles {
            let partition = handle.state.partition();
            let (state, committed) = (handle.state.progress().next_offsets, broker.committed(partition));
            if !state.at_or_before(&committed) {
                return Err(format!("TXN-2: the state at {state} is ahead of the committed {committed}"));
            }
            if has_committed && state != committed && !restoring.contains(&partition) {
                return Err(format!("POS-2: the state stands at {state} after a commit, committed is {committed}"));
            }
            if matches!(step, Some(Step::Committed | Step::Restored(_))) {
                self.check_state(partition, &state, handle)?;
            }
        }
        Ok(())
    }

    fn check_state(
        &mut self,
        partition: PartitionId,
        positions: &Positions,
        handle: &PartitionHandle,
    ) -> Result<(), String> {
        let hash = handle.state.state_hash();
        match self.hashes.entry((partition, positions.0.map(|offset| offset.0))) {
            Entry::Occupied(known) if *known.get() != hash => {
                return Err(format!("DET-1: two states of partition {partition} at {positions}"));
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(hash);
            }
        }
        let mut longest = 0;
        handle.state.graphs.for_each(|_, graph| {
            longest = graph.views().map(|(_, view)| view.ring().len()).fold(longest, usize::max);
        });
        if longest > RING_CAPACITY {
            return Err(format!("LIM-1: a ring holds {longest} lines, {RING_CAPACITY} are allowed"));
        }
        Ok(())
    }
}

/// How often the scores of `user` were taken back so far.
fn times_taken_back(broker: &MemoryBroker, partition: PartitionId, user: &str) -> usize {
    let scores = broker.committed_outputs(OutputTopic::Scores, partition);
    scores.iter().filter(|record| record.payload.is_none() && record.key == user.as_bytes()).count()
}

/// No partition is shown by two members that the group knows as owners.
pub(super) fn check_owners<'a>(
    current: impl Iterator<Item = (&'a str, Vec<Arc<PartitionHandle>>)>,
) -> Result<(), String> {
    let mut owners: BTreeMap<PartitionId, &str> = BTreeMap::new();
    for (name, handles) in current {
        for handle in handles {
            let partition = handle.state.partition();
            if let Some(other) = owners.insert(partition, name) {
                return Err(format!("OWN-1: partition {partition} is owned by {other} and {name}"));
            }
        }
    }
    Ok(())
}
