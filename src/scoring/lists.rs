//! The two item lists of a score.

use crate::{
    event::{NameHash, NameKind, View},
    graph::ExpandedGraph,
    model::{
        Bundle, Prediction,
        items::{CandidateWork, ItemLists, LIST_LENGTH, UserItems},
    },
    score::{ItemReason, RankedItem},
};

/// What the bundle recommends to the user: its item model's lists, or the network's own where there is none, or what the
/// user chose before where the bundle knows no items at all.
pub(super) fn of(
    bundle: &Bundle,
    graph: &ExpandedGraph,
    prediction: &Prediction,
    as_of_ms: i64,
    work: &mut CandidateWork,
) -> ItemLists {
    let mut lists = match &bundle.items {
        Some(model) => {
            let (click, purchase) = (graph.view(View::Click), graph.view(View::Purchase));
            model.recommend(&UserItems::of_expanded(click, purchase), as_of_ms, work)
        }
        None => by_query(bundle, graph, prediction),
    };
    if lists.items.is_empty() {
        lists.items = own(graph, View::Purchase, |_| true);
    }
    if lists.items.is_empty() {
        lists.items = own(graph, View::Click, |_| true);
    }
    if lists.discoveries.is_empty() {
        let bought = graph.view(View::Purchase);
        let unbought = |item| bought.is_none_or(|view| view.node(NameKind::Item, item).is_none());
        lists.discoveries = own(graph, View::Click, unbought);
    }
    lists
}

/// The user's own items of one view, most chosen first, newer first among equals.
fn own(graph: &ExpandedGraph, view: View, wanted: impl Fn(NameHash) -> bool) -> Vec<RankedItem> {
    let nodes = graph.view(view).map_or(&[][..], |view| view.nodes_of(NameKind::Item));
    let mut nodes: Vec<_> = nodes.iter().filter(|node| wanted(node.name)).collect();
    nodes.sort_unstable_by_key(|node| std::cmp::Reverse((node.count, node.last_s, node.name)));
    #[expect(clippy::cast_precision_loss, reason = "a score for comparing places of one list")]
    let place =
        |node: &crate::graph::Node| RankedItem { item: node.name, score: node.count as f32, reason: ItemReason::Habit };
    nodes.into_iter().take(LIST_LENGTH).map(place).collect()
}

/// The network's query against all items of its vocabulary, in one pass that keeps the best of both lists.
fn by_query(bundle: &Bundle, graph: &ExpandedGraph, prediction: &Prediction) -> ItemLists {
    let width = prediction.query.len();
    // Row 0 stands for 'no item'; the vocabulary's rows follow.
    let rows = bundle.model.item_table().chunks_exact(width).skip(1);
    let purchases = graph.view(View::Purchase);
    let is_bought = |item| purchases.is_some_and(|view| view.node(NameKind::Item, item).is_some());
    let (mut items, mut discoveries) = (Best::default(), Best::default());
    for (row, item) in rows.zip(bundle.spec.vocabulary().items()) {
        let place = (dot(row, &prediction.query), *item);
        items.offer(place, || true);
        discoveries.offer(place, || !is_bought(*item));
    }
    ItemLists { items: items.into_list(), discoveries: discoveries.into_list() }
}

/// The best items so far, best first; ties by hash.
struct Best {
    places: Vec<(f32, NameHash)>,
    /// Scores below it are not among the best.
    bar: f32,
}

impl Default for Best {
    fn default() -> Self {
        Self { places: Vec::with_capacity(LIST_LENGTH + 1), bar: f32::NEG_INFINITY }
    }
}

impl Best {
    /// Takes `place` if it is among the best and `is_wanted`, which is only asked then.
    #[inline]
    fn offer(&mut self, place: (f32, NameHash), is_wanted: impl FnOnce() -> bool) {
        // One comparison turns nearly all items away.
        if place.0 < self.bar || !is_wanted() {
            return;
        }
        self.insert(place);
    }

    fn insert(&mut self, place: (f32, NameHash)) {
        let is_before =
            |known: &(f32, NameHash)| known.0.total_cmp(&place.0).reverse().then(known.1.cmp(&place.1)).is_lt();
        self.places.insert(self.places.partition_point(is_before), place);
        self.places.truncate(LIST_LENGTH);
        if self.places.len() == LIST_LENGTH {
            self.bar = self.places[LIST_LENGTH - 1].0;
        }
    }

    fn into_list(self) -> Vec<RankedItem> {
        let place = |(score, item)| RankedItem { item, score, reason: ItemReason::Model };
        self.places.into_iter().map(place).collect()
    }
}

/// Sum of products in eight interleaved sums, which two registers hold, joined by halves; the order is fixed, so scores
/// are exact.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (left_chunks, left_rest) = left.as_chunks::<8>();
    let (right_chunks, right_rest) = right.as_chunks::<8>();
    for (left, right) in left_chunks.iter().zip(right_chunks) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += left * right;
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h)) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_those_a_sort_puts_first() {
        for count in [0, 1, LIST_LENGTH, 500] {
            let places: Vec<(f32, NameHash)> = (0..count as u64)
                .map(|item| (f32::from(u8::try_from(item * 7 % 31).unwrap()), NameHash(item)))
                .collect();
            let mut best = Best::default();
            for place in &places {
                best.offer(*place, || place.1.0 % 5 > 0);
            }
            let mut sorted: Vec<_> = places.into_iter().filter(|place| place.1.0 % 5 > 0).collect();
            sorted.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
            sorted.truncate(LIST_LENGTH);
            assert_eq!(best.places, sorted);
        }
    }

    #[test]
    fn products_sum_over_any_width() {
        for width in [0_u8, 1, 7, 8, 32, 45] {
            let row: Vec<f32> = (0..width).map(f32::from).collect();
            let expected: f32 = row.iter().map(|value| value * value).sum();
            assert!((dot(&row, &row) - expected).abs() <= 1e-6 * expected, "{width}");
        }
    }
}
