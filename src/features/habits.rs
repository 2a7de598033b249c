//! Features of the node tables: how concentrated a user's interest is, how new, and what is due again.

#![expect(clippy::cast_precision_loss, reason = "counts become features")]

use super::{FeatureSettings, row::Row};
use crate::{
    event::{NameKind, View},
    graph::{ExpandedGraph, ExpandedView, Node},
};

/// Appends the features of every view's node table.
pub(super) fn put(row: &mut Row, graph: &ExpandedGraph, settings: &FeatureSettings, as_of_ms: i64) {
    let now_s = (as_of_ms / 1_000) as f64;
    for view in View::ALL {
        let nodes = graph.view(view).map(ExpandedView::nodes);
        put_concentration(row, view, nodes, now_s);
        if view != View::Search {
            put_overdue(row, view, nodes, settings, now_s);
        }
    }
}

fn put_concentration(row: &mut Row, view: View, nodes: Option<&[Node]>, now_s: f64) {
    let name = view.name();
    let main_kind = if view == View::Search { NameKind::Query } else { NameKind::Item };
    let summary = nodes.map(|nodes| {
        let mut summary = Summary::default();
        for node in nodes {
            summary.add(node, main_kind, now_s);
        }
        summary
    });
    let summary = summary.filter(|summary| summary.weight > 0.0);
    let value = |compute: &dyn Fn(&Summary) -> f64| summary.as_ref().map(compute);
    row.put(format_args!("{name}_names"), "names", value(&|summary| summary.names));
    row.put(format_args!("{name}_categories"), "categories", value(&|summary| summary.categories));
    row.put(format_args!("{name}_top_share"), "share", value(&|summary| summary.top / summary.weight));
    row.put(
        format_args!("{name}_concentration"),
        "Herfindahl index",
        value(&|summary| summary.squares / (summary.weight * summary.weight)),
    );
    row.put(format_args!("{name}_decayed_count"), "events", value(&|summary| summary.weight));
    row.put(format_args!("{name}_repeat_share"), "share", value(&|summary| summary.repeated / summary.names));
    row.put(format_args!("{name}_new_names_30d"), "names", value(&|summary| summary.new));
    row.put(format_args!("{name}_recent_names_30d"), "names", value(&|summary| summary.recent));
}

#[derive(Default)]
struct Summary {
    names: f64,
    categories: f64,
    weight: f64,
    squares: f64,
    top: f64,
    repeated: f64,
    /// First seen in the last 30 days.
    new: f64,
    /// Seen in the last 30 days.
    recent: f64,
}

impl Summary {
    fn add(&mut self, node: &Node, main_kind: NameKind, now_s: f64) {
        if node.kind == NameKind::Category {
            self.categories += 1.0;
        }
        if node.kind != main_kind {
            return;
        }
        // Long weights compared at their own times: exact decay to the moment would scale all of a view's nodes alike
        // only if they were equally old, and the recent counts below say the rest.
        let weight = f64::from(node.weight_long);
        self.names += 1.0;
        self.weight += weight;
        self.squares += weight * weight;
        self.top = self.top.max(weight);
        self.repeated += f64::from(u8::from(node.count > 1));
        let within = |time_s: u32| f64::from(u8::from(now_s - f64::from(time_s) < 30.0 * 86_400.0));
        self.new += within(node.first_s);
        self.recent += within(node.last_s);
    }
}

/// Items the user takes again and again: how many are past their own mean gap, and how many should fall due.
fn put_overdue(row: &mut Row, view: View, nodes: Option<&[Node]>, settings: &FeatureSettings, now_s: f64) {
    let name = view.name();
    let due = nodes.map(|nodes| {
        let mut due = Due::default();
        for node in nodes.iter().filter(|node| node.kind == NameKind::Item && node.count > 1) {
            due.add(node, now_s, f64::from(settings.purchase_days) * 86_400.0);
        }
        due
    });
    let due = due.filter(|due| due.habits > 0.0);
    row.put(format_args!("{name}_habits"), "items", due.as_ref().map(|due| due.habits));
    row.put(format_args!("{name}_habits_due"), "items", due.as_ref().map(|due| due.ripe));
    row.put(format_args!("{name}_habits_overdue"), "items", due.as_ref().map(|due| due.overdue));
    row.put(format_args!("{name}_habits_lost"), "share", due.as_ref().map(|due| due.lost / due.habits));
    row.put(format_args!("{name}_habits_expected"), "items", due.as_ref().map(|due| due.expected));
}

#[derive(Default)]
struct Due {
    habits: f64,
    /// 0.8 to 1.5 mean gaps old.
    ripe: f64,
    /// 1.5 to 3 mean gaps old.
    overdue: f64,
    /// More than 3 mean gaps old.
    lost: f64,
    /// Expected to be taken again within the purchase horizon, were each taken at its own rate; lost ones excluded.
    expected: f64,
}

impl Due {
    fn add(&mut self, node: &Node, now_s: f64, horizon_s: f64) {
        let span_s = f64::from(node.last_s.saturating_sub(node.first_s));
        if span_s < 3_600.0 {
            return;
        }
        let gap_s = span_s / f64::from(node.count - 1);
        let ratio = (now_s - f64::from(node.last_s)).max(0.0) / gap_s;
        let one_if = |condition: bool| f64::from(u8::from(condition));
        self.habits += 1.0;
        self.ripe += one_if((0.8..1.5).contains(&ratio));
        self.overdue += one_if((1.5..3.0).contains(&ratio));
        self.lost += one_if(ratio >= 3.0);
        self.expected += one_if(ratio < 3.0) * (1.0 - (-horizon_s / gap_s).exp());
    }
}
