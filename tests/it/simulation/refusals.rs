//! What a restore refuses, and what it goes on from when it is told to.

use std::sync::Arc;

use undercurrent::{
    event::{Offset, PartitionId, View},
    scoring::RecencyScorer,
    stream::{
        GapPolicy, OutputTopic, Partitions, Step, StreamError, StreamThread,
        memory::{MemoryBroker, MemoryLog, NoFaults},
    },
};

use crate::threads::plain_parts;

const P0: PartitionId = PartitionId(0);
const NOW_MS: i64 = 1_700_000_000_000;

fn thread_on(broker: &Arc<MemoryBroker>, gap: GapPolicy) -> (StreamThread<MemoryLog>, Arc<Partitions>) {
    let log = MemoryLog::join(broker, "a", Box::new(NoFaults));
    let mut parts = plain_parts(log, Arc::new(RecencyScorer::new(28, 14)), NOW_MS, 64);
    parts.params.gap = gap;
    let partitions = Arc::clone(&parts.partitions);
    (StreamThread::new(parts), partitions)
}

fn append(broker: &MemoryBroker, number: i64) {
    let time_ms = NOW_MS + number;
    let text = format!(
        r#"{{"event_id":"e{number}","event":"view","user_id":"u{number}","timestamp":{time_ms},"product_id":"i"}}"#
    );
    broker.append(View::Click, P0, time_ms, Some(format!("u{number}").as_bytes()), Some(text.as_bytes()));
}

/// A broker on which ten records were handled, of which retention then dropped four.
fn trimmed_broker() -> Arc<MemoryBroker> {
    let broker = Arc::new(MemoryBroker::new(1));
    (0..10).for_each(|number| append(&broker, number));
    let (mut thread, _) = thread_on(&broker, GapPolicy::Refuse);
    while thread.step_blocking().unwrap() != Step::Idle {}
    assert_eq!(broker.committed(P0).get(View::Click), Offset(10));
    broker.trim(View::Click, P0, Offset(4));
    broker
}

#[test]
fn records_lost_to_retention_are_refused_with_both_offsets() {
    let (mut thread, _) = thread_on(&trimmed_broker(), GapPolicy::Refuse);
    assert_eq!(thread.step_blocking().unwrap(), Step::Assigned(vec![P0]));
    let error = thread.step_blocking().unwrap_err();
    let expected = (Offset(0), Offset(4));
    assert!(matches!(error, StreamError::Gap { state, earliest, .. } if (state, earliest) == expected), "{error}");
    let message = error.to_string();
    assert!(message.contains("stands at offset 0") && message.contains("begins at 4"), "{message}");
}

#[test]
fn a_gap_that_is_accepted_costs_its_records_and_no_more() {
    let broker = trimmed_broker();
    let before = broker.committed_outputs(OutputTopic::Scores, P0).len();
    let (mut thread, partitions) = thread_on(&broker, GapPolicy::Accept);
    append(&broker, 10);
    while thread.step_blocking().unwrap() != Step::Idle {}
    let handle = partitions.get(P0).unwrap();
    assert_eq!(handle.state.graphs.len(), 7, "six of ten users and the new one");
    assert_eq!(handle.state.progress().next_offsets.get(View::Click), Offset(11));
    assert!(broker.committed_outputs(OutputTopic::Scores, P0).len() > before);
}

#[test]
fn a_topic_made_anew_is_refused_with_instructions() {
    let broker = trimmed_broker();
    // The same group on a log that lost its end: what is committed is not there.
    broker.recreate(View::Click, P0);
    let (mut thread, _) = thread_on(&broker, GapPolicy::Accept);
    assert_eq!(thread.step_blocking().unwrap(), Step::Assigned(vec![P0]));
    let error = thread.step_blocking().unwrap_err();
    assert!(matches!(error, StreamError::LogShrank { partition: P0, .. }), "{error}");
    assert!(error.to_string().contains("use another group id"), "{error}");
}
