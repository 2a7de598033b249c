//! The loop on topics that are not what they were: refused with instructions, or gone on with when told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
};
use undercurrent::{
    clock::SystemClock,
    decision::DecisionParams,
    event::{Decoder, Offset, View},
    graph::{NameTable, UserGraph},
    score::{Reason, ScoreRequest, Scored},
    scoring::{RecencyScorer, ScoreError, Scorer},
    stream::{
        BatchLimits, GapPolicy, NoSnapshots, OutputTopic, Partitions, StreamError, StreamParams, StreamParts,
        StreamThread, TimeMode,
        kafka::{KafkaLog, KafkaParams, KafkaProducer, Timeouts, TopicPlan, create_topics},
    },
};

use super::{broker_with_topics, committed_outputs, oracle::check_scores, patient};

/// Turns of the loop at most; each waits up to 50 ms.
const MAX_STEPS: usize = 2_000;

fn thread(params: &KafkaParams, scorer: Arc<dyn Scorer>, gap: GapPolicy) -> StreamThread<KafkaLog> {
    StreamThread::new(StreamParts {
        log: KafkaLog::open(params, 0).unwrap(),
        scorer,
        clock: Arc::new(SystemClock),
        decoder: Decoder::default(),
        partitions: Arc::new(Partitions::default()),
        snapshots: Box::new(NoSnapshots),
        decision: DecisionParams::default(),
        catalogue: Arc::new(NameTable::default()),
        params: StreamParams {
            batch: BatchLimits { max_records: 1_000, max_bytes: 1 << 20, linger_ms: 5, idle_wait_ms: 50 },
            time: TimeMode::Replay,
            retry_backoff_ms: 10,
            gap,
            ..StreamParams::default()
        },
    })
}

fn plain(params: &KafkaParams) -> StreamThread<KafkaLog> {
    thread(params, Arc::new(RecencyScorer::default()), GapPolicy::Refuse)
}

/// Turns the loop until `count` records are committed in all.
fn run(thread: &mut StreamThread<KafkaLog>, count: u64) -> Result<(), StreamError> {
    let status = thread.status();
    for _ in 0..MAX_STEPS {
        if status.borrow().record_count >= count {
            return Ok(());
        }
        thread.step_blocking()?;
    }
    panic!("{} of {count} records after {MAX_STEPS} turns: {:?}", status.borrow().record_count, status.borrow());
}

/// What ends the loop.
fn refusal(params: &KafkaParams) -> StreamError {
    let mut thread = match KafkaLog::open(params, 0) {
        Ok(log) => {
            drop(log);
            plain(params)
        }
        Err(error) => return error.into(),
    };
    run(&mut thread, u64::MAX).unwrap_err()
}

/// Sends `count` purchases of as many users to every topic, the first of them numbered `first`.
fn send(params: &KafkaParams, first: usize, count: usize) {
    let producer = KafkaProducer::open(&patient(params)).unwrap();
    for view in View::ALL {
        for index in first..first + count {
            let (user, time_ms) = (format!("u{index}"), 1_700_000_000_000_u64 + index as u64 * 1_000);
            let kind = match view {
                View::Click => "view",
                View::Search => "search",
                View::Purchase => "purchase",
            };
            let payload = format!(
                r#"{{"event_id":"{kind}{index}","event":"{kind}","user_id":"{user}","timestamp":{time_ms},"query":"tea","product_id":"i{index}"}}"#
            );
            producer.send_blocking(view, user.as_bytes(), payload.as_bytes()).unwrap();
        }
    }
    producer.flush_blocking().unwrap();
}

struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
    options: AdminOptions,
}

impl Admin {
    fn new(params: &KafkaParams) -> Self {
        let wait = Some(Duration::from_secs(30));
        Self {
            client: ClientConfig::new().set("bootstrap.servers", &params.bootstrap).create().unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            options: AdminOptions::new().request_timeout(wait).operation_timeout(wait),
        }
    }

    fn widen(&self, params: &KafkaParams, count: usize) {
        let topics = params.topics.inputs.iter().chain(&params.topics.outputs);
        let wider: Vec<NewPartitions<'_>> = topics.map(|topic| NewPartitions::new(topic, count)).collect();
        let results = self.runtime.block_on(self.client.create_partitions(&wider, &self.options)).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    fn delete(&self, topic: &str) {
        let results = self.runtime.block_on(self.client.delete_topics(&[topic], &self.options)).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    /// Does what retention does: drops all records of partition 0 below `offset`.
    fn forget_below(&self, topic: &str, offset: i64) {
        let mut places = TopicPartitionList::new();
        places.add_partition_offset(topic, 0, KafkaOffset::Offset(offset)).unwrap();
        self.runtime.block_on(self.client.delete_records(&places, &self.options)).unwrap();
    }
}

#[test]
fn another_number_of_partitions_is_refused_with_instructions() {
    let Some(params) = broker_with_topics("widened", 4) else { return };
    send(&params, 0, 50);
    let mut thread = plain(&params);
    run(&mut thread, 150).unwrap();
    drop(thread);
    Admin::new(&params).widen(&params, 8);
    let error = refusal(&params).to_string();
    assert!(error.contains("had 4 partitions and have 8 now"), "{error}");
    assert!(error.contains("kafka.group_id"), "{error}");
}

#[test]
fn a_topic_made_anew_is_refused_with_instructions() {
    let Some(params) = broker_with_topics("anew", 1) else { return };
    send(&params, 0, 50);
    let mut thread = plain(&params);
    run(&mut thread, 150).unwrap();
    drop(thread);
    let admin = Admin::new(&params);
    let clicks = params.topics.input(View::Click);
    admin.delete(clicks);
    let plan = TopicPlan { partition_count: 1, replication: Some(1), input_retention_ms: None };
    // The name is free a moment after the deletion was accepted.
    let made = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        create_topics(&params, &plan).is_ok_and(|topics| topics.iter().any(|topic| topic.is_new))
    });
    assert!(made, "the topic is made again");
    let error = refusal(&params).to_string();
    let is_clear = error.contains("made anew") && error.contains("group");
    assert!(is_clear, "{error}");
}

#[test]
fn records_that_retention_dropped_are_refused_or_passed_over_as_configured() {
    let Some(params) = broker_with_topics("retention", 1) else { return };
    send(&params, 0, 100);
    let mut first = plain(&params);
    run(&mut first, 300).unwrap();
    drop(first);
    send(&params, 100, 100);
    let (admin, clicks) = (Admin::new(&params), params.topics.input(View::Click));

    // Below what was committed: the state cannot be made again.
    admin.forget_below(clicks, 40);
    match refusal(&params) {
        StreamError::Gap { view: View::Click, state: Offset(0), earliest: Offset(40), .. } => {}
        error => panic!("not the gap: {error}"),
    }
    // Beyond what was committed: events that nobody ever read.
    admin.forget_below(clicks, 130);
    match refusal(&params) {
        StreamError::Gap { view: View::Click, earliest: Offset(130), .. } => {}
        error => panic!("not the gap: {error}"),
    }
    // Of the second hundred, seventy clicks are left.
    let mut thread = thread(&params, Arc::new(RecencyScorer::default()), GapPolicy::Accept);
    run(&mut thread, 100 + 100 + 70).unwrap();
    assert_eq!(thread.status().borrow().record_count, 270, "what is left is read once");
}

/// Scores once so slowly that the group gives the partition away.
struct SlowOnce {
    scorer: RecencyScorer,
    was_slow: AtomicBool,
    pause: Duration,
}

impl Scorer for SlowOnce {
    fn score_blocking(&self, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Scored>, ScoreError> {
        if !self.was_slow.swap(true, Ordering::Relaxed) {
            std::thread::sleep(self.pause);
        }
        self.scorer.score_blocking(requests)
    }

    fn explain_blocking(&self, request: &ScoreRequest<UserGraph>, limit: usize) -> Result<Vec<Reason>, ScoreError> {
        self.scorer.explain_blocking(request, limit)
    }
}

#[test]
fn scoring_slower_than_the_poll_interval_costs_a_rebalance_and_nothing_else() {
    let Some(mut params) = broker_with_topics("slow", 1) else { return };
    send(&params, 0, 100);
    params.timeouts = Timeouts {
        session_ms: 2_000,
        transaction_ms: 1_500,
        message_ms: 1_000,
        commit_attempt_ms: 500,
        commit_resolve_ms: 2_200,
        max_poll_interval_ms: 2_500,
        ..params.timeouts
    };
    let scorer =
        SlowOnce { scorer: RecencyScorer::default(), was_slow: AtomicBool::new(false), pause: Duration::from_secs(4) };
    let mut thread = thread(&params, Arc::new(scorer), GapPolicy::Refuse);
    run(&mut thread, 300).unwrap();
    let status = thread.status();
    assert!(status.borrow().abort_count > 0, "the slow batch was given up");
    assert_eq!(status.borrow().record_count, 300, "and then each record counted once");
    let last = check_scores(&committed_outputs(&params, &[OutputTopic::Scores])).unwrap();
    assert_eq!(last.len(), 100);
}
