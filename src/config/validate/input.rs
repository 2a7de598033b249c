//! Rules of what comes in: the embedded log, events, and the graphs they are folded into.

use super::Report;
use crate::{config::Config, event::EventKind};

pub(super) fn embedded(config: &Config, report: &mut Report) {
    let threads = config.stream.threads;
    let partitions = config.embedded.partitions;
    report.require((1..=1_024).contains(&partitions), "embedded.partitions", "must be between 1 and 1024", partitions);
    report.require(
        usize::try_from(partitions).is_ok_and(|partitions| partitions >= threads),
        "embedded.partitions",
        format!("must not be below `stream.threads` ({threads})"),
        partitions,
    );
    report.require(
        config.embedded.recent_id_capacity >= config.http.max_events,
        "embedded.recent_id_capacity",
        format!("must not be below `http.max_events` ({})", config.http.max_events),
        config.embedded.recent_id_capacity,
    );
    report.require(
        config.embedded.retain_input_records >= config.embedded.recent_id_capacity as u64,
        "embedded.retain_input_records",
        format!("must not be below `embedded.recent_id_capacity` ({})", config.embedded.recent_id_capacity),
        config.embedded.retain_input_records,
    );
    report.require(
        !config.embedded.path.as_os_str().is_empty(),
        "embedded.path",
        "must not be empty",
        config.embedded.path.display(),
    );
}

pub(super) fn events(config: &Config, report: &mut Report) {
    let kinds = EventKind::ALL.map(EventKind::name).join(", ");
    for (name, kind) in &config.events.mapping {
        let known = EventKind::from_name(kind).is_some();
        report.require(known, &format!("events.mapping.{name}"), format!("must be one of {kinds}"), kind);
    }
    if let Some(kind) = &config.events.unknown {
        let known = EventKind::from_name(kind).is_some();
        report.require(known, "events.unknown", format!("must be one of {kinds}"), kind);
    }
    for kind in &config.events.activity {
        let known = EventKind::from_name(kind).is_some();
        report.require(known, "events.activity", format!("must hold only {kinds}"), kind);
    }
    report.require(!config.events.activity.is_empty(), "events.activity", "must not be empty", "[]");
    let bytes = config.events.max_record_bytes;
    report.require(bytes >= 256, "events.max_record_bytes", "must be at least 256", bytes);
    for (key, bound) in
        [("stream.max_bytes", config.stream.max_bytes), ("http.max_body_bytes", config.http.max_body_bytes)]
    {
        report.require(
            bytes <= bound,
            "events.max_record_bytes",
            format!("must not be above `{key}` ({bound})"),
            bytes,
        );
    }
    report.require(
        config.events.max_future_ms >= 0,
        "events.max_future_ms",
        "must not be negative",
        config.events.max_future_ms,
    );
    report.require(
        config.events.earliest_ms >= 0,
        "events.earliest_ms",
        "must not be negative",
        config.events.earliest_ms,
    );
}

pub(super) fn graph(config: &Config, report: &mut Report) {
    let graph = &config.graph;
    for (key, value, bound) in [
        ("graph.ring_capacity", graph.ring_capacity, 4_096),
        ("graph.item_capacity_nodes", graph.item_capacity_nodes, 16_384),
        ("graph.category_capacity_nodes", graph.category_capacity_nodes, 4_096),
        ("graph.query_capacity_nodes", graph.query_capacity_nodes, 4_096),
        ("graph.edge_capacity", graph.edge_capacity, 4_096),
    ] {
        report.require((1..=bound).contains(&value), key, format!("must be between 1 and {bound}"), value);
    }
    for (key, value) in [
        ("graph.half_life_short_days", graph.half_life_short_days),
        ("graph.half_life_long_days", graph.half_life_long_days),
    ] {
        report.require(value.is_finite() && value > 0.0, key, "must be a number above 0", value);
    }
    report.require(
        graph.half_life_short_days < graph.half_life_long_days,
        "graph.half_life_short_days",
        format!("must be below `graph.half_life_long_days` ({})", graph.half_life_long_days),
        graph.half_life_short_days,
    );
    report.require(graph.session_gap_ms > 0, "graph.session_gap_ms", "must be above 0", graph.session_gap_ms);
    let memory_ms = graph.erasure_memory_ms;
    report.require(memory_ms > 0, "graph.erasure_memory_ms", "must be above 0", memory_ms);
    report.require(
        graph.view_capacity_bytes.is_none_or(|bytes| bytes.get() >= 1 << 20),
        "graph.view_capacity_bytes",
        "must be at least 1048576: room for a few of the largest users",
        graph.view_capacity_bytes.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string()),
    );
    report.require(graph.late_limit_ms > 0, "graph.late_limit_ms", "must be above 0", graph.late_limit_ms);
}
