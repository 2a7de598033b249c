//! `undercurrent verify-features` on users who come, fall silent and leave, with repeated and refused events among theirs.

use std::path::Path;

use crate::{audit::events, process::Place};

#[test]
fn serving_equals_training_and_another_fold_is_noticed() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let place = Place::new(&[
        ("scoring.models", &models.display()),
        ("scoring.workers", &1),
        ("events.activity", &r#"["purchase", "view"]"#),
    ]);
    let file = place.path().join("events.jsonl");
    std::fs::write(&file, events(0..3_000)).unwrap();
    let arguments = [
        &["verify-features", "--activity", "purchase,view", "--buy", "purchase", "--users", "40"][..],
        &["--history-days", "90", "--churn-days", "30", "--purchase-days", "7", "--events", file.to_str().unwrap()],
    ]
    .concat();
    let printed = place.print(&arguments);
    assert!(printed.starts_with("40 users of model default-"), "{printed}");
    assert!(printed.contains("features equal bit for bit; members and scores within"), "{printed}");
    let records: Vec<usize> = printed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(records[1] > 1_000 && records[2] >= 2, "records, and snapshots of both partitions: {printed}");

    // A daemon that is not configured as the bundle was trained.
    for (key, value, feature) in
        [("graph.ring_capacity", "16", "feature `"), ("events.activity", r#"["purchase"]"#, "feature `activity_")]
    {
        let place = Place::new(&[
            ("scoring.models", &models.display()),
            ("scoring.workers", &1),
            ("events.activity", &r#"["purchase", "view"]"#),
            (key, &value),
        ]);
        let output = place.run(&arguments);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{key}: {printed}");
        assert!(printed.contains(feature) && printed.contains("differs: the daemon has"), "{key}: {printed}");
    }
}
