//! The table of faults names tests that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

const PAGE: &str = include_str!("../../docs/faults.md");
/// Faults that the project set out with; further rows are faults found since.
const FIRST_FAULTS: u32 = 37;

/// Names of all test functions below `folder`.
fn collect_tests(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(tests_in(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn tests_in(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if is_test && !line.starts_with("#[") && !line.starts_with("//") {
            let rest = line.strip_prefix("async ").unwrap_or(line);
            found.extend(rest.strip_prefix("fn ").and_then(|rest| rest.split('(').next()).map(str::to_owned));
            is_test = false;
        }
    }
    found
}

/// The rows of all tables, by number: the cells after it.
fn rows() -> BTreeMap<u32, Vec<&'static str>> {
    let mut rows = BTreeMap::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| ")) {
        let mut cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Ok(number) = cells[0].parse() else { continue };
        cells.remove(0);
        assert!(rows.insert(number, cells).is_none(), "row {number} is there twice");
    }
    rows
}

#[test]
fn every_fault_has_a_row_and_every_row_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    collect_tests(&root.join("src"), &mut known);
    collect_tests(&root.join("tests"), &mut known);
    assert!(known.len() > 200, "only {} tests were found", known.len());
    let rows = rows();
    for number in 1..=FIRST_FAULTS {
        assert!(rows.contains_key(&number), "fault {number} has no row");
    }
    for (number, cells) in rows {
        let [fault, outcome, tests, places] = cells[..] else { panic!("row {number} has {} cells", cells.len()) };
        assert!(!fault.is_empty() && !outcome.is_empty() && !places.is_empty(), "row {number} has an empty cell");
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty() || tests == "not yet", "row {number} names no test and does not say `not yet`");
        for name in named {
            let exists = if name.contains('/') {
                root.join(name.split(' ').next().unwrap()).exists()
            } else {
                known.contains(name)
            };
            assert!(exists, "row {number} names `{name}`, which does not exist");
        }
    }
}

#[test]
fn test_functions_are_told_from_others() {
    let source =
        "#[test]\n#[cfg(unix)]\n// why\nfn one() {\nfn two() {\n#[tokio::test(flavor = \"x\")]\nasync fn three() {\n";
    assert_eq!(tests_in(source), ["one", "three"]);
}
