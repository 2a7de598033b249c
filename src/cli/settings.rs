//! The flags every command takes, and how they become a configuration.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, Sources};

/// Read when no `--config` is given and it exists in the working folder.
const DEFAULT_FILE: &str = "undercurrent.toml";

/// Flags of every command.
#[derive(Debug, clap::Args)]
pub struct GlobalArgs {
    /// Configuration file [default: ./undercurrent.toml where it exists]
    #[arg(long, short, global = true, value_name = "FILE", env = "UNDERCURRENT_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Set one key, stronger than file and environment; may be repeated (`--set stream.linger_ms=20`)
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be SECTION.KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl GlobalArgs {
    /// The layers, weakest first.
    pub fn sources(&self) -> Sources {
        let file = self.config.clone().or_else(|| {
            let path = PathBuf::from(DEFAULT_FILE);
            path.is_file().then_some(path)
        });
        // Variables that are not Unicode cannot be ours: our keys and values are.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Sources { file, environment, settings: self.set.clone() }
    }

    /// The configuration in force.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.sources())
    }
}
