//! The webhook of the daemon: its reader on the configured log, and the partitions whose alerts are its own to send.

use std::sync::Arc;

use anyhow::Context;

use super::params;
use crate::{
    clock::Clock,
    config::{Config, LogKind, WebhookStart},
    stream::{
        OutputReader, OutputTopic, Partitions, ReaderStart,
        embedded::{EmbeddedLog, EmbeddedOutputReader},
        kafka::KafkaOutputReader,
    },
    webhook::{Webhook, WebhookParts},
};

/// The name under which positions are stored. On Kafka the group is `GROUP-webhooks`.
const READER: &str = "webhooks";

/// Opens the reader, if a webhook is configured. Called before the stream starts, so that a webhook that begins at the end misses no
/// alert of this process. Blocks.
pub(super) fn reader_blocking(
    config: &Config,
    embedded: Option<&Arc<EmbeddedLog>>,
) -> anyhow::Result<Option<Box<dyn OutputReader>>> {
    if config.webhook.url.is_none() {
        return Ok(None);
    }
    let start = match config.webhook.start {
        WebhookStart::Beginning => ReaderStart::Beginning,
        WebhookStart::End => ReaderStart::End,
    };
    let topic = OutputTopic::ChurnAlerts;
    let reader: Box<dyn OutputReader> = match config.input.log {
        LogKind::Embedded => {
            let log = embedded.context("the embedded log is configured and was not opened")?;
            Box::new(EmbeddedOutputReader::open(log, topic, READER, start).context("cannot read alerts")?)
        }
        LogKind::Kafka => {
            let kafka = params::kafka(config)?;
            Box::new(KafkaOutputReader::open(&kafka, topic, READER, start).context("cannot read alerts")?)
        }
    };
    Ok(Some(reader))
}

/// Puts it together.
pub(super) fn open(
    config: &Config,
    reader: Box<dyn OutputReader>,
    partitions: Arc<Partitions>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Webhook> {
    let webhook = params::webhook(config)?.context("no webhook is configured")?;
    // A partition belongs to one instance, and whoever owns its state sends its alerts.
    let owned = move || partitions.all().iter().map(|handle| handle.state.partition()).collect();
    Ok(Webhook::new(WebhookParts {
        reader,
        owned: Arc::new(owned),
        poster: webhook.poster,
        signer: webhook.signer,
        retries: webhook.retries,
        parked: params::parked(config),
        clock,
    }))
}
