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
            reasons(&value["reasons"])
        ),
        OutputTopic::Recommendations => {
            format!("next    {} user {}: {}", text("scored_at"), text("user_id"), names(&value["items"]))
        }
        OutputTopic::DeadLetters => format!("refused {} {}", text("reason"), json),
    }
}

/// The strongest reason of an alert, in words.
fn reasons(reasons: &Value) -> String {
    let first = reasons.as_array().and_then(|reasons| reasons.first());
    first.and_then(|reason| reason["text"].as_str()).map_or_else(String::new, |text| format!(": {text}"))
}

/// The first three items of a list, by title where there is one.
fn names(items: &Value) -> String {
    let name = |item: &Value| item["title"].as_str().or_else(|| item["item_id"].as_str()).unwrap_or("?").to_owned();
    items.as_array().map_or_else(String::new, |items| items.iter().take(3).map(name).collect::<Vec<_>>().join(", "))
}
