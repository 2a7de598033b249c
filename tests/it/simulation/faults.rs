//! Faults drawn from the seed, at any step, as long as the world is not quiet.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use undercurrent::stream::{
    Disposition,
    memory::{Fault, FaultPlan, Step},
};

pub(super) struct SeededFaults {
    rng: Xoshiro256PlusPlus,
    /// Set at the end of a run, so that it can settle.
    quiet: Arc<AtomicBool>,
    /// Whether the process may die. Where it does not, nothing heals what an abort leaves behind.
    can_crash: bool,
}

/// Faults in a thousand steps.
const PER_MILLE: u32 = 8;

impl SeededFaults {
    pub(super) fn new(seed: u64, quiet: &Arc<AtomicBool>, can_crash: bool) -> Self {
        Self { rng: Xoshiro256PlusPlus::seed_from_u64(seed), quiet: Arc::clone(quiet), can_crash }
    }
}

impl FaultPlan for SeededFaults {
    fn at(&mut self, step: Step) -> Fault {
        let per_mille = match step {
            // Outputs are many: a send must not eat all the faults of a commit.
            Step::CommitSend => PER_MILLE / 4,
            // The one step with an outcome that nobody may know.
            Step::CommitEnd => 3 * PER_MILLE,
            _ => PER_MILLE,
        };
        if self.quiet.load(Ordering::Relaxed) || !self.rng.random_ratio(per_mille, 1_000) {
            return Fault::None;
        }
        let first = if self.can_crash { 0 } else { 6 };
        match self.rng.random_range(first..12) {
            0..=1 => Fault::Crash,
            2..=3 => Fault::CrashAfter,
            4..=5 => Fault::CrashLate,
            6 => Fault::Fail(Disposition::Retry),
            7..=8 => Fault::FailAfter(Disposition::Retry),
            9..=10 => Fault::Fail(Disposition::Abort),
            _ => Fault::FailAfter(Disposition::Abort),
        }
    }

    fn next_log(&mut self, log_count: usize) -> Option<usize> {
        (log_count > 0).then(|| self.rng.random_range(0..log_count))
    }

    fn batch_records(&mut self, max_records: usize) -> usize {
        self.rng.random_range(1..=max_records.min(12))
    }
}
