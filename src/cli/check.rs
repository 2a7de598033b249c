//! `undercurrent check`: all that can be known to be wrong before the daemon starts.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, anyhow};

use super::{GlobalArgs, output};
use crate::{
    clock::SystemClock,
    config::{Config, ConfigError, LogKind, Problem, ScorerKind},
    daemon::{engine, models::ModelStore, params, pool, shadow},
    stream::{
        embedded::{EmbeddedError, EmbeddedLog},
        kafka::check_topics,
    },
};

/// Written into the snapshots' place and deleted again: the only way to know that it can be written.
const PROBE_FILE: &str = "undercurrent-check";

/// Loads and validates the configuration, then looks at everything it points to. Wrong keys are collected, so that one
/// run names all of them.
pub(super) fn run(global: &GlobalArgs) -> anyhow::Result<()> {
    let sources = global.sources();
    let config = global.load()?;
    let file = sources.file.as_ref().map_or_else(|| "no file".to_owned(), |path| format!("`{}`", path.display()));
    output::line(&format!("configuration: ok ({file})"))?;
    params::graph(&config)?;
    let mut problems = Vec::new();
    let mut broker = Ok(());
    for part in [items, model, in_shadow, snapshots, embedded, http, webhook] {
        match part(&config) {
            Ok(Some(line)) => output::line(&line)?,
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if config.input.log == LogKind::Kafka {
        match kafka(&config) {
            Ok(line) => output::line(&line)?,
            Err(error) => broker = Err(error),
        }
    }
    if problems.is_empty() {
        return broker;
    }
    if let Err(error) = &broker {
        output::error(&format!("{error:#}"));
    }
    Err(ConfigError::Invalid { problems }.into())
}

/// A line about a part that is well, or nothing for one that is not used.
type Checked = Result<Option<String>, Problem>;

fn problem(key: &str, error: &anyhow::Error, value: impl std::fmt::Display) -> Problem {
    Problem { key: key.to_owned(), rule: format!("{error:#}"), value: value.to_string() }
}

/// Reads the item file.
fn items(config: &Config) -> Checked {
    let Some(path) = &config.events.items else { return Ok(None) };
    params::edge(config).map_err(|error| problem("events.items", &error, path.display()))?;
    Ok(Some(format!("items: `{}`", path.display())))
}

/// Opens the bundle that would score: every file, hash, shape and the bundle's own probe.
fn model(config: &Config) -> Checked {
    let scoring = &config.scoring;
    if scoring.scorer == ScorerKind::Recency {
        return Ok(Some("model: none, the recency rule scores".to_owned()));
    }
    let store = ModelStore::at(&scoring.models);
    let name =
        store.champion(&scoring.bundle).map_err(|error| problem("scoring.models", &error, scoring.models.display()))?;
    let bundle = store
        .folder_of(&name)
        .and_then(|folder| pool::load(&folder))
        .map_err(|error| problem("scoring.bundle", &error, &name))?;
    Ok(Some(format!("model: `{name}`, version {}", bundle.version)))
}

/// Opens the bundle in shadow.
fn in_shadow(config: &Config) -> Checked {
    let scoring = &config.scoring;
    let store = ModelStore::at(&scoring.models);
    let wrong = |error: &anyhow::Error| problem("scoring.models", error, scoring.models.display());
    let Some(name) = store.shadow().map_err(|error| wrong(&error))? else { return Ok(None) };
    let bundle = store.folder_of(&name).and_then(|folder| pool::load(&folder)).map_err(|error| wrong(&error))?;
    Ok(Some(format!("shadow: `{name}`, version {}", bundle.version)))
}

/// Lists the snapshots, and writes and deletes a small file beside them.
fn snapshots(config: &Config) -> Checked {
    let snapshot = &config.snapshot;
    if !snapshot.enabled {
        return Ok(Some("snapshots: switched off".to_owned()));
    }
    let look = || -> anyhow::Result<(usize, usize)> {
        let storage = engine::storage(config, &snapshot.location)?;
        storage.put_blocking(PROBE_FILE, b"can be written".to_vec()).context("snapshots cannot be written there")?;
        storage.delete_blocking(PROBE_FILE).context("snapshots cannot be deleted there")?;
        let listed = engine::snapshots(config, &(Arc::new(SystemClock) as Arc<_>))?.list_blocking(None)?;
        let unreadable = listed.iter().filter(|listed| listed.manifest.is_err()).count();
        Ok((listed.len(), unreadable))
    };
    let (count, unreadable) = look().map_err(|error| problem("snapshot.location", &error, &snapshot.location))?;
    let hint = if unreadable == 0 {
        String::new()
    } else {
        format!(", {unreadable} of them unreadable: `undercurrent snapshots verify` says why")
    };
    Ok(Some(format!("snapshots: `{}`, {count} there{hint}", snapshot.location)))
}

/// Opens the embedded log. One that a running daemon has open is well.
fn embedded(config: &Config) -> Checked {
    if config.input.log != LogKind::Embedded {
        return Ok(None);
    }
    let path = config.embedded.path.display();
    match EmbeddedLog::open(params::embedded(config), Arc::new(SystemClock)) {
        Ok(log) => Ok(Some(format!("log: embedded, `{path}`, {} partitions", log.partition_count()))),
        Err(EmbeddedError::InUse { .. }) => Ok(Some(format!("log: embedded, `{path}`, in use by a running process"))),
        Err(error @ EmbeddedError::PartitionCount { .. }) => {
            Err(problem("embedded.partitions", &anyhow!(error), config.embedded.partitions))
        }
        Err(error) => Err(problem("embedded.path", &anyhow!(error), path)),
    }
}

/// Reads the token, and says who may ask.
fn http(config: &Config) -> Checked {
    let http = &config.http;
    if !http.enabled {
        return Ok(Some("http: switched off".to_owned()));
    }
    let key = if http.token_file.is_some() { "http.token_file" } else { "http.token_variable" };
    let token = params::http_token(config)
        .map_err(|error| problem(key, &error, secret_place(http.token_file.as_ref(), http.token_variable.as_ref())))?;
    let who = match token {
        Some(_) => "with a token",
        None if http.listen.ip().is_loopback() => "without a token, for this machine only",
        None => "without a token, for whoever reaches it",
    };
    Ok(Some(format!("http: `{}`, {who}", http.listen)))
}

/// Reads the secret of the webhook. Nothing is posted.
fn webhook(config: &Config) -> Checked {
    let webhook = &config.webhook;
    let Some(url) = &webhook.url else { return Ok(None) };
    let key = if webhook.secret_file.is_some() { "webhook.secret_file" } else { "webhook.secret_variable" };
    params::webhook(config).map_err(|error| {
        problem(key, &error, secret_place(webhook.secret_file.as_ref(), webhook.secret_variable.as_ref()))
    })?;
    // The path may hold a secret of the receiver's.
    let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    Ok(Some(format!("webhook: to `{host}`, signed")))
}

/// Where a secret is looked for; never the secret.
fn secret_place(file: Option<&PathBuf>, variable: Option<&String>) -> String {
    match (file, variable) {
        (Some(file), _) => file.display().to_string(),
        (None, Some(variable)) => variable.clone(),
        (None, None) => "none".to_owned(),
    }
}

fn kafka(config: &Config) -> anyhow::Result<String> {
    let kafka = params::kafka(config)?;
    let problems = kafka.problems();
    anyhow::ensure!(problems.is_empty(), "the kafka section is wrong: {}", problems.join("; "));
    let wrong = "the broker or its topics are not as they must be";
    let partitions = check_topics(&kafka).context(wrong)?;
    if ModelStore::at(&config.scoring.models).shadow()?.is_some() {
        shadow::check_topic_blocking(config).context(wrong)?;
    }
    Ok(format!("log: kafka, `{}`, {partitions} partitions", config.kafka.brokers))
}
