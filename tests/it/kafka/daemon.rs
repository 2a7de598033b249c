//! The program itself, as a child process on a real Kafka.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use undercurrent::stream::kafka::KafkaParams;

/// Settings that say nothing of Kafka: history, the cheapest scorer, snapshots in the middle of the run.
const SETTINGS: [(&str, &str); 7] = [
    ("input.log", "kafka"),
    // History: event time must move with the events and not with the wall clock (fifty years of grace).
    ("stream.live_grace_ms", "1577880000000"),
    ("decision.max_alert_age_days", "36500"),
    ("scoring.scorer", "recency"),
    // Restarts begin with a snapshot.
    ("snapshot.interval_s", "1"),
    ("http.enabled", "false"),
    ("kafka.instance_id", "\"0\""),
];

/// The daemon; killed when a test fails.
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it in `folder`; `settings` are stronger than the usual ones.
    pub(super) fn start(params: &KafkaParams, folder: &Path, settings: &[(&str, &str)]) -> Self {
        let instance = settings.iter().find(|(key, _)| *key == "kafka.instance_id").map_or("0", |(_, value)| value);
        let log = folder.join(format!("daemon-{}.log", instance.trim_matches('"')));
        let stderr = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Self::command(params, folder, settings, &["run"]);
        command.stdout(Stdio::null()).stderr(stderr);
        Self { child: command.spawn().unwrap(), log }
    }

    /// The program with a command of its, on the daemon's log and folder.
    fn command(params: &KafkaParams, folder: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undercurrent"));
        command.args(arguments).current_dir(folder).env_remove("UNDERCURRENT_CONFIG").stdin(Stdio::null());
        let timeouts = &params.timeouts;
        let kafka = [
            ("kafka.brokers", params.bootstrap.clone()),
            ("kafka.group_id", params.group.clone()),
            ("kafka.session_timeout_ms", timeouts.session_ms.to_string()),
            ("kafka.max_poll_interval_ms", "300000".to_owned()),
            ("kafka.transaction_timeout_ms", timeouts.transaction_ms.to_string()),
            ("kafka.message_timeout_ms", timeouts.message_ms.to_string()),
        ];
        let topics = [
            "clicks",
            "searches",
            "purchases",
            "scores",
            "churn_alerts",
            "alert_outcomes",
            "recommendations",
            "dead_letters",
            "shadow_scores",
        ];
        let names = params.topics.inputs.iter().chain(&params.topics.outputs);
        for (topic, name) in topics.into_iter().zip(names) {
            command.arg("--set").arg(format!("topics.{topic}={name}"));
        }
        for (key, value) in kafka {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        for (key, value) in SETTINGS.iter().chain(settings) {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command
    }

    /// Audits `count` random scores of those that are in the topic, after the daemon has stopped; all must come out again. Returns
    /// the summary.
    pub(super) fn audit(params: &KafkaParams, folder: &Path, count: usize) -> String {
        let sample = count.to_string();
        let done = Self::command(params, folder, &[], &["audit", "--sample", &sample]).output().unwrap();
        let printed = String::from_utf8(done.stdout).unwrap();
        let summary = printed.lines().last().unwrap_or_default().to_owned();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(summary, format!("{count} scores audited, 0 differ"), "{printed}{said}");
        assert_eq!(printed.matches("reproduced bit for bit: ").count(), count);
        summary
    }

    /// What a command prints; it must succeed.
    pub(super) fn output(params: &KafkaParams, folder: &Path, arguments: &[&str]) -> String {
        let done = Self::command(params, folder, &[], arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// Fails the test when the daemon has ended.
    pub(super) fn assert_alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the daemon ended by itself: {ended:?}\n{}", self.log_text());
    }

    /// SIGKILL.
    pub(super) fn kill(mut self) {
        self.assert_alive();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; must drain and exit with 0.
    pub(super) fn stop(mut self) {
        self.assert_alive();
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "SIGTERM must drain and exit 0, not {status}\n{}", self.log_text());
    }

    /// Sends a signal by name.
    pub(super) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the daemon has ended by itself, at most `wait_s` seconds.
    pub(super) fn ended_within(&mut self, wait_s: u64) -> Option<ExitStatus> {
        for _ in 0..wait_s * 20 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// All it has written to its log, those before it in the same folder included.
    pub(super) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
