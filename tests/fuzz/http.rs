//! Request bodies, and requests as a whole, over the loopback.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use undercurrent::{
    api::{ApiLimits, ApiState, Ingest, serve},
    clock::ManualClock,
    event::{CleaningParams, Decoder, Edge, EventMapping, Offset, Origin, PartitionId},
    graph::{GraphParams, NameTable},
    scoring::RecencyScorer,
    stream::{
        Partitions,
        embedded::{Appended, NewRecord},
    },
};

use super::{Take, Target};

/// A log that takes everything and keeps nothing.
struct Sieve;

impl Ingest for Sieve {
    fn append_blocking(&self, records: &[NewRecord<'_>]) -> Result<Vec<Appended>, String> {
        let origin =
            |record: &NewRecord<'_>| Origin { view: record.view, partition: PartitionId(0), offset: Offset(0) };
        Ok(records.iter().map(|record| Appended::At(origin(record))).collect())
    }
}

pub(crate) fn targets() -> Vec<Target> {
    // A connection's buffers and tasks on both sides.
    vec![Target { name: "http", seeds, start, limit_bytes: (8 << 20, 128), is_text: true }]
}

fn seeds() -> Vec<Vec<u8>> {
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: fuzz\r\n{more}\r\n").into_bytes();
    vec![head("GET /v1/users/u1", ""), head("GET /v1/partitions?hash=true", ""), head("DELETE /v1/users/%ff", "")]
}

fn start() -> Take {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let decoder = Decoder::new(EventMapping::default(), CleaningParams::default());
    let state = ApiState {
        clock: Arc::new(ManualClock::at(1_700_000_000_000)),
        ingest: Some(Arc::new(Sieve)),
        edge: Arc::new(Mutex::new(Edge::new(decoder))),
        scorer: Arc::new(RecencyScorer::default()),
        graph_params: GraphParams::default(),
        partitions: Arc::new(Partitions::default()),
        streams: Vec::new(),
        not_ready: Arc::new(Vec::new),
        catalogue: Arc::new(NameTable::default()),
        metrics: Arc::new(String::new),
        token: None,
        // Long: bodies come whole, and a machine that is busy elsewhere must not look like a client that says nothing.
        limits: ApiLimits { max_body_bytes: 100_000, request_timeout_ms: 5_000, max_events: 100 },
    };
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(serve(listener, state, std::future::pending()));
    let mut number = 0_u32;
    Box::new(move |bytes| {
        // Owned here, so that the server lives as long as the function.
        let _runtime = &runtime;
        number = number.wrapping_add(1);
        if number.is_multiple_of(4) {
            // The bytes are the request.
            exchange(address, &[bytes], true);
            return;
        }
        let kind = ["application/json", "application/x-ndjson", "text/plain"][number as usize % 3];
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nHost: fuzz\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        let answer = exchange(address, &[head.as_bytes(), bytes], false);
        let status = answer.split(|byte| *byte == b' ').nth(1).and_then(|status| std::str::from_utf8(status).ok());
        assert!(
            matches!(status, Some("200" | "400" | "408" | "413" | "422")),
            "answered {:?}",
            String::from_utf8_lossy(&answer)
        );
    })
}

/// Sends the parts and reads until the other side closes. `ends` says that nothing more comes: a request that is whole is
/// then dropped by the server as one whose sender went away.
fn exchange(address: SocketAddr, parts: &[&[u8]], ends: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for part in parts {
        // A body that is refused half way may find the connection closed.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    if ends {
        stream.shutdown(std::net::Shutdown::Write).ok();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    answer
}
