use super::*;
use crate::stream::OutputRecord;

const LIMITS: BatchLimits = BatchLimits { max_records: 100, max_bytes: 1 << 20, linger_ms: 0, idle_wait_ms: 0 };
const P0: PartitionId = PartitionId(0);

struct FailAt(Step, Fault);

impl FaultPlan for FailAt {
    fn at(&mut self, step: Step) -> Fault {
        if step == self.0 { std::mem::replace(&mut self.1, Fault::None) } else { Fault::None }
    }
}

fn commit_of(text: &str, next: i64) -> Commit {
    let output = OutputRecord {
        topic: OutputTopic::Scores,
        partition: P0,
        key: text.as_bytes().to_vec(),
        payload: Some(text.as_bytes().to_vec()),
        headers: Vec::new(),
    };
    let positions = Positions([Offset(next), Offset(0), Offset(0)]);
    Commit { outputs: vec![output], positions: BTreeMap::from([(P0, positions)]) }
}

fn started(broker: &Arc<MemoryBroker>, instance: &str, faults: impl FaultPlan + 'static) -> MemoryLog {
    let mut log = MemoryLog::join(broker, instance, Box::new(faults));
    let mut batch = RecordBatch::default();
    let assigned = log.poll_blocking(&LIMITS, &mut batch).unwrap();
    assert_eq!(assigned, Polled::Assigned(vec![P0]));
    let committed = broker.committed(P0);
    log.start_at(P0, committed).unwrap();
    log
}

/// What readers see after one commit under `fault` at `step`, whether the call said that it is done.
#[track_caller]
fn check_commit(step: Step, fault: Fault, expected_ok: bool, expected_visible: bool) {
    let broker = Arc::new(MemoryBroker::new(1));
    let mut log = started(&broker, "a", FailAt(step, fault));
    assert_eq!(log.commit_blocking(&commit_of("x", 5)).is_ok(), expected_ok);
    drop(log);
    // The successor ends whatever the predecessor left open.
    let _successor = started(&broker, "a", NoFaults);
    assert_eq!(broker.committed_outputs(OutputTopic::Scores, P0).len(), usize::from(expected_visible));
    let next = if expected_visible { 5 } else { 0 };
    assert_eq!(broker.committed(P0).get(View::Click), Offset(next));
}

#[test]
fn a_commit_is_seen_whole_or_not_at_all() {
    check_commit(Step::CommitBegin, Fault::None, true, true);
    for step in [Step::CommitBegin, Step::CommitSend, Step::CommitOffsets] {
        for fault in
            [Fault::Crash, Fault::CrashAfter, Fault::Fail(Disposition::Abort), Fault::FailAfter(Disposition::Retry)]
        {
            check_commit(step, fault, false, false);
        }
    }
    check_commit(Step::CommitEnd, Fault::Crash, false, false);
    check_commit(Step::CommitEnd, Fault::CrashAfter, false, true);
    check_commit(Step::CommitEnd, Fault::Fail(Disposition::Abort), false, false);
    check_commit(Step::CommitEnd, Fault::Fail(Disposition::Retry), true, true);
    check_commit(Step::CommitEnd, Fault::FailAfter(Disposition::Retry), true, true);
}

#[test]
fn an_open_transaction_is_invisible_until_its_end() {
    let broker = Arc::new(MemoryBroker::new(1));
    let mut log = started(&broker, "a", FailAt(Step::CommitEnd, Fault::Crash));
    assert!(is_crash(&log.commit_blocking(&commit_of("x", 5)).unwrap_err()));
    assert!(broker.committed_outputs(OutputTopic::Scores, P0).is_empty());
}

#[test]
fn records_come_in_the_order_of_arrival_without_aborted_ones() {
    let broker = Arc::new(MemoryBroker::new(1));
    broker.append(View::Purchase, P0, 1, Some(b"u"), Some(b"first"));
    broker.append(View::Click, P0, 2, Some(b"u"), Some(b"second"));
    broker.append_aborted(View::Click, P0, b"never");
    broker.append(View::Click, P0, 3, None, None);
    broker.append(View::Search, P0, 4, Some(b"u"), Some(b"last"));
    let mut log = started(&broker, "a", NoFaults);
    let mut batch = RecordBatch::default();
    assert_eq!(log.poll_blocking(&LIMITS, &mut batch).unwrap(), Polled::Records);
    let seen: Vec<_> =
        batch.iter().map(|record| (record.origin.view, record.origin.offset.0, record.payload)).collect();
    assert_eq!(
        seen,
        [
            (View::Purchase, 0, Some(b"first".as_slice())),
            (View::Click, 0, Some(b"second".as_slice())),
            (View::Click, 2, None),
            (View::Search, 0, Some(b"last".as_slice())),
        ]
    );
    batch.clear();
    assert_eq!(log.poll_blocking(&LIMITS, &mut batch).unwrap(), Polled::Idle);
}

#[test]
fn an_old_generation_and_a_fenced_instance_cannot_commit() {
    let broker = Arc::new(MemoryBroker::new(1));
    let mut log = started(&broker, "a", NoFaults);
    broker.rebalance();
    assert_eq!(log.commit_blocking(&commit_of("x", 5)).unwrap_err().disposition, Disposition::Abort);
    let mut batch = RecordBatch::default();
    assert_eq!(log.poll_blocking(&LIMITS, &mut batch).unwrap(), Polled::Revoked(vec![P0]));
    assert_eq!(log.poll_blocking(&LIMITS, &mut batch).unwrap(), Polled::Assigned(vec![P0]));
    log.commit_blocking(&commit_of("x", 5)).unwrap();

    let _younger = MemoryLog::join(&broker, "a", Box::new(NoFaults));
    assert_eq!(log.commit_blocking(&commit_of("x", 9)).unwrap_err().disposition, Disposition::Fatal);
    assert_eq!(broker.committed(P0).get(View::Click), Offset(5));
}

#[test]
fn partitions_are_shared_in_ranges() {
    let broker = Arc::new(MemoryBroker::new(5));
    let mut first = MemoryLog::join(&broker, "a", Box::new(NoFaults));
    let mut second = MemoryLog::join(&broker, "b", Box::new(NoFaults));
    let mut batch = RecordBatch::default();
    let ids = |numbers: &[i32]| Polled::Assigned(numbers.iter().copied().map(PartitionId).collect());
    assert_eq!(first.poll_blocking(&LIMITS, &mut batch).unwrap(), ids(&[0, 1, 2]));
    assert_eq!(second.poll_blocking(&LIMITS, &mut batch).unwrap(), ids(&[3, 4]));
}

#[test]
fn a_replay_reads_exactly_the_range() {
    let broker = Arc::new(MemoryBroker::new(1));
    for number in 0..3_000 {
        broker.append(View::Click, P0, number, None, Some(b"x"));
    }
    let mut log = started(&broker, "a", NoFaults);
    let (from, to) = (Positions([Offset(10), Offset(0), Offset(0)]), Positions([Offset(2_500), Offset(0), Offset(0)]));
    let mut offsets = Vec::new();
    log.replay_blocking(P0, from, to, &mut |batch| offsets.extend(batch.iter().map(|record| record.origin.offset.0)))
        .unwrap();
    assert_eq!(offsets, (10..2_500).collect::<Vec<_>>());
}
