//! `undercurrent run`: the daemon.

use super::{GlobalArgs, prepare};

/// Runs until SIGTERM or Ctrl-C.
pub(super) fn run(global: &GlobalArgs) -> anyhow::Result<()> {
    crate::daemon::run_blocking(prepare(global)?)
}
