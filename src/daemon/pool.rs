//! Opens the model and starts the pool that scores with it.

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use anyhow::Context;
use tracing::warn;

use super::models::ModelStore;
use crate::{
    config::{Config, ScorerKind},
    event::{NameHash, NameKind},
    graph::{NameLookup, NameTable},
    model::{Bundle, items::ItemModel},
    scoring::{Pool, PoolRole, PoolSettings, RecencyScorer, Scorer},
};

/// What scores users, with the texts of what it recommends.
#[derive(Clone)]
pub struct Scoring {
    /// Scores and explains.
    pub scorer: Arc<dyn Scorer>,
    /// Texts of items that may be recommended and are in no graph.
    pub catalogue: Arc<dyn NameLookup + Send + Sync>,
    /// The pool, when the model scores: its bundle can be swapped.
    pub pool: Option<Arc<Pool>>,
}

/// The catalogue of whatever bundle the pool serves now.
struct PoolCatalogue(Arc<Pool>);

impl NameLookup for PoolCatalogue {
    fn text(&self, name: NameHash) -> Option<Arc<str>> {
        let bundle = self.0.bundle();
        text_of(bundle.items.as_ref()?, name)
    }
}

/// The catalogue of an item model that is never swapped.
struct ItemCatalogue(Arc<ItemModel>);

impl NameLookup for ItemCatalogue {
    fn text(&self, name: NameHash) -> Option<Arc<str>> {
        text_of(&self.0, name)
    }
}

fn text_of(items: &ItemModel, name: NameHash) -> Option<Arc<str>> {
    NameKind::ALL.into_iter().find_map(|kind| items.name(kind, name)).map(|entry| Arc::from(entry.text.as_str()))
}

/// Loads the champion (or the configured bundle while nothing is promoted) and starts the workers.
pub fn open(config: &Config) -> anyhow::Result<Scoring> {
    match config.scoring.scorer {
        ScorerKind::Model => {
            let folder = ModelStore::at(&config.scoring.models).champion_folder(&config.scoring.bundle)?;
            start(config, load(&folder)?)
        }
        ScorerKind::Recency => Ok(recency(config)),
    }
}

/// The recency rule, with the items of the bundle that the model would use, where there is one.
fn recency(config: &Config) -> Scoring {
    let scorer = RecencyScorer::new(config.scoring.recency_churn_days, config.scoring.recency_purchase_days);
    let bundle =
        ModelStore::at(&config.scoring.models).champion_folder(&config.scoring.bundle).and_then(|folder| load(&folder));
    let items = match bundle {
        Ok(bundle) => bundle.items.clone(),
        Err(error) => {
            warn!(%error, "no bundle to take popular items from: lists hold what is in the user's own graph only");
            None
        }
    };
    match items {
        Some(items) => Scoring {
            scorer: Arc::new(scorer.with_items(Arc::clone(&items))),
            catalogue: Arc::new(ItemCatalogue(items)),
            pool: None,
        },
        None => Scoring { scorer: Arc::new(scorer), catalogue: Arc::new(NameTable::default()), pool: None },
    }
}

/// Loads a bundle and checks all of it.
pub fn load(folder: &Path) -> anyhow::Result<Arc<Bundle>> {
    let bundle =
        Bundle::load(folder).with_context(|| format!("cannot use the model bundle in `{}`", folder.display()))?;
    Ok(Arc::new(bundle))
}

/// Starts the workers with `bundle`.
pub fn start(config: &Config, bundle: Arc<Bundle>) -> anyhow::Result<Scoring> {
    let pool = Arc::new(Pool::start(bundle, settings(config)).context("cannot start the scoring pool")?);
    Ok(Scoring {
        scorer: Arc::clone(&pool) as Arc<dyn Scorer>,
        catalogue: Arc::new(PoolCatalogue(Arc::clone(&pool))),
        pool: Some(pool),
    })
}

/// Starts workers for a bundle in shadow.
pub fn challenger(config: &Config, bundle: Arc<Bundle>) -> anyhow::Result<Arc<Pool>> {
    let settings = PoolSettings { role: PoolRole::Challenger, ..settings(config) };
    Ok(Arc::new(Pool::start(bundle, settings).context("cannot start a pool for the model in shadow")?))
}

fn settings(config: &Config) -> PoolSettings {
    let scoring = &config.scoring;
    let at_least_one = |value: usize| NonZeroUsize::new(value).unwrap_or(NonZeroUsize::MIN);
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    PoolSettings {
        // A stream thread waits while its users are scored, so it needs no core of its own then.
        workers: if scoring.workers == 0 { at_least_one(cores) } else { at_least_one(scoring.workers) },
        cuda_devices: scoring.cuda_devices.clone(),
        max_batch_users: at_least_one(scoring.max_batch_users),
        max_batch_nodes: at_least_one(scoring.max_batch_nodes),
        queue_capacity_batches: at_least_one(scoring.queue_capacity_batches),
        timeout_ms: scoring.timeout_ms,
        role: PoolRole::Champion,
    }
}
