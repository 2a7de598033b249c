//! SIGTERM and SIGINT, both meaning: drain and exit 0.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for the wish to stop.
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    /// Starts to listen; from here on the signals no longer end the process by themselves.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Returns when one of them has come. Cancel-safe.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
