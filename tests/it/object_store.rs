//! Snapshots in an S3-compatible server on this machine, over a connection that breaks.
//!
//! `scripts/test` makes the Python environment with the server (`moto`) and names its interpreter in `UNDERCURRENT_PYTHON`.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use undercurrent::{
    clock::ManualClock,
    event::UserId,
    graph::UserGraph,
    snapshot::{Manifest, SnapshotOptions, SnapshotRequest, Snapshots, open_storage},
};

use crate::snapshot::{Deed, PARTITION, fold, params};

/// The server; killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// `None` when there is no interpreter that has it.
    fn start() -> Option<Self> {
        let python = std::env::var_os("UNDERCURRENT_PYTHON").filter(|python| {
            let known = Command::new(python).args(["-c", "import moto.server"]).stderr(Stdio::null()).status();
            known.is_ok_and(|status| status.success())
        });
        let Some(python) = python else {
            assert!(std::env::var_os("UNDERCURRENT_REQUIRE_PYTHON").is_none(), "no interpreter with moto");
            return None;
        };
        let mut child = Command::new(python)
            .args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if let Some((_, port)) = line.rsplit_once("http://127.0.0.1:") {
                break port.trim().parse().unwrap();
            }
        };
        // It writes a line a request, and must not wait for a reader.
        spawn(move || lines.for_each(drop));
        let server = Self { child, port };
        server.make_bucket("shop");
        Some(server)
    }

    fn make_bucket(&self, name: &str) {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(connection, "PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What lies between: passes bytes on, and while it is broken cuts about every fourth connection in the middle of a request or
/// of an answer.
struct Wire {
    port: u16,
    is_broken: Arc<AtomicBool>,
    cut_count: Arc<AtomicU64>,
}

impl Wire {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_broken, cut_count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (broken, cuts) = (Arc::clone(&is_broken), Arc::clone(&cut_count));
        // Ends with the test's process; it holds nothing but sockets.
        spawn(move || {
            for (number, client) in (0_u32..).zip(listener.incoming()) {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", server))) else { continue };
                let drawn = number.wrapping_mul(2_654_435_761) >> 29;
                let (to_server, to_client) = match (broken.load(Ordering::Relaxed), drawn) {
                    (true, 0) => (900, usize::MAX),
                    (true, 1) => (usize::MAX, 300),
                    _ => (usize::MAX, usize::MAX),
                };
                let fails = to_server.min(to_client) < usize::MAX;
                cuts.fetch_add(u64::from(fails), Ordering::Relaxed);
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                spawn(move || pass(client, server, to_server));
                spawn(move || pass(server_too, client_too, to_client));
            }
        });
        Self { port, is_broken, cut_count }
    }
}

/// Starts a helper that ends with its sockets.
fn spawn(work: impl FnOnce() + Send + 'static) {
    drop(std::thread::Builder::new().name("wire".to_owned()).spawn(work).unwrap());
}

/// Copies at most `limit` bytes and closes both ends.
fn pass(mut from: TcpStream, mut to: TcpStream, limit: usize) {
    let (mut buffer, mut passed) = ([0; 8_192], 0_usize);
    while passed < limit {
        let Ok(count @ 1..) = from.read(&mut buffer) else { break };
        let count = count.min(limit - passed);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        passed += count;
    }
    for socket in [from, to] {
        // Closed already, from the other side.
        drop(socket.shutdown(Shutdown::Both));
    }
}

fn snapshots_at(port: u16, location: &str) -> Snapshots {
    let endpoint = format!("http://127.0.0.1:{port}");
    let options = [
        ("endpoint", endpoint.as_str()),
        ("allow_http", "true"),
        ("region", "us-east-1"),
        ("access_key_id", "test"),
        ("secret_access_key", "test"),
        ("virtual_hosted_style_request", "false"),
    ];
    let storage = open_storage(location, &options.map(|(key, value)| (key.to_owned(), value.to_owned()))).unwrap();
    let options = SnapshotOptions { graph_params: params(), part_users: 6, ..SnapshotOptions::default() };
    Snapshots::new(storage, options, Arc::new(ManualClock::at(0)))
}

fn deeds(count: u16) -> Vec<Deed> {
    let byte = |number: u16, factor: u16| number.wrapping_mul(factor).to_le_bytes()[1];
    (0..count)
        .map(|number| (byte(number, 977) % 20, byte(number, 12_347), number, byte(number, 5_281) % 60, 1))
        .collect()
}

#[test]
fn an_s3_server_keeps_snapshots_also_over_a_wire_that_breaks() {
    let Some(server) = Server::start() else {
        println!("skipped: `UNDERCURRENT_PYTHON` names no interpreter with moto; scripts/test does");
        return;
    };
    let wire = Wire::to(server.port);
    let (over_wire, direct) = (snapshots_at(wire.port, "s3://shop/a/b"), snapshots_at(server.port, "s3://shop/a/b"));
    wire.is_broken.store(true, Ordering::Relaxed);
    let mut newest: Option<Manifest> = None;
    let mut users: HashMap<UserId, Arc<UserGraph>> = HashMap::new();
    for round in 1..=12 {
        let state = fold(&deeds(60 * round));
        let mut changed = state.graphs.to_vec();
        changed.retain(|(user, graph)| users.get(user).is_none_or(|known| *known != *graph));
        let request = match &newest {
            Some(_) if round % 4 != 0 => SnapshotRequest::delta(changed, &state, None),
            _ => SnapshotRequest::base(&state, None),
        };
        let next_offsets = state.progress().next_offsets;
        // The store's client asks again until it has an answer.
        newest = Some(over_wire.write_blocking(request, newest.as_ref()).unwrap());
        users = state.graphs.to_vec().into_iter().collect();
        over_wire.retain_blocking(PARTITION).unwrap();
        for snapshots in [&over_wire, &direct] {
            let outcome = snapshots.restore_blocking(PARTITION, &next_offsets).unwrap();
            assert!(outcome.rejected.is_empty(), "{:?}", outcome.rejected);
            assert_eq!(outcome.restored.unwrap().into_state().state_hash(), state.state_hash(), "round {round}");
        }
    }
    assert!(wire.cut_count.load(Ordering::Relaxed) > 5);
    let verified = direct.verify_blocking(None).unwrap();
    assert!(verified.len() > 2 && verified.iter().all(|verified| verified.problems.is_empty()), "{verified:?}");

    // What the server refuses is an error with its words, at once.
    let elsewhere = snapshots_at(server.port, "s3://no-such-bucket/a");
    let error = elsewhere.write_blocking(SnapshotRequest::base(&fold(&deeds(10)), None), None).unwrap_err();
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
}
