//! What circles are worth, held against what happened after the moment they were found at.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]

use std::collections::{HashMap, HashSet};

use rand::{SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Serialize;

use super::found::Circles;
use crate::{
    event::{DAY_MS, NameHash, UserId},
    graph::UserGraph,
    train::{
        corpus::Outcome,
        history::{History, HistoryError},
        labels::{LabelMark, is_eligible},
        metrics::{Interval, auc_interval, list_scores, roc_auc},
        schedule::Horizons,
    },
};

/// Rounds of the bootstraps.
const ROUNDS: usize = 200;
/// Groups of equal silence for the question what circles add.
const SILENCE_GROUPS: usize = 10;

/// How well a source of lists finds items new to the user: recall@20 over users who bought something new.
#[derive(Debug, Clone, Serialize)]
pub struct Discovery {
    /// What the user's circle chooses most.
    pub circle: f64,
    /// The same with users dealt to circles of the same sizes at random.
    pub random_circle: f64,
    /// What everybody chooses most.
    pub popularity: f64,
    /// Users measured.
    pub user_count: usize,
}

/// Whether leaving runs in circles.
#[derive(Debug, Clone, Serialize)]
pub struct Contagion {
    /// ROC-AUC of the share of the others in the user's circle who left in the churn horizon before the moment, for the
    /// user leaving in the one after it.
    pub auc: Option<f64>,
    /// Its 95 % interval.
    pub auc_interval: Option<Interval>,
    /// The same within groups of equal own silence, averaged by pairs: what the circle says beyond the user's own silence.
    pub auc_beyond_silence: Option<f64>,
    /// Share of leavers among users of the quarter of circles that lost most before.
    pub after_losses: f64,
    /// Share of leavers among users of the quarter that lost least.
    pub after_calm: f64,
    /// Users measured.
    pub user_count: usize,
}

/// Both.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// Against held-out choices; absent when nobody chose anything new.
    pub discovery: Option<Discovery>,
    /// Against who left.
    pub contagion: Contagion,
}

/// Judges circles found at `at_ms` by what happened after it. `outcomes` are what users did within the horizons.
pub(in crate::train) fn judge(
    history: &impl History,
    at_ms: i64,
    horizons: Horizons,
    circles: &Circles,
    outcomes: &HashMap<UserId, Outcome>,
    seed: u64,
) -> Result<Judged, HistoryError> {
    Ok(Judged {
        discovery: discovery(history, circles, outcomes, seed),
        contagion: contagion(history, at_ms, horizons, circles, outcomes, seed)?,
    })
}

fn discovery(
    history: &impl History,
    circles: &Circles,
    outcomes: &HashMap<UserId, Outcome>,
    seed: u64,
) -> Option<Discovery> {
    let mut dealt = circles.circle_of.clone();
    dealt.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed));
    let everybody = vec![Some(0); circles.rows.len()];
    let [circle, random_circle, popularity] = [&circles.circle_of, &dealt, &everybody].map(|groups| {
        let favourites = favourites(circles, groups);
        circles
            .rows
            .iter()
            .enumerate()
            .filter_map(|(row, own)| {
                let outcome = outcomes.get(&history.users()[circles.users[row]])?;
                let known: HashSet<NameHash> = own.iter().map(|(column, _)| circles.items[*column as usize]).collect();
                let truth: HashSet<NameHash> =
                    outcome.items.iter().copied().filter(|item| !known.contains(item)).collect();
                let nobody = Vec::new();
                let of_group = groups[row].and_then(|group| favourites.get(&group)).unwrap_or(&nobody);
                let list: Vec<NameHash> =
                    of_group.iter().copied().filter(|item| !known.contains(item)).take(20).collect();
                list_scores(&truth, &list).map(|[recall, ..]| recall)
            })
            .collect::<Vec<f64>>()
    });
    let mean = |found: &[f64]| found.iter().sum::<f64>() / found.len() as f64;
    (!circle.is_empty()).then(|| Discovery {
        circle: mean(&circle),
        random_circle: mean(&random_circle),
        popularity: mean(&popularity),
        user_count: circle.len(),
    })
}

/// Items by how many members of each group chose them, most first.
fn favourites(circles: &Circles, groups: &[Option<u32>]) -> HashMap<u32, Vec<NameHash>> {
    let mut counts: HashMap<u32, HashMap<u32, u32>> = HashMap::new();
    for (row, group) in circles.rows.iter().zip(groups) {
        if let Some(group) = group {
            let of_group = counts.entry(*group).or_default();
            for (column, _) in row {
                *of_group.entry(*column).or_default() += 1;
            }
        }
    }
    counts
        .into_iter()
        .map(|(group, of_group)| {
            let mut sorted: Vec<(u32, u32)> = of_group.into_iter().collect();
            sorted.sort_unstable_by_key(|(column, count)| (std::cmp::Reverse(*count), *column));
            (group, sorted.into_iter().map(|(column, _)| circles.items[column as usize]).collect())
        })
        .collect()
}

/// A user at both moments.
struct Member {
    circle: u32,
    /// Whether the user left in the horizon before the moment; `None` for who was not active before it.
    left_before: Option<bool>,
    silent_ms: i64,
    /// Whether the user left in the horizon after the moment; `None` for who was not active before the moment.
    leaves: Option<bool>,
}

fn contagion(
    history: &impl History,
    at_ms: i64,
    horizons: Horizons,
    circles: &Circles,
    outcomes: &HashMap<UserId, Outcome>,
    seed: u64,
) -> Result<Contagion, HistoryError> {
    let moments = [at_ms - horizons.churn_ms(), at_ms];
    let history_ms = horizons.history_ms();
    let circle_of: HashMap<usize, u32> =
        circles.users.iter().zip(&circles.circle_of).filter_map(|(user, circle)| Some((*user, (*circle)?))).collect();
    let marks =
        history.observe(&moments, &|user| circle_of.contains_key(&user), &|user, place, graph: &UserGraph| {
            let eligible = is_eligible(graph, moments[place], history_ms);
            let silent_ms = graph.last_activity_ms().map_or(i64::MAX, |last_ms| moments[place] - last_ms);
            Some((user, place, LabelMark::of(graph), eligible, silent_ms))
        })?;
    let mut before: HashMap<usize, LabelMark> = HashMap::new();
    let mut members = Vec::new();
    for (user, place, mark, eligible, silent_ms) in marks {
        if place == 0 {
            if eligible {
                before.insert(user, mark);
            }
            continue;
        }
        let active_after = outcomes.get(&history.users()[user]).is_some_and(|outcome| outcome.active);
        members.push(Member {
            circle: circle_of[&user],
            left_before: before.get(&user).map(|earlier| earlier.churned_until(&mark)),
            silent_ms,
            leaves: eligible.then_some(!active_after),
        });
    }
    Ok(measure(&members, seed))
}

fn measure(members: &[Member], seed: u64) -> Contagion {
    let mut tallies: HashMap<u32, [usize; 2]> = HashMap::new();
    for member in members {
        if let Some(left) = member.left_before {
            let tally = tallies.entry(member.circle).or_default();
            tally[0] += usize::from(left);
            tally[1] += 1;
        }
    }
    let mut rows: Vec<(f64, bool, i64)> = members
        .iter()
        .filter_map(|member| {
            let label = member.leaves?;
            let [mut left, mut all] = tallies.get(&member.circle).copied()?;
            // The others only: a user's own leaving is no news of the circle.
            if let Some(own) = member.left_before {
                left -= usize::from(own);
                all -= 1;
            }
            (all > 0).then(|| (left as f64 / all as f64, label, member.silent_ms))
        })
        .collect();
    let scores: Vec<f64> = rows.iter().map(|row| row.0).collect();
    let labels: Vec<bool> = rows.iter().map(|row| row.1).collect();
    let auc = roc_auc(&labels, &scores);
    let auc_interval = auc_interval(&labels, &scores, ROUNDS, seed);
    let rate = |part: &[(f64, bool, i64)]| part.iter().filter(|row| row.1).count() as f64 / part.len().max(1) as f64;
    rows.sort_by(|left, right| left.0.total_cmp(&right.0));
    let quarter = rows.len() / 4;
    let (after_calm, after_losses) = (rate(&rows[..quarter]), rate(&rows[rows.len() - quarter..]));
    Contagion {
        auc,
        auc_interval,
        auc_beyond_silence: within_silence(&mut rows),
        after_losses,
        after_calm,
        user_count: labels.len(),
    }
}

/// ROC-AUC within groups of users silent for about equally long, weighted by their pairs.
fn within_silence(rows: &mut [(f64, bool, i64)]) -> Option<f64> {
    rows.sort_by_key(|row| row.2 / DAY_MS);
    let (mut sum, mut pairs) = (0.0, 0.0);
    for group in rows.chunks(rows.len().div_ceil(SILENCE_GROUPS).max(1)) {
        let labels: Vec<bool> = group.iter().map(|row| row.1).collect();
        let scores: Vec<f64> = group.iter().map(|row| row.0).collect();
        let positives = labels.iter().filter(|label| **label).count();
        if let Some(auc) = roc_auc(&labels, &scores) {
            let weight = positives as f64 * (labels.len() - positives) as f64;
            sum += auc * weight;
            pairs += weight;
        }
    }
    (pairs > 0.0).then(|| sum / pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(infectious: bool) -> Vec<Member> {
        // 20 circles of 20. Circle c loses c members of 20 before; after it, everyone's odds follow the circle or not.
        (0..400_usize)
            .map(|index| {
                let (circle, member) = (index / 20, index % 20);
                let left_before = member < circle;
                let spread = if infectious { circle } else { index * 7 % 20 };
                Member {
                    circle: u32::try_from(circle).unwrap(),
                    left_before: Some(left_before),
                    silent_ms: i64::try_from(index * 13 % 40).unwrap() * DAY_MS,
                    leaves: Some((index * 11 + 3) % 20 < spread),
                }
            })
            .collect()
    }

    #[test]
    fn leaving_that_runs_in_circles_is_seen() {
        let found = measure(&members(true), 1);
        assert!(found.auc.unwrap() > 0.75, "{found:?}");
        assert!(found.auc_beyond_silence.unwrap() > 0.7, "{found:?}");
        assert!(found.after_losses > found.after_calm + 0.3, "{found:?}");
        assert_eq!(found.user_count, 400);
    }

    #[test]
    fn leaving_that_does_not_is_not() {
        let found = measure(&members(false), 1);
        assert!((found.auc.unwrap() - 0.5).abs() < 0.08, "{found:?}");
        assert_eq!(measure(&[], 1).user_count, 0);
    }
}
