//! The two item lists of a score.

use std::collections::HashSet;

use crate::{
    event::{NameHash, NameKind, View},
    graph::ExpandedGraph,
    model::{
        Bundle, Prediction,
        items::{ItemLists, UserItems},
    },
    score::{ItemReason, RankedItem},
};

/// Places of each list.
const PLACES: usize = 20;

/// What the bundle recommends to the user: its item model's lists, or the network's own where there is none. Empty only
/// for a bundle whose training data had no items.
pub(super) fn of(bundle: &Bundle, graph: &ExpandedGraph, prediction: &Prediction, as_of_ms: i64) -> ItemLists {
    let Some(model) = &bundle.items else { return by_query(bundle, graph, prediction) };
    let (click, purchase) = (graph.view(View::Click), graph.view(View::Purchase));
    let purchase_days = purchase.map_or(0, |view| view.summary().day_count);
    model.recommend(&UserItems::of_expanded(click, purchase, purchase_days), as_of_ms)
}

/// The network's query against all items of its vocabulary.
fn by_query(bundle: &Bundle, graph: &ExpandedGraph, prediction: &Prediction) -> ItemLists {
    let width = prediction.query.len();
    let items = bundle.spec.vocabulary().items();
    // Row 0 stands for 'no item'; the vocabulary's rows follow.
    let rows = bundle.model.item_table().chunks_exact(width).skip(1);
    let mut ranked: Vec<(f32, NameHash)> =
        rows.zip(items).map(|(row, item)| (dot(row, &prediction.query), *item)).collect();
    let bought: HashSet<NameHash> = graph
        .view(View::Purchase)
        .map_or(&[][..], |view| view.nodes_of(NameKind::Item))
        .iter()
        .map(|node| node.name)
        .collect();
    let best_first =
        |left: &(f32, NameHash), right: &(f32, NameHash)| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1));
    let wanted = PLACES + bought.len();
    if ranked.len() > wanted {
        ranked.select_nth_unstable_by(wanted, best_first);
        ranked.truncate(wanted);
    }
    ranked.sort_unstable_by(best_first);
    let place = |(score, item): &(f32, NameHash)| RankedItem { item: *item, score: *score, reason: ItemReason::Model };
    ItemLists {
        items: ranked.iter().take(PLACES).map(place).collect(),
        discoveries: ranked.iter().filter(|(_, item)| !bought.contains(item)).take(PLACES).map(place).collect(),
    }
}

/// Sum of products in sixteen interleaved sums, which wide registers hold; the order is fixed, so scores are exact.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let (left_chunks, left_rest) = left.as_chunks::<16>();
    let (right_chunks, right_rest) = right.as_chunks::<16>();
    for (left, right) in left_chunks.iter().zip(right_chunks) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += left * right;
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}
