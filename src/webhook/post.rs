//! One attempt: a signed POST, and what became of it.

use std::time::Duration;

use reqwest::{Client, header, redirect::Policy};
use url::Url;

use super::{message::Message, signature::Signer};

/// Posts to one receiver.
#[derive(Debug, Clone)]
pub struct Poster {
    client: Client,
    url: Url,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// `status`, `timeout` or `connection`: a label of the metric.
    pub(super) kind: &'static str,
    /// For people. Holds nothing of the URL but its host: the rest may be a secret.
    pub(super) text: String,
}

impl Poster {
    /// Posts to `url`; an attempt takes `timeout` at most. Redirects are failures: a signed body goes where it was sent.
    pub fn new(url: Url, timeout: Duration) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .user_agent(concat!("undercurrent/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(timeout)
            .build()?;
        Ok(Self { client, url })
    }

    /// Sends `message` once; any status from 200 to 299 is a success. What the receiver says besides is not read.
    pub(super) async fn post(&self, message: &Message, signer: &Signer, now_ms: i64) -> Result<(), Failure> {
        let timestamp_s = now_ms.div_euclid(1_000);
        let request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", signer.sign(&message.id, timestamp_s, &message.body))
            .body(message.body.clone());
        let host = self.url.host_str().unwrap_or_default();
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(Failure { kind: "status", text: format!("`{host}` answered {}", answer.status()) }),
            Err(error) if error.is_timeout() => {
                Err(Failure { kind: "timeout", text: format!("`{host}` did not answer in time") })
            }
            Err(error) => {
                let error = error.without_url();
                let mut text = format!("`{host}` cannot be reached: {error}");
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    text = format!("{text}: {cause}");
                    source = cause.source();
                }
                Err(Failure { kind: "connection", text })
            }
        }
    }
}
