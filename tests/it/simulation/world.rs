//! The world: a broker, one to three members, and what happens to them.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use undercurrent::{
    clock::ManualClock,
    decision::DecisionParams,
    event::{DAY_MS, Decoder, PartitionId},
    graph::{GraphParams, NameTable},
    stream::{
        BatchLimits, NoSnapshots, Partitions, SnapshotStore, Step, StreamError, StreamParams, StreamParts,
        StreamThread,
        memory::{MemoryBroker, MemoryLog},
    },
};

use super::{
    check::Ending,
    faults::SeededFaults,
    log::{Defect, SimLog, is_expected_death},
    outputs,
    scorer::SilenceScorer,
    snapshots::{Shelf, SimSnapshots},
    workload::Workload,
};

/// What happened in a run: it must be something.
#[expect(clippy::struct_field_names, reason = "they are counts")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) crash_count: u64,
    pub(super) abort_count: u64,
    pub(super) rebalance_count: u64,
    pub(super) restore_count: u64,
    pub(super) snapshot_restore_count: u64,
    pub(super) score_count: u64,
    pub(super) due_score_count: u64,
    pub(super) alert_count: u64,
    pub(super) dead_letter_count: u64,
}

impl Outcome {
    pub(super) fn add(&mut self, other: &Self) {
        self.crash_count += other.crash_count;
        self.abort_count += other.abort_count;
        self.rebalance_count += other.rebalance_count;
        self.restore_count += other.restore_count;
        self.snapshot_restore_count += other.snapshot_restore_count;
        self.score_count += other.score_count;
        self.due_score_count += other.due_score_count;
        self.alert_count += other.alert_count;
        self.dead_letter_count += other.dead_letter_count;
    }
}

/// Turns in which a quiet world must have settled.
const SETTLING_TURNS: usize = 50_000;
const NAMES: [&str; 3] = ["a", "b", "c"];

struct Member {
    thread: StreamThread<SimLog>,
    partitions: Arc<Partitions>,
}

struct World<'a> {
    workload: &'a Workload,
    broker: Arc<MemoryBroker>,
    clock: Arc<ManualClock>,
    quiet: Arc<AtomicBool>,
    shelf: Arc<Shelf>,
    members: BTreeMap<&'static str, Member>,
    rng: Xoshiro256PlusPlus,
    defect: Defect,
    outcome: Outcome,
}

/// Runs the workload of `seed` without and with failures, and compares. The error says what was violated.
pub(super) fn simulate(seed: u64, defect: Defect) -> Result<Outcome, String> {
    let workload = Workload::of(seed);
    let expected = World::new(&workload, seed, Defect::None).run_calmly()?;
    let mut world = World::new(&workload, seed, defect);
    let ending = world.run_wildly()?;
    ending.check_equals(&expected)?;
    world.check_full_replay(&ending)?;
    Ok(world.outcome)
}

impl<'a> World<'a> {
    fn new(workload: &'a Workload, seed: u64, defect: Defect) -> Self {
        Self {
            workload,
            broker: Arc::new(MemoryBroker::new(workload.partition_count)),
            clock: Arc::new(ManualClock::at(0)),
            quiet: Arc::new(AtomicBool::new(false)),
            shelf: Arc::default(),
            members: BTreeMap::new(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            defect,
            outcome: Outcome::default(),
        }
    }

    /// One member, all input there from the start, no failure.
    fn run_calmly(&mut self) -> Result<Ending, String> {
        self.quiet.store(true, Ordering::Relaxed);
        for input in &self.workload.inputs {
            input.append(&self.broker);
        }
        self.clock.set_ms(self.workload.end_ms);
        self.start(NAMES[0], false);
        self.settle()?;
        self.ending()
    }

    fn run_wildly(&mut self) -> Result<Ending, String> {
        let mut inputs = self.workload.inputs.iter();
        let turns = 8 * self.workload.inputs.len();
        self.start(NAMES[0], true);
        for _ in 0..turns {
            match self.rng.random_range(0..100) {
                0..=14 => {
                    for input in inputs.by_ref().take(self.rng.random_range(1..8)) {
                        input.append(&self.broker);
                        self.clock.set_ms(input.timestamp_ms);
                    }
                }
                15..=17 => {
                    let name = NAMES[self.rng.random_range(0..NAMES.len())];
                    // An older member of that name is fenced, and found out at its next turn.
                    self.start(name, true);
                }
                18 => {
                    if let Some(name) = self.draw_member() {
                        self.members.remove(name);
                        self.outcome.crash_count += 1;
                    }
                }
                19 => {
                    // A session timeout: of a dead member, or of one that does not know yet.
                    self.broker.expire(NAMES[self.rng.random_range(0..NAMES.len())]);
                }
                20 => self.broker.rebalance(),
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
        self.quiet.store(true, Ordering::Relaxed);
        self.clock.set_ms(self.workload.end_ms);
        for name in NAMES {
            if !self.members.contains_key(name) {
                self.broker.expire(name);
            }
        }
        if self.members.is_empty() {
            self.start(NAMES[0], true);
        }
        self.settle()?;
        self.outcome.snapshot_restore_count = self.shelf.load_count.load(Ordering::Relaxed);
        let scores = outputs::scores(&self.broker);
        self.outcome.score_count = scores.values().map(|scores| scores.len() as u64).sum();
        self.outcome.due_score_count = scores
            .values()
            .flat_map(|scores| scores.windows(2))
            .filter(|pair| pair[1].as_of_ms > pair[0].as_of_ms + DAY_MS / 2)
            .count() as u64;
        self.outcome.alert_count = outputs::alerts(&self.broker).values().map(|alerts| alerts.len() as u64).sum();
        self.outcome.dead_letter_count = outputs::dead_letters(&self.broker).len() as u64;
        self.ending()
    }

    /// A new member without snapshots reads the whole log and must come to the same state.
    fn check_full_replay(&mut self, ending: &Ending) -> Result<(), String> {
        self.members.clear();
        for name in NAMES {
            self.broker.expire(name);
        }
        self.start(NAMES[0], false);
        self.settle()?;
        let replayed = self.ending()?;
        if replayed == *ending {
            Ok(())
        } else {
            Err(format!("a replay from the start ends with state {replayed:?}, the run with {ending:?}"))
        }
    }

    fn start(&mut self, name: &'static str, has_snapshots: bool) {
        let faults = SeededFaults::new(self.rng.random(), &self.quiet, 8);
        let log = SimLog {
            inner: MemoryLog::join(&self.broker, name, Box::new(faults)),
            defect: self.defect,
            commit_count: 0,
            redelivered_count: if self.rng.random_bool(0.3) { 3 } else { 0 },
        };
        let scorer = SilenceScorer {
            rng: Mutex::new(Xoshiro256PlusPlus::seed_from_u64(self.rng.random())),
            quiet: Arc::clone(&self.quiet),
            has_failed: AtomicBool::new(false),
        };
        let snapshots: Box<dyn SnapshotStore> = if has_snapshots {
            let rng = Xoshiro256PlusPlus::seed_from_u64(self.rng.random());
            Box::new(SimSnapshots { shelf: Arc::clone(&self.shelf), rng })
        } else {
            Box::new(NoSnapshots)
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
        let thread = StreamThread::new(parts);
        self.members.insert(name, Member { thread, partitions });
    }

    fn params(&self) -> StreamParams {
        StreamParams {
            batch: BatchLimits { max_records: 64, max_bytes: 1 << 20, linger_ms: 0, idle_wait_ms: 0 },
            graph: GraphParams { ring_capacity: 16, late_limit_ms: 30 * DAY_MS, ..GraphParams::default() },
            time: self.workload.time,
            max_due_users: 3,
            retry_attempts: NonZeroU32::MIN.saturating_add(9),
            retry_backoff_ms: 0,
            lag_interval_ms: DAY_MS,
            parked_capacity: 2,
            ..StreamParams::default()
        }
    }

    fn draw_member(&mut self) -> Option<&'static str> {
        let names: Vec<&'static str> = self.members.keys().copied().collect();
        (!names.is_empty()).then(|| names[self.rng.random_range(0..names.len())])
    }

    /// One turn of one member. A death removes it; its memory is gone.
    fn step(&mut self, name: &'static str) -> Result<Option<Step>, String> {
        let Some(member) = self.members.get_mut(name) else { return Ok(None) };
        let outcome = member.thread.step_blocking();
        for handle in member.partitions.all() {
            let committed = self.broker.committed(handle.state.partition());
            let state = handle.state.progress().next_offsets;
            if !state.at_or_before(&committed) {
                return Err(format!("the state at {state} is ahead of the committed {committed} (TXN-2)"));
            }
        }
        match outcome {
            Ok(step) => {
                match &step {
                    Step::Again => self.outcome.abort_count += 1,
                    Step::Revoked(_) => self.outcome.rebalance_count += 1,
                    Step::Restored(_) => self.outcome.restore_count += 1,
                    _ => {}
                }
                Ok(Some(step))
            }
            Err(StreamError::Log(error)) if is_expected_death(&error) => {
                self.members.remove(name);
                self.outcome.crash_count += 1;
                Ok(None)
            }
            Err(StreamError::RetriesExhausted { .. }) => {
                self.members.remove(name);
                Ok(None)
            }
            Err(error) => Err(format!("a member ended: {error}")),
        }
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
                self.start(NAMES[0], true);
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
                    return Err(format!("partition {partition} stands at {state}, committed is {committed}"));
                }
                if states.insert(partition, handle.state.state_hash()).is_some() {
                    return Err(format!("partition {partition} has two owners"));
                }
            }
        }
        if states.len() != self.workload.partition_count as usize {
            return Err(format!("partitions without an owner: only {:?} have one", states.keys()));
        }
        Ending::checked(&self.broker, self.workload.time, states)
    }
}
