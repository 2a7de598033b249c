//! Rules of what goes out and in besides the stream: HTTP, the webhook, log lines, the end.

use tracing_subscriber::EnvFilter;
use url::Url;

use super::Report;
use crate::config::Config;

pub(super) fn http(config: &Config, report: &mut Report) {
    let http = &config.http;
    let has_token = http.token_file.is_some() || http.token_variable.is_some();
    report.require(
        !http.enabled || http.listen.ip().is_loopback() || has_token || http.allow_without_token,
        "http.listen",
        "other machines reach this address, so it needs `http.token_file` or `http.token_variable` (or, where something else \
         keeps strangers away, `http.allow_without_token`)",
        http.listen,
    );
    one_place(report, "http.token", http.token_file.is_some(), http.token_variable.as_deref());
    report.require(
        http.request_timeout_ms >= 1,
        "http.request_timeout_ms",
        "must be at least 1",
        http.request_timeout_ms,
    );
    report.at_least_one("http.max_events", http.max_events);
}

/// A secret stands in a file or in a variable.
fn one_place(report: &mut Report, key: &str, has_file: bool, variable: Option<&str>) {
    let named = variable.unwrap_or_default();
    report.require(
        !(has_file && variable.is_some()),
        &format!("{key}_variable"),
        format!("must not be set beside `{key}_file`"),
        named,
    );
    report.require(variable != Some(""), &format!("{key}_variable"), "must not be empty", named);
}

pub(super) fn webhook(config: &Config, report: &mut Report) {
    let webhook = &config.webhook;
    if let Some(url) = &webhook.url {
        let parsed = Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        let is_plain = parsed.is_some_and(|url| url.username().is_empty() && url.password().is_none());
        report.require(
            is_plain,
            "webhook.url",
            "must be `https://HOST/…` or `http://HOST/…`, without a password",
            // The part that may hold one is not repeated.
            url.split('@').next_back().unwrap_or_default(),
        );
        report.require(
            webhook.secret_file.is_some() || webhook.secret_variable.is_some(),
            "webhook.secret_file",
            "is needed with `webhook.url` (or `webhook.secret_variable`): receivers must be able to tell who sent an alert",
            "none",
        );
    }
    one_place(report, "webhook.secret", webhook.secret_file.is_some(), webhook.secret_variable.as_deref());
    let hour_ms = 3_600_000;
    report.require(
        (1..=hour_ms).contains(&webhook.timeout_ms),
        "webhook.timeout_ms",
        format!("must be between 1 and {hour_ms}"),
        webhook.timeout_ms,
    );
    report.require(
        (1..=1_000).contains(&webhook.max_attempts),
        "webhook.max_attempts",
        "must be between 1 and 1000",
        webhook.max_attempts,
    );
    report.require(
        webhook.first_backoff_ms >= 1,
        "webhook.first_backoff_ms",
        "must be at least 1",
        webhook.first_backoff_ms,
    );
    report.require(
        (webhook.first_backoff_ms..=24 * hour_ms).contains(&webhook.max_backoff_ms),
        "webhook.max_backoff_ms",
        format!("must be between `webhook.first_backoff_ms` ({}) and a day", webhook.first_backoff_ms),
        webhook.max_backoff_ms,
    );
    report.require(
        webhook.parked_max_bytes >= 1 << 20,
        "webhook.parked_max_bytes",
        "must be at least 1048576, so that no alert is too large",
        webhook.parked_max_bytes,
    );
}

pub(super) fn process(config: &Config, report: &mut Report) {
    let filter = &config.logging.filter;
    let parsed = EnvFilter::try_new(filter);
    report.require(
        parsed.is_ok(),
        "logging.filter",
        "must be a filter like `info` or `undercurrent=debug,info`",
        filter,
    );
    report.require(
        config.shutdown.deadline_ms >= 1,
        "shutdown.deadline_ms",
        "must be at least 1",
        config.shutdown.deadline_ms,
    );
}
