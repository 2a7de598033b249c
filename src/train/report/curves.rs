//! The curves of a report, as points.

#![expect(clippy::cast_precision_loss, reason = "counts of users stay far below 2^52")]

use serde::Serialize;

/// Points a curve is drawn with at most.
const POINTS: usize = 200;
/// Bins of equal mass of the calibration picture.
const BINS: usize = 10;

/// A named line through the unit square.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    /// The model drawn.
    pub name: String,
    /// x and y, both in `[0, 1]`.
    pub points: Vec<[f64; 2]>,
}

/// One bin of predictions.
#[derive(Debug, Clone, Serialize)]
pub struct CalibrationBin {
    /// Users in it.
    pub count: usize,
    /// Mean prediction.
    pub predicted: f64,
    /// Share for whom it happened.
    pub observed: f64,
    /// 95 % interval of that share (Wilson).
    pub interval: [f64; 2],
}

/// One tenth of all users, highest scores first.
#[derive(Debug, Clone, Serialize)]
pub struct GainRow {
    /// Share of all users up to and with this tenth.
    pub share: f64,
    /// Share of all positives found up to and with this tenth.
    pub gain: f64,
    /// Rate within this tenth over the rate of all.
    pub lift: f64,
}

/// Predictions at a threshold against what happened.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Confusion {
    /// The threshold.
    pub threshold: f64,
    /// Named, and it happened.
    pub true_positives: usize,
    /// Named, and it did not happen.
    pub false_positives: usize,
    /// Not named, and it happened.
    pub false_negatives: usize,
    /// Not named, and it did not happen.
    pub true_negatives: usize,
}

impl Confusion {
    /// Counts.
    pub fn of(labels: &[bool], scores: &[f64], threshold: f64) -> Self {
        let count = |label: bool, named: bool| {
            labels.iter().zip(scores).filter(|(found, p)| **found == label && (**p >= threshold) == named).count()
        };
        Self {
            threshold,
            true_positives: count(true, true),
            false_positives: count(false, true),
            false_negatives: count(true, false),
            true_negatives: count(false, false),
        }
    }
}

/// Users and positives seen after each distinct score, highest first.
fn steps(labels: &[bool], scores: &[f64]) -> Vec<[usize; 2]> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|left, right| scores[*right].total_cmp(&scores[*left]));
    let (mut seen, mut hits) = (0, 0);
    let mut found = Vec::new();
    for group in order.chunk_by(|left, right| scores[*left].total_cmp(&scores[*right]).is_eq()) {
        seen += group.len();
        hits += group.iter().filter(|place| labels[**place]).count();
        found.push([seen, hits]);
    }
    found
}

/// At most [`POINTS`] of `points`, the last among them.
fn thinned(points: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let step = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.into_iter().enumerate().filter(|(place, _)| place % step == 0 || *place == last).map(|(_, p)| p).collect()
}

/// False positive rate against true positive rate.
pub(super) fn roc(name: &str, labels: &[bool], scores: &[f64]) -> Curve {
    let positives = labels.iter().filter(|label| **label).count().max(1) as f64;
    let negatives = labels.iter().filter(|label| !**label).count().max(1) as f64;
    let mut points = vec![[0.0, 0.0]];
    points.extend(
        steps(labels, scores).iter().map(|[seen, hits]| [(seen - hits) as f64 / negatives, *hits as f64 / positives]),
    );
    Curve { name: name.to_owned(), points: thinned(points) }
}

/// Recall against precision.
pub(super) fn precision_recall(name: &str, labels: &[bool], scores: &[f64]) -> Curve {
    let positives = labels.iter().filter(|label| **label).count().max(1) as f64;
    let points = steps(labels, scores)
        .iter()
        .map(|[seen, hits]| [*hits as f64 / positives, *hits as f64 / *seen as f64])
        .collect();
    Curve { name: name.to_owned(), points: thinned(points) }
}

/// Mean prediction against observed rate, over bins of equal mass.
pub(super) fn calibration(labels: &[bool], scores: &[f64]) -> Vec<CalibrationBin> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|left, right| scores[*left].total_cmp(&scores[*right]));
    let bins = BINS.min(order.len());
    (0..bins)
        .map(|bin| {
            let of = &order[bin * order.len() / bins..(bin + 1) * order.len() / bins];
            let hits = of.iter().filter(|place| labels[**place]).count();
            CalibrationBin {
                count: of.len(),
                predicted: of.iter().map(|place| scores[*place]).sum::<f64>() / of.len() as f64,
                observed: hits as f64 / of.len() as f64,
                interval: wilson(hits, of.len()),
            }
        })
        .collect()
}

/// Gain and lift by tenth of all users, highest scores first.
pub(super) fn gains(labels: &[bool], scores: &[f64]) -> Vec<GainRow> {
    const TENTHS: usize = 10;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
    let positives = labels.iter().filter(|label| **label).count();
    if positives == 0 || order.len() < TENTHS {
        return Vec::new();
    }
    let rate = positives as f64 / order.len() as f64;
    let mut found = 0;
    (0..TENTHS)
        .map(|tenth| {
            let end = (tenth + 1) * order.len() / TENTHS;
            let of = &order[tenth * order.len() / TENTHS..end];
            let hits = of.iter().filter(|place| labels[**place]).count();
            found += hits;
            GainRow {
                share: end as f64 / order.len() as f64,
                gain: found as f64 / positives as f64,
                lift: hits as f64 / of.len() as f64 / rate,
            }
        })
        .collect()
}

/// 95 % interval of a share (Wilson 1927, score interval); `[0, 1]` without trials.
pub(super) fn wilson(hits: usize, count: usize) -> [f64; 2] {
    const Z: f64 = 1.959_964;
    if count == 0 {
        return [0.0, 1.0];
    }
    let n = count as f64;
    let share = hits as f64 / n;
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0)]
}
