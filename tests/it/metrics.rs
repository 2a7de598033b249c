//! The program's metrics against numbers made with numpy and scikit-learn by the evaluation protocol
//! (`tests/fixtures/metrics/protocol.json`).

use std::collections::HashSet;

use serde::Deserialize;
use undercurrent::train::metrics::{BinaryMetrics, best_f1_threshold, list_metrics, list_scores};

#[derive(Deserialize)]
struct Fixture {
    binary: Binary,
    lists: Lists,
}

#[derive(Deserialize)]
struct Binary {
    labels: Vec<u8>,
    scores: Vec<f64>,
    auc: f64,
    ap: f64,
    ece: f64,
    f1: f64,
}

#[derive(Deserialize)]
struct Lists {
    truth: Vec<Vec<u32>>,
    #[serde(rename = "lists")]
    ranked: Vec<Vec<u32>>,
    recall: f64,
    ndcg: f64,
    hit: f64,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/metrics/protocol.json")).unwrap()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
}

#[test]
fn probabilities_are_measured_as_by_the_protocol() {
    let Binary { labels, scores, auc, ap, ece, f1 } = fixture().binary;
    let labels: Vec<bool> = labels.into_iter().map(|label| label == 1).collect();
    let metrics = BinaryMetrics::of(&labels, &scores, best_f1_threshold(&labels, &scores));
    close(metrics.roc_auc.unwrap(), auc);
    close(metrics.pr_auc.unwrap(), ap);
    close(metrics.ece, ece);
    close(metrics.f1, f1);
}

#[test]
fn lists_are_measured_as_by_the_protocol() {
    let Lists { truth, ranked: lists, recall, ndcg, hit } = fixture().lists;
    let scores: Vec<[f64; 3]> = truth
        .into_iter()
        .zip(&lists)
        .filter_map(|(truth, list)| list_scores(&truth.into_iter().collect::<HashSet<u32>>(), list))
        .collect();
    let metrics = list_metrics(&scores).unwrap();
    close(metrics.recall_at_20, recall);
    close(metrics.ndcg_at_10, ndcg);
    close(metrics.hit_at_20, hit);
}
