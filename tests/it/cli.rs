//! What a person sees of the command line: help, exit codes, messages.

use std::process::{Command, Output};

/// Runs the program in an empty folder, without configuration from outside.
fn undercurrent(arguments: &[&str]) -> Output {
    undercurrent_with(arguments, &[])
}

fn undercurrent_with(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_undercurrent"))
        .args(arguments)
        .current_dir(folder.path())
        .env_remove("UNDERCURRENT_CONFIG")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_names_every_command_and_shows_examples() {
    let output = undercurrent(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for word in ["check", "config", "completions", "Examples:", "Exit codes:"] {
        assert!(help.contains(word), "no `{word}` in\n{help}");
    }
}

#[test]
fn wrong_usage_exits_2() {
    for arguments in [&["no-such-command"][..], &[], &["check", "--set", "nothing"]] {
        assert_eq!(undercurrent(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_broken_configuration_exits_2_and_names_every_wrong_key() {
    let output = undercurrent_with(
        &["check", "--set", "kafka.brokerz=x", "--set", "stream.threads=many"],
        &[("UNDERCURRENT__HTTP__PORT", "80")],
    );
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    for key in ["`kafka.brokerz`", "`stream.threads`", "`http.port`", "3 keys are wrong"] {
        assert!(message.contains(key), "no {key} in\n{message}");
    }
}

#[test]
fn broken_relations_exit_2_and_name_every_wrong_key() {
    let output = undercurrent(&["check", "--set", "stream.threads=5", "--set", "graph.half_life_short_days=200"]);
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    for key in ["`embedded.partitions`", "`graph.half_life_short_days`"] {
        assert!(message.contains(key), "no {key} in\n{message}");
    }
}

#[test]
fn secrets_that_are_missing_or_none_are_named_by_their_key() {
    let settings = [
        "http.listen=0.0.0.0:8080",
        "webhook.url=https://alerts.example/in",
        "webhook.secret_variable=UNDERCURRENT_TEST_SECRET",
    ];
    let mut arguments = vec!["check"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    let message = |arguments: &[&str]| {
        let output = undercurrent_with(arguments, &[("UNDERCURRENT_TEST_SECRET", "too short")]);
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let said = message(&arguments);
    assert!(said.contains("`http.listen`") && said.contains("http.token_file"), "{said}");
    arguments.extend(["--set", "http.token_file=no-such-token"]);
    let said = message(&arguments);
    assert!(said.contains("`http.token_file`") && said.contains("`no-such-token`"), "{said}");
    assert!(said.contains("`webhook.secret_variable`") && said.contains("at least 24"), "{said}");
    assert!(!said.contains("too short") || !said.contains("UNDERCURRENT_TEST_SECRET=too"), "{said}");
}

#[test]
fn a_missing_file_is_named() {
    let output = undercurrent(&["check", "--config", "no-such.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`no-such.toml`"));
}

#[test]
fn the_printed_configuration_is_read_back_as_the_same() {
    let printed = undercurrent(&["config", "print", "--set", "stream.linger_ms=33"]);
    assert_eq!(printed.status.code(), Some(0));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("printed.toml");
    std::fs::write(&file, &printed.stdout).unwrap();
    let again = undercurrent(&["config", "print", "--config", file.to_str().unwrap()]);
    assert_eq!(text(&again.stdout), text(&printed.stdout));
    assert!(text(&again.stdout).contains("linger_ms = 33"));
}

#[test]
fn completions_are_a_script() {
    let output = undercurrent(&["completions", "bash"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("_undercurrent"));
}

/// Starts the demo with `arguments`, interrupts it as Ctrl-C does once it has printed a line that holds `after`, and returns
/// what it printed and how it ended.
fn interrupted_demo(arguments: &[&str], after: &str) -> (Vec<String>, std::process::ExitStatus, usize) {
    use std::io::{BufRead, BufReader};
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_undercurrent"))
        .arg("demo")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TMPDIR", temporary.path())
        .env_remove("UNDERCURRENT_CONFIG")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut printed = Vec::new();
    let mut is_asked = false;
    for line in BufReader::new(demo.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains(after) && !is_asked {
            is_asked = true;
            // SIGINT: what a terminal sends.
            let sent = Command::new("sh").args(["-c", &format!("kill -INT {}", demo.id())]).status().unwrap();
            assert!(sent.success());
        }
        printed.push(line);
    }
    let status = demo.wait().unwrap();
    (printed, status, std::fs::read_dir(temporary.path()).unwrap().count())
}

#[test]
fn ctrl_c_ends_the_demo_cleanly_with_what_was_played_so_far() {
    use std::fmt::Write;
    // A small file of its own: three months of history at a pace that a slow machine keeps up with.
    let folder = tempfile::tempdir().unwrap();
    let mut events = String::from("user_id,event_type,timestamp,item_id,category,price,quantity\n");
    let first_ms: i64 = 1_483_228_800_000;
    for day in 0..360_i64 {
        for user in 0..5 {
            let time = undercurrent::event::format_time_ms(first_ms + day * 86_400_000 + user * 60_000);
            writeln!(events, "u{user},purchase,{time},i{},c,1.00,1", day % 7).unwrap();
        }
    }
    let csv = folder.path().join("events.csv");
    std::fs::write(&csv, events).unwrap();
    let zstd = Command::new("zstd").arg("-q").arg(&csv).status().unwrap();
    assert!(zstd.success(), "the program zstd makes the file");
    let data = folder.path().to_str().unwrap();
    let arguments = ["--data", data, "--days-per-second", "1"];

    let (printed, status, left) = interrupted_demo(&arguments, "warm-up: ");
    assert_eq!((status.code(), left), (Some(0), 0), "{printed:#?}");
    assert!(printed.iter().any(|line| line.contains("stopped early: settled up to where")), "{printed:#?}");

    let (printed, status, left) = interrupted_demo(&arguments, "was trained on events");
    assert_eq!((status.code(), left), (Some(0), 0), "{printed:#?}");
    assert!(printed.iter().any(|line| line.contains("stopped early")), "{printed:#?}");
}
