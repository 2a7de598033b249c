//! What one micro-batch changes in one partition, private until it is committed (TXN-2).

use std::{collections::HashMap, sync::Arc};

use super::{
    ErasureEntry, Erasures, FoldOutcome, GraphParams, NameLookup, PartitionState, Progress, UserGraph, ViewGraph,
    hash::NameHashBuilder,
    places::Places,
    residents::{Resident, Residents},
};
use crate::event::{Erasure, Event, Name, NameHash, Offset, TextHasher, UserId, View};

/// The new versions of touched users, the new names and the new positions of one partition. Dropping it undoes the batch.
#[derive(Debug)]
pub struct WriteSet {
    users: Vec<(UserId, Arc<UserGraph>)>,
    places: Places,
    names: HashMap<NameHash, Arc<str>, NameHashBuilder>,
    /// Names that are in the table or in `names`, each in the slot of its low bits: most events repeat what others of the
    /// batch named, and a look-up in the shared table costs a lock. Empty before the first name.
    noted: Vec<NameHash>,
    progress: Progress,
    erasures: Arc<Erasures>,
    /// Users of whom this batch erased the last view.
    erased: Vec<UserId>,
    /// Taken from the state when users are first added or dropped.
    residents: Option<Residents>,
    evicted_count: u64,
}

impl WriteSet {
    /// An empty write set on top of the committed `state`.
    pub fn on(state: &PartitionState) -> Self {
        Self {
            users: Vec::new(),
            places: Places::default(),
            names: HashMap::default(),
            noted: Vec::new(),
            progress: state.progress(),
            erasures: state.erasures(),
            erased: Vec::new(),
            residents: None,
            evicted_count: 0,
        }
    }

    /// Folds an event of the topic of `view` at `offset` and moves the position past it. A user's committed graph is
    /// copied on first touch. `state` must be the one this write set stands on.
    ///
    /// The caller skips records that [`Progress::has_folded`] (POS-1).
    pub fn fold(
        &mut self,
        state: &PartitionState,
        view: View,
        offset: Offset,
        event: &Event<'_>,
        params: &GraphParams,
    ) -> FoldOutcome {
        debug_assert_eq!(event.kind.view(), view, "a view is fed by its own topic only");
        self.progress.note_record(view, offset);
        let user = event.user.as_ref();
        let hash = TextHasher::of(user);
        if !self.erasures.is_empty() && self.erasures.covers(view, hash, event.time_ms) {
            return FoldOutcome::Erased;
        }
        let place = self.place_of(hash, user);
        let committed = if place.is_none() { state.graphs.get_entry(user) } else { None };
        let current = place.map(|place| &self.users[place].1).or(committed.as_ref().map(|(_, graph)| graph));
        let known = current.and_then(|graph| graph.view(view));
        if let Some(refusal) = known.and_then(|known| known.refusal(event, params)) {
            return refusal;
        }
        // Weighed only where weights decide; who is known already is counted already.
        let before = known.filter(|_| params.view_capacity_bytes.is_some()).map(Resident::from);
        let may_evict = params.view_capacity_bytes.is_some() || known.is_none() && params.user_capacity.is_some();
        self.note_names(state, event);
        if may_evict {
            self.load_residents(state);
        }
        let place = place.unwrap_or_else(|| self.add_user(hash, user, committed));
        let folded = Arc::make_mut(&mut self.users[place].1).view_mut(view);
        let outcome = folded.fold_admitted(event, params);
        let now = may_evict.then(|| Resident::from(&*folded));
        self.progress.note_event(view, event.time_ms);
        if let Some(now) = now {
            self.make_room(state, view, (place, before, now), params);
        }
        outcome
    }

    /// Drops what the view of the topic knows of a user, and moves the position past the record at `offset`. Events that come
    /// later and are older than the erasure are refused, until it is forgotten. One that is no newer than a remembered one
    /// changes nothing.
    pub fn erase(
        &mut self,
        state: &PartitionState,
        view: View,
        offset: Offset,
        erasure: &Erasure<'_>,
        params: &GraphParams,
    ) {
        self.progress.note_record(view, offset);
        let user = erasure.user.as_ref();
        let user_hash = TextHasher::of(user);
        if self.erasures.knows(view, user_hash, erasure.time_ms) {
            return;
        }
        let entry = ErasureEntry { view, user_hash, time_ms: erasure.time_ms };
        Arc::make_mut(&mut self.erasures).note(entry, &self.progress, params.erasure_memory_ms);
        let is_complete = View::ALL.into_iter().all(|view| self.erasures.knows(view, user_hash, erasure.time_ms));
        let place = self.place_of(user_hash, user);
        let committed = if place.is_none() { state.graphs.get_entry(user) } else { None };
        if place.is_none() && committed.is_none() {
            if is_complete {
                // Nobody we know; outputs of an earlier time may still speak of the user.
                self.erased.push(UserId::new(user));
            }
            return;
        }
        if params.is_bounded() {
            self.load_residents(state);
        }
        let place = place.unwrap_or_else(|| self.add_user(user_hash, user, committed));
        let (user, graph) = &mut self.users[place];
        if is_complete {
            self.erased.push(user.clone());
        }
        let weight_bytes = graph.view(view).map(ViewGraph::weight_bytes);
        Arc::make_mut(graph).remove_view(view);
        if let (Some(weight_bytes), Some(residents)) = (weight_bytes, &mut self.residents) {
            residents.lost_one(view, weight_bytes);
        }
    }

    /// Notes what the view knew of the user at `place` and what it knows now, and evicts while that is too much.
    fn make_room(
        &mut self,
        state: &PartitionState,
        view: View,
        (place, before, now): (usize, Option<Resident>, Resident),
        params: &GraphParams,
    ) {
        // Out of `self` while graphs are looked up.
        let Some(mut residents) = self.residents.take() else { return };
        match before {
            None => residents.add(view, self.users[place].0.clone(), now),
            Some(before) => residents.weigh_again(view, before.weight_bytes, now.weight_bytes),
        }
        while let Some(user) = residents.take_excess(view, params, |user| {
            let graph = self.graph(state, user.as_str())?;
            graph.view(view).map(Resident::from)
        }) {
            let hash = TextHasher::of(user.as_str());
            let place = self.place_of(hash, user.as_str()).unwrap_or_else(|| {
                let committed = state.graphs.get_entry(user.as_str());
                self.add_user(hash, user.as_str(), committed)
            });
            let graph = Arc::make_mut(&mut self.users[place].1);
            graph.remove_view(view);
            self.evicted_count += u64::from(graph.is_empty());
        }
        self.residents = Some(residents);
    }

    fn load_residents(&mut self, state: &PartitionState) {
        if self.residents.is_none() {
            debug_assert!(self.users.iter().all(|(_, graph)| !graph.is_empty()), "taken before the first user goes");
            self.residents = Some(state.take_residents().unwrap_or_else(|| Residents::of(state)));
        }
    }

    /// Moves the position past a record that is not folded (a dead letter).
    pub fn skip(&mut self, view: View, offset: Offset) {
        self.progress.note_record(view, offset);
    }

    /// Positions and event times after this batch.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Users of whom this batch erased the last view, perhaps several times, and perhaps unknown ones. Events that came since
    /// may have begun a new graph.
    pub fn erased(&self) -> &[UserId] {
        &self.erased
    }

    /// When the user was erased last in every view, milliseconds since the Unix epoch, as far as it is remembered.
    pub fn erased_ms(&self, user: &str) -> Option<i64> {
        if self.erasures.is_empty() { None } else { self.erasures.complete_ms(TextHasher::of(user)) }
    }

    /// How often a user's last view was evicted.
    pub fn evicted_count(&self) -> u64 {
        self.evicted_count
    }

    /// Changed users with their new graphs, in order of first touch. An empty graph is that of a user who is gone.
    pub fn users(&self) -> &[(UserId, Arc<UserGraph>)] {
        &self.users
    }

    /// Whether this batch changed the graph of `user`.
    pub fn has_changed(&self, user: &str) -> bool {
        self.place_of(TextHasher::of(user), user).is_some()
    }

    /// The graph of `user` as this batch leaves it: changed or committed.
    pub fn graph(&self, state: &PartitionState, user: &str) -> Option<Arc<UserGraph>> {
        match self.place_of(TextHasher::of(user), user) {
            Some(place) => Some(Arc::clone(&self.users[place].1)),
            None => state.graphs.get(user),
        }
    }

    /// Looks names up among the new ones of this batch, then among the committed ones.
    pub fn names<'a>(&'a self, state: &'a PartitionState) -> BatchNames<'a> {
        BatchNames { write_set: self, state }
    }

    /// Makes the new versions visible. Only after the commit returned success (TXN-2).
    pub fn publish(self, state: &PartitionState) {
        debug_assert!(
            state.progress().next_offsets.at_or_before(&self.progress.next_offsets),
            "positions never go back"
        );
        // Names first: a reader that sees a graph must find its texts.
        for (name, text) in self.names {
            state.names.insert(name, text);
        }
        for (user, graph) in self.users {
            if graph.is_empty() {
                state.graphs.remove(user.as_str());
            } else {
                state.graphs.insert(user, graph);
            }
        }
        state.set_erasures(self.erasures);
        if let Some(residents) = self.residents {
            state.put_residents(residents);
        }
        state.set_progress(self.progress);
    }

    fn place_of(&self, hash: u64, user: &str) -> Option<usize> {
        self.places.find(hash, |place| self.users[place].0.as_str() == user)
    }

    fn add_user(&mut self, hash: u64, user: &str, committed: Option<(UserId, Arc<UserGraph>)>) -> usize {
        let (user, graph) = committed.unwrap_or_else(|| (UserId::new(user), Arc::default()));
        self.users.push((user, graph));
        self.places.push(hash)
    }

    fn note_names(&mut self, state: &PartitionState, event: &Event<'_>) {
        let lines = event.lines.iter().flat_map(|line| line.item.iter().chain(&line.category));
        for name in lines.chain(&event.query) {
            self.note_name(state, name);
        }
    }

    fn note_name(&mut self, state: &PartitionState, name: &Name<'_>) {
        if self.noted.is_empty() {
            self.noted.resize(NOTED_SLOTS, NameHash(0));
        }
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
        let slot = &mut self.noted[name.hash.0 as usize % NOTED_SLOTS];
        if *slot == name.hash {
            return;
        }
        *slot = name.hash;
        if !state.names.contains(name.hash) {
            self.names.entry(name.hash).or_insert_with(|| Arc::from(name.text.as_ref()));
        }
    }
}

/// Slots of the names noted last: 32 KiB, part of the second-level cache.
const NOTED_SLOTS: usize = 4_096;

/// Names as one batch sees them. See [`WriteSet::names`].
#[derive(Debug, Clone, Copy)]
pub struct BatchNames<'a> {
    write_set: &'a WriteSet,
    state: &'a PartitionState,
}

impl NameLookup for BatchNames<'_> {
    fn text(&self, name: NameHash) -> Option<Arc<str>> {
        self.write_set.names.get(&name).cloned().or_else(|| self.state.names.text(name))
    }
}
