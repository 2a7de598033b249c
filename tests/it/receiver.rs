//! A webhook's receiver on the loopback, as good or bad as a test wants it to be.

#![expect(clippy::disallowed_methods, reason = "threads of a test's server, which need no name")]

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
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

/// Signs one certificate, for 127.0.0.1. Made with `openssl` for the one test that asks, so that no key lies in the repository.
pub(crate) struct Authority {
    /// Its own certificate, PEM: what a client trusts.
    pub(crate) certificate: Vec<u8>,
    server: Arc<ServerConfig>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let openssl = |arguments: &str| {
            let output =
                Command::new("openssl").args(arguments.split(' ')).current_dir(folder.path()).output().unwrap();
            assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!("req -x509 {key} -days 2 -subj /CN={name} -keyout ca.key -out ca.pem"));
        openssl(&format!("req {key} -subj /CN=receiver -keyout server.key -out server.csr"));
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
        );
        let file = |name: &str| folder.path().join(name);
        let chain = CertificateDer::pem_file_iter(file("server.pem")).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self { certificate: std::fs::read(file("ca.pem")).unwrap(), server: Arc::new(server) }
    }
}

impl Receiver {
    pub(crate) fn start(rule: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on("http", None, rule)
    }

    /// One that speaks TLS, with a certificate of `authority`.
    pub(crate) fn start_tls(
        authority: &Authority,
        rule: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_on("https", Some(Arc::clone(&authority.server)), rule)
    }

    fn start_on(
        scheme: &str,
        tls: Option<Arc<ServerConfig>>,
        rule: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}/hooks/churn?key=of-the-receiver", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let (rule, seen): (Arc<Rule>, _) = (Arc::new(Box::new(rule)), Arc::clone(&received));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (rule, seen, tls) = (Arc::clone(&rule), Arc::clone(&seen), tls.clone());
                let stream = stream.unwrap();
                // Until a client that hangs gives up.
                stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
                std::thread::spawn(move || match tls {
                    None => serve(stream, &rule, &seen),
                    Some(tls) => serve(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream), &rule, &seen),
                });
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
fn serve(mut stream: impl Read + Write, rule: &Rule, seen: &Mutex<Vec<Received>>) {
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
                if written.and_then(|()| stream.flush()).is_err() {
                    return;
                }
            }
            Answer::Hang => {
                drop(stream.read(&mut [0; 1]));
                return;
            }
        }
    }
}

/// Head and body of the next request; `None` when the connection ends.
fn next_request(stream: &mut impl Read, bytes: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
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
