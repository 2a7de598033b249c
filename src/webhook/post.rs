//! One attempt: a signed POST, and what became of it.

use std::time::Duration;

use reqwest::{Certificate, Client, header, redirect::Policy};
use url::Url;

use super::{message::Message, signature::Signer};

/// Posts to one receiver.
#[derive(Debug, Clone)]
pub struct Poster {
    client: Client,
    url: Url,
}

/// Why there can be no posting.
#[derive(Debug, thiserror::Error)]
pub enum PosterError {
    /// What should hold certificates to trust does not.
    #[error("no certificates to trust in PEM (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificates,
    /// The HTTP client cannot be made: of one of the certificates, or of the system's.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
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
    /// Posts to `url`; an attempt takes `timeout` at most. Redirects are failures: a signed body goes where it was sent. With
    /// `authorities` (PEM) a receiver is trusted whose certificate one of them signed, and no other; without, those that the
    /// system trusts.
    pub fn new(url: Url, timeout: Duration, authorities: Option<&[u8]>) -> Result<Self, PosterError> {
        let mut client = Client::builder()
            .user_agent(concat!("undercurrent/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(timeout);
        if let Some(pem) = authorities {
            let certificates = Certificate::from_pem_bundle(pem)?;
            if certificates.is_empty() {
                return Err(PosterError::NoCertificates);
            }
            client = client.tls_built_in_root_certs(false);
            for certificate in certificates {
                client = client.add_root_certificate(certificate);
            }
        }
        Ok(Self { client: client.build()?, url })
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
