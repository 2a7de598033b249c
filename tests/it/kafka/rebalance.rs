//! Two members share the partitions, and a member that lost its partitions cannot commit to them.

use std::collections::BTreeMap;

use undercurrent::{
    event::PartitionId,
    stream::{Disposition, OutputTopic, Polled, RecordBatch, Sink, Source, kafka::KafkaLog, partitioner::partition_of},
};

use super::{
    LIMITS, MAX_POLLS, advance, await_partitions, broker_with_topics, collect, commit, committed_outputs, output,
    send_events,
};

/// Polls once and follows the group.
fn step(log: &mut KafkaLog, owned: &mut Vec<PartitionId>) {
    let mut batch = RecordBatch::default();
    match log.poll_blocking(&LIMITS, &mut batch).unwrap() {
        Polled::Assigned(partitions) => {
            for partition in &partitions {
                let committed = log.committed_blocking(*partition).unwrap();
                log.start_at(*partition, committed).unwrap();
            }
            owned.extend(partitions);
        }
        Polled::Revoked(partitions) => owned.retain(|partition| !partitions.contains(partition)),
        Polled::Records | Polled::Idle => {}
    }
}

#[test]
fn a_second_instance_takes_half_and_gives_it_back() {
    let Some(mut params) = broker_with_topics("rebalance", 4) else { return };
    params.static_membership = false;
    send_events(&params, 100);
    let mut first = KafkaLog::open(&params, 0).unwrap();
    let mut first_owned = await_partitions(&mut first, 4);
    let mut other = params.clone();
    other.instance = "1".to_owned();
    let mut second = KafkaLog::open(&other, 0).unwrap();
    let mut second_owned = Vec::new();
    for _ in 0..MAX_POLLS {
        step(&mut first, &mut first_owned);
        step(&mut second, &mut second_owned);
        if first_owned.len() == 2 && second_owned.len() == 2 {
            break;
        }
    }
    let mut all: Vec<PartitionId> = first_owned.iter().chain(&second_owned).copied().collect();
    all.sort();
    assert_eq!(all, [0, 1, 2, 3].map(PartitionId), "each partition has one owner");

    // Nothing was committed, so the new owner sees its partitions from the start.
    let mut positions = BTreeMap::new();
    for partition in &second_owned {
        let committed = second.committed_blocking(*partition).unwrap();
        second.start_at(*partition, committed).unwrap();
    }
    let theirs =
        (0..100).filter(|index| second_owned.contains(&partition_of(format!("u{}", index % 50).as_bytes(), 4))).count();
    let records = collect(&mut second, theirs * 3);
    assert_eq!(records.len(), theirs * 3);
    assert!(records.iter().all(|(origin, _)| second_owned.contains(&origin.partition)));
    advance(&mut positions, &records);
    second.commit_blocking(&commit(vec![], &positions)).unwrap();

    drop(second);
    for _ in 0..MAX_POLLS {
        step(&mut first, &mut first_owned);
        if first_owned.len() == 4 {
            break;
        }
    }
    assert_eq!(first_owned.len(), 4);
    for (partition, expected) in positions {
        assert_eq!(first.committed_blocking(partition).unwrap(), expected);
    }
}

#[test]
fn a_newer_process_of_the_same_name_fences_the_older() {
    let Some(params) = broker_with_topics("fencing", 1) else { return };
    send_events(&params, 10);
    let mut older = KafkaLog::open(&params, 0).unwrap();
    await_partitions(&mut older, 1);
    let mut positions = BTreeMap::new();
    advance(&mut positions, &collect(&mut older, 30));
    let mut newer = KafkaLog::open(&params, 0).unwrap();
    let outputs = vec![output(OutputTopic::Scores, 0, "u", "from the dead")];
    let error = older.commit_blocking(&commit(outputs, &positions)).unwrap_err();
    assert_eq!(error.disposition, Disposition::Fatal, "{error}");
    assert!(error.to_string().contains("own `instance`"), "{error}");
    await_partitions(&mut newer, 1);
    assert_eq!(collect(&mut newer, 30).len(), 30);
    assert!(committed_outputs(&params, &[OutputTopic::Scores]).is_empty());
}
