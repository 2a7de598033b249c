//! `undercurrent check`: all that can be known to be wrong before the daemon starts.

use super::{GlobalArgs, output};
use crate::config::LogKind;

/// Loads and validates the configuration, then says what it found.
pub(super) fn run(global: &GlobalArgs) -> anyhow::Result<()> {
    let sources = global.sources();
    let config = global.load()?;
    let file = sources.file.as_ref().map_or_else(|| "no file".to_owned(), |path| format!("`{}`", path.display()));
    output::line(&format!("configuration: ok ({file})"))?;
    match config.input.log {
        LogKind::Embedded => output::line(&format!("log: embedded, `{}`", config.embedded.path.display())),
        LogKind::Kafka => output::line(&format!("log: kafka, `{}`", config.kafka.brokers)),
    }
}
