//! `undercurrent check`: all that can be known to be wrong before the daemon starts.

use anyhow::{Context, bail};

use super::{GlobalArgs, output};
use crate::{
    config::{Config, LogKind},
    daemon::params,
    stream::kafka::check_topics,
};

/// Loads and validates the configuration, then looks at what it points to.
pub(super) fn run(global: &GlobalArgs) -> anyhow::Result<()> {
    let sources = global.sources();
    let config = global.load()?;
    let file = sources.file.as_ref().map_or_else(|| "no file".to_owned(), |path| format!("`{}`", path.display()));
    output::line(&format!("configuration: ok ({file})"))?;
    params::decoder(&config)?;
    params::graph(&config)?;
    log(&config)
}

fn log(config: &Config) -> anyhow::Result<()> {
    match config.input.log {
        LogKind::Embedded => output::line(&format!("log: embedded, `{}`", config.embedded.path.display())),
        LogKind::Kafka => {
            let kafka = params::kafka(config)?;
            let problems = kafka.problems();
            if !problems.is_empty() {
                bail!("the kafka section is wrong: {}", problems.join("; "));
            }
            let partitions = check_topics(&kafka).context("the broker or its topics are not as they must be")?;
            output::line(&format!("log: kafka, `{}`, {partitions} partitions", config.kafka.brokers))
        }
    }
}
