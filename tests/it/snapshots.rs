//! What users read and scripts rely on, kept as text: a change of it is seen in review. `UPDATE_SNAPSHOTS=1 cargo test
//! snapshots::` writes the files again.

use std::{fmt::Write, path::Path, process::Command};

use undercurrent::metrics;

/// Compares `found` with the file `name` of this folder, or writes it when `UPDATE_SNAPSHOTS` is set.
#[track_caller]
fn check(name: &str, found: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, found).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "tests/it/snapshots/{name} differs; if that is meant: `UPDATE_SNAPSHOTS=1 cargo test snapshots::`\n{found}"
    );
}

fn stdout(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_undercurrent"))
        .args(arguments)
        .current_dir(folder.path())
        .env_remove("UNDERCURRENT_CONFIG")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The names under `Commands:` of a help text.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Adds the help of `path` and of every command below it.
fn add_help(path: &[String], page: &mut String) {
    let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
    arguments.push("--help");
    let help = stdout(&arguments);
    writeln!(page, "$ undercurrent {}\n\n{}\n", arguments.join(" "), help.trim_end()).unwrap();
    for command in commands(&help) {
        add_help(&[path, &[command]].concat(), page);
    }
}

#[test]
fn help_of_every_command() {
    let mut page = String::new();
    add_help(&[], &mut page);
    assert!(page.matches("$ undercurrent").count() > 15, "commands are missing");
    check("help.txt", &page);
}

#[test]
fn default_configuration() {
    check("configuration.toml", &stdout(&["config", "print"]));
}

#[test]
fn list_of_metrics() {
    let mut page = String::new();
    for metric in metrics::ALL {
        writeln!(page, "{} {} {{{}}}", metric.name, metric.kind.name(), metric.labels.join(",")).unwrap();
    }
    check("metrics.txt", &page);
}
