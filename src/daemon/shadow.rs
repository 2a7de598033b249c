//! Seats the bundle that the models folder names as challenger, and takes it away again: whoever named it, a training or a
//! person. Whatever goes wrong here is reported, and the champion scores on.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{models::ModelStore, params, pool};
use crate::{
    config::{Config, LogKind},
    scoring::{Shadow, ShadowSettings},
    stream::{OutputTopic, kafka::check_output},
};

/// Between two looks at which bundle is in shadow.
const LOOK: Duration = Duration::from_secs(2);
/// Between two attempts at a bundle that could not be seated: its topic may have been made meanwhile.
const ANEW: Duration = Duration::from_mins(1);

/// A shadow with the configured bounds, and nobody in it.
pub(super) fn start(config: &Config) -> anyhow::Result<Arc<Shadow>> {
    let settings = ShadowSettings {
        share: config.scoring.shadow_share,
        timeout_ms: config.scoring.shadow_timeout_ms,
        queue_capacity: NonZeroUsize::new(config.stream.threads).unwrap_or(NonZeroUsize::MIN),
    };
    Ok(Arc::new(Shadow::start(settings).context("cannot start the shadow")?))
}

/// Follows the challenger until `stop`, and shows how far it agrees with the champion.
pub(super) async fn follow(config: Config, shadow: Arc<Shadow>, stop: CancellationToken) -> anyhow::Result<()> {
    let store = ModelStore::at(&config.scoring.models);
    let mut seated: Option<String> = None;
    let mut failed: Option<(String, Instant)> = None;
    loop {
        match named(&store, &config) {
            Ok(None) => {
                if seated.take().is_some() {
                    shadow.vacate();
                    info!("no model is in shadow any more");
                }
                failed = None;
            }
            Ok(Some(name)) if seated.as_ref() == Some(&name) => {}
            Ok(Some(name)) if failed.as_ref().is_some_and(|(last, at)| *last == name && at.elapsed() < ANEW) => {}
            Ok(Some(name)) => match seat(&config, &store, &shadow, &name).await? {
                Ok(version) => {
                    info!(model_version = %version, "a model scores in shadow from now on");
                    (seated, failed) = (Some(name), None);
                }
                Err(problem) => {
                    error!(
                        error = format!("{problem:#}"),
                        "the model in shadow cannot be used; the champion scores on"
                    );
                    // Whoever was named before is no longer asked for.
                    shadow.vacate();
                    (seated, failed) = (None, Some((name, Instant::now())));
                }
            },
            Err(problem) => error!(error = format!("{problem:#}"), "cannot see which model is in shadow"),
        }
        shadow.measure();
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The challenger's name. The champion does not challenge itself.
fn named(store: &ModelStore, config: &Config) -> anyhow::Result<Option<String>> {
    let champion = store.champion(&config.scoring.bundle)?;
    Ok(store.shadow()?.filter(|name| *name != champion))
}

/// Loads the bundle and seats it; the inner error says why it cannot be.
async fn seat(
    config: &Config,
    store: &ModelStore,
    shadow: &Arc<Shadow>,
    name: &str,
) -> anyhow::Result<anyhow::Result<Arc<str>>> {
    let (config, store, shadow, name) = (config.clone(), store.clone(), Arc::clone(shadow), name.to_owned());
    let work = tokio::task::spawn_blocking(move || {
        check_topic_blocking(&config)?;
        let bundle = pool::load(&store.folder_of(&name)?)?;
        let version = Arc::clone(&bundle.version);
        shadow.seat(pool::challenger(&config, bundle)?, Arc::clone(&version));
        Ok(version)
    });
    work.await.context("loading the model in shadow died")
}

/// On Kafka the topic must be there before anything is written to it: a transaction that cannot write it would fail as a whole.
pub fn check_topic_blocking(config: &Config) -> anyhow::Result<()> {
    if config.input.log == LogKind::Kafka {
        check_output(&params::kafka(config)?, OutputTopic::ShadowScores)?;
    }
    Ok(())
}
