//! Which users a view keeps when there is no room for all: those seen last, by event time.
//!
//! A view counts its own users and is bounded by itself, so who goes is a function of its topic alone, whatever the batches,
//! the interleaving and the restarts were (DET-1). A user whom no view keeps is gone.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{GraphParams, PartitionState, ViewGraph};
use crate::event::{UserId, View};

/// Users of each view by their newest event. Derived from the graphs: it is in no snapshot, and is built anew when a batch
/// that changed it is dropped.
#[derive(Debug, Default)]
pub(super) struct Residents {
    views: [OfView; View::COUNT],
}

#[derive(Debug, Default)]
struct OfView {
    /// Each user with a time at or before its newest event's: put off when it comes up. May name users who are gone.
    heap: BinaryHeap<Reverse<(i64, UserId)>>,
    count: usize,
    /// What they weigh; kept up only where there is a bound on it.
    weight_bytes: u64,
}

/// What a view knows of a user, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resident {
    /// The newest event, milliseconds since the Unix epoch.
    pub(super) last_ms: i64,
    /// See [`ViewGraph::weight_bytes`].
    pub(super) weight_bytes: u64,
}

impl From<&ViewGraph> for Resident {
    fn from(view: &ViewGraph) -> Self {
        Self { last_ms: view.summary().last_ms, weight_bytes: view.weight_bytes() }
    }
}

impl Residents {
    /// Counts the users of `state`.
    pub(super) fn of(state: &PartitionState) -> Self {
        let mut residents = Self::default();
        state.graphs.for_each(|user, graph| {
            for (view, of_user) in graph.views() {
                residents.add(view, user.clone(), of_user.into());
            }
        });
        residents
    }

    /// Adds a user that the view did not have.
    pub(super) fn add(&mut self, view: View, user: UserId, resident: Resident) {
        let of_view = &mut self.views[view.index()];
        of_view.count += 1;
        of_view.weight_bytes += resident.weight_bytes;
        of_view.heap.push(Reverse((resident.last_ms, user)));
    }

    /// Notes that a user of the view weighs `now_bytes`, and weighed `before_bytes`.
    pub(super) fn weigh_again(&mut self, view: View, before_bytes: u64, now_bytes: u64) {
        let weight_bytes = &mut self.views[view.index()].weight_bytes;
        *weight_bytes = (*weight_bytes + now_bytes).saturating_sub(before_bytes);
    }

    /// Notes that the view lost a user for another reason. Its entry is passed over when it comes up.
    pub(super) fn lost_one(&mut self, view: View, weight_bytes: u64) {
        let of_view = &mut self.views[view.index()];
        debug_assert!(of_view.count > 0, "a user that was never counted");
        of_view.count = of_view.count.saturating_sub(1);
        of_view.weight_bytes = of_view.weight_bytes.saturating_sub(weight_bytes);
    }

    /// Takes the user of the view whose newest event is the oldest (of equal ones the one whose id sorts first) when there are
    /// more, or they weigh more, than `params` allow. `resident_of` says what the view knows of a user, `None` when nothing.
    pub(super) fn take_excess(
        &mut self,
        view: View,
        params: &GraphParams,
        resident_of: impl Fn(&UserId) -> Option<Resident>,
    ) -> Option<UserId> {
        let OfView { heap, count, weight_bytes } = &mut self.views[view.index()];
        let too_many = params.user_capacity.is_some_and(|capacity| *count > capacity.get());
        let too_heavy = params.view_capacity_bytes.is_some_and(|capacity| *weight_bytes > capacity.get());
        if !too_many && !too_heavy {
            return None;
        }
        while let Some(Reverse((known_ms, user))) = heap.pop() {
            match resident_of(&user) {
                Some(resident) if resident.last_ms == known_ms => {
                    *count -= 1;
                    *weight_bytes = weight_bytes.saturating_sub(resident.weight_bytes);
                    return Some(user);
                }
                Some(resident) => heap.push(Reverse((resident.last_ms, user))),
                None => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroUsize};

    use rand::{Rng, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;
    use crate::{
        event::{Erasure, Event, EventKind, Offset, PartitionId},
        graph::{GraphStore, NameTable, WriteSet},
    };

    const CAPACITY: usize = 5;
    /// Room for five users of a few lines, and for fewer of more.
    const CAPACITY_BYTES: u64 = 5_200;

    fn by_count() -> GraphParams {
        GraphParams { user_capacity: NonZeroUsize::new(CAPACITY), ..GraphParams::default() }
    }

    fn by_weight() -> GraphParams {
        GraphParams { view_capacity_bytes: NonZeroU64::new(CAPACITY_BYTES), ..GraphParams::default() }
    }

    /// Folds `records` (a user's number, a view, a time; every eleventh is a request to erase the user).
    fn fold(
        params: &GraphParams,
        write_set: &mut WriteSet,
        state: &PartitionState,
        records: &[(u32, View, i64)],
        first: usize,
    ) {
        for ((user, view, time_ms), number) in records.iter().zip(first..) {
            let offset = write_set.progress().next_offsets.get(*view);
            let user = format!("u{user}").into();
            if number % 11 == 0 {
                write_set.erase(state, *view, offset, &Erasure { user, time_ms: *time_ms }, params);
                continue;
            }
            let kind = [EventKind::View, EventKind::Search, EventKind::Purchase][view.index()];
            let event = Event {
                user,
                kind,
                time_ms: *time_ms,
                event_id: number as u64 + 1,
                session: None,
                query: None,
                lines: smallvec::SmallVec::new(),
            };
            write_set.fold(state, *view, offset, &event, params);
        }
    }

    fn records(rng: &mut Xoshiro256PlusPlus) -> Vec<(u32, View, i64)> {
        let record = |at: i64| {
            let view = View::ALL[rng.random_range(0..View::COUNT)];
            (rng.random_range(0..20), view, 1_700_000_000_000 + at * 1_000 - rng.random_range(0..9_000))
        };
        (0..300).map(record).collect()
    }

    /// The state as a restart finds it in a snapshot.
    fn restored(state: &PartitionState) -> PartitionState {
        let graphs = GraphStore::default();
        state.graphs.for_each(|user, graph| graphs.insert(user.clone(), std::sync::Arc::clone(graph)));
        let erasures = (*state.erasures()).clone();
        PartitionState::restored(state.partition(), graphs, NameTable::default(), state.progress())
            .with_erasures(erasures)
    }

    #[test]
    fn who_is_evicted_depends_on_the_topics_alone() {
        let counts = counts_after_runs(&by_count());
        assert_eq!(counts.iter().max(), Some(&CAPACITY), "the bound was reached, and not passed");
    }

    #[test]
    fn who_is_evicted_for_its_weight_depends_on_the_topics_alone() {
        let counts = counts_after_runs(&by_weight());
        assert!(counts.iter().all(|count| *count <= CAPACITY), "{counts:?}");
        assert!(
            counts.contains(&CAPACITY) && counts.contains(&(CAPACITY - 1)),
            "heavier users leave less room: {counts:?}"
        );
    }

    /// Folds random records whole, cut into batches that are dropped or followed by a restart, and view by view; the ends must be
    /// equal. Returns the users of each view of each seed.
    fn counts_after_runs(params: &GraphParams) -> Vec<usize> {
        let mut counts = Vec::new();
        for seed in 0..100 {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            let records = records(&mut rng);
            let whole = PartitionState::new(PartitionId(0));
            let mut write_set = WriteSet::on(&whole);
            fold(params, &mut write_set, &whole, &records, 0);
            write_set.publish(&whole);

            let mut cut = PartitionState::new(PartitionId(0));
            let mut at = 0;
            while at < records.len() {
                let end = (at + rng.random_range(1..40)).min(records.len());
                let mut write_set = WriteSet::on(&cut);
                fold(params, &mut write_set, &cut, &records[at..end], at);
                match rng.random_range(0..4) {
                    // Dropped, as after an abort; collected again.
                    0 => continue,
                    1 => {
                        write_set.publish(&cut);
                        cut = restored(&cut);
                    }
                    _ => write_set.publish(&cut),
                }
                at = end;
            }
            assert_eq!(whole.state_hash(), cut.state_hash(), "seed {seed}");

            // The topics one after the other instead of mixed.
            let apart = PartitionState::new(PartitionId(0));
            for view in View::ALL {
                for (record, number) in records.iter().zip(0..).filter(|(record, _)| record.1 == view) {
                    let mut write_set = WriteSet::on(&apart);
                    fold(params, &mut write_set, &apart, std::slice::from_ref(record), number);
                    write_set.publish(&apart);
                }
            }
            assert_eq!(whole.state_hash(), apart.state_hash(), "seed {seed}");
            assert_eq!(whole.progress().next_offsets.0.map(|Offset(next)| next).iter().sum::<i64>(), 300);
            for view in View::ALL {
                let users = whole.graphs.to_vec();
                let of_view: Vec<u64> =
                    users.iter().filter_map(|(_, graph)| Some(graph.view(view)?.weight_bytes())).collect();
                let weight_bytes = of_view.iter().sum::<u64>();
                assert!(params.user_capacity.is_none_or(|capacity| of_view.len() <= capacity.get()), "{view:?}");
                assert!(params.view_capacity_bytes.is_none_or(|bytes| weight_bytes <= bytes.get()), "{weight_bytes}");
                counts.push(of_view.len());
            }
        }
        counts
    }
}
