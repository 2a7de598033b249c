//! The part of a user's graph that recommendations read.

#![expect(clippy::cast_precision_loss, reason = "counts and ranks need few digits")]

use std::collections::HashMap;

use super::ItemTables;
use crate::{
    event::{DAY_MS, NameHash, NameKind, View},
    graph::{DayBits, ExpandedView, GraphParams, NameHashBuilder, Node, UserGraph},
};

/// What a user bought and looked at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserItems {
    /// Items bought.
    pub bought: Vec<Node>,
    /// Items looked at or put into the cart.
    pub seen: Vec<Node>,
    /// Categories bought from.
    pub categories: Vec<Node>,
    /// Recent purchase lines with an item, oldest first: item and seconds since the Unix epoch.
    pub lines: Vec<(NameHash, u32)>,
    /// Days with a purchase.
    pub purchase_days: DayBits,
    /// Days with a purchase ever.
    pub purchase_day_count: u32,
}

impl UserItems {
    /// Reads a graph. `params` are those it was folded with.
    pub fn of(graph: &UserGraph, params: &GraphParams) -> Self {
        let expand = |view| graph.view(view).map(|view| view.expand(params));
        Self::of_expanded(expand(View::Click).as_ref(), expand(View::Purchase).as_ref())
    }

    /// The same from views that are expanded already.
    pub fn of_expanded(click: Option<&ExpandedView>, purchase: Option<&ExpandedView>) -> Self {
        let nodes = |view: Option<&ExpandedView>, kind| view.map_or_else(Vec::new, |view| view.nodes_of(kind).to_vec());
        let lines = purchase.map_or(&[][..], ExpandedView::ring).iter();
        Self {
            bought: nodes(purchase, NameKind::Item),
            seen: nodes(click, NameKind::Item),
            categories: nodes(purchase, NameKind::Category),
            lines: lines.filter(|line| !line.is_query).filter_map(|line| Some((line.name?, line.time_s))).collect(),
            purchase_days: purchase.map(|view| view.days().clone()).unwrap_or_default(),
            purchase_day_count: purchase.map_or(0, |view| view.summary().day_count),
        }
    }
}

/// A node of the user with its weights decayed to the moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own {
    pub(super) node: Node,
    /// Its row in the tables, when it is an admitted item.
    pub(super) row: Option<u32>,
    pub(super) short: f32,
    pub(super) long: f32,
    pub(super) short_rank: usize,
    pub(super) long_rank: usize,
    /// Days since the newest purchase.
    pub(super) silent_days: f32,
}

impl Own {
    /// Mean days between the first and the newest purchase, from one to the next; absent before the second day.
    pub(super) fn gap_days(&self) -> Option<f32> {
        let span = self.node.last_s - self.node.first_s;
        (self.node.count > 1 && span >= 43_200).then(|| span as f32 / 86_400.0 / (self.node.count - 1) as f32)
    }
}

/// What recent lines say of one item.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recent {
    /// Distinct days among the recent lines within one window, and within four.
    pub(super) days: [u32; 2],
    /// Newest day with the item and the one before it, days since the epoch.
    newest: Option<i64>,
    before: Option<i64>,
}

impl Recent {
    /// Days between the two newest purchase days.
    pub(super) fn last_gap_days(&self) -> Option<f32> {
        Some((self.newest? - self.before?) as f32)
    }
}

/// A user at a moment, made ready for looking up.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) bought: Vec<Own>,
    pub(super) seen: Vec<Own>,
    pub(super) categories: Vec<Own>,
    pub(super) bought_sums: [f32; 2],
    pub(super) category_sums: [f32; 2],
    pub(super) last_basket_s: u32,
    pub(super) days: f32,
    /// Purchase days within four windows.
    pub(super) recent_days: f32,
    /// Lines a window, by the last four.
    pub(super) lines_a_window: f32,
    pub(super) lines_a_day: f32,
    pub(super) repeat_share: f32,
    pub(super) silent_days: f32,
    pub(super) gap_days: f32,
    /// Of the items bought within four windows, the share first bought in them.
    pub(super) fresh_share: f32,
    recent: HashMap<NameHash, Recent, NameHashBuilder>,
    places: [HashMap<NameHash, usize, NameHashBuilder>; 3],
    /// Own items in each category.
    items_in: HashMap<NameHash, u32, NameHashBuilder>,
}

impl Profile {
    /// Reads a user as of a moment (seconds since the Unix epoch).
    pub(super) fn of(user: &UserItems, as_of_s: i64, tables: &ItemTables) -> Self {
        let (half_lives, window_days) = (tables.half_life_days(), tables.window_days());
        let [mut bought, mut seen, categories] =
            [&user.bought, &user.seen, &user.categories].map(|nodes| own_nodes(nodes, as_of_s, half_lives));
        for own in bought.iter_mut().chain(&mut seen) {
            own.row = tables.row(own.node.name);
        }
        let sums =
            |own: &[Own]| [own.iter().map(|own| own.short).sum::<f32>(), own.iter().map(|own| own.long).sum::<f32>()];
        let days = user.purchase_day_count as f32;
        let line_count: f32 = bought.iter().map(|own| own.node.count as f32).sum();
        let last_basket_s = bought.iter().map(|own| own.node.last_s).max().unwrap_or(0);
        let first_s = bought.iter().map(|own| own.node.first_s).min().unwrap_or(0);
        let four_windows = 4.0 * window_days;
        let today = as_of_s.div_euclid(86_400);
        let newer_than = |days: f32| move |time_s: u32| days_between(time_s, as_of_s) < days;
        let recent_days = user.purchase_days.iter().take_while(|day| ((today - i64::from(*day)) as f32) < four_windows);
        let recent_items = bought.iter().filter(|own| own.silent_days < four_windows);
        let fresh = recent_items.clone().filter(|own| newer_than(four_windows)(own.node.first_s)).count();
        let recent_lines = user.lines.iter().filter(|line| newer_than(four_windows)(line.1)).count();
        let mut recent: HashMap<NameHash, Recent, NameHashBuilder> = HashMap::default();
        for (item, time_s) in &user.lines {
            let known = recent.entry(*item).or_default();
            let day = i64::from(*time_s) / (DAY_MS / 1_000);
            if known.newest != Some(day) {
                known.before = known.newest;
                known.newest = Some(day);
                for (count, windows) in known.days.iter_mut().zip([1.0, 4.0]) {
                    *count += u32::from(newer_than(windows * window_days)(*time_s));
                }
            }
        }
        let mut items_in: HashMap<NameHash, u32, NameHashBuilder> = HashMap::default();
        for own in bought.iter().filter(|own| own.node.category.0 != 0) {
            *items_in.entry(own.node.category).or_default() += 1;
        }
        Self {
            bought_sums: sums(&bought),
            category_sums: sums(&categories),
            last_basket_s,
            days,
            recent_days: recent_days.count() as f32,
            lines_a_window: recent_lines as f32 / 4.0,
            lines_a_day: line_count / days.max(1.0),
            repeat_share: if line_count > 0.0 { 1.0 - bought.len() as f32 / line_count } else { 0.0 },
            silent_days: if bought.is_empty() { f32::NAN } else { days_between(last_basket_s, as_of_s) },
            gap_days: if days > 1.0 { (last_basket_s - first_s) as f32 / 86_400.0 / (days - 1.0) } else { f32::NAN },
            fresh_share: fresh as f32 / (recent_items.count().max(1)) as f32,
            recent,
            places: [places(&bought), places(&seen), places(&categories)],
            items_in,
            bought,
            seen,
            categories,
        }
    }

    pub(super) fn bought(&self, item: NameHash) -> Option<&Own> {
        self.places[0].get(&item).map(|place| &self.bought[*place])
    }

    pub(super) fn seen(&self, item: NameHash) -> Option<&Own> {
        self.places[1].get(&item).map(|place| &self.seen[*place])
    }

    pub(super) fn category(&self, category: NameHash) -> Option<&Own> {
        self.places[2].get(&category).map(|place| &self.categories[*place])
    }

    pub(super) fn recent(&self, item: NameHash) -> Recent {
        self.recent.get(&item).copied().unwrap_or_default()
    }

    pub(super) fn items_in(&self, category: NameHash) -> u32 {
        self.items_in.get(&category).copied().unwrap_or(0)
    }
}

/// Nodes with both weights decayed to the moment, and their ranks by them.
fn own_nodes(nodes: &[Node], as_of_s: i64, half_lives: [f32; 2]) -> Vec<Own> {
    let mut own: Vec<Own> = nodes
        .iter()
        .map(|node| {
            let silent_days = days_between(node.last_s, as_of_s);
            let decayed = |weight: f32, half_life: f32| weight * (-silent_days / half_life).exp2();
            Own {
                node: *node,
                row: None,
                short: decayed(node.weight_short, half_lives[0]),
                long: decayed(node.weight_long, half_lives[1]),
                short_rank: 0,
                long_rank: 0,
                silent_days,
            }
        })
        .collect();
    own.sort_unstable_by(|left, right| right.short.total_cmp(&left.short).then(left.node.name.cmp(&right.node.name)));
    for (rank, own) in own.iter_mut().enumerate() {
        own.short_rank = rank;
    }
    own.sort_unstable_by(|left, right| right.long.total_cmp(&left.long).then(left.node.name.cmp(&right.node.name)));
    for (rank, own) in own.iter_mut().enumerate() {
        own.long_rank = rank;
    }
    own
}

fn places(own: &[Own]) -> HashMap<NameHash, usize, NameHashBuilder> {
    own.iter().enumerate().map(|(place, own)| (own.node.name, place)).collect()
}

fn days_between(then_s: u32, now_s: i64) -> f32 {
    (now_s - i64::from(then_s)).max(0) as f32 / 86_400.0
}
