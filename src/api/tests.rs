//! Real HTTP over the loopback, onto a real embedded log that a stream thread reads.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
};

use super::{AccessToken, ApiLimits, ApiState, Ingest, serve};
use crate::{
    clock::ManualClock,
    decision::DecisionParams,
    event::{CleaningParams, Decoder, Edge, EventMapping},
    graph::{GraphParams, NameTable},
    scoring::RecencyScorer,
    stream::{
        NoSnapshots, Partitions, Phase, StreamParams, StreamParts, StreamStatus, StreamThread,
        embedded::{Appended, EmbeddedConsumer, EmbeddedLog, EmbeddedParams, NewRecord},
    },
};

const NOW_MS: i64 = 1_700_000_000_000;

/// A log that can be told to fail after it has appended, as when the answer gets lost.
struct FlakyLog {
    log: Arc<EmbeddedLog>,
    fails: AtomicBool,
}

impl Ingest for FlakyLog {
    fn append_blocking(&self, records: &[NewRecord<'_>]) -> Result<Vec<Appended>, String> {
        let appended = Ingest::append_blocking(self.log.as_ref(), records);
        if self.fails.load(Ordering::SeqCst) { Err("the disk went away".to_owned()) } else { appended }
    }
}

struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    flaky: Arc<FlakyLog>,
    thread: StreamThread<EmbeddedConsumer>,
    missing: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "a test has no task set")]
    async fn start(change: impl FnOnce(&mut ApiState)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let params = EmbeddedParams { partition_count: 2, ..EmbeddedParams::at(folder.path()) };
        let log = EmbeddedLog::open(params, Arc::clone(&clock) as _).unwrap();
        let all: Vec<_> = log.partitions().collect();
        let decoder = Decoder::new(EventMapping::default(), CleaningParams::default());
        let scorer = Arc::new(RecencyScorer::default());
        let partitions = Arc::new(Partitions::default());
        let mut params = StreamParams::default();
        (params.batch.idle_wait_ms, params.batch.linger_ms) = (0, 0);
        let thread = StreamThread::new(StreamParts {
            log: log.consumer(&all).unwrap(),
            scorer: Arc::clone(&scorer) as _,
            clock: Arc::clone(&clock) as _,
            decoder: decoder.clone(),
            partitions: Arc::clone(&partitions),
            snapshots: Box::new(NoSnapshots),
            decision: DecisionParams::default(),
            catalogue: Arc::new(NameTable::default()),
            params,
        });
        let flaky = Arc::new(FlakyLog { log, fails: AtomicBool::new(false) });
        let missing = Arc::new(Mutex::new(Vec::new()));
        let mut state = ApiState {
            clock,
            ingest: Some(Arc::clone(&flaky) as _),
            edge: Arc::new(Mutex::new(Edge::new(decoder))),
            scorer,
            graph_params: GraphParams::default(),
            partitions,
            streams: vec![thread.status()],
            not_ready: Arc::new({
                let missing = Arc::clone(&missing);
                move || missing.lock().unwrap().clone()
            }),
            catalogue: Arc::new(NameTable::default()),
            metrics: Arc::new(|| "undercurrent_build_info 1\n".to_owned()),
            token: None,
            limits: ApiLimits { max_body_bytes: 20_000, request_timeout_ms: 200, max_events: 50 },
        };
        change(&mut state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(listener, state, async {
            stopped.await.ok();
        }));
        Self { address, stop: Some(stop), served, flaky, thread, missing, _folder: folder }
    }

    /// Sends one request and reads the whole answer: status, content type, body.
    async fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, String, String) {
        self.ask_with(method, path, &format!("Content-Type: {content_type}"), body).await
    }

    /// The same with any header.
    async fn ask_with(&self, method: &str, path: &str, header: &str, body: &[u8]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{header}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A body that is refused half way may find the connection closed.
        stream.write_all(body).await.ok();
        answer_of(stream).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.ask("GET", path, "", b"").await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    async fn post(&self, content_type: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = self.ask("POST", "/v1/events", content_type, body.as_bytes()).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    /// Lets the stream thread read, score and commit all there is.
    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 3 {
            idle = if self.thread.step_blocking().unwrap() == crate::stream::Step::Idle { idle + 1 } else { 0 };
        }
    }
}

async fn answer_of(mut stream: TcpStream) -> (u16, String, String) {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or("");
    (status, content_type.to_owned(), body.to_owned())
}

fn buy(user: &str, id: u32) -> Value {
    json!({
        "event": "purchase", "event_id": format!("e{id}"), "user_id": user, "timestamp": NOW_MS - 60_000 + i64::from(id),
        "product_id": "tea", "category": "drinks", "price": 2.5, "quantity": 2,
    })
}

fn counts(answer: &Value) -> [i64; 3] {
    ["accepted", "repeated", "refused"].map(|name| answer[name].as_i64().unwrap())
}

#[tokio::test]
async fn events_come_in_as_one_as_an_array_and_as_lines() {
    let server = Server::start(|_| ()).await;
    let (status, answer) = server.post("application/json", &buy("ann", 1).to_string()).await;
    assert_eq!((status, counts(&answer)), (200, [1, 0, 0]), "{answer}");
    let array = json!([buy("ann", 2), buy("bob", 3)]).to_string();
    assert_eq!(counts(&server.post("application/json", &array).await.1), [2, 0, 0]);
    let lines = format!("{}\n\n{}\n", buy("bob", 4), buy("cid", 5));
    assert_eq!(counts(&server.post("application/x-ndjson; charset=utf-8", &lines).await.1), [2, 0, 0]);
    assert_eq!(counts(&server.post("text/plain", &lines).await.1), [0, 2, 0]);
}

#[tokio::test]
async fn a_refusal_names_its_row_field_and_reason() {
    let server = Server::start(|_| ()).await;
    let mut no_user = buy("ann", 2);
    no_user.as_object_mut().unwrap().remove("user_id");
    let body = format!("{}\n{no_user}\n{{oops\n{}\n", buy("ann", 1), buy("ann", 1));
    let (status, answer) = server.post("application/x-ndjson", &body).await;
    assert_eq!((status, counts(&answer)), (200, [1, 1, 2]), "{answer}");
    let refusals = answer["refusals"].as_array().unwrap();
    assert_eq!(refusals[0]["row"], 2);
    assert_eq!(refusals[0]["reason"], "missing_user");
    assert_eq!(refusals[1]["row"], 3);
    assert_eq!(refusals[1]["reason"], "invalid_json");
    assert_eq!(answer["refusals_left_out"], 0);

    let (status, answer) =
        server.post("application/json", &json!({ "event": "nonsense", "user_id": "u" }).to_string()).await;
    assert_eq!((status, answer["status"].as_i64()), (422, Some(422)));
    assert_eq!(answer["refusals"][0]["row"], 1, "{answer}");
    assert!(answer["refusals"][0]["field"].is_string() && answer["detail"].is_string(), "{answer}");
}

#[tokio::test]
async fn a_deleted_user_is_gone_and_late_events_do_not_bring_it_back() {
    let mut server = Server::start(|_| ()).await;
    let both = json!([buy("ann", 1), buy("bob", 2)]).to_string();
    server.post("application/json", &both).await;
    server.settle();
    assert_eq!(server.get("/v1/users/ann").await.0, 200);

    let (status, _, answer) = server.ask("DELETE", "/v1/users/ann", "", b"").await;
    assert_eq!(status, 202, "{answer}");
    // It was on its way when the request came, and is older.
    server.post("application/json", &buy("ann", 3).to_string()).await;
    server.settle();
    assert_eq!(server.get("/v1/users/ann").await.0, 404);
    assert_eq!(server.get("/v1/users/bob").await.0, 200);
    let mut scores = std::collections::BTreeMap::new();
    for partition in server.flaky.log.partitions().collect::<Vec<_>>() {
        let mut consumer = server.flaky.log.consumer(&[]).unwrap();
        crate::stream::Sink::read_scores_blocking(&mut consumer, partition, &mut |user, payload| {
            scores.insert(user.to_vec(), payload.is_some());
        })
        .unwrap();
    }
    assert!(!scores.get(&b"ann"[..]).copied().unwrap_or(false) && scores[&b"bob"[..]], "{scores:?}");

    let mut later = buy("ann", 4);
    later["timestamp"] = json!(NOW_MS + 1);
    server.post("application/json", &later.to_string()).await;
    server.settle();
    let (status, shown) = server.get("/v1/users/ann").await;
    assert_eq!(status, 200, "a new user of that name: {shown}");

    let (status, _, answer) = server.ask("DELETE", &format!("/v1/users/{}", "x".repeat(600)), "", b"").await;
    assert_eq!(status, 422, "{answer}");
    let refused = json!({ "event": "erase_user", "user_id": "bob", "timestamp": NOW_MS }).to_string();
    assert_eq!(server.post("application/json", &refused).await.0, 422, "an event cannot ask for it");
}

#[tokio::test]
async fn named_refusals_are_bounded() {
    let server = Server::start(|state| state.limits.max_events = 500).await;
    let body = "{}\n".repeat(300);
    let (status, answer) = server.post("application/x-ndjson", &body).await;
    assert_eq!((status, answer["refused"].as_i64()), (422, Some(300)));
    assert_eq!((answer["refusals"].as_array().unwrap().len(), answer["refusals_left_out"].as_i64()), (100, Some(200)));
}

#[tokio::test]
async fn sent_again_after_a_lost_answer_folds_nothing_twice() {
    let mut server = Server::start(|_| ()).await;
    let mut without_id = buy("ann", 7);
    without_id.as_object_mut().unwrap().remove("event_id");
    let body = json!([buy("ann", 1), buy("ann", 2), without_id]).to_string();
    server.flaky.fails.store(true, Ordering::SeqCst);
    let (status, answer) = server.post("application/json", &body).await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("send them again"), "{answer}");
    server.flaky.fails.store(false, Ordering::SeqCst);
    assert_eq!(counts(&server.post("application/json", &body).await.1), [0, 3, 0]);
    server.settle();
    let (_, user) = server.get("/v1/users/ann").await;
    assert_eq!(user["graph"]["event_count"], 3);
}

#[tokio::test]
async fn bodies_are_bounded_in_size_count_and_time() {
    let server = Server::start(|_| ()).await;
    let (status, content_type, body) = server.ask("POST", "/v1/events", "application/json", &vec![b' '; 30_000]).await;
    assert_eq!((status, content_type.as_str()), (413, "application/problem+json"), "{body}");
    let (status, answer) = server.post("application/x-ndjson", &"{}\n".repeat(51)).await;
    assert_eq!((status, answer["title"].as_str()), (413, Some("too many events")));
    let (status, answer) = server.post("application/json", "[{}").await;
    assert_eq!(status, 400, "{answer}");
    // A client that says it will send and never does.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST /v1/events HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{")
        .await
        .unwrap();
    let (status, content_type, _) = answer_of(stream).await;
    assert_eq!((status, content_type.as_str()), (408, "application/problem+json"));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let server = Server::start(|state| state.limits.request_timeout_ms = 20).await;
    for begun in ["", "GET /livez HT"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok();
        assert!(rest.is_empty(), "closed without an answer");
    }
}

#[tokio::test]
async fn without_the_token_only_health_is_told() {
    let token = "a-token-of-24-characters";
    let server = Server::start(|state| state.token = Some(Arc::new(AccessToken::new(token)))).await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    let others = [
        ("GET", "/metrics"),
        ("POST", "/v1/events"),
        ("GET", "/v1/users/ann"),
        ("DELETE", "/v1/users/ann"),
        ("GET", "/v1/partitions"),
    ];
    let body = buy("ann", 1).to_string();
    for (method, path) in others {
        for header in [
            "Accept: */*".to_owned(),
            format!("Authorization: {token}"),
            format!("Authorization: Basic {token}"),
            "Authorization: Bearer".to_owned(),
            format!("Authorization: Bearer {}", &token[1..]),
            format!("Authorization: Bearer {token}s"),
        ] {
            let (status, content_type, answer) = server.ask_with(method, path, &header, body.as_bytes()).await;
            assert_eq!((status, content_type.as_str()), (401, "application/problem+json"), "{method} {path}: {header}");
            let problem: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!((problem["status"].as_i64(), problem["title"].as_str()), (Some(401), Some("unauthorized")));
            assert!(!answer.contains(token), "{answer}");
        }
    }
    for scheme in ["Bearer", "bearer"] {
        let header = format!("Authorization: {scheme} {token}");
        let (status, _, answer) = server.ask_with("POST", "/v1/events", &header, body.as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(server.ask_with("GET", "/metrics", &header, b"").await.0, 200);
    }
    assert!(!format!("{:?}", AccessToken::new(token)).contains(token));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    use axum::serve::Listener;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut bounded = super::listener::BoundedListener::new(listener, 1, std::time::Duration::from_mins(1));
    let address = bounded.local_addr().unwrap();
    let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let (first, _) = bounded.accept().await;
    let mut second = std::pin::pin!(bounded.accept());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(20), &mut second).await.is_err());
    drop(first);
    second.await;
}

#[tokio::test]
async fn a_user_is_shown_with_names_score_and_lists() {
    let mut server = Server::start(|_| ()).await;
    let search = json!({ "event": "search", "user_id": "ann/b c", "timestamp": NOW_MS - 90_000, "query": "Green Tea" });
    let body = format!("{}\n{}\n{search}\n", buy("ann/b c", 1), buy("ann/b c", 2));
    server.post("application/x-ndjson", &body).await;
    assert_eq!(server.get("/v1/users/ann%2Fb%20c").await.0, 404);
    server.settle();
    let (status, user) = server.get("/v1/users/ann%2Fb%20c").await;
    assert_eq!(status, 200);
    assert_eq!(user["user_id"], "ann/b c");
    let graph = &user["graph"];
    assert_eq!((graph["event_count"].as_i64(), graph["purchase_value_minor"].as_i64()), (Some(3), Some(1_000)));
    assert_eq!(
        graph["views"]["purchase"]["top_items"][0],
        json!({
            "name": "tea", "count": 2, "last": "2023-11-14T22:12:20.000Z", "value_minor": 1_000,
        })
    );
    assert_eq!(graph["views"]["search"]["top_queries"][0]["name"], "green tea");
    assert_eq!(graph["recent"][0]["item"], "tea");
    assert_eq!(graph["recent"][2]["query"], "green tea");
    assert!(user["score"]["churn_probability"].is_number(), "{user}");
    assert_eq!(user["score"]["model_version"], "recency");
    assert_eq!(user["recommendations"]["items"][0]["item_id"], "tea");
    assert!(user["explanation_error"].is_null());
}

#[tokio::test]
async fn partitions_are_shown_with_their_hash_on_request() {
    let mut server = Server::start(|_| ()).await;
    server.post("application/json", &json!([buy("ann", 1), buy("bob", 2), buy("cid", 3)]).to_string()).await;
    server.settle();
    let (status, answer) = server.get("/v1/partitions?hash=true").await;
    assert_eq!(status, 200);
    let shown = answer["partitions"].as_array().unwrap();
    assert_eq!(shown.len(), 2);
    let users: i64 = shown.iter().map(|partition| partition["user_count"].as_i64().unwrap()).sum();
    assert_eq!(users, 3);
    assert!(shown.iter().all(|partition| partition["state_hash"].as_str().unwrap().len() == 16), "{answer}");
    assert!(shown.iter().all(|partition| partition["next_offsets"]["purchase"].is_i64()), "{answer}");
    assert!(server.get("/v1/partitions").await.1["partitions"][0].get("state_hash").is_none());
    assert_eq!(server.get("/v1/partitions?sum=1").await.0, 400);
}

#[tokio::test]
async fn health_says_why_not() {
    let server = Server::start(|_| ()).await;
    assert_eq!(server.get("/livez").await.0, 200);
    assert_eq!(server.get("/readyz").await, (200, json!({ "ready": true })));
    *server.missing.lock().unwrap() = vec!["no model is loaded".to_owned(), "the daemon is stopping".to_owned()];
    let (status, answer) = server.get("/readyz").await;
    assert_eq!(
        (status, &answer["ready"], &answer["reasons"][1]),
        (503, &json!(false), &json!("the daemon is stopping"))
    );
    assert_eq!(answer["detail"], "no model is loaded; the daemon is stopping");
    assert_eq!(server.get("/metrics").await, (200, json!("undercurrent_build_info 1\n")));

    let failed = StreamStatus { phase: Phase::Failed, last_error: Some("boom".to_owned()), ..StreamStatus::default() };
    let server = Server::start(|state| state.streams = vec![watch::Sender::new(failed).subscribe()]).await;
    let (status, answer) = server.get("/livez").await;
    assert_eq!((status, answer["detail"].as_str()), (503, Some("stream thread 0 failed: boom")));
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_document() {
    let server = Server::start(|state| state.ingest = None).await;
    for (method, path, expected) in [
        ("GET", "/nothing", 404),
        ("DELETE", "/v1/events", 405),
        ("GET", "/v1/users/nobody", 404),
        ("POST", "/v1/events", 404),
    ] {
        let (status, content_type, body) = server.ask(method, path, "application/json", b"{}").await;
        assert_eq!((status, content_type.as_str()), (expected, "application/problem+json"), "{method} {path}: {body}");
    }
}

#[tokio::test]
async fn shutdown_answers_what_is_under_way() {
    let mut server = Server::start(|_| ()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let body = buy("ann", 1).to_string();
    let (first, rest) = body.split_at(10);
    let head = format!("POST /v1/events HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{first}", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server has the request once it has answered another one sent after it.
    server.get("/livez").await;
    server.stop.take().unwrap().send(()).unwrap();
    stream.write_all(rest.as_bytes()).await.unwrap();
    let (status, _, answer) = answer_of(stream).await;
    assert_eq!(status, 200, "{answer}");
    server.served.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
