//! ALR-2 at the end of a run: every alert was settled once, when its horizon had passed, and by what really happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use undercurrent::stream::{PartitionHandle, memory::MemoryBroker};

use super::{
    outputs::{self, Settled},
    workload::Workload,
};

/// Checks all alerts and outcomes of a run that has read everything.
pub(super) fn check(
    broker: &MemoryBroker,
    workload: &Workload,
    handles: &[Arc<PartitionHandle>],
    topic_skew_ms: i64,
) -> Result<(), String> {
    let alerts = outputs::alerts(broker);
    let outcomes = outputs::outcomes(broker);
    check_once(&alerts, &outcomes)?;
    for ((partition, user), remembered) in outputs::remembered(broker) {
        let Some(handle) = handles.iter().find(|handle| handle.state.partition() == partition) else { continue };
        let progress = handle.state.progress();
        let settled_ms = progress.settled_ms(topic_skew_ms, &broker.ends(partition)).unwrap_or(i64::MIN);
        // Who was scored last at these very positions waits for the next record.
        let waits = remembered.positions == progress.next_offsets;
        if let Some((id, end_ms)) = remembered.open.iter().find(|(_, end_ms)| **end_ms <= settled_ms && !waits) {
            return Err(format!("ALR-2: alert {id} of {user} ended at {end_ms}, time is {settled_ms}, and it is open"));
        }
        let told: BTreeSet<&str> = outcomes.get(&user).into_iter().flatten().map(|it| it.alert_id.as_str()).collect();
        let said = alerts.get(&user).map_or(&[][..], |said| said);
        // The alerts since the user was known last: those that the last score counts.
        let newest = said.last().filter(|alert| alert.sequence == remembered.alert_count);
        let since = newest.map_or(said.len(), |newest| said.len() - usize::try_from(newest.sequence).unwrap());
        for alert in said[since..].iter().filter(|alert| alert.transition != "recovered") {
            if !told.contains(alert.id.as_str()) && !remembered.open.contains_key(&alert.id) {
                return Err(format!("ALR-2: alert {} of {user} is neither open nor settled", alert.id));
            }
        }
    }
    let erased: BTreeSet<&str> = workload.erasures.iter().map(|erased| erased.user.as_str()).collect();
    for (user, outcomes) in outcomes.iter().filter(|(user, _)| !erased.contains(user.as_str())) {
        for outcome in outcomes {
            check_verdict(workload, user, outcome)?;
        }
    }
    Ok(())
}

fn check_once(
    alerts: &BTreeMap<String, Vec<outputs::Alert>>,
    outcomes: &BTreeMap<String, Vec<Settled>>,
) -> Result<(), String> {
    for (user, outcomes) in outcomes {
        let said = alerts.get(user).map_or(&[][..], |said| said);
        let mut told = BTreeSet::new();
        for outcome in outcomes {
            if !told.insert(&outcome.alert_id) {
                return Err(format!("ALR-2: an alert of {user} is settled twice: {outcome:?}"));
            }
            if !said.iter().any(|alert| alert.id == outcome.alert_id && alert.transition != "recovered") {
                return Err(format!("ALR-2: {outcome:?} of {user} is of no alert"));
            }
        }
    }
    Ok(())
}

/// Holds an outcome against the events: one that came in time and within the horizon must have been seen.
fn check_verdict(workload: &Workload, user: &str, outcome: &Settled) -> Result<(), String> {
    let Settled { raised_ms, end_ms, returned_ms, .. } = outcome;
    let events = workload.plain_events.iter().filter(|(name, _)| name == user).map(|(_, time_ms)| *time_ms);
    let first_ms = events.filter(|time_ms| (raised_ms + 1..*end_ms).contains(time_ms)).min();
    let agrees = match outcome.verdict.as_str() {
        "right" => first_ms.is_none() && returned_ms.is_none(),
        // The events themselves are to the second; one that came late may have been the first.
        "wrong" => returned_ms.is_some_and(|returned_ms| {
            (*raised_ms..*end_ms).contains(&returned_ms) && first_ms.is_none_or(|first_ms| returned_ms <= first_ms)
        }),
        _ => true,
    };
    if agrees {
        Ok(())
    } else {
        Err(format!("ALR-2: {outcome:?} of {user}, whose first event in time is {first_ms:?}"))
    }
}
