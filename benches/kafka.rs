//! The whole loop on a real Kafka with the cheapest scorer: events/s committed exactly once, and how long it takes from the
//! moment an event is due to be sent until a `read_committed` reader has its user's score.
//!
//! `scripts/bench-kafka` starts a broker and runs this; alone it needs `KAFKA_BOOTSTRAP_SERVERS`.
//! `cargo bench --bench kafka [-- EVENTS [USERS [SECONDS]]]`, 1,000,000, 100,000 and 15 by default. Three topics of four
//! partitions, one stream thread; producer, loop and reader share this process, broker and process share the machine.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench measures wall time, prints rows and ends at the first error"
)]

use std::{
    sync::{Arc, Mutex},
    thread::Builder,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use undercurrent::{
    clock::{Clock, SystemClock},
    decision::DecisionParams,
    event::{Decoder, View},
    generate::{GenerateParams, MadeRecord, json_records},
    graph::NameTable,
    metrics,
    scoring::RecencyScorer,
    stream::{
        BatchLimits, NoSnapshots, OutputTopic, Partitions, Phase, Step, StreamParams, StreamParts, StreamThread,
        TimeMode,
        kafka::{KafkaLog, KafkaParams, KafkaProducer, OutputTail, TailStart, TopicNames, TopicPlan, create_topics},
        partitioner::partition_of,
    },
};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITION_COUNT: usize = 4;
/// The beginning of a paced run that is not counted.
const WARM_UP_MS: i64 = 3_000;

fn main() {
    let Ok(bootstrap) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") else {
        println!("SKIPPED: KAFKA_BOOTSTRAP_SERVERS is not set; scripts/bench-kafka starts a broker");
        return;
    };
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let event_count = numbers.first().copied().unwrap_or(1_000_000);
    let user_count = numbers.get(1).copied().unwrap_or(100_000);
    let seconds = numbers.get(2).copied().unwrap_or(15);

    let params = GenerateParams::new(u32::try_from(user_count).expect("users fit"), 365, 7);
    let records: Vec<MadeRecord> = json_records(&params, event_count);
    let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
    println!("{event_count} events of {} bytes, committed exactly once", bytes / event_count.max(1));
    println!(
        "{:>9} {:>10} {:>12} {:>8} {:>9} {:>14}  {} us/event",
        "max batch",
        "events/s",
        "CPU us/event",
        "batches",
        "scores",
        "batch p50 ms",
        STAGES.join(" / ")
    );
    let stages = Stages(metrics::install().expect("nothing else records"));
    for max_records in [5_000, 20_000] {
        throughput(&bootstrap, &records, max_records, &stages);
    }
    drop(records);

    println!("\nevent due -> committed score with a reader, {seconds} s, every changed user scored in every batch");
    println!("{:>9} {:>9} {:>8} {:>8} {:>8} {:>9}", "events/s", "linger ms", "p50 ms", "p99 ms", "max ms", "measured");
    for rate in [2_000, 10_000, 20_000] {
        latency(&bootstrap, rate, 5, user_count, seconds);
    }
}

/// Reads the sums of the stage histograms off the metrics page.
struct Stages(metrics_exporter_prometheus::PrometheusHandle);

const STAGES: [&str; 5] = ["fold", "score", "decide", "commit", "publish"];

impl Stages {
    fn seconds(&self) -> [f64; STAGES.len()] {
        let page = self.0.render();
        STAGES.map(|stage| {
            let prefix = format!("{}_sum{{stage=\"{stage}\"}} ", metrics::STREAM_STAGE_SECONDS);
            page.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok()).unwrap_or(0.0)
        })
    }
}

fn fresh(bootstrap: &str, name: &str) -> KafkaParams {
    let prefix = format!("bench-{name}-{:08x}-", rand::random::<u32>());
    let params = KafkaParams {
        bootstrap: bootstrap.to_owned(),
        group: format!("{prefix}group"),
        topics: TopicNames::with_prefix(&prefix),
        ..KafkaParams::default()
    };
    let plan = TopicPlan { partition_count: PARTITION_COUNT as i32, replication: Some(1), input_retention_ms: None };
    create_topics(&params, &plan).expect("the broker makes topics");
    params
}

fn stream_thread(params: &KafkaParams, max_records: usize, linger_ms: u64, time: TimeMode) -> StreamThread<KafkaLog> {
    StreamThread::new(StreamParts {
        log: KafkaLog::open(params, 0).expect("the broker is there"),
        scorer: Arc::new(RecencyScorer::new(28, 14)),
        clock: Arc::new(SystemClock),
        decoder: Decoder::default(),
        partitions: Arc::new(Partitions::default()),
        snapshots: Box::new(NoSnapshots),
        decision: DecisionParams::default(),
        catalogue: Arc::new(NameTable::default()),
        params: StreamParams {
            batch: BatchLimits { max_records, max_bytes: 64 << 20, linger_ms, idle_wait_ms: 100 },
            time,
            ..StreamParams::default()
        },
    })
}

fn throughput(bootstrap: &str, records: &[MadeRecord], max_records: usize, stages: &Stages) {
    let params = fresh(bootstrap, "rate");
    let producer = KafkaProducer::open(&params).expect("the broker is there");
    let events = records.iter().map(|record| (record.view, record.key.as_bytes(), record.payload.as_slice()));
    producer.send_batch(events).expect("the broker takes the events");
    drop(producer);

    let mut thread = stream_thread(&params, max_records, 20, TimeMode::Replay);
    let status = thread.status();
    while status.borrow().phase != Phase::Running {
        thread.step_blocking().expect("no failure is injected");
    }
    let mut batch_ms = Vec::new();
    let before = status.borrow().record_count;
    let (started, cpu_before, stages_before) = (Instant::now(), cpu_seconds(), stages.seconds());
    while status.borrow().record_count < records.len() as u64 {
        let turn = Instant::now();
        if thread.step_blocking().expect("no failure is injected") == Step::Committed {
            batch_ms.push(turn.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (total_s, cpu_s) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
    let measured = (records.len() as u64 - before) as f64;
    batch_ms.sort_by(f64::total_cmp);
    let shares: Vec<String> = (stages.seconds().iter().zip(stages_before))
        .map(|(after, before)| format!("{:.2}", (after - before) * 1e6 / measured))
        .collect();
    println!(
        "{max_records:>9} {:>10.0} {:>12.2} {:>8} {:>9} {:>14.1}  {}",
        measured / total_s,
        cpu_s * 1e6 / measured,
        batch_ms.len(),
        status.borrow().score_count,
        at(&batch_ms, 0.5),
        shares.join(" / ")
    );
}

/// An event without a score yet.
struct Waiting {
    view: View,
    /// Known beforehand: one producer, fresh topics, no gaps.
    offset: i64,
    due_ms: i64,
}

/// Each user's events without a score. Filled by the producer, emptied by the reader; one lock a user, held for a push or a
/// few removals.
type Due = Vec<Mutex<Vec<Waiting>>>;

fn latency(bootstrap: &str, rate: usize, linger_ms: u64, user_count: usize, seconds: usize) {
    let params = fresh(bootstrap, "paced");
    let due: Arc<Due> = Arc::new((0..user_count).map(|_| Mutex::default()).collect());
    let stop = CancellationToken::new();
    let tail = OutputTail::open(&params, &[OutputTopic::Scores], TailStart::Beginning).expect("the broker is there");
    let thread = stream_thread(&params, 20_000, linger_ms, TimeMode::Live { grace_ms: 60_000 });
    let status = thread.status();
    let stop_stream = stop.clone();
    let stream = Builder::new()
        .name("stream-0".to_owned())
        .spawn(move || thread.run_blocking(&stop_stream).expect("no failure is injected"))
        .expect("a thread can be started");
    while status.borrow().phase != Phase::Running {
        std::thread::sleep(Duration::from_millis(20));
    }
    let start_ms = SystemClock.now_ms();
    let reader = {
        let due = Arc::clone(&due);
        let expected = rate * seconds;
        Builder::new()
            .name("reader".to_owned())
            .spawn(move || read_scores(&tail, &due, expected, start_ms + WARM_UP_MS))
            .expect("a thread can be started")
    };
    send_paced(&params, &due, rate, seconds);
    let mut latencies = reader.join().expect("the reader ends");
    stop.cancel();
    stream.join().expect("the stream thread ends");
    latencies.sort_by(f64::total_cmp);
    println!(
        "{rate:>9} {linger_ms:>9} {:>8.0} {:>8.0} {:>8.0} {:>9}",
        at(&latencies, 0.5),
        at(&latencies, 0.99),
        at(&latencies, 1.0),
        latencies.len()
    );
}

/// Sends every event at its due moment: waits are never shortened, so a late producer counts against the result.
fn send_paced(params: &KafkaParams, due: &Due, rate: usize, seconds: usize) {
    let producer = KafkaProducer::open(params).expect("the broker is there");
    let start_ms = SystemClock.now_ms() + 100;
    let mut next_offsets = [[0; PARTITION_COUNT]; View::COUNT];
    for index in 0..rate * seconds {
        let due_ms = start_ms + (index * 1_000 / rate) as i64;
        while SystemClock.now_ms() < due_ms {
            std::thread::sleep(Duration::from_micros(500));
        }
        let user = rand::random_range(0..due.len());
        let (view, event) = match index % 3 {
            0 => (View::Click, "view"),
            1 => (View::Search, "search"),
            _ => (View::Purchase, "purchase"),
        };
        let payload = format!(
            r#"{{"event_id":"e{index}","event":"{event}","user_id":"u{user}","timestamp":{due_ms},"session_id":"s{user}","query":"coffee","product_id":"item-{}","category":"GROCERY > COFFEE","price":4.99,"quantity":1}}"#,
            index % 5_000
        );
        let key = format!("u{user}");
        let partition = partition_of(key.as_bytes(), PARTITION_COUNT as u32).0 as usize;
        let offset = next_offsets[view.index()][partition];
        next_offsets[view.index()][partition] += 1;
        due[user].lock().expect("nobody panics with it").push(Waiting { view, offset, due_ms });
        producer.send_blocking(view, key.as_bytes(), payload.as_bytes()).expect("the broker takes it");
    }
    producer.flush_blocking().expect("the broker has all");
}

#[derive(Deserialize)]
struct ScoreRow<'a> {
    user_id: &'a str,
    input_positions: PositionsRow,
}

#[derive(Deserialize)]
struct PositionsRow {
    clicks: i64,
    searches: i64,
    purchases: i64,
}

/// Takes scores as they are committed; a score covers the user's events below its input positions.
fn read_scores(tail: &OutputTail, due: &Due, expected: usize, count_from_ms: i64) -> Vec<f64> {
    let mut latencies = Vec::with_capacity(expected);
    let mut seen = 0;
    while seen < expected {
        let record = tail.next_blocking(60_000).expect("readable").expect("scores come within a minute");
        let now_ms = SystemClock.now_ms();
        let score: ScoreRow<'_> =
            serde_json::from_slice(record.payload.as_deref().unwrap_or_default()).expect("a score");
        let user: usize = score.user_id.trim_start_matches('u').parse().expect("one of ours");
        let PositionsRow { clicks, searches, purchases } = score.input_positions;
        let positions = [clicks, searches, purchases];
        due[user].lock().expect("nobody panics with it").retain(|event| {
            let is_covered = event.offset < positions[event.view.index()];
            if is_covered {
                seen += 1;
                if event.due_ms >= count_from_ms {
                    latencies.push((now_ms - event.due_ms) as f64);
                }
            }
            !is_covered
        });
    }
    latencies
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted.get((sorted.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}

/// User and system time of this process, all threads.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}
