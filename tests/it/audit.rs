//! `undercurrent audit` on an embedded log whose daemon was killed again and again.

use std::{fmt::Write, path::Path};

use crate::process::Place;

/// Events of sixty shoppers over eighty days: some come every few days, some fall silent, some leave; now and then an event
/// is sent twice, or is one that no decoder takes.
pub(crate) fn events(lines: std::ops::Range<u32>) -> String {
    let mut text = String::new();
    for number in lines {
        let user = number * 7 % 60;
        let day = number / 50;
        // A third of the users leaves on a day of their own.
        if user % 3 == 0 && day > user {
            continue;
        }
        let time_ms = 1_700_000_000_000_i64 + i64::from(day) * 86_400_000 + i64::from(number % 50) * 600_000;
        let (event, field) = match number % 5 {
            0 => ("purchase", format!(r#""product_id":"i{}","price":{}.5,"quantity":1"#, number % 13, number % 9)),
            1 => ("search", format!(r#""query":"tea {}""#, number % 4)),
            _ => ("view", format!(r#""product_id":"i{}","category":"c{}""#, number % 17, number % 3)),
        };
        let id = if number % 41 == 0 { number.saturating_sub(60) } else { number };
        writeln!(text, r#"{{"event":"{event}","event_id":"{id}","user_id":"u{user}","timestamp":{time_ms},{field}}}"#)
            .unwrap();
    }
    text
}

#[test]
fn scores_of_a_daemon_that_was_killed_come_out_again_bit_for_bit() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let place = Place::new(&[
        ("scoring.models", &models.display()),
        ("scoring.workers", &1),
        // Reasons are asked for alerts only, and cost tens of scores each: here it is about scores.
        ("decision.enter_threshold", &1),
        ("snapshot.interval_s", &1),
        ("stream.linger_ms", &1),
        ("stream.max_records", &100),
        // History: event time moves with the events and not with the wall clock.
        ("stream.live_grace_ms", &315_576_000_000_i64),
    ]);
    let total = 4_000;
    let mut accepted = 0;
    for part in 0..4 {
        let mut daemon = place.start();
        daemon.wait_until(|daemon| daemon.get("/livez").is_some());
        let before = daemon.committed().unwrap_or(0);
        accepted += daemon.post_events(&events(part * total / 4..(part + 1) * total / 4));
        // Killed in the middle of it.
        daemon.wait_until(|daemon| daemon.committed().is_some_and(|committed| committed > before + 200));
        daemon.kill();
    }
    let mut daemon = place.start();
    daemon.wait_until(|daemon| daemon.committed() == Some(accepted));
    assert!(daemon.stop().success());

    let printed = place.print(&["audit", "--sample", "200", "--seed", "7"]);
    let summary = printed.lines().last().unwrap();
    assert_eq!(summary, "200 scores audited, 0 differ", "{printed}");
    assert_eq!(printed.matches("reproduced bit for bit: ").count(), 200);
    // Silent users were scored too, at moments without an event of theirs.
    let scores = place.print(&["tail", "--topic", "scores", "--raw"]);
    let scores: Vec<serde_json::Value> = scores.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let silent = scores.iter().filter(|score| score["scored_at"] != score["event_time"]).count();
    assert!(silent > 0 && silent < scores.len(), "{silent} of {}", scores.len());

    // One by its id, and one that was tampered with.
    let score = &scores[scores.len() / 2];
    let id = score["score_id"].as_str().unwrap();
    assert!(place.print(&["audit", id]).starts_with(&format!("reproduced bit for bit: {id} of user u")));
    let pattern = "\"churn_probability\":0.";
    let forged = scores.iter().map(ToString::to_string).find(|score| score.contains(pattern)).unwrap();
    let forged = forged.replacen(pattern, "\"churn_probability\":0.0", 1);
    let file = place.path().join("forged.json");
    std::fs::write(&file, forged).unwrap();
    let output = place.run(&["audit", "--record", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("differs in churn_probability: written 0.0"), "{said}");
}
