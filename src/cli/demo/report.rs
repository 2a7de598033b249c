//! The table at the end of the demo.

use std::{collections::HashMap, fmt::Write};

use super::{
    history::{History, days},
    settle::{AlertQuality, Said, Settlement},
    watch::TRANSITIONS,
};
use crate::{
    daemon::threads::Totals,
    event::{DAY_MS, format_time_ms},
};

/// Reads one figure of a quality as text.
type Read = fn(&AlertQuality) -> String;

/// Everything the table is made of.
pub(super) struct Figures<'a> {
    pub(super) settlement: Settlement,
    pub(super) history: &'a History,
    pub(super) said: &'a HashMap<String, Said>,
    pub(super) transitions: [u64; 3],
    pub(super) streamed: Totals,
    pub(super) stream_seconds: f64,
    pub(super) first_alert_seconds: Option<f64>,
    pub(super) total_seconds: f64,
    pub(super) interrupted: bool,
}

/// The table as text.
pub(super) fn table(figures: &Figures<'_>) -> String {
    let Figures { settlement, history, said, .. } = figures;
    let model = settlement.alerts(history, said);
    let silence_ms = settlement.silence_for(history, model.raised);
    let rule = settlement.recency_rule(history, silence_ms);
    let rule_name = format!("{} days of silence", silence_ms / DAY_MS);
    let lists = settlement.lists(history, said);
    let mut text = String::new();
    let mut line = |name: &str, model: &str, rule: &str| {
        // Writing to a string cannot fail.
        _ = writeln!(text, "{name:<66} {model:>16} {rule:>20}");
    };
    if figures.interrupted {
        line("(stopped early: settled up to where the file was played)", "", "");
    }
    line(
        &format!(
            "{} to {}, horizon {:.0} days",
            date(settlement.start_ms),
            date(history.end_ms),
            days(settlement.horizon_ms)
        ),
        "model",
        &rule_name,
    );
    let row = |read: Read| (read(&model), read(&rule));
    let rows: [(&str, Read); 7] = [
        ("alerts raised", |quality| quality.raised.to_string()),
        ("  (left out: dated before the start, in the training months)", |quality| quality.before_start.to_string()),
        ("  of them old enough to settle", |quality| quality.settled.to_string()),
        ("  of those truly gone for the horizon (precision)", |quality| share(quality.gone, quality.settled)),
        ("departures (silences of the whole horizon; a user may have several)", |quality| quality.left.to_string()),
        ("  of them warned before", |quality| share(quality.warned, quality.left)),
        ("  days ahead (median)", |quality| {
            quality.days_ahead.map_or_else(|| "-".to_owned(), |days| format!("{days:.1}"))
        }),
    ];
    for (name, read) in rows {
        let (model, rule) = row(read);
        line(name, &model, &rule);
    }
    line("the rule's days of silence are chosen in hindsight, for about as many alerts", "", "");
    for (name, count) in TRANSITIONS.iter().zip(figures.transitions).skip(1) {
        line(&format!("alerts that a user {name}"), &count.to_string(), "-");
    }
    line("", "", "");
    line("recommendations", "model", "20 most popular");
    line("baskets after a list", &lists.baskets.to_string(), &lists.baskets.to_string());
    line(
        "  with an item of the newest list (hit rate)",
        &share(lists.hits, lists.baskets),
        &share(lists.popular_hits, lists.baskets),
    );
    line("baskets with an item new to the user", &lists.new_baskets.to_string(), "");
    line("  with a new item that the discoveries held", &share(lists.discovery_hits, lists.new_baskets), "-");
    line("", "", "");
    speed(figures, &mut line);
    text
}

fn speed(figures: &Figures<'_>, line: &mut impl FnMut(&str, &str, &str)) {
    #[expect(clippy::cast_precision_loss, reason = "rates for people")]
    let rate = |count: u64| format!("{:.0}", count as f64 / figures.stream_seconds.max(0.001));
    line("events streamed", &figures.streamed.record_count.to_string(), "");
    line("events a second", &rate(figures.streamed.record_count), "");
    line("scores written", &figures.streamed.score_count.to_string(), "");
    line("scores a second", &rate(figures.streamed.score_count), "");
    let first = figures.first_alert_seconds.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds:.1} s"));
    line("time to the first alert", &first, "");
    line("whole demo", &format!("{:.1} s", figures.total_seconds), "");
}

fn date(time_ms: i64) -> String {
    format_time_ms(time_ms).chars().take(10).collect()
}

#[expect(clippy::cast_precision_loss, reason = "shares for people")]
fn share(part: usize, whole: usize) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{part} ({:.1} %)", 100.0 * part as f64 / whole as f64) }
}
