//! The daemon as a process of its own, on an embedded log in a folder of the test's.

use std::{
    fmt::Display,
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

/// Between two looks at the daemon.
const LOOK: Duration = Duration::from_millis(20);
/// Looks after which something takes too long, also on a machine with much else to do: two minutes.
const MAX_LOOKS: u32 = 6_000;

/// A folder with the log, the snapshots and the settings that all commands of a test share.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    settings: Vec<String>,
}

impl Place {
    /// An empty folder with these settings on top of the defaults.
    pub(crate) fn new(settings: &[(&str, &dyn Display)]) -> Self {
        let settings = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Self { folder: tempfile::tempdir().unwrap(), settings }
    }

    /// The same folder with other settings.
    pub(crate) fn with(self, settings: &[(&str, &dyn Display)]) -> Self {
        Self { settings: settings.iter().map(|(key, value)| format!("{key}={value}")).collect(), ..self }
    }

    /// The folder of the embedded log.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join(".undercurrent/log")
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undercurrent"));
        command.args(arguments).current_dir(self.path()).env_remove("UNDERCURRENT_CONFIG").stdin(Stdio::null());
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed and returns what it printed.
    #[track_caller]
    pub(crate) fn print(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts the daemon on a free port.
    pub(crate) fn start(&self) -> Daemon {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listen = format!("http.listen=127.0.0.1:{port}");
        let log = self.path().join("daemon.log");
        let lines = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(&["run", "--set", &listen]);
        Daemon { child: command.stdout(Stdio::null()).stderr(lines).spawn().unwrap(), port, log }
    }
}

/// A running daemon. One that a failing test leaves behind is killed.
pub(crate) struct Daemon {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Daemon {
    /// The body of an answer; `None` while the daemon does not answer.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.get_text(path)?).ok()
    }

    fn get_text(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(LOOK * MAX_LOOKS)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }

    /// Records committed, over all partitions; `None` while nothing is known.
    pub(crate) fn committed(&self) -> Option<i64> {
        let answer = self.get("/v1/partitions")?;
        let offsets = answer["partitions"].as_array()?.iter().filter_map(|it| it["next_offsets"].as_object()).flatten();
        Some(offsets.filter_map(|(_, offset)| offset.as_i64()).sum())
    }

    /// The sum of a metric over its labels; 0 before it was counted.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.get_text("/metrics").unwrap_or_default();
        let values = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(['{', ' ']).map(|_| line));
        values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Sends events as JSON lines; they are durable when this returns. Returns how many the log did not have yet.
    pub(crate) fn post_events(&self, lines: &str) -> i64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = lines.len();
        write!(
            stream,
            "POST /v1/events HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {length}\r\n\r\n{lines}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        body["accepted"].as_i64().unwrap()
    }

    /// Waits until `is_done` says so of what is committed.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, mut is_done: impl FnMut(&Self) -> bool) {
        for _ in 0..MAX_LOOKS {
            if is_done(self) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.said());
            std::thread::sleep(LOOK);
        }
        panic!("the daemon takes too long\n{}", self.said());
    }

    /// SIGTERM, and the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails where the test ended it itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
