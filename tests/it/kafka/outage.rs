//! Brokers that go away under load. Each test has brokers of its own, started by the launcher in `scripts/kafka`: those of the
//! other tests must stay. Needs `KAFKA_LIBS`, the launcher's folder of jars.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use undercurrent::stream::kafka::{KafkaParams, TopicPlan, create_topics};

use super::{
    chaos::{EVENTS_PER_FAULT, Scene, number},
    load::EVENTS_PER_SECOND,
    oracle::PARTITION_COUNT,
    params_at, variable,
};

/// Brokers that belong to one test; stopped with it.
struct Cluster {
    folder: tempfile::TempDir,
    port: String,
    bootstrap: String,
}

impl Cluster {
    fn start(test: &str, broker_count: usize) -> Option<Self> {
        let libs = variable(test, "KAFKA_LIBS")?;
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(libs, folder.path().join("libs")).unwrap();
        // Far from the ports of scripts/test; brokers take this one and the two after it, in steps of a hundred.
        let port = (10_000 + rand::random::<u16>() % 9_000).to_string();
        let mut cluster = Self { folder, port, bootstrap: String::new() };
        cluster.bootstrap = cluster.call(&["start", &broker_count.to_string()]);
        Some(cluster)
    }

    fn call(&self, arguments: &[&str]) -> String {
        let launcher = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka/kafka.sh");
        let mut command = Command::new(launcher);
        command.args(arguments).env("KAFKA_DIR", self.folder.path()).env("KAFKA_PORT", &self.port);
        let done = command.env("KAFKA_SASL", "0").env("KAFKA_HEAP", "400m").output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Settings for fresh topics.
    fn params(&self, test: &str) -> KafkaParams {
        let params = params_at(test, self.bootstrap.clone());
        let plan = TopicPlan { partition_count: PARTITION_COUNT, replication: None, input_retention_ms: None };
        assert!(create_topics(&params, &plan).unwrap().iter().all(|topic| topic.is_new));
        params
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.call(&["stop"]);
    }
}

/// The status and body of `GET path`.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    (status, answer)
}

/// Waits until `GET /readyz` answers `expected`, and returns what it says.
fn await_ready(port: u16, expected: u16) -> String {
    for _ in 0..600 {
        let (status, body) = get(port, "/readyz");
        if status == expected {
            return body;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("/readyz never answered {expected}: {}", get(port, "/readyz").1);
}

/// Fault 9. Long: `scripts/chaos outage`; `CHAOS_OUTAGE_S` says how long.
#[test]
fn brokers_that_are_away_are_waited_for_and_readyz_says_so() {
    if variable("outage", "CHAOS_OUTAGE_S").is_none() {
        return;
    }
    let outage = Duration::from_secs(number("CHAOS_OUTAGE_S", 60) as u64);
    let Some(cluster) = Cluster::start("outage", 1) else { return };
    // The load goes on while the brokers are away, and for as long as the daemon may take to come back.
    let expected_events = EVENTS_PER_SECOND * (number("CHAOS_OUTAGE_S", 60) + 90);
    let scene = Scene::with("outage", cluster.params("outage"), expected_events, expected_events);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let mut daemon =
        scene.start(&[("http.enabled", "true"), ("http.listen", &listen), ("kafka.lag_interval_ms", "500")]);
    scene.wait_for_progress(&mut [&mut daemon], 2_000);
    await_ready(port, 200);

    cluster.call(&["kill", "1"]);
    let reason = await_ready(port, 503);
    assert!(reason.contains("is connected") || reason.contains("waits for its commit"), "{reason}");
    std::thread::sleep(outage);
    assert_eq!(get(port, "/livez").0, 200, "a restart would not bring the broker back");
    daemon.assert_alive();

    cluster.call(&["revive", "1"]);
    scene.wait_for_progress(&mut [&mut daemon], 2_000);
    await_ready(port, 200);
    scene.close_after_outage(vec![daemon]);
}

/// Fault 10: leaders and coordinators move with every broker that goes. Long: `scripts/chaos cluster`.
#[test]
fn three_brokers_lose_one_after_the_other() {
    if variable("cluster", "CHAOS_CLUSTER").is_none() {
        return;
    }
    let Some(cluster) = Cluster::start("cluster", 3) else { return };
    // A lead of more than a minute: that long a coordinator may be away.
    let scene = Scene::with("cluster", cluster.params("cluster"), 40 * EVENTS_PER_FAULT, 10 * EVENTS_PER_FAULT);
    let mut daemon = scene.start(&[]);
    scene.wait_for_progress(&mut [&mut daemon], 2_000);
    for broker in ["1", "2", "3"] {
        cluster.call(&["kill", broker]);
        scene.wait_for_progress(&mut [&mut daemon], 20_000);
        cluster.call(&["revive", broker]);
        scene.wait_for_progress(&mut [&mut daemon], 5_000);
        cluster.call(&["pause", broker]);
        scene.wait_for_progress(&mut [&mut daemon], 20_000);
        cluster.call(&["resume", broker]);
        scene.wait_for_progress(&mut [&mut daemon], 5_000);
    }
    scene.close_after_outage(vec![daemon]);
}
