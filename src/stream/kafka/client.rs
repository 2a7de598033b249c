//! librdkafka configurations: which keys are ours, and what we set them to.

use std::{collections::BTreeMap, sync::Mutex};

use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::ProducerContext,
};
use tracing::{debug, error, info, warn};

use super::{
    error::{explain, reported},
    params::KafkaParams,
};

/// Option keys the pipeline owns, each with the reason a configuration must not set it.
const OWNED: [(&str, &str); 34] = [
    ("bootstrap.servers", "it is `kafka.brokers`"),
    ("metadata.broker.list", "it is `kafka.brokers`"),
    ("client.id", "it is made of `kafka.group_id`, `kafka.instance_id` and the thread"),
    ("group.id", "it is `kafka.group_id`"),
    ("group.instance.id", "it is made of `kafka.group_id`, `kafka.instance_id` and the thread"),
    ("group.protocol", "the range assignor needs the classic protocol"),
    ("group.remote.assignor", "partition p of all topics must go to one member"),
    ("partition.assignment.strategy", "partition p of all topics must go to one member, which only `range` promises"),
    ("enable.auto.commit", "offsets are committed with the outputs"),
    ("auto.commit.enable", "offsets are committed with the outputs"),
    ("auto.commit.interval.ms", "offsets are committed with the outputs"),
    ("enable.auto.offset.store", "offsets are committed with the outputs"),
    ("auto.offset.reset", "a position is never moved silently"),
    ("isolation.level", "aborted records must not be folded"),
    ("enable.partition.eof", "restore relies on it"),
    ("transactional.id", "it is made of `kafka.group_id`, `kafka.instance_id` and the thread"),
    ("transaction.timeout.ms", "it is `kafka.transaction_timeout_ms`"),
    ("enable.idempotence", "an output must not be written twice by a retry"),
    ("acks", "an output must be on all in-sync replicas"),
    ("request.required.acks", "an output must be on all in-sync replicas"),
    ("message.timeout.ms", "it is `kafka.message_timeout_ms`"),
    ("delivery.timeout.ms", "it is `kafka.message_timeout_ms`"),
    ("delivery.report.only.error", "the sink counts on it"),
    ("partitioner", "every producer must use `murmur2_random`"),
    ("session.timeout.ms", "it is `kafka.session_timeout_ms`"),
    ("max.poll.interval.ms", "it is `kafka.max_poll_interval_ms`"),
    ("fetch.wait.max.ms", "it is `kafka.fetch_wait_max_ms`"),
    ("statistics.interval.ms", "it is `kafka.lag_interval_ms`"),
    ("security.protocol", "it is `kafka.security_protocol`"),
    ("sasl.mechanism", "it is `kafka.sasl_mechanism`"),
    ("sasl.mechanisms", "it is `kafka.sasl_mechanism`"),
    ("sasl.username", "it is `kafka.sasl_username`"),
    ("sasl.password", "it is in `kafka.sasl_password_file`"),
    ("log.queue", "the client sets it"),
];

/// Bytes of one output at most: a dead letter of a record of 1 MB, the most a topic takes by default, is up to six times as
/// long when every byte of it has to be escaped.
pub(super) const LARGEST_OUTPUT_BYTES: usize = 16 << 20;

/// Why the librdkafka option `key` may not be passed through, if it may not. The configuration asks the same list.
pub fn owner_of(key: &str) -> Option<&'static str> {
    OWNED.iter().find(|(owned, _)| *owned == key).map(|(_, reason)| *reason)
}

/// What every client shares: brokers, security, log level, pass-through options.
fn base(params: &KafkaParams, client_id: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &params.bootstrap)
        .set("client.id", client_id)
        .set("security.protocol", params.security.protocol.name().to_ascii_lowercase())
        .set("log.connection.close", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    let security = &params.security;
    if let Some(sasl) = &security.sasl {
        config
            .set("sasl.mechanism", &sasl.mechanism)
            .set("sasl.username", &sasl.username)
            .set("sasl.password", sasl.password.expose());
    }
    for (key, path) in [
        ("ssl.ca.location", &security.ca_location),
        ("ssl.certificate.location", &security.certificate_location),
        ("ssl.key.location", &security.key_location),
    ] {
        if let Some(path) = path {
            config.set(key, path.to_string_lossy());
        }
    }
    if let Some(password) = &security.key_password {
        config.set("ssl.key.password", password.expose());
    }
    pass_through(&mut config, &params.client_options);
    config
}

fn pass_through(config: &mut ClientConfig, options: &BTreeMap<String, String>) {
    for (key, value) in options {
        config.set(key, value);
    }
}

/// A client that only asks questions.
pub(super) fn admin_config(params: &KafkaParams, client_id: &str) -> ClientConfig {
    base(params, client_id)
}

/// What every consumer shares.
fn consumer_base(params: &KafkaParams, client_id: &str) -> ClientConfig {
    let mut config = base(params, client_id);
    // `group.id` is needed even by a consumer that only assigns; without a subscription it never joins the group.
    config
        .set("group.id", &params.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A position that retention has passed is an error, never a silent jump.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", params.fetch_wait_max_ms.to_string())
        // The default of 1 s stops fetching a partition for up to a second whenever the local queue was full while a
        // batch was scored and committed: measured at 3/4 of the throughput, and it shows as idle time only.
        .set("fetch.queue.backoff.ms", "5");
    config
}

/// The consumer of a stream thread.
pub(super) fn group_config(params: &KafkaParams, thread_id: &str) -> ClientConfig {
    let mut config = consumer_base(params, thread_id);
    config
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", params.timeouts.session_ms.to_string())
        .set("heartbeat.interval.ms", (params.timeouts.session_ms / 5).clamp(100, 3_000).to_string())
        .set("max.poll.interval.ms", params.timeouts.max_poll_interval_ms.to_string())
        .set("statistics.interval.ms", params.lag_interval_ms.to_string());
    if params.static_membership {
        config.set("group.instance.id", thread_id);
    }
    pass_through(&mut config, &params.consumer_options);
    config
}

/// A consumer that is told its partitions: for restore and for `tail`. Reports the end of a partition.
pub(super) fn reader_config(params: &KafkaParams, client_id: &str) -> ClientConfig {
    let mut config = consumer_base(params, client_id);
    config.set("enable.partition.eof", "true");
    pass_through(&mut config, &params.consumer_options);
    config
}

/// A consumer that sees the log's true end, open transactions included.
pub(super) fn uncommitted_config(params: &KafkaParams, client_id: &str) -> ClientConfig {
    let mut config = consumer_base(params, client_id);
    config.set("isolation.level", "read_uncommitted");
    config
}

/// A producer that never writes a record twice by retrying.
pub(super) fn producer_config(params: &KafkaParams, client_id: &str) -> ClientConfig {
    let mut config = base(params, client_id);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("message.timeout.ms", params.timeouts.message_ms.to_string())
        // A report a record costs more than sending it; failures are all we act on.
        .set("delivery.report.only.error", "true")
        .set("linger.ms", "1")
        // A dead letter holds its whole record, escaped; what each topic takes is up to the brokers.
        .set("message.max.bytes", LARGEST_OUTPUT_BYTES.to_string())
        .set("compression.type", "lz4");
    pass_through(&mut config, &params.producer_options);
    config
}

/// The producer of a stream thread.
pub(super) fn transactional_config(params: &KafkaParams, thread_id: &str) -> ClientConfig {
    let mut config = producer_config(params, thread_id);
    config.set("transactional.id", thread_id).set("transaction.timeout.ms", params.timeouts.transaction_ms.to_string());
    config
}

/// What a client last complained of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) code: RDKafkaErrorCode,
    pub(super) text: String,
}

/// Passes librdkafka's log lines on, and keeps the newest error for messages that would otherwise only say 'timed out'.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Written by whichever thread serves the client's events, read when a wait ends without success. Never held across
    /// a call into librdkafka.
    last_error: Mutex<Option<Report>>,
    /// Why the first record since the last question could not be delivered. Same rules.
    failure: Mutex<Option<Report>>,
}

impl Watch {
    /// The newest error, forgotten with this call.
    pub(super) fn take_last_error(&self) -> Option<Report> {
        self.last_error.lock().ok().and_then(|mut last| last.take())
    }

    /// Why a record could not be delivered, if one could not since the last call.
    pub(super) fn take_failure(&self) -> Option<Report> {
        self.failure.lock().ok().and_then(|mut failure| failure.take())
    }

    fn note(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let separator = if reason.is_empty() { "" } else { ": " };
        let text = format!("{}{separator}{reason}", explain(error));
        if let Ok(mut last) = self.last_error.lock() {
            // 'All brokers down' follows every single cause and must not hide it.
            if code != RDKafkaErrorCode::AllBrokersDown || last.is_none() {
                *last = Some(Report { code, text });
            }
        }
    }
}

/// Forwards one librdkafka log line.
pub(super) fn forward_log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            error!(target: "librdkafka", facility, "{line}");
        }
        RDKafkaLogLevel::Warning => warn!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Notice => info!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => debug!(target: "librdkafka", facility, "{line}"),
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        forward_log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka client reports");
        self.note(&reported(error, reason), reason);
    }
}

impl ConsumerContext for Watch {}

impl ProducerContext for Watch {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // What an abort throws away failed for no reason of its own.
        let is_thrown_away = |error: &KafkaError| {
            matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight))
        };
        if let Err((error, _)) = result
            && !is_thrown_away(error)
            && let Ok(mut failure) = self.failure.lock()
            && failure.is_none()
        {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            *failure = Some(Report { code, text: explain(error) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_through_options_reach_the_right_clients() {
        let mut params = KafkaParams::default();
        params.client_options.insert("socket.keepalive.enable".to_owned(), "true".to_owned());
        params.consumer_options.insert("fetch.min.bytes".to_owned(), "7".to_owned());
        params.producer_options.insert("linger.ms".to_owned(), "9".to_owned());
        let (consumer, producer) = (group_config(&params, "t"), transactional_config(&params, "t"));
        assert_eq!(consumer.get("socket.keepalive.enable"), Some("true"));
        assert_eq!(consumer.get("fetch.min.bytes"), Some("7"));
        assert_eq!(consumer.get("linger.ms"), None);
        assert_eq!(producer.get("linger.ms"), Some("9"));
        assert_eq!(producer.get("transactional.id"), Some("t"));
    }

    #[test]
    fn librdkafka_accepts_every_configuration() {
        let params = KafkaParams::default();
        for config in [
            admin_config(&params, "c"),
            group_config(&params, "c"),
            reader_config(&params, "c"),
            uncommitted_config(&params, "c"),
            producer_config(&params, "c"),
            transactional_config(&params, "c"),
        ] {
            config.create_native_config().unwrap();
        }
    }
}
