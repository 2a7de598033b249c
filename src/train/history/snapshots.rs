//! A history of snapshots: what the daemon wrote over the weeks, or what `replay` made of files.
//!
//! Partitions are written one by one, at moments of their own. A **round** is a moment of which every partition can say
//! how its users stood: the earliest of some snapshots that lie close together, the later ones taken back to it
//! ([`rewound`]). Features come from rounds only. Labels may be asked for at any moment up to the newest round: the next
//! snapshot is taken back to it, and users whose recent events do not reach so far are left out, and counted. When they are
//! more than a few, the history refuses: labels of the quiet alone would be wrong labels.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{History, HistoryError, Rewound, rewound};
use crate::{
    event::{DAY_MS, NameKind, PartitionId, UserId, format_time_ms, read_items},
    graph::{GraphParams, UserGraph},
    model::items::CatalogueEntry,
    snapshot::{Manifest, SnapshotKind, Snapshots},
    train::{evaluate::EvaluateError, item_training::Catalogue, parallel},
};

/// How far a graph is taken back at most for features.
const MAX_SKEW_MS: i64 = DAY_MS;
/// A partition whose newest snapshot is this much older than that of another has had no events since: one is written
/// whenever something changed.
const QUIET_MS: i64 = 2 * DAY_MS;
/// Of a hundred users, how many may have no exact answer at a moment.
const MAX_UNKNOWN_PERCENT: u64 = 5;

/// Users at the moments of snapshots.
#[derive(Debug)]
pub struct SnapshotHistory {
    snapshots: Snapshots,
    params: GraphParams,
    /// Sorted; a user's number is the place here.
    users: Vec<UserId>,
    /// Snapshots of each partition with their moments, ascending.
    partitions: Vec<Vec<Dated>>,
    /// Ascending.
    rounds_ms: Vec<i64>,
    first_ms: i64,
    event_count: u64,
    threads: usize,
}

/// A snapshot with the moment before which it knows everything.
#[derive(Debug, Clone)]
struct Dated {
    moment_ms: i64,
    manifest: Manifest,
}

impl SnapshotHistory {
    /// Looks at everything in `snapshots` up to `until_ms` (exclusive end of what may be seen). `location` is for messages.
    pub fn open(snapshots: Snapshots, location: &str, until_ms: i64, threads: usize) -> Result<Self, HistoryError> {
        let nothing = |message: String| HistoryError::Nothing { location: location.to_owned(), message };
        let partitions = dated(&snapshots, until_ms)?;
        let Some(newest) = partitions.iter().filter_map(|list| list.last()).max_by_key(|dated| dated.moment_ms) else {
            return Err(nothing("there is none of a moment that may be seen".to_owned()));
        };
        let params = newest.manifest.graph_params.to_params();
        for dated in partitions.iter().flatten() {
            let differences = dated.manifest.graph_params.differences(&newest.manifest.graph_params);
            if !differences.is_empty() {
                let message = format!("{} of `{}`", differences, dated.manifest.path());
                return Err(HistoryError::Mixed { message });
            }
        }
        let rounds_ms = rounds(&partitions);
        if rounds_ms.is_empty() {
            return Err(nothing("the partitions have no snapshots within a day of each other".to_owned()));
        }
        let mut history =
            Self { snapshots, params, users: Vec::new(), partitions, rounds_ms, first_ms: 0, event_count: 0, threads };
        history.survey()?;
        if history.users.is_empty() {
            return Err(nothing("they hold no user".to_owned()));
        }
        Ok(history)
    }

    /// The moments of which all graphs are whole, ascending, milliseconds since the Unix epoch.
    pub fn rounds_ms(&self) -> &[i64] {
        &self.rounds_ms
    }

    /// The newest of them.
    pub fn end_ms(&self) -> i64 {
        self.rounds_ms.last().copied().unwrap_or_default()
    }

    /// Events ever folded into the newest graphs.
    pub fn event_count(&self) -> u64 {
        self.event_count
    }

    /// Partitions with snapshots.
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// Texts of the newest graphs' names, with titles and categories of `items` where given.
    pub fn catalogue(&self, items: Option<&Path>) -> Result<Catalogue, EvaluateError> {
        let mut catalogue = Catalogue::default();
        for dated in self.partitions.iter().filter_map(|list| list.last()) {
            let names = self.snapshots.names_blocking(&dated.manifest).map_err(|error| failed(dated, &error))?;
            for name in names {
                let Some(kind) = name.kind.filter(|kind| *kind != NameKind::Query) else { continue };
                let entry = CatalogueEntry { text: name.text.to_string(), title: String::new() };
                catalogue.names.entry((kind, name.hash)).or_insert(entry);
            }
        }
        if let Some(path) = items {
            catalogue.add(read_items(path)?);
        }
        Ok(catalogue)
    }

    /// Reads users and sums of the newest snapshots.
    fn survey(&mut self) -> Result<(), HistoryError> {
        let newest: Vec<&Dated> = self.partitions.iter().filter_map(|list| list.last()).collect();
        let found: Vec<Result<_, HistoryError>> = parallel::map(self.threads, newest.len(), |place| {
            let mut found = (Vec::new(), i64::MAX, 0_u64);
            let users = self.snapshots.users_blocking(&newest[place].manifest);
            for entry in users.map_err(|error| failed(newest[place], &error))? {
                let (user, graph) = entry.map_err(|error| failed(newest[place], &error))?;
                found.1 = found.1.min(graph.first_event_ms().unwrap_or(i64::MAX));
                found.2 += graph.event_count();
                found.0.push(user);
            }
            Ok(found)
        });
        let (mut all, mut first_ms, mut event_count) = (Vec::new(), i64::MAX, 0);
        for found in found {
            let (users, first, events) = found?;
            all.extend(users);
            first_ms = first_ms.min(first);
            event_count += events;
        }
        all.sort_unstable();
        all.dedup();
        (self.users, self.first_ms, self.event_count) = (all, first_ms, event_count);
        Ok(())
    }

    /// The snapshot of a partition that says how its users stood at `moment_ms`.
    fn source(&self, partition: usize, moment_ms: i64) -> Option<usize> {
        let list = &self.partitions[partition];
        let next = list.partition_point(|dated| dated.moment_ms < moment_ms);
        if next < list.len() {
            return Some(next);
        }
        // Nothing was written since, so nothing has happened there.
        (moment_ms <= self.end_ms()).then(|| list.len() - 1)
    }

    /// What each snapshot is to be asked: its partition and place, and the places of the moments.
    fn questions(&self, moments_ms: &[i64]) -> Vec<(usize, usize, Vec<usize>)> {
        let mut questions = Vec::new();
        for partition in 0..self.partitions.len() {
            let mut asked: Vec<Vec<usize>> = vec![Vec::new(); self.partitions[partition].len()];
            for (place, moment_ms) in moments_ms.iter().enumerate() {
                if let Some(source) = self.source(partition, *moment_ms) {
                    asked[source].push(place);
                }
            }
            let wanted = asked.into_iter().enumerate().filter(|(_, places)| !places.is_empty());
            questions.extend(wanted.map(|(source, places)| (partition, source, places)));
        }
        questions
    }
}

/// Users that were asked about at one moment, and those without an exact answer.
#[derive(Debug, Default)]
struct Tally {
    asked: AtomicU64,
    unknown: AtomicU64,
}

impl History for SnapshotHistory {
    fn users(&self) -> &[UserId] {
        &self.users
    }

    fn params(&self) -> &GraphParams {
        &self.params
    }

    fn first_ms(&self) -> i64 {
        self.first_ms
    }

    fn shown_at(&self, moment_ms: i64) -> Option<i64> {
        let later = self.rounds_ms.partition_point(|round_ms| *round_ms <= moment_ms);
        later.checked_sub(1).map(|newest| self.rounds_ms[newest])
    }

    fn observe<R: Send>(
        &self,
        moments_ms: &[i64],
        wanted: &(dyn Fn(usize) -> bool + Sync),
        look: &(dyn Fn(usize, usize, &UserGraph) -> Option<R> + Sync),
    ) -> Result<Vec<R>, HistoryError> {
        let questions = self.questions(moments_ms);
        let tallies: Vec<Tally> = moments_ms.iter().map(|_| Tally::default()).collect();
        let answered: Vec<Result<_, HistoryError>> = parallel::map(self.threads, questions.len(), |number| {
            let (partition, source, places) = &questions[number];
            let dated = &self.partitions[*partition][*source];
            let mut answers = Vec::new();
            let users = self.snapshots.users_blocking(&dated.manifest).map_err(|error| failed(dated, &error))?;
            for entry in users {
                let (user, graph) = entry.map_err(|error| failed(dated, &error))?;
                // One that is in no newest snapshot was erased since.
                let Ok(user) = self.users.binary_search(&user) else { continue };
                if !wanted(user) {
                    continue;
                }
                for place in places {
                    tallies[*place].asked.fetch_add(1, Ordering::Relaxed);
                    let answer = match rewound(&graph, moments_ms[*place], &self.params) {
                        Rewound::Same => look(user, *place, &graph),
                        Rewound::Earlier(earlier) => look(user, *place, &earlier),
                        Rewound::Nothing => None,
                        Rewound::Unknown => {
                            tallies[*place].unknown.fetch_add(1, Ordering::Relaxed);
                            None
                        }
                    };
                    answers.extend(answer.map(|answer| (user, *place, answer)));
                }
            }
            Ok(answers)
        });
        let mut all = Vec::new();
        for answers in answered {
            all.extend(answers?);
        }
        for (tally, moment_ms) in tallies.iter().zip(moments_ms) {
            let (asked, unknown) = (tally.asked.load(Ordering::Relaxed), tally.unknown.load(Ordering::Relaxed));
            if unknown * 100 > asked * MAX_UNKNOWN_PERCENT {
                let source_ms = (0..self.partitions.len()).filter_map(|partition| {
                    self.source(partition, *moment_ms).map(|source| self.partitions[partition][source].moment_ms)
                });
                return Err(HistoryError::Unreachable {
                    moment: format_time_ms(*moment_ms),
                    source_moment: format_time_ms(source_ms.max().unwrap_or(*moment_ms)),
                    unknown,
                    asked,
                });
            }
        }
        all.sort_by_key(|(user, place, _)| (*user, *place));
        Ok(all.into_iter().map(|(_, _, answer)| answer).collect())
    }
}

/// The snapshots of each partition that may be seen, ascending by moment: all bases, and the newest of all.
fn dated(snapshots: &Snapshots, until_ms: i64) -> Result<Vec<Vec<Dated>>, HistoryError> {
    let listed = snapshots
        .list_blocking(None)
        .map_err(|error| HistoryError::Snapshot { moment: "any moment".to_owned(), message: error.to_string() })?;
    let mut by_partition: std::collections::BTreeMap<PartitionId, Vec<Dated>> = std::collections::BTreeMap::new();
    // One that cannot be read is passed over, as a restore does; `snapshots verify` tells of it.
    for manifest in listed.into_iter().filter_map(|listed| listed.manifest.ok()) {
        let newest_ms = manifest.max_event_ms().into_iter().flatten().max();
        // Before the first event there is nothing to say.
        let Some(known_ms) = newest_ms.max(manifest.watermark_ms.filter(|_| newest_ms.is_some())) else { continue };
        let moment_ms = known_ms.saturating_add(1);
        if moment_ms <= until_ms {
            by_partition.entry(manifest.partition()).or_default().push(Dated { moment_ms, manifest });
        }
    }
    let mut partitions: Vec<Vec<Dated>> = by_partition.into_values().collect();
    for list in &mut partitions {
        list.sort_by(|left, right| (left.moment_ms, &left.manifest.id).cmp(&(right.moment_ms, &right.manifest.id)));
        let newest = list.last().map(|dated| dated.manifest.id.clone());
        list.retain(|dated| dated.manifest.kind == SnapshotKind::Base || Some(&dated.manifest.id) == newest.as_ref());
    }
    Ok(partitions)
}

/// Moments at which every partition has a snapshot at or soon after, newest first in the search, ascending in the answer.
fn rounds(partitions: &[Vec<Dated>]) -> Vec<i64> {
    let newest = |list: &Vec<Dated>| list.last().map(|dated| dated.moment_ms);
    let Some(last_ms) = partitions.iter().filter_map(newest).max() else { return Vec::new() };
    let mut found = Vec::new();
    let mut bound_ms = i64::MAX;
    loop {
        let mut round_ms: Option<i64> = None;
        for list in partitions {
            let end = list.partition_point(|dated| dated.moment_ms <= bound_ms);
            let is_quiet = end == list.len() && newest(list).is_some_and(|newest| newest < last_ms - QUIET_MS);
            match end.checked_sub(1).map(|place| list[place].moment_ms) {
                // Its last snapshot still holds.
                _ if is_quiet => {}
                Some(moment_ms) => round_ms = Some(round_ms.map_or(moment_ms, |known| known.min(moment_ms))),
                // A partition that had no snapshot yet had no events yet.
                None => {}
            }
        }
        let Some(moment_ms) = round_ms else { break };
        let all_near = partitions.iter().all(|list| {
            let next = list.get(list.partition_point(|dated| dated.moment_ms < whole_second(moment_ms)));
            next.is_none_or(|dated| dated.moment_ms - moment_ms <= MAX_SKEW_MS)
        });
        let exact = partitions.iter().all(|list| list.iter().any(|dated| dated.moment_ms == moment_ms));
        if all_near {
            found.push(if exact { moment_ms } else { whole_second(moment_ms) });
        }
        bound_ms = moment_ms - 1;
    }
    found.reverse();
    found.dedup();
    found
}

/// Rings know seconds, so a graph can be taken back to whole ones.
fn whole_second(moment_ms: i64) -> i64 {
    moment_ms - moment_ms.rem_euclid(1_000)
}

fn failed(dated: &Dated, error: &dyn std::fmt::Display) -> HistoryError {
    HistoryError::Snapshot { moment: format_time_ms(dated.moment_ms), message: error.to_string() }
}
