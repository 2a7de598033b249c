//! More demand than there is capacity, and one user who makes most of it: what is counted stays bounded. Nothing here is measured in
//! time: a count is the same on every machine.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use metrics_exporter_prometheus::PrometheusBuilder;
use undercurrent::{
    event::{Event, EventKind, Name, NameKind, Offset, PartitionId, Positions, ProductLine, View},
    graph::{GraphParams, PartitionState, UserGraph, WriteSet},
    score::{Reason, ScoreRequest, Scored},
    scoring::{RecencyScorer, ScoreError, Scorer},
    stream::{
        BatchLimits, Commit, LogError, OutputTopic, Polled, RecordBatch, Sink, Source, Step, StreamThread,
        memory::{MemoryBroker, MemoryLog, NoFaults},
    },
};

use crate::threads::{plain_parts, reads_of_inner};

const P0: PartitionId = PartitionId(0);
const NOW_MS: i64 = 1_700_000_000_000;
const USERS: usize = 40;
const BATCH_RECORDS: usize = 250;
/// Batches during which more comes than is read.
const FLOODED_BATCHES: usize = 80;
/// Records that come for each one that is read.
const EXCESS: usize = 3;

/// Sends the next `count` views, of users in turn.
fn flood(broker: &MemoryBroker, sent: &mut usize, count: usize) {
    for _ in 0..count {
        let (user, time_ms) = (format!("u{}", *sent * 7 % USERS), NOW_MS + i64::try_from(*sent).unwrap());
        let item = *sent * 13 % 150;
        let text = format!(
            r#"{{"event_id":"e{sent}","event":"view","user_id":"{user}","timestamp":{time_ms},"product_id":"i{item}","category":"c{}"}}"#,
            item % 10
        );
        broker.append(View::Click, P0, time_ms, Some(user.as_bytes()), Some(text.as_bytes()));
        *sent += 1;
    }
}

/// While it scores, three times as much comes as it was given.
struct Swamped {
    inner: RecencyScorer,
    broker: Arc<MemoryBroker>,
    sent: Arc<Mutex<usize>>,
    /// Users of each call.
    calls: Arc<Mutex<Vec<usize>>>,
}

impl Scorer for Swamped {
    fn score_blocking(&self, requests: &[ScoreRequest<UserGraph>]) -> Result<Vec<Scored>, ScoreError> {
        let mut calls = self.calls.lock().unwrap();
        if calls.len() < FLOODED_BATCHES {
            flood(&self.broker, &mut self.sent.lock().unwrap(), EXCESS * BATCH_RECORDS);
        }
        calls.push(requests.len());
        self.inner.score_blocking(requests)
    }

    fn explain_blocking(&self, request: &ScoreRequest<UserGraph>, limit: usize) -> Result<Vec<Reason>, ScoreError> {
        self.inner.explain_blocking(request, limit)
    }
}

/// Fault 32.
#[test]
fn demand_above_capacity_costs_one_score_a_user_and_batch_and_shows_as_lag() {
    let broker = Arc::new(MemoryBroker::new(1));
    let (sent, calls) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(Vec::new())));
    flood(&broker, &mut sent.lock().unwrap(), BATCH_RECORDS);
    let scorer = Swamped {
        inner: RecencyScorer::new(28, 14),
        broker: Arc::clone(&broker),
        sent: Arc::clone(&sent),
        calls: Arc::clone(&calls),
    };
    let log = MemoryLog::join(&broker, "a", Box::new(NoFaults));
    let mut parts = plain_parts(log, Arc::new(scorer), NOW_MS, BATCH_RECORDS);
    parts.params.lag_interval_ms = 0;
    let partitions = Arc::clone(&parts.partitions);
    let mut thread = StreamThread::new(parts);
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let shown_lag = || {
        let prefix = r#"undercurrent_stream_lag_records{partition="0",view="click"} "#;
        let text = page.render();
        text.lines().find_map(|line| line.strip_prefix(prefix)).map_or(0, |value| value.parse::<usize>().unwrap())
    };
    // Lag and bytes of the graphs after each batch.
    let (mut lags, mut bytes) = (Vec::new(), Vec::new());
    metrics::with_local_recorder(&recorder, || {
        loop {
            let step = thread.step_blocking().unwrap();
            if step == Step::Idle {
                break;
            }
            if calls.lock().unwrap().len() > lags.len() {
                lags.push(shown_lag());
                bytes.push(partitions.get(P0).unwrap().state.graphs.byte_count());
            }
        }
    });
    let (sent, calls) = (*sent.lock().unwrap(), calls.lock().unwrap().clone());
    assert_eq!(sent, (1 + EXCESS * FLOODED_BATCHES) * BATCH_RECORDS);
    assert_eq!(calls.len(), sent / BATCH_RECORDS, "no batch is larger because more is waiting");
    assert!(calls.iter().all(|users| *users == USERS), "{BATCH_RECORDS} records of {USERS} users are {USERS} scores");
    assert_eq!(broker.committed_outputs(OutputTopic::Scores, P0).len(), calls.len() * USERS);

    let behind = (EXCESS - 1) * BATCH_RECORDS;
    assert!(lags[1..FLOODED_BATCHES].is_sorted(), "{lags:?}");
    assert!(lags[FLOODED_BATCHES - 1] >= (FLOODED_BATCHES - 2) * behind, "the lag is there to be seen: {lags:?}");
    assert_eq!((lags.last(), thread.status().borrow().record_count), (Some(&0), sent as u64), "and then it catches up");

    // Graphs have their full size after eighty batches; the 160 that follow, and a lag of 40,000 records, add nothing.
    let (then, later) = bytes[FLOODED_BATCHES..].split_at(FLOODED_BATCHES);
    let (then, later) = (then.iter().max().unwrap(), later.iter().max().unwrap());
    assert!(*later <= then + then / 50, "{then} bytes at most, later {later}");
}

/// What a slow log has in its hands, all counted.
#[derive(Default)]
struct InFlight {
    /// Records and bytes polled and not committed yet.
    records: usize,
    bytes: usize,
    /// Records and bytes of each batch, and outputs and bytes of its commit.
    batches: Vec<[usize; 4]>,
}

/// A log to whose broker it is far: until a commit is answered much more comes than a batch may hold.
struct FarAway {
    inner: MemoryLog,
    broker: Arc<MemoryBroker>,
    sent: usize,
    in_flight: Arc<Mutex<InFlight>>,
}

impl Source for FarAway {
    fn poll_blocking(&mut self, limits: &BatchLimits, batch: &mut RecordBatch) -> Result<Polled, LogError> {
        let polled = self.inner.poll_blocking(limits, batch)?;
        let mut in_flight = self.in_flight.lock().unwrap();
        in_flight.records += batch.len();
        in_flight.bytes += batch.byte_count();
        Ok(polled)
    }

    reads_of_inner!();

    fn start_at(&mut self, partition: PartitionId, positions: Positions) -> Result<(), LogError> {
        self.inner.start_at(partition, positions)
    }
}

impl Sink for FarAway {
    fn commit_blocking(&mut self, commit: &Commit) -> Result<(), LogError> {
        let mut in_flight = self.in_flight.lock().unwrap();
        if in_flight.batches.len() < FLOODED_BATCHES {
            flood(&self.broker, &mut self.sent, EXCESS * BATCH_RECORDS);
        }
        self.inner.commit_blocking(commit)?;
        let bytes = commit.outputs.iter().map(|output| output.key.len() + output.payload.as_ref().map_or(0, Vec::len));
        let batch = [in_flight.records, in_flight.bytes, commit.outputs.len(), bytes.sum()];
        in_flight.batches.push(batch);
        (in_flight.records, in_flight.bytes) = (0, 0);
        Ok(())
    }

    fn read_scores_blocking(
        &mut self,
        partition: PartitionId,
        visit: &mut dyn FnMut(&[u8], Option<&[u8]>),
    ) -> Result<(), LogError> {
        self.inner.read_scores_blocking(partition, visit)
    }
}

/// Fault 12: what is in flight between a poll and the answer to its commit is one batch, however slow the answer is and however
/// much comes until then.
#[test]
fn records_in_flight_stay_bounded_while_commits_are_slow() {
    const MAX_BYTES: usize = 20_000;
    // A key and a payload of `flood` at most.
    const RECORD_BYTES: usize = 200;
    let broker = Arc::new(MemoryBroker::new(1));
    let in_flight = Arc::new(Mutex::new(InFlight::default()));
    let mut sent = 0;
    flood(&broker, &mut sent, BATCH_RECORDS);
    let inner = MemoryLog::join(&broker, "a", Box::new(NoFaults));
    let log = FarAway { inner, broker: Arc::clone(&broker), sent, in_flight: Arc::clone(&in_flight) };
    let mut parts = plain_parts(log, Arc::new(RecencyScorer::new(28, 14)), NOW_MS, BATCH_RECORDS);
    parts.params.batch.max_bytes = MAX_BYTES;
    parts.params.lag_interval_ms = 0;
    let mut thread = StreamThread::new(parts);
    while thread.step_blocking().unwrap() != Step::Idle {}
    let sent = thread.log_mut().sent;
    assert_eq!(sent, (1 + EXCESS * FLOODED_BATCHES) * BATCH_RECORDS);
    let batches = &in_flight.lock().unwrap().batches;
    assert_eq!(batches.iter().map(|[records, ..]| records).sum::<usize>(), sent, "and nothing is lost");
    let most = |place: usize| batches.iter().map(|batch| batch[place]).max().unwrap();
    assert!(most(0) <= BATCH_RECORDS, "{} records in flight", most(0));
    assert!((MAX_BYTES..=MAX_BYTES + RECORD_BYTES).contains(&most(1)), "{} bytes in flight", most(1));
    // A score and perhaps its lists and an alert of each user; the first commit is of as many users as any later one.
    assert!(most(2) <= 4 * USERS, "{} outputs in a commit", most(2));
    let (early, late) = batches.split_at(FLOODED_BATCHES);
    let largest = |batches: &[[usize; 4]]| batches.iter().map(|batch| batch[3]).max().unwrap();
    assert!(largest(late) <= largest(early) + largest(early) / 10, "a lag makes no commit larger");
}

const BOT_EVENTS: u64 = 1_000_000;
/// Of ordinary users, one event for so many of the bot's.
const SHARE: u64 = 1_000;

/// What a user's graph costs: bytes, and what a score has to read.
fn cost_of(graph: &UserGraph, params: &GraphParams) -> [usize; 4] {
    let expanded = graph.expand(params);
    let view = expanded.view(View::Click).unwrap();
    [graph.byte_count(), view.nodes().len(), view.edges().len(), view.ring().len()]
}

/// Fault 27: a user with a million events costs what one with ten thousand costs, and others do not notice.
#[test]
fn a_million_events_of_one_user_cost_no_more_than_ten_thousand_and_others_nothing() {
    let params = GraphParams::default();
    let event = |user: String, number: u64| {
        let item = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let line = ProductLine {
            item: Some(Name::new(NameKind::Item, format!("i{}", item % 50_000))),
            category: Some(Name::new(NameKind::Category, format!("c{}", item % 1_000))),
            price_minor: Some(499),
            quantity: 1,
            value_minor: 499,
        };
        Event {
            user: Cow::Owned(user),
            kind: EventKind::View,
            time_ms: NOW_MS + i64::try_from(number).unwrap() * 60,
            event_id: number,
            session: None,
            query: None,
            lines: std::iter::once(line).collect(),
        }
    };
    // Ordinary users, with the bot among them and without, in micro-batches of ten thousand of its events.
    let fold_all = |with_bot: bool| {
        let state = PartitionState::new(P0);
        let (mut offset, mut costs, mut largest_batch) = (0, BTreeMap::new(), 0);
        for batch in 0..BOT_EVENTS / 10_000 {
            let mut write_set = WriteSet::on(&state);
            for number in batch * 10_000..(batch + 1) * 10_000 {
                if with_bot {
                    write_set.fold(&state, View::Click, Offset(offset), &event("bot".to_owned(), number), &params);
                    offset += 1;
                }
                if number % SHARE == 0 {
                    let user = format!("u{}", number / SHARE % 20);
                    write_set.fold(&state, View::Click, Offset(offset), &event(user, number), &params);
                    offset += 1;
                }
            }
            largest_batch = largest_batch.max(write_set.users().len());
            write_set.publish(&state);
            if let Some(bot) = state.graphs.get("bot") {
                costs.insert(batch, cost_of(&bot, &params));
            }
        }
        (state, costs, largest_batch)
    };
    let (with, costs, touched) = fold_all(true);
    let (without, _, touched_without) = fold_all(false);
    assert_eq!(with.graphs.get("bot").unwrap().event_count(), BOT_EVENTS);
    let (first, last) = (costs[&0], *costs.values().last().unwrap());
    assert!(last[0] <= first[0] + first[0] / 10, "{last:?} bytes after a million events, {first:?} after ten thousand");
    // What is kept, and what the newest lines add to it until they are settled.
    let lines = params.ring_capacity;
    for (grown, bound) in last[1..].iter().zip([
        params.item_capacity_nodes + params.category_capacity_nodes + 2 * lines,
        params.edge_capacity + lines,
        lines,
    ]) {
        assert!(*grown <= bound, "{last:?}");
    }
    assert_eq!(touched, touched_without + 1, "ten thousand events of the bot are one score of a batch");
    for number in 0..20 {
        let user = format!("u{number}");
        let (with, without) = (with.graphs.get(&user).unwrap(), without.graphs.get(&user).unwrap());
        assert_eq!(cost_of(&with, &params), cost_of(&without, &params));
        assert_eq!(with, without, "the others' graphs are the same, bit for bit");
    }
}
