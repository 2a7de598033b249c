//! DET-1, POS-1 and the bounds of the graph.

use std::collections::BTreeMap;

use proptest::prelude::*;
use undercurrent::{
    event::{NameKind, Offset, PartitionId, View},
    graph::{FoldOutcome, GraphParams, GraphStore, PartitionState, UserGraph, ViewGraph, WriteSet},
};

use super::records::{Record, interleave, topics};

/// Small enough that a few hundred records fill and spill everything.
fn small_params() -> GraphParams {
    GraphParams {
        ring_capacity: 12,
        item_capacity_nodes: 24,
        category_capacity_nodes: 8,
        query_capacity_nodes: 6,
        edge_capacity: 10,
        ..GraphParams::default()
    }
}

/// Folds records in batches of the given sizes (repeated), publishing after each; a size of 0 drops the next batch once, as
/// an aborted transaction does, and folds it again.
fn run(order: &[(View, Offset, Record)], batch_sizes: &[usize], params: &GraphParams) -> PartitionState {
    let state = PartitionState::new(PartitionId(3));
    let mut rest = order;
    for size in batch_sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (batch, later) = rest.split_at((*size).clamp(1, rest.len()));
        for is_aborted in [true, false].into_iter().skip(usize::from(*size > 0)) {
            let mut write_set = WriteSet::on(&state);
            for (view, offset, record) in batch {
                assert!(!write_set.progress().has_folded(*view, *offset), "POS-1");
                write_set.fold(&state, *view, *offset, &record.event(), params);
            }
            if !is_aborted {
                write_set.publish(&state);
            }
        }
        rest = later;
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_interleaving_batch_split_or_abort_gives_equal_bits(
        topics in topics(160),
        picks in prop::collection::vec(0_u8..3, 0..400),
        sizes in prop::collection::vec(0_usize..40, 1..8),
    ) {
        let params = small_params();
        let plain = run(&interleave(&topics, &[]), &[1], &params);
        let mixed = run(&interleave(&topics, &picks), &sizes, &params);
        prop_assert_eq!(plain.progress(), mixed.progress());
        prop_assert_eq!(plain.state_hash(), mixed.state_hash());
    }

    #[test]
    fn a_state_rebuilt_from_its_parts_goes_on_as_if_nothing_happened(topics in topics(120), cut in 0_usize..400) {
        let params = small_params();
        let order = interleave(&topics, &[0, 1, 2].repeat(100));
        let (before, after) = order.split_at(cut.min(order.len()));
        let first = run(before, &[7], &params);
        let graphs = GraphStore::default();
        for (user, graph) in first.graphs.to_vec() {
            let views = View::ALL.map(|view| Some(ViewGraph::from_parts(graph.view(view)?.to_parts()).into()));
            graphs.insert(user, UserGraph::from_views(views).into());
        }
        let progress = first.progress();
        let rebuilt = PartitionState::restored(PartitionId(3), graphs, first.names, progress);
        let mut write_set = WriteSet::on(&rebuilt);
        for (view, offset, record) in after {
            write_set.fold(&rebuilt, *view, *offset, &record.event(), &params);
        }
        write_set.publish(&rebuilt);
        prop_assert_eq!(rebuilt.state_hash(), run(&order, &[11], &params).state_hash());
    }

    #[test]
    fn bounds_are_never_passed(topics in topics(300)) {
        let params = small_params();
        let mut views: BTreeMap<(u8, View), ViewGraph> = BTreeMap::new();
        for (view, _, record) in interleave(&topics, &[]) {
            let graph = views.entry((record.user, view)).or_default();
            graph.fold(&record.event(), &params);
            prop_assert!(graph.ring().len() <= params.ring_capacity);
            let times: Vec<u32> = graph.ring().map(|entry| entry.time_s).collect();
            prop_assert!(times.is_sorted());
            let Some(settled) = graph.settled() else { continue };
            for (kind, capacity) in [
                (NameKind::Item, params.item_capacity_nodes),
                (NameKind::Category, params.category_capacity_nodes),
                (NameKind::Query, params.query_capacity_nodes),
            ] {
                prop_assert!(settled.nodes.iter().filter(|node| node.kind == kind).count() <= capacity);
            }
            prop_assert!(settled.nodes.is_sorted_by_key(|node| (node.kind, node.name)));
            prop_assert!(settled.edges.len() <= params.edge_capacity);
            prop_assert!(settled.edges.is_sorted_by_key(|edge| (edge.from, edge.to)));
        }
    }

    #[test]
    fn an_event_sent_twice_folds_once(topics in topics(60), again in 1_usize..4) {
        // A ring that holds everything: the window of duplicates.
        let params = GraphParams { ring_capacity: 4_096, ..GraphParams::default() };
        for (view, records) in View::ALL.into_iter().zip(&topics) {
            let (mut once, mut often) = (ViewGraph::default(), ViewGraph::default());
            for record in records {
                let event = record.event();
                let first = once.fold(&event, &params);
                prop_assert_eq!(often.fold(&event, &params), first);
                for _ in 0..again {
                    prop_assert_eq!(often.fold(&event, &params), FoldOutcome::Duplicate);
                }
            }
            prop_assert_eq!(once, often, "{:?}", view);
        }
    }

    #[test]
    fn expanding_sees_every_line_wherever_it_lies(topics in topics(200)) {
        // Nothing is evicted: whatever the ring's size, readers see the same counts and totals.
        let wide = GraphParams {
            item_capacity_nodes: 4_096,
            category_capacity_nodes: 4_096,
            query_capacity_nodes: 4_096,
            edge_capacity: 4_096,
            ..GraphParams::default()
        };
        let narrow = GraphParams { ring_capacity: 9, ..wide.clone() };
        let wide = GraphParams { ring_capacity: 4_096, ..wide };
        for records in &topics {
            let (mut all_ring, mut mostly_settled) = (ViewGraph::default(), ViewGraph::default());
            // Ids of their own: the narrow ring must not forget a duplicate that the wide one knows. In order of time:
            // a line that comes after its neighbours settled cannot part them any more.
            let mut sorted = records.clone();
            sorted.sort_by_key(|record| record.time_ms);
            for (record, event_id) in sorted.iter().zip(1_000..) {
                let event = Record { event_id, ..record.clone() }.event();
                all_ring.fold(&event, &wide);
                mostly_settled.fold(&event, &narrow);
            }
            let (left, right) = (all_ring.expand(&wide), mostly_settled.expand(&narrow));
            prop_assert_eq!(left.totals(), right.totals());
            prop_assert_eq!(left.summary(), right.summary());
            prop_assert_eq!(left.edges(), right.edges());
            prop_assert_eq!(left.nodes().len(), right.nodes().len());
            for (left, right) in left.nodes().iter().zip(right.nodes()) {
                prop_assert_eq!((left.name, left.kind, left.count), (right.name, right.kind, right.count));
                prop_assert_eq!((left.first_s, left.last_s), (right.first_s, right.last_s));
                prop_assert_eq!((left.category, left.value_minor), (right.category, right.value_minor));
                // Bits too: both fold the same lines of a node in the same order.
                prop_assert_eq!(left.weight_long.to_bits(), right.weight_long.to_bits());
                prop_assert_eq!(left.weight_short.to_bits(), right.weight_short.to_bits());
            }
        }
    }
}
