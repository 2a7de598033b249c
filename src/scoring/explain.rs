//! Why a user's churn score is what it is, by occlusion: the user is scored again with one piece of their own history
//! taken out of the input, and the difference is the piece's effect.

use std::collections::BTreeMap;

use super::{
    ScoreError,
    served::{Forward, Served},
};
use crate::{
    features::EncodedUser,
    score::{Evidence, Reason},
};

/// Scores `user` with each piece taken out and returns the largest effects on the churn log-odds, strongest first; ties
/// in the order of events, edges, features.
pub(super) fn reasons(
    served: &Served,
    forward: &mut Forward,
    user: &EncodedUser,
    limit: usize,
) -> Result<Vec<Reason>, ScoreError> {
    let mut pieces = Vec::new();
    events(user, &mut pieces);
    edges(user, &mut pieces);
    features(served, user, &mut pieces);
    let mut inputs = vec![user];
    inputs.extend(pieces.iter().map(|(_, without)| without));
    let predictions = served.predict(forward, &inputs)?;
    let log_odds = served.bundle.log_odds_of(served.lanes.as_ref(), &predictions, &inputs);
    let mut reasons: Vec<Reason> = pieces
        .iter()
        .zip(&log_odds[1..])
        .map(|((evidence, _), without)| Reason { evidence: evidence.clone(), effect: log_odds[0][0] - without[0] })
        .filter(|reason| reason.effect.is_finite() && reason.effect != 0.0)
        .collect();
    reasons.sort_by(|left, right| right.effect.abs().total_cmp(&left.effect.abs()));
    reasons.truncate(limit);
    Ok(reasons)
}

type Piece = (Evidence, EncodedUser);

fn events(user: &EncodedUser, pieces: &mut Vec<Piece>) {
    for (place, event) in user.events.iter().enumerate() {
        let evidence = Evidence::Event { kind: event.kind, time_ms: i64::from(event.time_s) * 1_000, name: event.name };
        let mut without = user.clone();
        without.events.remove(place);
        pieces.push((evidence, without));
    }
}

fn edges(user: &EncodedUser, pieces: &mut Vec<Piece>) {
    for (place, edge) in user.edges.iter().enumerate() {
        let (from, to) = (&user.nodes[usize::from(edge.from)], &user.nodes[usize::from(edge.to)]);
        let evidence = Evidence::Edge { view: from.view, from: from.name, to: to.name, count: u32::from(edge.count) };
        let mut without = user.clone();
        without.edges.remove(place);
        pieces.push((evidence, without));
    }
}

/// Families of features are taken out together, because each feature alone is half said by its neighbours; the family
/// is shown by its member with the largest linear effect. 'Out' means the training median.
fn features(served: &Served, user: &EncodedUser, pieces: &mut Vec<Piece>) {
    let mut families: BTreeMap<(&'static str, &str), Vec<usize>> = BTreeMap::new();
    let specification = served.bundle.spec.features();
    for (place, feature) in specification.iter().enumerate() {
        families.entry(family(&feature.name)).or_default().push(place);
    }
    for members in families.into_values() {
        let mut without = user.clone();
        for place in &members {
            without.features[*place] = 0.0;
            without.raw[*place] = specification[*place].knots.middle().unwrap_or(0.0);
        }
        let strength = |place: &usize| served.bundle.wide_effect(user, *place).abs();
        let present = members.into_iter().filter(|place| Served::value(user, *place).is_some());
        let strongest = present.max_by(|left, right| strength(left).total_cmp(&strength(right)).then(right.cmp(left)));
        if let Some((place, value)) = strongest.and_then(|place| Some((place, Served::value(user, place)?))) {
            pieces.push((Evidence::Feature { name: served.feature_name(place), value }, without));
        }
    }
}

/// The family of a feature: what is measured, and of which series.
fn family(name: &str) -> (&'static str, &str) {
    const SERIES: [&str; 4] = ["activity", "click", "search", "purchase"];
    let series = SERIES.into_iter().find(|series| name.starts_with(series)).unwrap_or("");
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    let measured = if has(&["recency", "silence", "alive", "bgnbd_silent", "gap_survival"]) {
        "silence"
    } else if has(&["_gap"]) {
        "rhythm"
    } else if has(&["spend", "basket", "value"]) {
        "spend"
    } else if has(&["weekday", "daypart", "kind_share"]) {
        "calendar"
    } else if has(&["session", "since_purchase"]) {
        "sessions"
    } else if has(&["habits"]) {
        "habits"
    } else if has(&["names", "categories", "share", "concentration", "decayed_count"]) {
        "interest"
    } else {
        "frequency"
    };
    (measured, series)
}
