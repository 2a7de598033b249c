//! Sends events to `POST /v1/events` over the loopback into an embedded log: events/s, answered durable.
//!
//! `cargo bench --bench http [-- EVENTS]`, 200,000 by default. Client and server share the machine.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a bench prints, reads the clock and ends at the first problem"
)]

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::Instant,
};

use undercurrent::{
    api::{ApiLimits, ApiState, serve},
    clock::{Clock, SystemClock},
    event::{CleaningParams, Decoder, Edge, EventMapping},
    graph::{GraphParams, NameTable},
    scoring::RecencyScorer,
    stream::{
        Partitions,
        embedded::{EmbeddedLog, EmbeddedParams},
    },
};

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let events = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(200_000);
    println!(
        "{:<12} {:>6} {:>6} {:>9} {:>9} {:>12} {:>9} {:>9}",
        "form", "batch", "conns", "events", "events/s", "CPU us/event", "p50 ms", "p99 ms"
    );
    for (form, batch, connections) in
        [("lines", 1_000, 1), ("lines", 1_000, 4), ("array", 1_000, 4), ("lines", 100, 4), ("single", 1, 4)]
    {
        let events = if batch == 1 { events / 50 } else { events };
        run(form, batch, connections, events);
    }
}

fn run(form: &str, batch: usize, connections: usize, events: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let log = EmbeddedLog::open(EmbeddedParams::at(folder.path()), Arc::clone(&clock)).expect("the folder is new");
    let state = ApiState {
        clock: Arc::clone(&clock),
        ingest: Some(log),
        edge: Arc::new(Mutex::new(Edge::new(Decoder::new(EventMapping::default(), CleaningParams::default())))),
        scorer: Arc::new(RecencyScorer::default()),
        graph_params: GraphParams::default(),
        partitions: Arc::new(Partitions::default()),
        streams: Vec::new(),
        not_ready: Arc::new(Vec::new),
        catalogue: Arc::new(NameTable::default()),
        metrics: Arc::new(String::new),
        token: None,
        limits: ApiLimits::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = runtime.spawn(serve(listener, state, async {
        stopped.await.ok();
    }));

    let now_ms = clock.now_ms();
    let requests = events / connections / batch;
    let bodies: Vec<Vec<Vec<u8>>> = (0..connections)
        .map(|connection| {
            (0..requests).map(|request| body(form, batch, (connection * requests + request) * batch, now_ms)).collect()
        })
        .collect();
    let (started, cpu) = (Instant::now(), cpu_s());
    let mut waits_ms: Vec<f64> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            bodies.iter().map(|bodies| scope.spawn(move || send(address, form, batch, bodies))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("every answer is as expected")).collect()
    });
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_s() - cpu);
    stop.send(()).expect("the server runs");
    runtime.block_on(served).expect("it ends").expect("without an error");

    let sent = (requests * connections * batch) as f64;
    waits_ms.sort_unstable_by(f64::total_cmp);
    println!(
        "{form:<12} {batch:>6} {connections:>6} {sent:>9.0} {:>9.0} {:>12.2} {:>9.1} {:>9.1}",
        sent / seconds,
        cpu * 1e6 / sent,
        waits_ms[waits_ms.len() / 2],
        waits_ms[waits_ms.len() * 99 / 100],
    );
}

/// Events of about 200 bytes.
fn body(form: &str, batch: usize, first: usize, now_ms: i64) -> Vec<u8> {
    let mut text = String::with_capacity(batch * 220);
    for number in first..first + batch {
        if form == "array" {
            text.push(if number == first { '[' } else { ',' });
        }
        write!(
            text,
            r#"{{"event_id":"e-{number:012}","event":"view","user_id":"user-{:06}","session_id":"s-{:08}","timestamp":{},"product_id":"item-{:05}","category":"category-{:03}","price":12.95,"quantity":1}}"#,
            number * 7_919 % 100_000,
            number / 5,
            now_ms - 1_000,
            number * 31 % 50_000,
            number * 31 % 300,
        )
        .expect("a string takes all");
        text.push_str(if form == "lines" { "\n" } else { "" });
    }
    if form == "array" {
        text.push(']');
    }
    text.into_bytes()
}

/// Sends the bodies one after the other over one connection; milliseconds to each answer.
fn send(address: SocketAddr, form: &str, batch: usize, bodies: &[Vec<u8>]) -> Vec<f64> {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a fresh socket takes options");
    let mut answers = BufReader::new(stream.try_clone().expect("handles can be copied"));
    let content_type = if form == "lines" { "application/x-ndjson" } else { "application/json" };
    let expected = format!("\"accepted\":{batch},");
    bodies
        .iter()
        .map(|body| {
            let started = Instant::now();
            let head = format!(
                "POST /v1/events HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).expect("the server reads");
            stream.write_all(body).expect("the server reads");
            let answer = read_answer(&mut answers);
            assert!(answer.contains(&expected), "{answer}");
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect()
}

fn read_answer(answers: &mut impl BufRead) -> String {
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        answers.read_line(&mut line).expect("the server answers");
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length is a number");
        }
    }
    let mut body = vec![0; length];
    answers.read_exact(&mut body).expect("the whole answer comes");
    String::from_utf8(body).expect("JSON is UTF-8")
}

/// CPU seconds of this process so far, all threads, user and system. On a busy machine they say more than the clock.
fn cpu_s() -> f64 {
    let ticks = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| {
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    });
    ticks.map_or(f64::NAN, |ticks| ticks / 100.0)
}
