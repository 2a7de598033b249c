//! A webhook's receiver on the loopback, as good or bad as a test wants it to be.

#![expect(clippy::disallowed_methods, reason = "threads of a test's server, which need no name")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200 and the like.
    Status(u16),
    /// The connection stays open and nothing is said.
    Hang,
}

/// One request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) timestamp_s: i64,
    pub(crate) signature: String,
    pub(crate) body: Vec<u8>,
    pub(crate) answer: Answer,
}

impl Received {
    /// The alert in the envelope.
    pub(crate) fn alert(&self) -> Value {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        body["data"].clone()
    }
}

/// Decides what the `attempt`th request (from 1) with this id gets.
type Rule = Box<dyn Fn(&str, usize) -> Answer + Send + Sync>;

/// The receiver; its threads end with the process.
pub(crate) struct Receiver {
    pub(crate) url: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    pub(crate) fn start(rule: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hooks/churn?key=of-the-receiver", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let (rule, seen): (Arc<Rule>, _) = (Arc::new(Box::new(rule)), Arc::clone(&received));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (rule, seen) = (Arc::clone(&rule), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream.unwrap(), &rule, &seen));
            }
        });
        Self { url, received }
    }

    /// All requests so far, in the order in which they came.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Those that were answered well.
    pub(crate) fn taken(&self) -> Vec<Received> {
        self.received().into_iter().filter(|request| request.answer == Answer::Status(200)).collect()
    }
}

/// Serves the requests of one connection.
fn serve(mut stream: TcpStream, rule: &Rule, seen: &Mutex<Vec<Received>>) {
    let mut bytes = Vec::new();
    loop {
        let Some((head, body)) = next_request(&mut stream, &mut bytes) else { return };
        let header = |name: &str| {
            let line =
                head.lines().find_map(|line| line.to_ascii_lowercase().starts_with(name).then(|| line.to_owned()));
            line.unwrap_or_else(|| panic!("no {name} in {head}")).split_once(": ").unwrap().1.to_owned()
        };
        assert!(head.starts_with("POST /hooks/churn?key=of-the-receiver HTTP/1.1\r\n"), "{head}");
        assert_eq!(header("content-type"), "application/json");
        let id = header("webhook-id");
        let answer = {
            let mut seen = seen.lock().unwrap();
            let attempt = 1 + seen.iter().filter(|request| request.id == id).count();
            let answer = rule(&id, attempt);
            let timestamp_s = header("webhook-timestamp").parse().unwrap();
            seen.push(Received { id, timestamp_s, signature: header("webhook-signature"), body, answer });
            answer
        };
        match answer {
            Answer::Status(status) => {
                let written = write!(stream, "HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n");
                if written.is_err() {
                    return;
                }
            }
            Answer::Hang => {
                // Until the client gives up.
                stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
                drop(stream.read(&mut [0; 1]));
                return;
            }
        }
    }
}

/// Head and body of the next request; `None` when the connection ends.
fn next_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut chunk = [0; 4_096];
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..at + 2].to_vec()).unwrap();
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let end = at + 4 + length.unwrap_or(0);
            if bytes.len() >= end {
                let body = bytes[at + 4..end].to_vec();
                bytes.drain(..end);
                return Some((head, body));
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}
