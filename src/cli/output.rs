//! The only place that writes to standard output and standard error by hand.

use std::io::Write;

use serde_json::Value;

use crate::stream::OutputTopic;

/// Writes `text` to standard output.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())
}

/// Writes one line to standard output.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes `content` to standard output.
pub(super) fn bytes(content: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(content)?;
    stdout.flush()?;
    Ok(())
}

/// Writes a line about progress to standard error. A standard error that is closed leaves nobody to tell.
pub(super) fn note(text: &str) {
    let written = writeln!(std::io::stderr(), "{text}");
    drop(written);
}

/// Writes an error to standard error. A standard error that is closed leaves nobody to tell.
pub(super) fn error(text: &str) {
    let written = writeln!(std::io::stderr(), "error: {text}");
    drop(written);
}

/// One output record in one readable line: the fields a person looks for, then nothing else.
pub(super) fn record(topic: OutputTopic, json: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(json) else { return format!("{} {json}", topic.default_name()) };
    let text = |key: &str| value[key].as_str().unwrap_or("?").to_owned();
    let number = |key: &str| value[key].as_f64().map_or_else(|| "?".to_owned(), |number| format!("{number:.2}"));
    match topic {
        OutputTopic::Scores => format!(
            "score   {} user {} leaves {} buys {}",
            text("scored_at"),
            text("user_id"),
            number("churn_probability"),
            number("purchase_probability")
        ),
        OutputTopic::ChurnAlerts => format!(
            "alert   {} user {} {} at {}{}",
            text("raised_at"),
            text("user_id"),
            text("transition"),
            number("churn_probability"),
            reason(&value)
        ),
        OutputTopic::AlertOutcomes => format!(
            "outcome {} user {} {}: {} at {}, {}",
            text("settled_at"),
            text("user_id"),
            text("outcome"),
            text("transition"),
            number("churn_probability"),
            what_became(&value)
        ),
        OutputTopic::Recommendations => {
            format!("next    {} user {}: {}", text("scored_at"), text("user_id"), names(&value["items"]))
        }
        OutputTopic::ShadowScores => {
            let said = |who: &str| {
                let number = |key: &str| {
                    value[who][key].as_f64().map_or_else(|| "?".to_owned(), |number| format!("{number:.2}"))
                };
                format!("leaves {} buys {}", number("churn_probability"), number("purchase_probability"))
            };
            let (user, shadow, champion) = (text("user_id"), said("challenger"), said("champion"));
            format!("shadow  {} user {user} {shadow}; the champion: {champion}", text("scored_at"))
        }
        OutputTopic::DeadLetters => format!("refused {} {}", text("reason"), json),
    }
}

/// Why an alert was right or wrong, in words.
fn what_became(outcome: &Value) -> String {
    let days = |key: &str| outcome[key].as_f64().map_or_else(|| "?".to_owned(), |days| format!("{days:.1}"));
    match outcome["outcome"].as_str() {
        Some("right") => format!("told {} days ahead", days("days_of_warning")),
        Some("wrong") => format!("back after {} days", days("days_to_return")),
        _ => "closed before its horizon had passed".to_owned(),
    }
}

/// The strongest reason that speaks for what an alert says, in words: what raised the risk, or lowered it of one who recovered.
fn reason(alert: &Value) -> String {
    let is_lower = alert["transition"] == "recovered";
    let speaks_for = |reason: &&Value| reason["effect"].as_f64().is_some_and(|effect| (effect < 0.0) == is_lower);
    let strongest = alert["reasons"].as_array().and_then(|reasons| reasons.iter().find(speaks_for));
    strongest.and_then(|reason| reason["text"].as_str()).map_or_else(String::new, |text| format!(": {text}"))
}

/// The first three items of a list, by title where there is one.
fn names(items: &Value) -> String {
    let name = |item: &Value| item["title"].as_str().or_else(|| item["item_id"].as_str()).unwrap_or("?").to_owned();
    items.as_array().map_or_else(String::new, |items| items.iter().take(3).map(name).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_how_early_it_was_or_when_the_user_came_back() {
        let shown = |outcome: &str| {
            let outcome = serde_json::json!({
                "settled_at": "now", "user_id": "u", "outcome": outcome, "transition": "entered", "churn_probability": 0.5,
                "days_of_warning": 12.25, "days_to_return": 3.5,
            });
            record(OutputTopic::AlertOutcomes, &outcome.to_string())
        };
        assert_eq!(shown("right"), "outcome now user u right: entered at 0.50, told 12.2 days ahead");
        assert_eq!(shown("wrong"), "outcome now user u wrong: entered at 0.50, back after 3.5 days");
        assert!(shown("unknown").ends_with("before its horizon had passed"));
    }

    #[test]
    fn an_alert_is_shown_with_a_reason_that_speaks_for_it() {
        let shown = |transition: &str| {
            let alert = serde_json::json!({
                "raised_at": "now", "user_id": "u", "transition": transition, "churn_probability": 0.5,
                "reasons": [{ "effect": -0.9, "text": "came often" }, { "effect": 0.4, "text": "fell silent" }],
            });
            record(OutputTopic::ChurnAlerts, &alert.to_string())
        };
        assert_eq!(shown("entered"), "alert   now user u entered at 0.50: fell silent");
        assert_eq!(shown("escalated"), "alert   now user u escalated at 0.50: fell silent");
        assert_eq!(shown("recovered"), "alert   now user u recovered at 0.50: came often");
    }
}
