//! The only place that writes to standard output and standard error by hand.

use std::io::Write;

/// Writes `text` to standard output.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())
}

/// Writes one line to standard output.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes `content` to standard output.
pub(super) fn bytes(content: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(content)?;
    stdout.flush()?;
    Ok(())
}

/// Writes an error to standard error. A standard error that is closed leaves nobody to tell.
pub(super) fn error(text: &str) {
    let written = writeln!(std::io::stderr(), "error: {text}");
    drop(written);
}
