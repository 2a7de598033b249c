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
    /// Faults in a thousand steps.
    per_mille: u32,
}

impl SeededFaults {
    pub(super) fn new(seed: u64, quiet: &Arc<AtomicBool>, per_mille: u32) -> Self {
        Self { rng: Xoshiro256PlusPlus::seed_from_u64(seed), quiet: Arc::clone(quiet), per_mille }
    }
}

impl FaultPlan for SeededFaults {
    fn at(&mut self, step: Step) -> Fault {
        // Outputs are many: a send must not eat all the faults of a commit.
        let per_mille = if step == Step::CommitSend { self.per_mille / 4 } else { self.per_mille };
        if self.quiet.load(Ordering::Relaxed) || !self.rng.random_ratio(per_mille, 1_000) {
            return Fault::None;
        }
        match self.rng.random_range(0..11) {
            0..=1 => Fault::Crash,
            2..=3 => Fault::CrashAfter,
            4 => Fault::Fail(Disposition::Retry),
            5..=6 => Fault::FailAfter(Disposition::Retry),
            7..=8 => Fault::Fail(Disposition::Abort),
            9 => Fault::CrashLate,
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
