//! What is shipped for running the daemon: the systemd unit, the compose file and the example configuration.

use std::{path::Path, process::Command};

use undercurrent::config::{Config, Sources};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a tool; `None` (said aloud) where it is not installed.
#[expect(clippy::print_stdout, reason = "a test that did not run must say so")]
fn run(test: &str, program: &str, arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new(program).args(arguments).current_dir(root()).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) => {
            println!("{test}: SKIPPED, cannot run `{program}`: {error}");
            None
        }
    }
}

#[test]
fn systemd_takes_the_unit() {
    let unit = std::fs::read_to_string(root().join("deploy/systemd/undercurrent.service")).unwrap();
    for line in ["Restart=on-failure", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="] {
        assert!(unit.lines().any(|found| found == line), "no `{line}` in the unit");
    }
    // The tool looks whether the program is there: here it is the one under test.
    let unit = unit.replace("/usr/local/bin/undercurrent", env!("CARGO_BIN_EXE_undercurrent"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("undercurrent.service");
    std::fs::write(&file, unit).unwrap();
    let Some((verified, text)) = run("systemd", "systemd-analyze", &["verify", file.to_str().unwrap()]) else { return };
    // A key that the installed version does not know is only a warning to it, so any word is one too many.
    assert!(verified && text.trim().is_empty(), "{text}");
}

#[test]
fn compose_takes_the_file() {
    let arguments = ["-f", "docker-compose.yml", "config", "-q"];
    let plugin = run("compose", "docker", &["compose", "version"]).is_some_and(|(is_there, _)| is_there);
    let checked = if plugin {
        run("compose", "docker", &[&["compose"], &arguments[..]].concat())
    } else {
        run("compose", "docker-compose", &arguments)
    };
    if let Some((accepted, text)) = checked {
        assert!(accepted, "{text}");
    }
}

#[test]
fn the_example_configuration_is_valid() {
    let file = root().join("deploy/undercurrent.toml");
    Config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
}
