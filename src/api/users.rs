//! `GET /v1/users/{id}`: what is known of a user, and what the model makes of it.
//!
//! Graph and score are the committed ones. Factors, reasons and lists are computed for this answer from the same graph, at
//! the moment the score stands for, so they agree with what was written.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{ApiState, problem::Problem};
use crate::{
    decision::{Subject, UserScore, factor_text, name_text, reason_json, recommendation_message, score_message},
    event::{EventKind, NameHash, NameKind, UserId, format_time_ms},
    graph::{Edge, GraphParams, NameLookup, Node, UserGraph, ViewGraph, due},
    score::{ScoreRequest, Scored},
    stream::{FoundUser, PartitionHandle},
};

/// Recent events shown.
const RECENT_SHOWN: usize = 20;
/// Nodes and edges shown of each view, most frequent first.
const TOP_SHOWN: usize = 5;
/// Reasons shown.
const REASONS_SHOWN: usize = 5;
/// Places shown of each list.
const PLACES_SHOWN: usize = 20;

pub(super) async fn get_user(State(state): State<ApiState>, Path(id): Path<String>) -> Response {
    let Some(found) = state.partitions.find_user(&id) else {
        let detail = format!("no event of user `{id}` has been committed in the partitions of this process");
        return Problem::new(StatusCode::NOT_FOUND, "unknown user", detail).into_response();
    };
    // Reasons cost tens of scores: not on a thread that serves others.
    match tokio::task::spawn_blocking(move || show_blocking(&state, &UserId::new(&id), &found)).await {
        Ok(shown) => Json(shown).into_response(),
        Err(panic) => {
            tracing::error!(%panic, "a user could not be shown");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error", "the request failed inside")
                .into_response()
        }
    }
}

/// Texts of a partition's names, and of the catalogue for what no graph mentions.
struct Texts<'a> {
    partition: &'a PartitionHandle,
    catalogue: &'a dyn NameLookup,
}

impl NameLookup for Texts<'_> {
    fn text(&self, name: NameHash) -> Option<Arc<str>> {
        self.partition.state.names.text(name).or_else(|| self.catalogue.text(name))
    }
}

fn show_blocking(state: &ApiState, user: &UserId, found: &FoundUser) -> Value {
    let texts = Texts { partition: &found.partition, catalogue: state.catalogue.as_ref() };
    let partition = found.partition.state.partition();
    let mut shown = json!({
        "user_id": user.as_str(),
        "partition": partition.0,
        "graph": graph_json(&found.graph, &state.graph_params, &texts),
        "score": null,
        "reasons": [],
        "recommendations": null,
    });
    // Restored or folded a moment ago: its first score comes with the next micro-batch.
    let Some(score) = &found.score else { return shown };
    let request = ScoreRequest { graph: Arc::clone(&found.graph), as_of_ms: as_of_ms(score, &found.graph) };
    let subject = Subject { user, partition, erased_ms: None };
    let scored = state.scorer.score_blocking(std::slice::from_ref(&request)).map(|mut scored| scored.pop());
    match (scored, state.scorer.explain_blocking(&request, REASONS_SHOWN)) {
        (Ok(Some(scored)), Ok(reasons)) => {
            shown["score"] = score_json(subject, score, &scored);
            shown["recommendations"] = lists_json(subject, score, &scored, &texts);
            shown["reasons"] = reasons.iter().map(|reason| reason_json(reason, request.as_of_ms, &texts)).collect();
        }
        (scored, reasons) => {
            // The committed score is still true; only what explains it is missing, and the answer says so.
            shown["score"] = plain_score_json(score);
            let error =
                scored.err().or(reasons.err()).map_or_else(|| "no answer".to_owned(), |error| error.to_string());
            shown["explanation_error"] = error.into();
        }
    }
    shown
}

/// A graph committed after the score may have newer events: no moment before them can be scored.
fn as_of_ms(score: &UserScore, graph: &UserGraph) -> i64 {
    graph.last_event_ms().map_or(score.as_of_ms, |last_ms| last_ms.max(score.as_of_ms))
}

/// The score as it was written, its factors in words.
fn score_json(subject: Subject<'_>, score: &UserScore, scored: &Scored) -> Value {
    let mut shown = payload_json(&score_message(subject, score, scored).payload);
    let texts = scored.top_factors.iter().map(|factor| factor_text(&factor.name, factor.value));
    for (factor, text) in shown["top_factors"].as_array_mut().into_iter().flatten().zip(texts) {
        factor["text"] = text.into();
    }
    shown
}

fn payload_json(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or(Value::Null)
}

fn lists_json(subject: Subject<'_>, score: &UserScore, scored: &Scored, texts: &dyn NameLookup) -> Value {
    let mut message = payload_json(&recommendation_message(subject, score, scored, PLACES_SHOWN, texts).payload);
    json!({ "items": message["items"].take(), "discoveries": message["discoveries"].take() })
}

fn plain_score_json(score: &UserScore) -> Value {
    json!({
        "churn_probability": score.churn_probability.get(),
        "churn_days": score.churn_days,
        "purchase_probability": score.purchase_probability.get(),
        "purchase_days": score.purchase_days,
        "value_at_stake_minor": score.value_at_stake_minor,
        "event_time": format_time_ms(score.event_ms),
        "scored_at": format_time_ms(score.as_of_ms),
        "model_version": &*score.model_version,
    })
}

fn graph_json(graph: &UserGraph, params: &GraphParams, texts: &dyn NameLookup) -> Value {
    let views: Map<String, Value> =
        graph.views().map(|(view, graph)| (view.name().to_owned(), view_json(graph, params, texts))).collect();
    json!({
        "first_event": graph.first_event_ms().map(format_time_ms),
        "last_event": graph.last_event_ms().map(format_time_ms),
        "last_activity": graph.last_activity_ms().map(format_time_ms),
        "event_count": graph.event_count(),
        "activity_count": graph.activity_count(),
        "active_day_count": graph.activity_days().count(),
        "typical_gap_hours": due::typical_gap_ms(graph) / 3_600_000,
        "purchase_count": graph.purchase_count(),
        "purchase_value_minor": graph.purchase_value_minor(),
        "views": views,
        "recent": recent_json(graph, texts),
    })
}

fn view_json(view: &ViewGraph, params: &GraphParams, texts: &dyn NameLookup) -> Value {
    let expanded = view.expand(params);
    let kinds: Map<String, Value> = EventKind::ALL
        .iter()
        .zip(expanded.totals().kind_count)
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| (kind.name().to_owned(), count.into()))
        .collect();
    let top = |kind: NameKind| -> Vec<Value> {
        let mut nodes: Vec<&Node> = expanded.nodes_of(kind).iter().collect();
        nodes.sort_by_key(|node| std::cmp::Reverse((node.count, node.last_s)));
        let shown = nodes.iter().take(TOP_SHOWN).map(|node| {
            json!({
                "name": name_text(texts, node.name),
                "count": node.count,
                "last": format_time_ms(i64::from(node.last_s) * 1_000),
                "value_minor": node.value_minor,
            })
        });
        shown.collect()
    };
    let mut edges: Vec<&Edge> = expanded.edges().iter().collect();
    edges.sort_by_key(|edge| std::cmp::Reverse((edge.count, edge.last_s)));
    let edges: Vec<Value> = edges
        .iter()
        .take(TOP_SHOWN)
        .map(
            |edge| json!({ "from": name_text(texts, edge.from), "to": name_text(texts, edge.to), "count": edge.count }),
        )
        .collect();
    json!({
        "event_count": view.summary().event_count,
        "line_count": expanded.totals().line_count,
        "value_minor": expanded.totals().value_minor,
        "first": format_time_ms(view.summary().first_ms),
        "last": format_time_ms(view.summary().last_ms),
        "kinds": kinds,
        "node_count": expanded.nodes().len(),
        "edge_count": expanded.edges().len(),
        "top_items": top(NameKind::Item),
        "top_categories": top(NameKind::Category),
        "top_queries": top(NameKind::Query),
        "top_edges": edges,
    })
}

/// The newest lines of all views, newest first.
fn recent_json(graph: &UserGraph, texts: &dyn NameLookup) -> Vec<Value> {
    let timeline = graph.timeline();
    let shown = timeline.iter().rev().take(RECENT_SHOWN).map(|line| {
        let entry = &line.entry;
        let named = if entry.is_query { "query" } else { "item" };
        let mut line = json!({
            "time": format_time_ms(i64::from(entry.time_s) * 1_000),
            "kind": entry.kind.name(),
            "category": entry.category.map(|name| name_text(texts, name)),
            "quantity": entry.quantity,
            "value_minor": entry.value_minor,
        });
        line[named] = entry.name.map(|name| name_text(texts, name)).into();
        line
    });
    shown.collect()
}
