//! Keys of the webhook.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a webhook that never ran before begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookStart {
    /// With the alerts that come from now on.
    #[default]
    End,
    /// With the oldest alert still in the topic.
    Beginning,
}

/// Churn alerts posted to a URL, as [Standard Webhooks](https://www.standardwebhooks.com) says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where alerts are posted, `https://…` or `http://…`. Without it none are.
    pub url: Option<String>,
    /// File that holds the secret of the signatures: `whsec_` and base64, or at least 24 other characters.
    pub secret_file: Option<PathBuf>,
    /// Environment variable that holds the secret instead of a file.
    pub secret_variable: Option<String>,
    /// Certificates to trust (PEM) for `https://`: the receiver's must be signed by one of them. Without it the system's are used.
    pub ca_file: Option<PathBuf>,
    /// Where a webhook that never ran before begins: `end` (default), with the alerts that come from now on, or `beginning`, with the
    /// oldest one still in the topic. Afterwards it goes on where it was.
    pub start: WebhookStart,
    /// Milliseconds for one attempt, from the connection to the answer.
    pub timeout_ms: u64,
    /// Attempts at one alert; then it is parked and the next one is sent. With the default backoff 16 take 40 minutes.
    pub max_attempts: u32,
    /// Milliseconds before the second attempt. Doubles with each further one; half of every wait is random.
    pub first_backoff_ms: u64,
    /// Milliseconds between two attempts at most. Must not be below `webhook.first_backoff_ms`.
    pub max_backoff_ms: u64,
    /// File to which parked alerts are added, one JSON object a line, with the reason. `undercurrent webhook` lists them and sends them
    /// again.
    pub parked_file: PathBuf,
    /// Bytes of parked alerts at most, in that file and the full one before it (`FILE.1`): the oldest half goes when it is reached.
    pub parked_max_bytes: u64,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            url: None,
            secret_file: None,
            secret_variable: None,
            ca_file: None,
            start: WebhookStart::End,
            timeout_ms: 10_000,
            max_attempts: 16,
            first_backoff_ms: 1_000,
            max_backoff_ms: 300_000,
            parked_file: PathBuf::from(".undercurrent/parked-alerts.jsonl"),
            parked_max_bytes: 64 * 1024 * 1024,
        }
    }
}
