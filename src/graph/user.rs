//! All views of one user.

use std::sync::Arc;

use super::ViewGraph;
use crate::event::View;

/// The behaviour graph of one user. Views are shared between versions until they change.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserGraph {
    views: [Option<Arc<ViewGraph>>; View::COUNT],
}

impl UserGraph {
    /// The view, if any of its events was folded.
    pub fn view(&self, view: View) -> Option<&ViewGraph> {
        self.views[view.index()].as_deref()
    }

    /// The newest event of any view, milliseconds since the Unix epoch.
    pub fn last_event_ms(&self) -> Option<i64> {
        self.views.iter().flatten().map(|view| view.totals().last_ms).max()
    }
}
