//! All views of one user.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{DayBits, ExpandedView, GraphParams, ViewGraph, ViewSummary};
use crate::event::View;

/// The behaviour graph of one user. Views are shared between versions until they change.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserGraph {
    views: [Option<Arc<ViewGraph>>; View::COUNT],
}

impl UserGraph {
    /// A graph of these views, indexed by [`View::index`].
    pub fn from_views(views: [Option<Arc<ViewGraph>>; View::COUNT]) -> Self {
        Self { views }
    }

    /// The view, if any of its events was folded.
    pub fn view(&self, view: View) -> Option<&ViewGraph> {
        self.views[view.index()].as_deref()
    }

    /// The view as it is shared between versions.
    pub fn shared_view(&self, view: View) -> Option<&Arc<ViewGraph>> {
        self.views[view.index()].as_ref()
    }

    /// The view for folding: copied if another version shares it, created if there is none.
    pub fn view_mut(&mut self, view: View) -> &mut ViewGraph {
        Arc::make_mut(self.views[view.index()].get_or_insert_default())
    }

    /// Drops all that the view knows. Returns whether it knew something.
    pub fn remove_view(&mut self, view: View) -> bool {
        self.views[view.index()].take().is_some()
    }

    /// Views with events.
    pub fn views(&self) -> impl Iterator<Item = (View, &ViewGraph)> {
        View::ALL.into_iter().filter_map(|view| Some((view, self.view(view)?)))
    }

    /// Whether no event was folded.
    pub fn is_empty(&self) -> bool {
        self.views.iter().all(Option::is_none)
    }

    /// The first event of any view, milliseconds since the Unix epoch.
    pub fn first_event_ms(&self) -> Option<i64> {
        self.summaries().map(|summary| summary.first_ms).min()
    }

    /// The newest event of any view, milliseconds since the Unix epoch.
    pub fn last_event_ms(&self) -> Option<i64> {
        self.summaries().map(|summary| summary.last_ms).max()
    }

    /// The newest event of any view whose kind counts as activity.
    pub fn last_activity_ms(&self) -> Option<i64> {
        self.summaries()
            .map(|summary| summary.last_activity_ms)
            .max()
            .filter(|time_ms| *time_ms != ViewSummary::NEVER_MS)
    }

    /// Days with activity in any view.
    pub fn activity_days(&self) -> DayBits {
        let mut days = self.views().map(|(_, view)| view.days());
        let Some(first) = days.next() else { return DayBits::default() };
        days.fold(first.clone(), |union, more| union.union(more))
    }

    /// The same days, newest first. Walks no further than it is asked to.
    pub fn newest_activity_days(&self) -> impl Iterator<Item = i32> + '_ {
        let mut views: SmallVec<[_; View::COUNT]> =
            self.views().map(|(_, view)| view.days().iter().peekable()).collect();
        let newest_day = self.views().filter_map(|(_, view)| view.days().newest_day()).max();
        std::iter::from_fn(move || {
            let day = views.iter_mut().filter_map(|days| days.peek().copied()).max()?;
            for days in &mut views {
                days.next_if_eq(&day);
            }
            // A view's bits reach back from its own newest day, those of all views from the newest of them.
            newest_day.filter(|newest_day| newest_day.saturating_sub(day) < DayBits::CAPACITY_DAYS).map(|_| day)
        })
    }

    /// Events ever.
    pub fn event_count(&self) -> u64 {
        self.summaries().map(|summary| u64::from(summary.event_count)).sum()
    }

    /// Events ever whose kind counts as activity. Grows between two moments exactly if the user was active between them.
    pub fn activity_count(&self) -> u64 {
        self.summaries().map(|summary| u64::from(summary.activity_count)).sum()
    }

    /// Purchase events ever.
    pub fn purchase_count(&self) -> u64 {
        self.view(View::Purchase).map_or(0, |view| u64::from(view.summary().event_count))
    }

    /// Value of all purchases ever, in minor units.
    pub fn purchase_value_minor(&self) -> u64 {
        self.view(View::Purchase).map_or(0, |view| view.totals().value_minor)
    }

    /// All views as readers want them. Costs microseconds: call it once a score.
    pub fn expand(&self, params: &GraphParams) -> ExpandedGraph {
        ExpandedGraph { views: View::ALL.map(|view| Some(self.view(view)?.expand(params))) }
    }

    /// Heap and inline bytes, free capacity included, without the allocator's own overhead.
    pub fn byte_count(&self) -> usize {
        const ARC_COUNTERS: usize = 2 * size_of::<usize>();
        let views: usize = self.views().map(|(_, view)| ARC_COUNTERS + view.byte_count()).sum();
        size_of::<Self>() + views
    }

    fn summaries(&self) -> impl Iterator<Item = &ViewSummary> {
        self.views.iter().flatten().map(|view| view.summary())
    }
}

/// All views of one user as readers want them. See [`UserGraph::expand`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExpandedGraph {
    views: [Option<ExpandedView>; View::COUNT],
}

impl ExpandedGraph {
    /// The view, if any of its events was folded.
    pub fn view(&self, view: View) -> Option<&ExpandedView> {
        self.views[view.index()].as_ref()
    }
}
