//! `undercurrent dead-letters` with the real binary on an embedded log.

use std::sync::Arc;

use serde_json::Value;
use undercurrent::{
    clock::SystemClock,
    event::View,
    stream::embedded::{EmbeddedLog, EmbeddedParams, NewRecord},
};

use crate::process::Place;

const EVENT_MS: i64 = 1_700_000_000_000;

fn append(place: &Place, records: &[(View, &str, &[u8])]) {
    let log = EmbeddedLog::open(EmbeddedParams::at(place.log()), Arc::new(SystemClock)).unwrap();
    for (view, key, payload) in records {
        let record = NewRecord { view: *view, key: key.as_bytes(), payload, event_id: None };
        log.append_blocking(&[record]).unwrap();
    }
}

/// Runs the daemon until `count` records are committed.
fn digest(place: &Place, count: i64) {
    let mut daemon = place.start();
    daemon.wait_until(|daemon| daemon.committed() == Some(count));
    assert!(daemon.stop().success());
}

fn event(name: &str, id: &str, item: &str) -> String {
    format!(
        r#"{{"event":"{name}","event_id":"{id}","user_id":"u1","timestamp":{EVENT_MS},"product_id":"{item}","price":1,"quantity":1}}"#
    )
}

fn raw(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let printed = place.print(&[&["dead-letters", "list", "--raw"], arguments].concat());
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn letters_are_listed_shown_and_sent_again_once() {
    let mut settings: Vec<(&str, &dyn std::fmt::Display)> =
        vec![("scoring.scorer", &"recency"), ("snapshot.enabled", &false), ("stream.linger_ms", &1)];
    let place = Place::new(&settings);
    let good = event("view", "e1", "tea");
    let unknown = event("clickout", "e2", "milk");
    let misplaced = event("purchase", "e3", "bread");
    let records: [(View, &str, &[u8]); 5] = [
        (View::Click, "u1", good.as_bytes()),
        (View::Click, "u1", unknown.as_bytes()),
        (View::Click, "u1", misplaced.as_bytes()),
        (View::Click, "u1", &[0xff, 0x00, b'x']),
        (View::Search, "u1", b"{not json"),
    ];
    append(&place, &records);
    digest(&place, 5);

    // Filters.
    assert_eq!(raw(&place, &[]).len(), 4);
    let of = |arguments: &[&str]| -> Vec<String> {
        raw(&place, arguments).iter().map(|letter| letter["reason"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of(&["--reason", "unknown_event"]), ["unknown_event"]);
    assert_eq!(of(&["--reason", "unknown_event", "--reason", "invalid_json"]).len(), 2);
    assert_eq!(of(&["--until", "2020-01-01"]).len(), 0);
    assert_eq!(of(&["--since", "2020-01-01"]).len(), 4);
    assert_eq!(of(&["--offsets", "1..3"]).len(), 2);
    assert_eq!(of(&["-n", "1"]).len(), 1);

    // One of them, with its bytes.
    let binary = raw(&place, &["--reason", "invalid_utf8"]).remove(0);
    let shown = place.print(&["dead-letters", "show", binary["dead_letter_id"].as_str().unwrap()]);
    assert!(shown.contains("00000000  ff 00 78") && shown.contains("\"reason\": \"invalid_utf8\""), "{shown}");
    assert_eq!(place.run(&["dead-letters", "show", "9/9"]).status.code(), Some(1));
    assert_eq!(place.run(&["dead-letters", "redrive"]).status.code(), Some(1), "all of them must be said");

    // Nothing would be taken but the record that stood in the wrong topic, and a dry run sends nothing.
    let dry = place.print(&["dead-letters", "redrive", "--all", "--dry-run"]);
    assert!(dry.contains("1 records would be sent") && dry.contains("left 1: would be refused again as unknown_event"));
    // The name is mapped now.
    settings.push(("events.mapping.clickout", &"view"));
    let sent = place.print(&["dead-letters", "redrive", "--all", "--set", "events.mapping.clickout=view"]);
    assert!(sent.starts_with("sent 2 records again, 0 had been sent already"), "{sent}");
    let again = place.print(&["dead-letters", "redrive", "--all", "--set", "events.mapping.clickout=view"]);
    assert!(again.starts_with("sent 0 records again, 2 had been sent already"), "{again}");

    // The daemon of the old configuration refuses the one again, as the same dead letter; the other one is folded.
    digest(&place, 7);
    let refused = raw(&place, &["--reason", "unknown_event"]);
    assert_eq!(refused.len(), 2);
    for field in ["dead_letter_id", "topic", "partition", "offset", "payload"] {
        assert_eq!(refused[0][field], refused[1][field], "{field}");
    }
    assert!(refused[0]["redriven_as"].is_null() && refused[1]["redriven_as"]["offset"].as_i64().unwrap() > 1);
    assert_eq!(of(&["--reason", "wrong_topic"]).len(), 1);

    // Sent again after that, by its newest letter; folded once, though it went into the log twice.
    let configured: Vec<&str> = vec!["--reason", "unknown_event", "--set", "events.mapping.clickout=view"];
    let sent = place.print(&[&["dead-letters", "redrive"], &configured[..]].concat());
    assert!(sent.starts_with("sent 1 records again, 0 had been sent already"), "{sent}");
    append(&place, &[(View::Click, "u1", unknown.as_bytes())]);
    let place = place.with(&settings);
    let mut daemon = place.start();
    daemon.wait_until(|daemon| daemon.committed() == Some(9));
    let user = daemon.get("/v1/users/u1").unwrap();
    assert!(daemon.stop().success());
    let counts = |view: &str| user["graph"]["views"][view]["event_count"].as_i64().unwrap();
    assert_eq!((counts("click"), counts("purchase")), (2, 1), "{user:#}");
    assert_eq!(raw(&place, &[]).len(), 5, "nothing was refused again");

    // What cannot be taken is sent when forced, and comes back as the same letter.
    let sent = place.print(&["dead-letters", "redrive", "--reason", "invalid_json", "--force"]);
    assert!(sent.starts_with("sent 1 records again"), "{sent}");
    digest(&place, 10);
    let broken = raw(&place, &["--reason", "invalid_json"]);
    assert_eq!(broken.len(), 2);
    assert_eq!(broken[0]["dead_letter_id"], broken[1]["dead_letter_id"]);
    assert_eq!((&broken[1]["topic"], &broken[1]["offset"]), (&Value::from("searches"), &Value::from(0)));
}
