//! `undercurrent models`: the bundles, and which of them scores.

use anyhow::{Context, ensure};

use super::{GlobalArgs, output};
use crate::{
    config::Config,
    daemon::{models::ModelStore, pool, retrain, shadow},
};

/// The word for no bundle.
const NOBODY: &str = "none";

/// What to do with the bundles.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ModelsCommand {
    /// List the bundles; the champion is marked with `*`, the one in shadow with `~`
    List,
    /// Print a bundle's model card [default: the champion's]
    Show {
        /// Name of the bundle
        name: Option<String>,
    },
    /// Make a bundle the champion; a running daemon swaps it in within seconds
    Promote {
        /// Name of the bundle
        name: String,
    },
    /// Let a bundle score beside the champion, into topic `shadow-scores`; `none` ends it
    Shadow {
        /// Name of the bundle, or `none`
        name: String,
    },
    /// Take the last promotion back
    Rollback,
}

/// Runs one of them.
pub(super) fn run(global: &GlobalArgs, command: ModelsCommand) -> anyhow::Result<()> {
    let config = global.load()?;
    let store = ModelStore::at(&config.scoring.models);
    match command {
        ModelsCommand::List => list(&config, &store),
        ModelsCommand::Show { name } => {
            let name = name.map_or_else(|| store.champion(&config.scoring.bundle), Ok)?;
            output::text(&pool::load(&store.folder_of(&name)?)?.card)
        }
        ModelsCommand::Promote { name } => {
            // A bundle that cannot be used must not become the champion.
            pool::load(&store.folder_of(&name)?)?;
            store.promote(&name)?;
            output::line(&format!("`{name}` is the champion now"))
        }
        ModelsCommand::Shadow { name } if name == NOBODY => {
            store.set_shadow(None)?;
            output::line("no bundle is in shadow now")
        }
        ModelsCommand::Shadow { name } => {
            let champion = store.champion(&config.scoring.bundle)?;
            ensure!(name != champion, "`{name}` is the champion; it cannot be its own challenger");
            pool::load(&store.folder_of(&name)?)?;
            shadow::check_topic_blocking(&config)?;
            store.set_shadow(Some(&name))?;
            output::line(&format!("`{name}` scores in shadow of `{champion}` now"))
        }
        ModelsCommand::Rollback => {
            let name = store.roll_back(&config.scoring.bundle)?;
            output::line(&format!("`{name}` is the champion again"))
        }
    }
}

fn list(config: &Config, store: &ModelStore) -> anyhow::Result<()> {
    let champion = store.champion(&config.scoring.bundle).context("cannot see which model is promoted")?;
    let shadow = store.shadow().context("cannot see which model is in shadow")?;
    for name in store.names()? {
        let mark = if name == champion {
            "*"
        } else if shadow.as_ref() == Some(&name) {
            "~"
        } else {
            " "
        };
        let folder = store.folder_of(&name)?;
        let verdict = retrain::verdict_of(&folder).map_or_else(String::new, |found| format!("  {}", found.in_words()));
        match pool::load(&folder) {
            Ok(bundle) => output::line(&format!("{mark} {name}  {}{verdict}", bundle.version))?,
            Err(error) => output::line(&format!("{mark} {name}  unusable: {error:#}"))?,
        }
    }
    Ok(())
}
