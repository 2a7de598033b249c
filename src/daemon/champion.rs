//! Swaps a newly promoted bundle into the pool, without a gap: whoever promoted it, a training or a person.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{models::ModelStore, pool};
use crate::{config::Config, scoring::Pool};

/// Between two looks at which bundle is promoted.
const LOOK: Duration = Duration::from_secs(2);

/// Follows the champion until `stop`. A bundle that cannot be used is reported once and passed over: the old one serves on.
pub(super) async fn follow(config: Config, pool: Arc<Pool>, stop: CancellationToken) -> anyhow::Result<()> {
    let store = ModelStore::at(&config.scoring.models);
    let mut seen = store.champion(&config.scoring.bundle)?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
        let champion = match store.champion(&config.scoring.bundle) {
            Ok(champion) if champion != seen => champion,
            Ok(_) => continue,
            Err(error) => {
                error!(%error, "cannot see which model is promoted");
                continue;
            }
        };
        seen.clone_from(&champion);
        let (store, pool) = (store.clone(), Arc::clone(&pool));
        let swapped = tokio::task::spawn_blocking(move || -> anyhow::Result<Arc<str>> {
            let bundle = pool::load(&store.folder_of(&champion)?)?;
            let version = Arc::clone(&bundle.version);
            pool.swap(bundle)?;
            Ok(version)
        })
        .await?;
        match swapped {
            Ok(version) => info!(model_version = %version, "another model scores from now on"),
            Err(error) => {
                error!(error = format!("{error:#}"), "the promoted model cannot be used; the old one scores on");
            }
        }
    }
}
