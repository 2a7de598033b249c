//! From the configuration tree to the plain parameters of each part. The parts never see the tree.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};

use crate::{
    api::AccessToken,
    config::{self, Config},
    decision::DecisionParams,
    event::{
        CleaningParams, DAY_MS, Decoder, Edge, EventKind, EventMapping, ItemCategories, MissingNumber, MissingTime,
        UnknownName, read_items,
    },
    graph::{GraphParams, KindSet},
    snapshot::{Retention, SnapshotOptions},
    stream::{
        OutputTopic, TimeMode,
        embedded::EmbeddedParams,
        kafka::{Delivery, KafkaParams, Sasl, Secret, Security, SecurityProtocol, Timeouts, TopicNames},
    },
    webhook::{Parked, Poster, Retries, Signer},
};

/// The kind called `name`; the configuration was validated, so a wrong name is a mistake of ours.
fn kind(name: &str) -> anyhow::Result<EventKind> {
    EventKind::from_name(name).with_context(|| format!("`{name}` is no kind of event"))
}

/// Where events enter: the decoder, and the categories of `events.items`.
pub fn edge(config: &Config) -> anyhow::Result<Edge> {
    let edge = Edge::new(decoder(config)?);
    let Some(path) = &config.events.items else { return Ok(edge) };
    let items = read_items(path).context("`events.items`")?;
    Ok(edge.with_categories(Arc::new(ItemCategories::of(&items))))
}

/// How records become events.
pub fn decoder(config: &Config) -> anyhow::Result<Decoder> {
    let events = &config.events;
    let unknown = match &events.unknown {
        Some(name) => UnknownName::Kind(kind(name)?),
        None => UnknownName::Reject,
    };
    let mut mapping = EventMapping::new(unknown);
    for (name, target) in &events.mapping {
        mapping.set(name, kind(target)?);
    }
    let number = |rule| match rule {
        config::MissingNumber::Absent => MissingNumber::Absent,
        config::MissingNumber::Median => MissingNumber::Median,
        config::MissingNumber::LastSeen => MissingNumber::LastSeen,
    };
    let cleaning = CleaningParams {
        max_record_bytes: events.max_record_bytes,
        max_text_bytes: events.max_text_bytes,
        max_future_ms: events.max_future_ms,
        earliest_ms: events.earliest_ms,
        missing_time: match events.missing_time {
            config::MissingTime::Reject => MissingTime::Reject,
            config::MissingTime::RecordTime => MissingTime::RecordTime,
        },
        missing_price: number(events.missing_price),
        missing_quantity: number(events.missing_quantity),
    };
    Ok(Decoder::new(mapping, cleaning))
}

/// The kinds that count as activity.
fn activity(config: &Config) -> anyhow::Result<KindSet> {
    let kinds = config.events.activity.iter().map(|name| kind(name)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(KindSet::of(&kinds))
}

/// Bounds and constants of the fold.
pub fn graph(config: &Config) -> anyhow::Result<GraphParams> {
    let graph = &config.graph;
    Ok(GraphParams {
        ring_capacity: graph.ring_capacity,
        item_capacity_nodes: graph.item_capacity_nodes,
        category_capacity_nodes: graph.category_capacity_nodes,
        query_capacity_nodes: graph.query_capacity_nodes,
        edge_capacity: graph.edge_capacity,
        half_life_short_days: graph.half_life_short_days,
        half_life_long_days: graph.half_life_long_days,
        session_gap_ms: graph.session_gap_ms,
        late_limit_ms: graph.late_limit_ms,
        erasure_memory_ms: graph.erasure_memory_ms,
        user_capacity: graph.user_capacity,
        view_capacity_bytes: graph.view_capacity_bytes,
        activity: activity(config)?,
    })
}

/// The durable local log.
pub fn embedded(config: &Config) -> EmbeddedParams {
    let embedded = &config.embedded;
    EmbeddedParams {
        path: embedded.path.clone(),
        partition_count: embedded.partitions,
        recent_id_capacity: embedded.recent_id_capacity,
        retain_output_records: embedded.retain_output_records,
        retain_input_records: embedded.retain_input_records,
        compact_after_records: embedded.compact_after_records,
        cache_bytes: embedded.cache_bytes,
    }
}

/// The Kafka cluster. Reads the files that hold secrets.
pub fn kafka(config: &Config) -> anyhow::Result<KafkaParams> {
    let kafka = &config.kafka;
    let topics = &config.topics;
    Ok(KafkaParams {
        bootstrap: kafka.brokers.clone(),
        group: kafka.group_id.clone(),
        instance: kafka.instance_id.clone(),
        static_membership: kafka.static_membership,
        topics: TopicNames {
            inputs: [topics.clicks.clone(), topics.searches.clone(), topics.purchases.clone()],
            outputs: OutputTopic::ALL.map(|topic| match topic {
                OutputTopic::Scores => topics.scores.clone(),
                OutputTopic::ChurnAlerts => topics.churn_alerts.clone(),
                OutputTopic::AlertOutcomes => topics.alert_outcomes.clone(),
                OutputTopic::Recommendations => topics.recommendations.clone(),
                OutputTopic::DeadLetters => topics.dead_letters.clone(),
                OutputTopic::ShadowScores => topics.shadow_scores.clone(),
            }),
        },
        delivery: match kafka.delivery {
            config::Delivery::ExactlyOnce => Delivery::ExactlyOnce,
            config::Delivery::AtLeastOnce => Delivery::AtLeastOnce,
        },
        security: security(kafka)?,
        timeouts: Timeouts {
            session_ms: kafka.session_timeout_ms,
            max_poll_interval_ms: kafka.max_poll_interval_ms,
            transaction_ms: kafka.transaction_timeout_ms,
            message_ms: kafka.message_timeout_ms,
            commit_attempt_ms: kafka.commit_attempt_timeout_ms,
            commit_resolve_ms: kafka.commit_resolve_timeout_ms,
            request_ms: kafka.request_timeout_ms,
            start_ms: kafka.start_timeout_ms,
        },
        fetch_wait_max_ms: kafka.fetch_wait_max_ms,
        lag_interval_ms: kafka.lag_interval_ms,
        client_options: kafka.client_options.clone(),
        consumer_options: kafka.consumer_options.clone(),
        producer_options: kafka.producer_options.clone(),
    })
}

fn security(kafka: &config::KafkaConfig) -> anyhow::Result<Security> {
    let protocol = match kafka.security_protocol {
        config::SecurityProtocol::Plaintext => SecurityProtocol::Plaintext,
        config::SecurityProtocol::Ssl => SecurityProtocol::Ssl,
        config::SecurityProtocol::SaslPlaintext => SecurityProtocol::SaslPlaintext,
        config::SecurityProtocol::SaslSsl => SecurityProtocol::SaslSsl,
    };
    let sasl = match &kafka.sasl_password_file {
        Some(file) => Some(Sasl {
            mechanism: kafka.sasl_mechanism.clone(),
            username: kafka.sasl_username.clone(),
            password: secret(file)?,
        }),
        None => None,
    };
    Ok(Security {
        protocol,
        sasl,
        ca_location: kafka.ca_file.clone(),
        certificate_location: kafka.certificate_file.clone(),
        key_location: kafka.key_file.clone(),
        key_password: kafka.key_password_file.as_deref().map(secret).transpose()?,
    })
}

/// The content of a secret's file, without the newline editors leave at its end.
fn secret_text(file: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read the secret in `{}`", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn secret(file: &Path) -> anyhow::Result<Secret> {
    Ok(Secret::new(secret_text(file)?))
}

/// A secret from a file or from an environment variable, whichever is named; `None` when neither is.
fn secret_from(file: Option<&Path>, variable: Option<&str>) -> anyhow::Result<Option<String>> {
    match (file, variable) {
        (Some(file), _) => secret_text(file).map(Some),
        (None, Some(variable)) => {
            let text = std::env::var(variable)
                .with_context(|| format!("cannot read the secret in the environment variable `{variable}`"))?;
            Ok(Some(text))
        }
        (None, None) => Ok(None),
    }
}

/// Characters of a token at least: what is shorter can be guessed.
const LEAST_TOKEN_CHARACTERS: usize = 16;

/// The token that HTTP requests must carry, if one is configured.
pub fn http_token(config: &Config) -> anyhow::Result<Option<Arc<AccessToken>>> {
    let http = &config.http;
    let Some(text) = secret_from(http.token_file.as_deref(), http.token_variable.as_deref())? else { return Ok(None) };
    ensure!(
        text.len() >= LEAST_TOKEN_CHARACTERS && text.bytes().all(|byte| byte.is_ascii_graphic()),
        "the token of the HTTP server must have at least {LEAST_TOKEN_CHARACTERS} characters, printable and without spaces"
    );
    Ok(Some(Arc::new(AccessToken::new(&text))))
}

/// How alerts are posted.
pub struct WebhookParams {
    /// Sends.
    pub poster: Poster,
    /// Signs.
    pub signer: Signer,
    /// How often.
    pub retries: Retries,
}

/// The webhook, if one is configured.
pub fn webhook(config: &Config) -> anyhow::Result<Option<WebhookParams>> {
    let webhook = &config.webhook;
    let Some(url) = &webhook.url else { return Ok(None) };
    let secret = secret_from(webhook.secret_file.as_deref(), webhook.secret_variable.as_deref())?;
    let signer = Signer::new(&secret.context("the webhook has no secret")?)?;
    let url = url::Url::parse(url).context("the address of the webhook is no URL")?;
    let authorities = match &webhook.ca_file {
        None => None,
        Some(file) => {
            let pem = std::fs::read(file);
            Some(pem.with_context(|| format!("cannot read `webhook.ca_file` (`{}`)", file.display()))?)
        }
    };
    let poster = Poster::new(url, Duration::from_millis(webhook.timeout_ms), authorities.as_deref())
        .context("the webhook's receiver cannot be posted to; look at `webhook.ca_file`")?;
    let retries = Retries {
        max_attempts: webhook.max_attempts,
        first_backoff_ms: webhook.first_backoff_ms,
        max_backoff_ms: webhook.max_backoff_ms,
    };
    Ok(Some(WebhookParams { poster, signer, retries }))
}

/// The file of alerts that were given up.
pub fn parked(config: &Config) -> Parked {
    Parked::at(&config.webhook.parked_file, config.webhook.parked_max_bytes)
}

/// When a score becomes an alert. A replay of history tells every alert at the moment it was due; live use tells what is due
/// now.
pub fn decision(config: &Config, time: TimeMode) -> anyhow::Result<DecisionParams> {
    let decision = &config.decision;
    Ok(DecisionParams {
        enter_threshold: decision.enter_threshold,
        escalate_threshold: decision.escalate_threshold,
        recover_threshold: decision.recover_threshold,
        cooldown_ms: fraction_of_days_ms(decision.cooldown_days),
        max_alert_age_ms: match time {
            TimeMode::Live { .. } => Some(fraction_of_days_ms(decision.max_alert_age_days)),
            TimeMode::Replay => None,
        },
        list_length: decision.list_length,
        activity: activity(config)?,
    })
}

/// Where and how snapshots are written.
pub fn snapshots(config: &Config) -> anyhow::Result<SnapshotOptions> {
    let snapshot = &config.snapshot;
    Ok(SnapshotOptions {
        graph_params: graph(config)?,
        deltas_per_base: snapshot.deltas_per_base,
        retention: Retention {
            keep_bases: snapshot.keep_bases,
            keep_spaced: snapshot.keep_spaced,
            spacing_ms: days_ms(snapshot.spacing_days),
        },
        ..SnapshotOptions::default()
    })
}

/// Days as milliseconds.
pub fn days_ms(days: u32) -> i64 {
    i64::from(days) * DAY_MS
}

/// Whole milliseconds of a number of days that the configuration bounds far below 2^53 ms.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a bounded number of days")]
fn fraction_of_days_ms(days: f32) -> i64 {
    (f64::from(days) * DAY_MS as f64) as i64
}
