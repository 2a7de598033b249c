//! What joins the views: one timeline of all rings, and the edges that run from one view to another.
//! Both are derived when they are read, because a view must not depend on another view's topic (DET-1).

use super::{GraphParams, RingEntry, UserGraph, gap_bucket};
use crate::event::{EventKind, NameHash, View};

/// A recent line with the view it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineEntry {
    /// The view whose ring holds the line.
    pub view: View,
    /// The line.
    pub entry: RingEntry,
}

/// How an action led to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum CrossKind {
    /// From a query to an item viewed or put into the cart after it, in the same session, before the next search.
    SearchToClick = 0,
    /// From an item viewed to the same item put into the cart.
    ViewToCart = 1,
    /// From an item in the cart to the same item bought.
    CartToPurchase = 2,
    /// From an item viewed to the same item bought without a cart event between.
    ViewToPurchase = 3,
    /// From a query to an item bought after it in the same session, when nothing was viewed between.
    SearchToPurchase = 4,
}

impl CrossKind {
    /// All kinds, in the order of their numeric value.
    pub const ALL: [Self; 5] =
        [Self::SearchToClick, Self::ViewToCart, Self::CartToPurchase, Self::ViewToPurchase, Self::SearchToPurchase];

    /// The view of the edge's source and of its target.
    pub fn views(self) -> (View, View) {
        match self {
            Self::SearchToClick => (View::Search, View::Click),
            Self::ViewToCart => (View::Click, View::Click),
            Self::CartToPurchase | Self::ViewToPurchase => (View::Click, View::Purchase),
            Self::SearchToPurchase => (View::Search, View::Purchase),
        }
    }
}

/// An edge from one action to another, over all its walks among recent events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossEdge {
    /// How the one led to the other.
    pub kind: CrossKind,
    /// The source: a query or an item.
    pub from: NameHash,
    /// The target item.
    pub to: NameHash,
    /// Times walked, saturating.
    pub count: u16,
    /// [`gap_bucket`] of the newest walk.
    pub gap_bucket: u8,
    /// The newest walk, seconds since the Unix epoch.
    pub last_s: u32,
}

impl UserGraph {
    /// All recent lines, oldest first. Lines of one second stand in the order search, click, purchase; those of one view
    /// in the order of its ring.
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        let mut lines: Vec<TimelineEntry> = [View::Search, View::Click, View::Purchase]
            .into_iter()
            .filter_map(|view| Some((view, self.view(view)?)))
            .flat_map(|(view, graph)| graph.ring().map(move |entry| TimelineEntry { view, entry }))
            .collect();
        lines.sort_by_key(|line| line.entry.time_s);
        lines
    }

    /// Edges between views among recent lines, sorted by kind and ends.
    pub fn cross_edges(&self, params: &GraphParams) -> Vec<CrossEdge> {
        cross_edges(&self.timeline(), params)
    }
}

/// Edges between views among the lines of a [`timeline`](UserGraph::timeline), sorted by kind and ends.
pub fn cross_edges(timeline: &[TimelineEntry], params: &GraphParams) -> Vec<CrossEdge> {
    let session_gap_s = params.session_gap_s();
    let mut walks = Vec::new();
    let mut search: Option<(RingEntry, bool)> = None;
    for (place, line) in timeline.iter().enumerate() {
        let (entry, earlier) = (&line.entry, &timeline[..place]);
        if line.view == View::Search {
            search = Some((*entry, false));
            continue;
        }
        let from_search = search.filter(|(query, _)| query.continues_into(entry, session_gap_s));
        match entry.kind {
            EventKind::View => {
                if let Some((query, _)) = from_search {
                    walks.extend(walk(CrossKind::SearchToClick, &query, entry));
                    search = Some((query, true));
                }
            }
            EventKind::CartAdd => match newest_same_item(earlier, entry, &[EventKind::View]) {
                Some(view) => walks.extend(walk(CrossKind::ViewToCart, view, entry)),
                None => {
                    if let Some((query, _)) = from_search {
                        walks.extend(walk(CrossKind::SearchToClick, &query, entry));
                        search = Some((query, true));
                    }
                }
            },
            EventKind::Purchase => match newest_same_item(earlier, entry, &[EventKind::CartAdd, EventKind::View]) {
                Some(source) if source.kind == EventKind::CartAdd => {
                    walks.extend(walk(CrossKind::CartToPurchase, source, entry));
                }
                Some(source) => walks.extend(walk(CrossKind::ViewToPurchase, source, entry)),
                None => {
                    if let Some((query, false)) = from_search {
                        walks.extend(walk(CrossKind::SearchToPurchase, &query, entry));
                    }
                }
            },
            EventKind::Search | EventKind::CartRemove | EventKind::Other => {}
        }
    }
    merge(walks)
}

/// The newest of `earlier` with the item of `entry` and one of `kinds`, not past an earlier purchase of the item: what
/// led to that one does not lead to this one as well.
fn newest_same_item<'a>(earlier: &'a [TimelineEntry], entry: &RingEntry, kinds: &[EventKind]) -> Option<&'a RingEntry> {
    let item = entry.name?;
    earlier
        .iter()
        .rev()
        .map(|line| &line.entry)
        .filter(|line| line.name == Some(item) && !line.is_query)
        .take_while(|line| line.kind != EventKind::Purchase)
        .find(|line| kinds.contains(&line.kind))
}

fn walk(kind: CrossKind, source: &RingEntry, target: &RingEntry) -> Option<CrossEdge> {
    let gap_s = target.time_s.saturating_sub(source.time_s);
    Some(CrossEdge {
        kind,
        from: source.name?,
        to: target.name?,
        count: 1,
        gap_bucket: gap_bucket(gap_s),
        last_s: target.time_s,
    })
}

/// Joins walks of one edge; `walks` are in time order.
fn merge(mut walks: Vec<CrossEdge>) -> Vec<CrossEdge> {
    walks.sort_by_key(|edge| (edge.kind, edge.from, edge.to));
    walks.dedup_by(|later, kept| {
        let same = (later.kind, later.from, later.to) == (kept.kind, kept.from, kept.to);
        if same {
            kept.count = kept.count.saturating_add(1);
            (kept.gap_bucket, kept.last_s) = (later.gap_bucket, later.last_s);
        }
        same
    });
    walks
}
