//! The reference pages are made from the source, so they cannot fall behind it. `UPDATE_DOCS=1 cargo test reference`
//! writes them again.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use undercurrent::{config::Config, metrics};

/// Compares the page at `path` with `expected`, or writes it when `UPDATE_DOCS` is set.
fn check(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is not what the source says; run `UPDATE_DOCS=1 cargo test reference`");
}

#[test]
fn every_metric_is_in_the_reference() {
    let mut page = String::from(
        "# Metrics\n\nServed at `GET /metrics` in the Prometheus text format. Made from `src/metrics.rs`; a test keeps both equal.\n\n\
         | name | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in metrics::ALL {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        writeln!(page, "| `{}` | {} | {labels} | {} |", metric.name, metric.kind.name(), metric.meaning).unwrap();
    }
    check("docs/metrics.md", &page);
}

/// A public field of a configuration struct with its documentation.
struct Field {
    name: String,
    doc: String,
    kind: String,
}

/// The public structs of `source` with their documentation and fields.
fn structs(source: &str) -> BTreeMap<String, (String, Vec<Field>)> {
    let mut found: BTreeMap<String, (String, Vec<Field>)> = BTreeMap::new();
    let (mut doc, mut current) = (Vec::new(), None::<String>);
    for line in source.lines() {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim().to_owned());
        } else if let Some(rest) = line.strip_prefix("pub struct ") {
            let name: String = rest.chars().take_while(|letter| letter.is_alphanumeric()).collect();
            found.insert(name.clone(), (doc.join(" "), Vec::new()));
            current = Some(name);
            doc.clear();
        } else if line == "}" {
            current = None;
            doc.clear();
        } else if let (Some(name), Some((field, kind))) =
            (&current, line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")))
        {
            let field =
                Field { name: field.to_owned(), doc: doc.join(" "), kind: kind.trim_end_matches(',').to_owned() };
            found.get_mut(name).unwrap().1.push(field);
            doc.clear();
        } else if !line.starts_with("#[") {
            doc.clear();
        }
    }
    found
}

#[test]
fn every_key_is_in_the_reference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<_> =
        std::fs::read_dir(root.join("config")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.push(root.join("config.rs"));
    let source: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let structs = structs(&source);
    let defaults: toml::Table = Config::default().to_toml().unwrap().parse().unwrap();

    let mut page = String::from(
        "# Configuration\n\nTOML. Defaults, then the file (`--config`, or `undercurrent.toml` in the working folder), then the environment\n\
         (`UNDERCURRENT__STREAM__LINGER_MS=20`), then `--set stream.linger_ms=20`. An unknown key is an error. `undercurrent check` names\n\
         everything that is wrong; `undercurrent config print` shows the result. Made from `src/config`; a test keeps both equal.\n",
    );
    let mut count = 0;
    for section in &structs["Config"].1 {
        writeln!(
            page,
            "\n## `[{}]`\n\n{}\n\n| key | default | what it does |\n|---|---|---|",
            section.name, section.doc
        )
        .unwrap();
        for field in &structs[&section.kind].1 {
            let default = defaults[&section.name].get(&field.name);
            let default =
                default.map_or_else(|| "none".to_owned(), |value| format!("`{}`", value.to_string().replace('\n', "")));
            assert!(!field.doc.is_empty(), "{}.{} has no documentation", section.name, field.name);
            assert!(
                field.kind.starts_with("Option") || default != "none",
                "{}.{} has neither a default nor the right to have none",
                section.name,
                field.name
            );
            writeln!(page, "| `{}` | {default} | {} |", field.name, field.doc).unwrap();
            count += 1;
        }
    }
    assert!(count > 70, "only {count} keys were found: the reader of the source is broken");
    check("docs/configuration.md", &page);
}
