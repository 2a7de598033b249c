//! Which users a view keeps when there is no room for all: those seen last, by event time.
//!
//! A view counts its own users and is bounded by itself, so who goes is a function of its topic alone, whatever the batches,
//! the interleaving and the restarts were (DET-1). A user whom no view keeps is gone.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::PartitionState;
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
}

impl Residents {
    /// Counts the users of `state`.
    pub(super) fn of(state: &PartitionState) -> Self {
        let mut residents = Self::default();
        state.graphs.for_each(|user, graph| {
            for (view, of_user) in graph.views() {
                residents.add(view, user.clone(), of_user.summary().last_ms);
            }
        });
        residents
    }

    /// Adds a user that the view did not have.
    pub(super) fn add(&mut self, view: View, user: UserId, last_ms: i64) {
        let of_view = &mut self.views[view.index()];
        of_view.count += 1;
        of_view.heap.push(Reverse((last_ms, user)));
    }

    /// Notes that the view lost a user for another reason. Its entry is passed over when it comes up.
    pub(super) fn lost_one(&mut self, view: View) {
        let count = &mut self.views[view.index()].count;
        debug_assert!(*count > 0, "a user that was never counted");
        *count = count.saturating_sub(1);
    }

    /// Takes the user of the view whose newest event is the oldest (of equal ones the one whose id sorts first) when there are
    /// more than `capacity`. `last_ms_of` says the newest event of a user, `None` when the view has none of it.
    pub(super) fn take_excess(
        &mut self,
        view: View,
        capacity: usize,
        last_ms_of: impl Fn(&UserId) -> Option<i64>,
    ) -> Option<UserId> {
        let OfView { heap, count } = &mut self.views[view.index()];
        if *count <= capacity {
            return None;
        }
        while let Some(Reverse((known_ms, user))) = heap.pop() {
            match last_ms_of(&user) {
                Some(last_ms) if last_ms == known_ms => {
                    *count -= 1;
                    return Some(user);
                }
                Some(last_ms) => heap.push(Reverse((last_ms, user))),
                None => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use rand::{Rng, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;
    use crate::{
        event::{Erasure, Event, EventKind, Offset, PartitionId},
        graph::{GraphParams, GraphStore, NameTable, WriteSet},
    };

    const CAPACITY: usize = 5;

    /// Folds `records` (a user's number, a view, a time; every eleventh is a request to erase the user).
    fn fold(write_set: &mut WriteSet, state: &PartitionState, records: &[(u32, View, i64)], first: usize) {
        let params = GraphParams { user_capacity: NonZeroUsize::new(CAPACITY), ..GraphParams::default() };
        for ((user, view, time_ms), number) in records.iter().zip(first..) {
            let offset = write_set.progress().next_offsets.get(*view);
            let user = format!("u{user}").into();
            if number % 11 == 0 {
                write_set.erase(state, *view, offset, &Erasure { user, time_ms: *time_ms }, &params);
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
            write_set.fold(state, *view, offset, &event, &params);
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
        let mut most = 0;
        for seed in 0..100 {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            let records = records(&mut rng);
            let whole = PartitionState::new(PartitionId(0));
            let mut write_set = WriteSet::on(&whole);
            fold(&mut write_set, &whole, &records, 0);
            write_set.publish(&whole);

            let mut cut = PartitionState::new(PartitionId(0));
            let mut at = 0;
            while at < records.len() {
                let end = (at + rng.random_range(1..40)).min(records.len());
                let mut write_set = WriteSet::on(&cut);
                fold(&mut write_set, &cut, &records[at..end], at);
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
                    fold(&mut write_set, &apart, std::slice::from_ref(record), number);
                    write_set.publish(&apart);
                }
            }
            assert_eq!(whole.state_hash(), apart.state_hash(), "seed {seed}");
            assert_eq!(whole.progress().next_offsets.0.map(|Offset(next)| next).iter().sum::<i64>(), 300);
            for view in View::ALL {
                let users = whole.graphs.to_vec();
                let count = users.iter().filter(|(_, graph)| graph.view(view).is_some()).count();
                assert!(count <= CAPACITY, "{count} users in {view:?}");
                most = most.max(count);
            }
        }
        assert_eq!(most, CAPACITY, "the bound was reached");
    }
}
