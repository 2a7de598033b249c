//! What a feature says of a user, as a sentence about what the user did: nobody outside the model knows feature names.

/// A series of a user's days, in the words its sentences are made of.
struct Series {
    /// Third person, past: what happened on an active day.
    did: &'static str,
    /// One such day, and several.
    day: &'static str,
    /// What lies between two of them.
    gap: &'static str,
    /// Single events of it.
    events: &'static str,
    /// What the events are of.
    names: &'static str,
}

fn series_of(name: &str) -> Option<(Series, &str)> {
    let (prefix, rest) = name.split_once('_')?;
    let [did, day, gap, events, names] = match prefix {
        "activity" => ["was active", "active days", "visits", "events", "products"],
        "click" => ["browsed", "days of browsing", "visits", "views and cart changes", "products looked at"],
        "search" => ["searched", "days with a search", "searches", "searches", "search terms"],
        "purchase" => ["bought", "days with a purchase", "purchases", "purchases", "products bought"],
        _ => return None,
    };
    Some((Series { did, day, gap, events, names }, rest))
}

/// One line about the user, for the feature `name` of this raw `value`; `None` means that the history is too short to tell.
pub fn factor_text(name: &str, value: Option<f32>) -> String {
    let Some(value) = value else { return format!("too little is known yet of: {}", spaced(name)) };
    let text = match series_of(name) {
        Some((series, measure)) => of_series(&series, measure, value),
        None => None,
    };
    text.or_else(|| of_user(name, value)).unwrap_or_else(|| format!("{}: {}", spaced(name), number(value)))
}

fn of_series(series: &Series, measure: &str, value: f32) -> Option<String> {
    let Series { did, day, gap, events, names } = series;
    let shown = number(value);
    Some(match measure {
        "recency" => format!("last {did} {}", ago(value)),
        "tenure" => format!("first {did} {}", ago(value)),
        "active_days_ever" => format!("{did} on {} so far", days(value)),
        "active_share" => format!("{did} on {} of all days so far", percent(value)),
        "gap_mean" => format!("{} between {gap} on average", days(value)),
        "gap_median" => format!("usually {} between {gap}", days(value)),
        "gap_deviation" => format!("the time between {gap} varies by {}", days(value)),
        "gap_max" => format!("never more than {} between {gap} before", days(value)),
        "gap_last" => format!("{} between the last two {gap}", days(value)),
        "gap_recent_mean" => format!("{} between the latest {gap} on average", days(value)),
        "gap_trend" => format!("the time between {gap} is {shown} times what it was on average"),
        "gap_regularity" => format!("the time between {gap} varies by {shown} times its average"),
        "silence_per_mean_gap" => format!("silent for {shown} times the average time between {gap}"),
        "silence_per_median_gap" => format!("silent for {shown} times the usual time between {gap}"),
        "silence_per_max_gap" => format!("silent for {shown} times the longest time between {gap} so far"),
        "gaps_longer_than_silence" => {
            format!("{} of the earlier times between {gap} were longer than the silence now", percent(value))
        }
        "gap_survival_churn" => {
            format!("{} of earlier silences this long ended within the churn horizon", percent(value))
        }
        "gap_survival_purchase" => {
            format!("{} of earlier silences this long ended within the purchase horizon", percent(value))
        }
        "alive" => format!("the rhythm of {gap} says {} that the user is still there", percent(value)),
        "bgnbd_silent_churn" => {
            format!("the rhythm of {gap} says {} that none comes within the churn horizon", percent(value))
        }
        "bgnbd_silent_purchase" => {
            format!("the rhythm of {gap} says {} that none comes within the purchase horizon", percent(value))
        }
        "bgnbd_expected_churn" => format!("the rhythm of {gap} promises {shown} {day} within the churn horizon"),
        "bgnbd_expected_purchase" => format!("the rhythm of {gap} promises {shown} {day} within the purchase horizon"),
        "events_ever" => format!("{shown} {events} so far"),
        "events_per_active_day" => format!("{shown} {events} a day when active"),
        "lines_per_event" => format!("{shown} products in one of the {events} on average"),
        "names" => format!("{shown} different {names} so far"),
        "categories" => format!("{names} of {shown} categories"),
        "top_share" => format!("{} of the interest is in one of the {names}", percent(value)),
        "concentration" => format!("interest in {names} is concentrated by {shown} (1 is a single one)"),
        "decayed_count" => format!("{shown} {events} lately, the newest counting most"),
        "repeat_share" => format!("{} of the {names} came more than once", percent(value)),
        "new_names_30d" => format!("{shown} {names} for the first time in the last 30 days"),
        "recent_names_30d" => format!("{shown} different {names} in the last 30 days"),
        "habits" => format!("{shown} {names} again and again"),
        "habits_due" => format!("{shown} of the regular {names} are due again"),
        "habits_overdue" => format!("{shown} of the regular {names} are overdue"),
        "habits_lost" => format!("{} of the regular {names} were given up", percent(value)),
        "habits_expected" => format!("{shown} of the regular {names} are expected soon"),
        _ => return of_window(series, measure, value),
    })
}

/// Measures with a number in their name.
fn of_window(series: &Series, measure: &str, value: f32) -> Option<String> {
    let Series { did, events, .. } = series;
    let number_in = |prefix: &str, suffix: &str| {
        let inside = measure.strip_prefix(prefix)?.strip_suffix(suffix)?;
        inside.parse::<u32>().ok()
    };
    if let Some(window) = number_in("active_days_", "d") {
        return Some(format!("{did} on {} of the last {window} days", number(value)));
    }
    if let Some(half_life) = number_in("decayed_days_", "d") {
        return Some(format!("{did} on {} lately, the last {half_life} days counting most", days(value)));
    }
    if let Some(weeks) = number_in("events_", "w") {
        return Some(format!("{events} in {}: {}", last_weeks(weeks), number(value)));
    }
    for horizon in ["churn", "purchase"] {
        if let Some(window) = number_in(&format!("active_days_{horizon}_window_"), "") {
            let when = match window {
                0 => format!("in the last {horizon} horizon"),
                1 => format!("one {horizon} horizon earlier"),
                earlier => format!("{earlier} {horizon} horizons earlier"),
            };
            return Some(format!("{did} on {} {when}", days(value)));
        }
    }
    None
}

/// Measures of the user as a whole.
fn of_user(name: &str, value: f32) -> Option<String> {
    const WEEKDAYS: [&str; 7] = ["Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays"];
    const DAYPARTS: [&str; 4] = ["at night", "in the morning", "in the afternoon", "in the evening"];
    let shown = number(value);
    if let Some(weeks) = name.strip_prefix("spend_").and_then(|rest| rest.strip_suffix('w')?.parse().ok()) {
        return Some(format!("spent {} in {}", money(value), last_weeks(weeks)));
    }
    if let Some(weeks) = name.strip_prefix("spend_trend_").and_then(|rest| rest.strip_suffix('w')) {
        return Some(format!("spent {} times as much in {weeks} weeks as in those before", number(value.exp())));
    }
    if let Some(kind) = name.strip_prefix("kind_share_") {
        return Some(format!("{} of the latest events are of kind {}", percent(value), spaced(kind)));
    }
    if let Some(day) = name.strip_prefix("weekday_share_").and_then(|day| WEEKDAYS.get(day.parse::<usize>().ok()?)) {
        return Some(format!("{} of the activity falls on {day}", percent(value)));
    }
    if let Some(part) = name.strip_prefix("daypart_share_").and_then(|part| DAYPARTS.get(part.parse::<usize>().ok()?)) {
        return Some(format!("{} of the activity is {part} (UTC)", percent(value)));
    }
    if let Some(window) = name.strip_prefix("recent_sessions_").and_then(|rest| rest.strip_suffix('d')) {
        return Some(format!("{shown} visits in the last {window} days"));
    }
    if let Some(what) = name.strip_suffix("_since_purchase") {
        return Some(format!("{shown} {} since the last purchase", spaced(what)));
    }
    Some(match name {
        "spend_ever" => format!("spent {} so far", money(value)),
        "spend_per_active_day" => format!("spends {} a day when buying", money(value)),
        "last_basket" => format!("spent {} at the last purchase", money(value)),
        "last_basket_lines" => format!("bought {shown} products at the last purchase"),
        "last_basket_against_mean" => format!("the last purchase was {shown} times the average one"),
        "value_per_unit" => format!("pays {} for a product on average", money(value)),
        "weekday_share_next_3" => format!("{} of the activity falls on the three weekdays to come", percent(value)),
        "last_session_events" => format!("{shown} events in the last visit"),
        "last_session_minutes" => format!("the last visit took {shown} minutes"),
        _ => return None,
    })
}

fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

/// At most two decimals, one from 10 and none from 100, and no sign on a zero; the exact value stands beside the text.
fn number(value: f32) -> String {
    let scale = match value.abs() {
        small if small < 10.0 => 100.0,
        middle if middle < 100.0 => 10.0,
        _ => 1.0,
    };
    format!("{}", (f64::from(value) * scale).round() / scale + 0.0)
}

fn percent(share: f32) -> String {
    format!("{}%", (f64::from(share) * 100.0).round() + 0.0)
}

/// Minor units in the currency's own.
fn money(minor: f32) -> String {
    format!("{:.2}", f64::from(minor) / 100.0 + 0.0)
}

fn days(count: f32) -> String {
    let shown = number(count);
    if shown == "1" { "1 day".to_owned() } else { format!("{shown} days") }
}

fn ago(count: f32) -> String {
    if count < 1.0 { "less than a day ago".to_owned() } else { format!("{} ago", days(count)) }
}

fn last_weeks(weeks: u32) -> String {
    if weeks == 1 { "the last week".to_owned() } else { format!("the last {weeks} weeks") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: f32, expected: &str) {
        assert_eq!(factor_text(name, Some(value)), expected, "{name}");
    }

    #[test]
    fn features_are_sentences_about_the_user() {
        check("purchase_recency", 23.04, "last bought 23 days ago");
        check("activity_recency", 0.3, "last was active less than a day ago");
        check("click_active_days_7d", 3.0, "browsed on 3 of the last 7 days");
        check("search_decayed_days_14d", 1.0, "searched on 1 day lately, the last 14 days counting most");
        check("purchase_silence_per_median_gap", 2.5, "silent for 2.5 times the usual time between purchases");
        check("activity_active_days_churn_window_0", 4.0, "was active on 4 days in the last churn horizon");
        check("purchase_active_days_purchase_window_2", 0.0, "bought on 0 days 2 purchase horizons earlier");
        check("purchase_events_1w", 1.0, "purchases in the last week: 1");
        check("spend_4w", 12_345.0, "spent 123.45 in the last 4 weeks");
        check("spend_trend_8w", 0.0, "spent 1 times as much in 8 weeks as in those before");
        check("weekday_share_6", 0.25, "25% of the activity falls on Sundays");
        check("cart_adds_since_purchase", -0.0, "0 cart adds since the last purchase");
        check("a_new_feature", 1_234.567, "a new feature: 1235");
        assert_eq!(factor_text("click_gap_mean", None), "too little is known yet of: click gap mean");
    }

    #[test]
    fn every_feature_of_the_shipped_bundle_has_its_sentence() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/default/features.json");
        let spec: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let names: Vec<&str> =
            spec["features"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        let bare: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| factor_text(name, Some(0.5)).starts_with(&format!("{}: ", spaced(name))))
            .collect();
        assert!(names.len() > 100 && bare.is_empty(), "without a sentence: {bare:?}");
    }
}
