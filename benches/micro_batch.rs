//! The whole loop with the cheapest scorer: events/s, and p50 and p99 of a micro-batch, on the memory and the embedded log.
//!
//! `cargo bench --bench micro_batch [-- EVENTS [USERS]]`, 500,000 and 50,000 by default. Made-up shoppers, three topics of
//! four partitions, one stream thread. `scores` counts how often a user was scored: once a batch at most. The last columns say
//! where the time went, microseconds an event.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench measures wall time, prints rows and ends at the first error"
)]

use std::{sync::Arc, time::Instant};

use undercurrent::{
    clock::SystemClock,
    decision::DecisionParams,
    event::Decoder,
    generate::{GenerateParams, MadeRecord, json_records},
    graph::NameTable,
    metrics,
    scoring::RecencyScorer,
    stream::{
        BatchLimits, NoSnapshots, Partitions, Sink, Source, Step, StreamParams, StreamParts, StreamThread, TimeMode,
        embedded::{EmbeddedLog, EmbeddedParams, NewRecord},
        memory::{MemoryBroker, MemoryLog, NoFaults},
        partitioner::partition_of,
    },
};

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: u32 = 4;
const APPEND_RECORDS: usize = 1_000;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let event_count = numbers.first().copied().unwrap_or(500_000);
    let user_count = numbers.get(1).copied().unwrap_or(50_000);
    let params = GenerateParams::new(u32::try_from(user_count).expect("users fit"), 365, 7);
    let records: Vec<MadeRecord> = json_records(&params, event_count);
    let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
    println!("{} events, {} bytes each, {PARTITIONS} partitions", records.len(), bytes / records.len().max(1));
    println!(
        "{:<9} {:>9} {:>10} {:>11} {:>9} {:>8} {:>8} {:>8} {:>9}  {}",
        "log",
        "max batch",
        "events/s",
        "CPU us/event",
        "batches",
        "p50 ms",
        "p99 ms",
        "max ms",
        "scores",
        STAGES.join(" / ")
    );
    let stages = Stages(metrics::install().expect("nothing else records"));
    for max_records in [1_000, 10_000, 50_000] {
        memory(&records, max_records, &stages);
    }
    for max_records in [1_000, 10_000, 50_000] {
        embedded(&records, max_records, &stages);
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

fn memory(records: &[MadeRecord], max_records: usize, stages: &Stages) {
    let broker = Arc::new(MemoryBroker::new(PARTITIONS));
    for record in records {
        let key = record.key.as_bytes();
        broker.append(record.view, partition_of(key, PARTITIONS), record.time_ms, Some(key), Some(&record.payload));
    }
    run("memory", MemoryLog::join(&broker, "bench", Box::new(NoFaults)), max_records, records.len(), stages);
}

fn embedded(records: &[MadeRecord], max_records: usize, stages: &Stages) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let params = EmbeddedParams { partition_count: PARTITIONS, ..EmbeddedParams::at(folder.path()) };
    let log = EmbeddedLog::open(params, Arc::new(SystemClock)).expect("the folder is empty");
    let started = Instant::now();
    for batch in records.chunks(APPEND_RECORDS) {
        let new: Vec<NewRecord<'_>> = batch
            .iter()
            .map(|record| NewRecord {
                view: record.view,
                key: record.key.as_bytes(),
                payload: &record.payload,
                event_id: None,
            })
            .collect();
        log.append_blocking(&new).expect("the disk has room");
    }
    let append_s = started.elapsed().as_secs_f64();
    let partitions: Vec<_> = log.partitions().collect();
    run("embedded", log.consumer(&partitions).expect("free"), max_records, records.len(), stages);
    println!(
        "          appended durably in batches of {APPEND_RECORDS}: {:.0} events/s; {:.0} MB on disk",
        records.len() as f64 / append_s,
        log.disk_bytes().expect("readable") as f64 / 1e6
    );
}

fn run<L: Source + Sink>(name: &str, log: L, max_records: usize, event_count: usize, stages: &Stages) {
    let partitions = Arc::new(Partitions::default());
    let mut thread = StreamThread::new(StreamParts {
        log,
        scorer: Arc::new(RecencyScorer::new(28, 14)),
        clock: Arc::new(SystemClock),
        decoder: Decoder::default(),
        partitions: Arc::clone(&partitions),
        snapshots: Box::new(NoSnapshots),
        decision: DecisionParams::default(),
        catalogue: Arc::new(NameTable::default()),
        params: StreamParams {
            batch: BatchLimits { max_records, max_bytes: 64 << 20, linger_ms: 0, idle_wait_ms: 0 },
            time: TimeMode::Replay,
            max_due_users: 10_000,
            ..StreamParams::default()
        },
    });
    let mut seconds = Vec::new();
    let (started, cpu_before, stages_before) = (Instant::now(), cpu_seconds(), stages.seconds());
    loop {
        let turn = Instant::now();
        match thread.step_blocking().expect("no failure is injected") {
            Step::Committed => seconds.push(turn.elapsed().as_secs_f64()),
            Step::Idle => break,
            _ => {}
        }
    }
    let (total_s, cpu_s) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
    let status = thread.status().borrow().clone();
    assert_eq!(status.record_count, event_count as u64);
    seconds.sort_by(f64::total_cmp);
    let shares: Vec<String> = (stages.seconds().iter().zip(stages_before))
        .map(|(after, before)| format!("{:.2}", (after - before) * 1e6 / event_count as f64))
        .collect();
    let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share) as usize] * 1e3;
    println!(
        "{name:<9} {max_records:>9} {:>10.0} {:>12.2} {:>9} {:>8.1} {:>8.1} {:>8.1} {:>9}  {}",
        event_count as f64 / total_s,
        cpu_s * 1e6 / event_count as f64,
        seconds.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        status.score_count,
        shares.join(" / "),
    );
}

/// User and system time of this process, all threads.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}
