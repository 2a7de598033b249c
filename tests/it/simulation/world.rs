//! The world: a broker, a disk, one to three members, and what happens to them.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use tokio_util::sync::CancellationToken;
use undercurrent::{
    clock::{Clock, ManualClock},
    decision::DecisionParams,
    event::{DAY_MS, Decoder, PartitionId},
    graph::{GraphParams, NameTable},
    stream::{
        BatchLimits, NoSnapshots, OutputRecord, Partitions, SnapshotStore, Step, StreamError, StreamParams,
        StreamParts, StreamThread, TimeMode, break_on_this_thread,
        memory::{BrokenRule, FaultPlan, MemoryBroker, MemoryLog, NoFaults},
    },
};

use super::{
    alerts,
    check::Ending,
    defects::Defect,
    disk::{Disk, MemberDisk},
    faults::SeededFaults,
    log::{SimLog, is_expected_death},
    outcome::Outcome,
    outputs,
    scorer::SilenceScorer,
    snapshots::SimSnapshots,
    watch::{RING_CAPACITY, Watch, check_owners},
    workload::{Erased, Workload},
};

/// Turns in which a quiet world must have settled.
const SETTLING_TURNS: usize = 50_000;
const NAMES: [&str; 3] = ["a", "b", "c"];

struct Member {
    thread: StreamThread<SimLog>,
    partitions: Arc<Partitions>,
    /// Set from inside a call when the process dies there: while it scores, or while it writes a snapshot.
    died: Arc<AtomicBool>,
}

pub(super) struct World<'a> {
    workload: &'a Workload,
    broker: Arc<MemoryBroker>,
    disk: Arc<Disk>,
    clock: Arc<ManualClock>,
    quiet: Arc<AtomicBool>,
    snapshot_interval_ms: i64,
    /// Whether processes stay up and together: then nothing heals what a failed commit leaves behind.
    is_steady: bool,
    members: BTreeMap<&'static str, Member>,
    rng: Xoshiro256PlusPlus,
    defect: Defect,
    watch: Watch,
    outcome: Outcome,
    load_count: Arc<AtomicU64>,
}

/// Runs the workload of `seed` without and with failures, and compares. The error says what was violated.
pub(super) fn simulate(seed: u64, defect: Defect) -> Result<Outcome, String> {
    let workload = Workload::of(seed);
    let expected = World::new(&workload, seed, Defect::None).run_calmly()?;
    let mut world = World::new(&workload, seed, defect);
    let outcome = world.run_to_the_end(&expected);
    break_on_this_thread(None);
    outcome?;
    Ok(world.outcome)
}

/// All outputs of one member without failures, under a clock that stands at the end, and under one that jumps by up to a day
/// at every turn.
pub(super) fn outputs_under_clocks(seed: u64) -> Result<[Vec<(PartitionId, OutputRecord)>; 2], String> {
    let workload = Workload { time: TimeMode::Replay, ..Workload::of(seed) };
    let mut steady = World::new(&workload, seed, Defect::None);
    steady.run_calmly()?;
    let mut jumping = World::new(&workload, seed, Defect::None);
    jumping.append_all();
    jumping.quiet.store(true, Ordering::Relaxed);
    jumping.start_calm(NAMES[0]);
    for _ in 0..SETTLING_TURNS {
        let jump_ms = jumping.rng.random_range(-DAY_MS..=DAY_MS);
        jumping.clock.set_ms(workload.end_ms + jump_ms);
        if jumping.step(NAMES[0])? == Some(Step::Idle) {
            return Ok([outputs::everything(&steady.broker), outputs::everything(&jumping.broker)]);
        }
    }
    Err("a quiet world did not settle".to_owned())
}

impl<'a> World<'a> {
    fn new(workload: &'a Workload, seed: u64, defect: Defect) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let broker = MemoryBroker::new(workload.partition_count);
        match defect {
            Defect::IgnoresFences => broker.break_rule(BrokenRule::Fences),
            Defect::ReadsAborted => broker.break_rule(BrokenRule::AbortedRecords),
            Defect::ReadsUnstable => broker.break_rule(BrokenRule::OpenTransactions),
            Defect::LateEndCounts => broker.break_rule(BrokenRule::LateEnds),
            _ => {}
        }
        Self {
            workload,
            broker: Arc::new(broker),
            disk: Arc::default(),
            clock: Arc::new(ManualClock::at(0)),
            quiet: Arc::new(AtomicBool::new(false)),
            snapshot_interval_ms: rng.random_range(1..12) * DAY_MS / 4,
            is_steady: seed % 4 == 1,
            members: BTreeMap::new(),
            rng,
            defect,
            watch: Watch::default(),
            outcome: Outcome::default(),
            load_count: Arc::default(),
        }
    }

    /// One member, all input there from the start, no failure, records in the order of arrival.
    fn run_calmly(&mut self) -> Result<Ending, String> {
        self.quiet.store(true, Ordering::Relaxed);
        self.append_all();
        self.clock.set_ms(self.workload.end_ms);
        self.start_calm(NAMES[0]);
        self.settle()?;
        self.ending()
    }

    fn append_all(&self) {
        for input in &self.workload.inputs {
            input.append(&self.broker);
        }
    }

    fn run_to_the_end(&mut self, expected: &Ending) -> Result<(), String> {
        if let Defect::Loop(guard) = self.defect {
            break_on_this_thread(Some(guard));
        }
        self.run_wildly()?;
        let ending = self.ending()?;
        ending.check_equals(expected)?;
        self.count_outcome();
        self.check_full_replay(&ending)
    }

    fn run_wildly(&mut self) -> Result<(), String> {
        let workload = self.workload;
        let mut inputs = workload.inputs.iter();
        self.start(NAMES[0]);
        for _ in 0..8 * workload.inputs.len() {
            match self.rng.random_range(0..100) {
                15..=25 if self.is_steady => {
                    self.step(NAMES[0])?;
                }
                0..=14 => {
                    for input in inputs.by_ref().take(self.rng.random_range(1..8)) {
                        input.append(&self.broker);
                        self.clock.set_ms(input.timestamp_ms);
                    }
                }
                // An older member of that name is fenced, and found out at its next turn.
                15..=17 => {
                    let name = self.draw_name();
                    self.start(name);
                }
                18 => {
                    if let Some(name) = self.draw_member() {
                        self.bury(name);
                    }
                }
                // A session timeout: of a dead member, or of one that does not know yet.
                19 => {
                    let name = self.draw_name();
                    self.broker.expire(name);
                }
                20 => self.broker.rebalance(),
                21 => self.broker.deliver_late(),
                22 => self.stop_one()?,
                23 => self.storm()?,
                24..=25 if self.rng.random_bool(0.5) => self.jump(),
                24..=25 => self.disk.damage(&mut self.rng),
                _ => {
                    if let Some(name) = self.draw_member() {
                        self.step(name)?;
                    }
                }
            }
        }
        for input in inputs {
            input.append(&self.broker);
        }
        self.calm_down();
        self.settle()
    }

    /// No failure from here on. What was under way ends one way or the other.
    fn calm_down(&mut self) {
        self.quiet.store(true, Ordering::Relaxed);
        self.clock.set_ms(self.workload.end_ms);
        if self.rng.random_bool(0.5) {
            self.broker.deliver_late();
        }
        for name in NAMES {
            if !self.members.contains_key(name) {
                self.broker.expire(name);
            }
        }
        self.broker.deliver_late();
        if self.members.is_empty() {
            self.start(NAMES[0]);
        }
    }

    /// The wall clock is set by up to a day, either way. In live use it never passes the end, which the results depend on.
    fn jump(&mut self) {
        let jump_ms = self.rng.random_range(-DAY_MS..=DAY_MS);
        let now_ms = self.clock.now_ms() + jump_ms;
        self.clock.set_ms(now_ms.clamp(0, self.workload.end_ms));
        self.outcome.jump_count += 1;
    }

    /// No input comes, members are thrown out and come back: partitions wander while their positions stand still, and silent
    /// users grow due.
    fn storm(&mut self) -> Result<(), String> {
        for _ in 0..30 {
            if matches!(self.workload.time, TimeMode::Live { .. }) && self.rng.random_bool(0.2) {
                let later_ms = self.clock.now_ms() + self.rng.random_range(0..2 * DAY_MS);
                self.clock.set_ms(later_ms.min(self.workload.end_ms));
            }
            let Some(name) = self.draw_member() else { return Ok(()) };
            if self.rng.random_bool(0.1) {
                self.broker.expire(name);
            }
            self.step(name)?;
        }
        Ok(())
    }

    /// Asks a member to stop, as SIGTERM does: it gets its last snapshots.
    fn stop_one(&mut self) -> Result<(), String> {
        let Some(name) = self.draw_member() else { return Ok(()) };
        let Some(member) = self.members.remove(name) else { return Ok(()) };
        let stop = CancellationToken::new();
        stop.cancel();
        member.thread.run_blocking(&stop).map_err(|error| format!("a member that was asked to stop ended: {error}"))?;
        self.outcome.stop_count += 1;
        self.disk.violation().map_or(Ok(()), Err)
    }

    /// A new member without snapshots reads the whole log and must come to the same state.
    fn check_full_replay(&mut self, ending: &Ending) -> Result<(), String> {
        self.members.clear();
        for name in NAMES {
            self.broker.expire(name);
        }
        self.start_calm(NAMES[0]);
        self.settle()?;
        let replayed = self.ending()?;
        if replayed == *ending {
            Ok(())
        } else {
            Err(format!("DET-1: a replay from the start ends with {replayed:?}, the run with {ending:?}"))
        }
    }

    fn start_calm(&mut self, name: &'static str) {
        self.start_with(name, Box::new(NoFaults), Box::new(NoSnapshots), &Arc::default());
    }

    fn start(&mut self, name: &'static str) {
        let died: Arc<AtomicBool> = Arc::default();
        let faults = SeededFaults::new(self.rng.random(), &self.quiet, !self.is_steady);
        let disk = MemberDisk::new(&self.disk, &self.broker, self.rng.random(), &self.quiet, &died, !self.is_steady);
        let snapshots = SimSnapshots::new(
            Arc::new(disk),
            &self.params().graph,
            Arc::<ManualClock>::clone(&self.clock),
            self.snapshot_interval_ms,
            self.defect,
            &self.load_count,
        );
        self.start_with(name, Box::new(faults), Box::new(snapshots), &died);
    }

    fn start_with(
        &mut self,
        name: &'static str,
        faults: Box<dyn FaultPlan>,
        snapshots: Box<dyn SnapshotStore>,
        died: &Arc<AtomicBool>,
    ) {
        let log = SimLog {
            inner: MemoryLog::join(&self.broker, name, faults),
            defect: self.defect,
            commit_count: 0,
            redelivered_count: if self.rng.random_bool(0.3) { 3 } else { 0 },
        };
        let scorer = SilenceScorer {
            rng: Mutex::new(Xoshiro256PlusPlus::seed_from_u64(self.rng.random())),
            quiet: Arc::clone(&self.quiet),
            has_failed: AtomicBool::new(false),
            minds_company: self.defect == Defect::CompanyChangesScore,
            broker: Arc::clone(&self.broker),
            name,
            is_steady: self.is_steady,
            died: Arc::clone(died),
        };
        let partitions = Arc::new(Partitions::default());
        let parts = StreamParts {
            log,
            scorer: Arc::new(scorer),
            clock: Arc::<ManualClock>::clone(&self.clock),
            decoder: Decoder::default(),
            partitions: Arc::clone(&partitions),
            snapshots,
            decision: DecisionParams { cooldown_ms: 2 * DAY_MS, ..DecisionParams::default() },
            catalogue: Arc::new(NameTable::default()),
            params: self.params(),
        };
        self.members.insert(name, Member { thread: StreamThread::new(parts), partitions, died: Arc::clone(died) });
    }

    fn params(&self) -> StreamParams {
        StreamParams {
            batch: BatchLimits { max_records: 64, max_bytes: 1 << 20, linger_ms: 0, idle_wait_ms: 0 },
            graph: GraphParams { ring_capacity: RING_CAPACITY, late_limit_ms: 30 * DAY_MS, ..GraphParams::default() },
            time: self.workload.time,
            max_due_users: 3,
            retry_attempts: NonZeroU32::MIN.saturating_add(9),
            retry_backoff_ms: 0,
            lag_interval_ms: DAY_MS,
            parked_capacity: 2,
            ..StreamParams::default()
        }
    }

    fn draw_name(&mut self) -> &'static str {
        NAMES[self.rng.random_range(0..NAMES.len())]
    }

    fn draw_member(&mut self) -> Option<&'static str> {
        let names: Vec<&'static str> = self.members.keys().copied().collect();
        (!names.is_empty()).then(|| names[self.rng.random_range(0..names.len())])
    }

    /// The process is gone, and its memory with it.
    fn bury(&mut self, name: &'static str) {
        self.members.remove(name);
        self.outcome.crash_count += 1;
    }

    /// One turn of one member, and everything that must hold after it.
    fn step(&mut self, name: &'static str) -> Result<Option<Step>, String> {
        let Some(member) = self.members.get_mut(name) else { return Ok(None) };
        let outcome = member.thread.step_blocking();
        let is_current = member.thread.log_mut().inner.is_current();
        let handles = member.partitions.all();
        let restoring = member.thread.status().borrow().restoring.clone();
        let died = member.died.load(Ordering::Relaxed);
        let step = outcome.as_ref().ok().cloned();
        self.watch.check_states(&self.broker, step.as_ref(), is_current, (&handles, &restoring))?;
        self.watch.check_outputs(&self.broker, self.workload.time)?;
        if let Some(violation) = self.disk.violation() {
            return Err(violation);
        }
        match outcome {
            _ if died => self.bury(name),
            Ok(step) => {
                match &step {
                    Step::Again => self.outcome.abort_count += 1,
                    Step::Revoked(_) => self.outcome.rebalance_count += 1,
                    Step::Restored(_) => {
                        self.outcome.restore_count += 1;
                        self.check_owners()?;
                    }
                    _ => {}
                }
                return Ok(Some(step));
            }
            Err(StreamError::Log(error)) if is_expected_death(&error) => self.bury(name),
            Err(StreamError::RetriesExhausted { .. }) => _ = self.members.remove(name),
            Err(error) => return Err(format!("a member ended: {error}")),
        }
        Ok(None)
    }

    fn check_owners(&mut self) -> Result<(), String> {
        let current = self.members.iter_mut().filter_map(|(name, member)| {
            member.thread.log_mut().inner.is_current().then(|| (*name, member.partitions.all()))
        });
        check_owners(current)
    }

    /// Lets everyone go on until nobody has anything to do.
    fn settle(&mut self) -> Result<(), String> {
        let mut idle_turns = 0;
        for _ in 0..SETTLING_TURNS {
            let mut all_idle = true;
            for name in NAMES {
                if let Some(step) = self.step(name)? {
                    all_idle &= step == Step::Idle;
                }
            }
            if self.members.is_empty() {
                self.start(NAMES[0]);
                all_idle = false;
            }
            idle_turns = if all_idle { idle_turns + 1 } else { 0 };
            if idle_turns == 3 {
                return Ok(());
            }
        }
        Err("a quiet world did not settle".to_owned())
    }

    fn ending(&self) -> Result<Ending, String> {
        let mut states: BTreeMap<PartitionId, u64> = BTreeMap::new();
        for member in self.members.values() {
            for handle in member.partitions.all() {
                let partition = handle.state.partition();
                let (state, committed) = (handle.state.progress().next_offsets, self.broker.committed(partition));
                if state != committed {
                    return Err(format!("POS-2: partition {partition} stands at {state}, committed is {committed}"));
                }
                if states.insert(partition, handle.state.state_hash()).is_some() {
                    return Err(format!("OWN-1: partition {partition} has two owners"));
                }
            }
        }
        if states.len() != self.workload.partition_count as usize {
            return Err(format!("OWN-1: partitions without an owner: only {:?} have one", states.keys()));
        }
        let ending = Ending::checked(&self.broker, self.workload.time, states)?;
        self.check_erasures(&ending)?;
        let handles: Vec<_> = self.members.values().flat_map(|member| member.partitions.all()).collect();
        alerts::check(&self.broker, self.workload, &handles, self.params().topic_skew_ms)?;
        Ok(ending)
    }

    /// Everything was read: nothing that is older than an erasure of its user is left, in the graphs or in the last scores.
    fn check_erasures(&self, ending: &Ending) -> Result<(), String> {
        let handles: Vec<_> = self.members.values().flat_map(|member| member.partitions.all()).collect();
        for Erased { user, view, time_ms } in &self.workload.erasures {
            for handle in &handles {
                let graph = handle.state.graphs.get(user).unwrap_or_default();
                if graph.view(*view).is_some_and(|of_view| of_view.summary().first_ms < *time_ms) {
                    return Err(format!("ERA-1: {user} was erased at {time_ms}, {view:?} knows older events"));
                }
            }
        }
        for (partition, user) in ending.last_scores.keys() {
            let handle = handles.iter().find(|handle| handle.state.partition() == *partition);
            if handle.is_some_and(|handle| handle.state.graphs.get(user).is_none()) {
                return Err(format!("ERA-1: {user} has a score and no graph"));
            }
        }
        Ok(())
    }

    fn count_outcome(&mut self) {
        let outcome = &mut self.outcome;
        outcome.snapshot_restore_count = self.load_count.load(Ordering::Relaxed);
        outcome.damage_count = self.disk.damage_count.load(Ordering::Relaxed);
        outcome.full_disk_count = self.disk.full_count.load(Ordering::Relaxed);
        outcome.torn_write_count = self.disk.torn_count.load(Ordering::Relaxed);
        let scores = outputs::scores(&self.broker);
        outcome.erasure_count = self.workload.erasures.len() as u64;
        outcome.taken_back_count = scores.values().flatten().filter(|score| score.is_none()).count() as u64;
        outcome.score_count = scores.values().map(|scores| scores.len() as u64).sum();
        outcome.due_score_count = scores
            .values()
            .flat_map(|scores| scores.windows(2))
            .filter(|pair| matches!(pair, [Some(old), Some(new)] if new.as_of_ms > old.as_of_ms + DAY_MS / 2))
            .count() as u64;
        outcome.alert_count = outputs::alerts(&self.broker).values().map(|alerts| alerts.len() as u64).sum();
        for settled in outputs::outcomes(&self.broker).into_values().flatten() {
            match settled.verdict.as_str() {
                "right" => outcome.right_count += 1,
                "wrong" => outcome.wrong_count += 1,
                _ => {}
            }
        }
        for letter in outputs::dead_letters(&self.broker) {
            *outcome.dead_letters.entry(letter.reason).or_default() += 1;
        }
    }
}
