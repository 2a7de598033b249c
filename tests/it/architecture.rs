//! The walls between modules, as a scan of the source: which module may use which dependency and which other module.
//! `ARCHITECTURE.md` says why; a new arrow there is a design change.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// A dependency (or a part of the standard library) and the places that may name it.
const WALLS: &[(&str, &[&str])] = &[
    ("rdkafka", &["stream/kafka"]),
    ("fjall", &["stream/embedded"]),
    ("arrow", &["snapshot", "train/dataset"]),
    ("parquet", &["snapshot", "train/dataset"]),
    ("object_store", &["snapshot"]),
    ("candle_core", &["features", "model", "scoring", "train"]),
    ("candle_nn", &["features", "model", "scoring", "train"]),
    ("tokenizers", &["model/text"]),
    ("axum", &["api"]),
    ("reqwest", &["webhook"]),
    ("base64", &["webhook"]),
    ("ring::hmac", &["webhook", "api"]),
    ("clap", &["cli", "main"]),
    ("anyhow", &["cli", "daemon", "main"]),
    ("indicatif", &["cli", "train"]),
];

/// What the core never touches: it does no I/O, reads no clock, spawns nothing and logs nothing.
const CORE: &[&str] = &["event", "graph", "features", "decision"];
const FORBIDDEN_IN_CORE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "tokio",
    "tracing",
    "SystemTime::now",
    "Instant::now",
    "crate::clock",
    "metrics",
];

/// Which modules of the crate each module may name. Those not listed (the assembly: `cli`, `daemon`, `main`) may name all.
const ARROWS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("metrics", &[]),
    ("event", &[]),
    ("score", &["event"]),
    ("graph", &["event"]),
    ("features", &["graph", "event", "score"]),
    ("model", &["features", "graph", "event", "score"]),
    ("decision", &["event", "graph", "score"]),
    ("scoring", &["features", "model", "graph", "event", "score", "metrics", "clock"]),
    ("snapshot", &["graph", "event", "clock", "metrics"]),
    ("stream", &["event", "graph", "score", "scoring", "decision", "snapshot", "clock", "metrics"]),
    ("webhook", &["event", "stream", "clock", "metrics"]),
    ("train", &["snapshot", "features", "model", "graph", "event", "score", "scoring", "clock"]),
    ("generate", &["event"]),
    // `stream` for the defaults of the Kafka client and the list of its options that are ours, so that there is one of each.
    ("config", &["event", "graph", "stream"]),
    // `scoring` for its trait: a user's reasons and lists are computed for the answer, they are kept nowhere.
    ("api", &["event", "graph", "score", "scoring", "decision", "snapshot", "stream", "clock", "metrics"]),
];

struct SourceFile {
    /// Path below `src`, without extension: `stream/kafka/mod`.
    place: String,
    /// The code without comments and without its unit tests.
    code: String,
}

impl SourceFile {
    fn module(&self) -> &str {
        self.place.split('/').next().unwrap()
    }

    fn is_under(&self, place: &str) -> bool {
        self.place == place || self.place.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn files() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut pending = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let place = path.strip_prefix(&root).unwrap().with_extension("").to_string_lossy().replace('\\', "/");
                found.push(SourceFile { place, code: code_of(&std::fs::read_to_string(&path).unwrap()) });
            }
        }
    }
    assert!(found.len() > 30, "only {} source files were found", found.len());
    found
}

/// `source` without comments and without its unit tests, wherever in the file they stand.
fn code_of(source: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        let is_test_module =
            line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.trim_start().starts_with("mod "));
        if !is_test_module {
            kept.push(line.split("//").next().unwrap_or_default());
            continue;
        }
        // The sources are formatted: a module of the file's own level ends at a brace in the first column.
        if lines.next().is_some_and(|module| !module.ends_with(';')) {
            while lines.next().is_some_and(|inside| inside != "}") {}
        }
    }
    kept.join("\n")
}

fn is_word(letter: Option<char>) -> bool {
    letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
}

/// Whether `code` holds `name` as a whole path segment, followed by `::` or (in a `use`) by `;`, `,` or a brace.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let path_start = !is_word(before) && before != Some(':') && before != Some('.');
        path_start && !is_word(after.chars().next()) && (after.starts_with("::") || after.starts_with(';'))
    })
}

/// The modules of the crate that `code` names after `crate::`, in braces too.
fn modules_named(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, matched) in code.match_indices("crate::") {
        if is_word(code[..at].chars().next_back()) {
            continue;
        }
        let rest = &code[at + matched.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut word, mut first) = (1, String::new(), true);
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 1 && is_word(Some(letter)) && first {
                    word.push(letter);
                } else if depth == 1 && letter == ',' {
                    found.insert(std::mem::take(&mut word));
                    first = true;
                } else if !word.is_empty() {
                    first = false;
                }
                if depth == 0 {
                    break;
                }
            }
            found.insert(word);
        } else {
            found.insert(rest.chars().take_while(|letter| is_word(Some(*letter))).collect());
        }
    }
    found.retain(|name| name.chars().next().is_some_and(char::is_lowercase));
    found
}

#[test]
fn dependencies_stay_behind_their_walls() {
    let mut breaches = Vec::new();
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files() {
        for (dependency, places) in WALLS {
            if names(&file.code, dependency) {
                *used.entry(dependency).or_default() += 1;
                if !places.iter().any(|place| file.is_under(place)) {
                    breaches.push(format!("src/{}.rs names `{dependency}`, which only {places:?} may", file.place));
                }
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
    assert!(used.contains_key("clap") && used.contains_key("anyhow"), "the scan finds nothing any more: {used:?}");
}

#[test]
fn the_core_does_no_io_and_reads_no_clock() {
    let mut breaches = Vec::new();
    for file in files().iter().filter(|file| CORE.contains(&file.module())) {
        for forbidden in FORBIDDEN_IN_CORE {
            let (path, last) = forbidden.rsplit_once("::").map_or((*forbidden, ""), |(path, last)| (path, last));
            let named = if last.is_empty() { names(&file.code, path) } else { file.code.contains(forbidden) };
            if named {
                breaches.push(format!("src/{}.rs names `{forbidden}`", file.place));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn modules_import_only_along_the_arrows() {
    let mut breaches = Vec::new();
    let mut arrow_count = 0;
    for file in files() {
        let Some((module, allowed)) = ARROWS.iter().find(|(module, _)| *module == file.module()) else { continue };
        for named in modules_named(&file.code) {
            arrow_count += 1;
            if named != *module && !allowed.contains(&named.as_str()) {
                breaches.push(format!("src/{}.rs names `crate::{named}`", file.place));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
    assert!(arrow_count > 10, "only {arrow_count} arrows were found: the scan is broken");
}

#[test]
fn the_scan_reads_on_after_unit_tests() {
    let code = code_of(
        "use axum::A;\n#[cfg(test)]\nmod tests {\n    use fjall::B;\n}\nuse arrow::C;\n#[cfg(test)]\nmod more;\nuse candle_nn::D;\n",
    );
    for (dependency, expected) in [("axum", true), ("fjall", false), ("arrow", true), ("candle_nn", true)] {
        assert_eq!(names(&code, dependency), expected, "{dependency} in\n{code}");
    }
}

#[test]
fn the_scan_reads_paths_and_groups() {
    let code = code_of(
        "use crate::{event::{Event, View}, graph, score::Scored};\nlet x = crate::clock::now(); // crate::api\n",
    );
    let expected = ["clock", "event", "graph", "score"].map(str::to_owned);
    assert_eq!(modules_named(&code), BTreeSet::from(expected));
    assert!(names("use rdkafka::config;", "rdkafka") && names("use rdkafka;", "rdkafka"));
    assert!(!names("let rdkafka_options = 1;", "rdkafka") && !names("self.arrow::<u8>()", "arrow"));
}
