//! The real loop, decision and snapshots on the in-memory log, with crashes, lost answers, rebalances, damage and bad input at
//! every step, against a run without any of it.
//!
//! Everything is drawn from one seed and everything of a run happens on one thread, turn by turn, so a seed is a run. The
//! invariants of `ARCHITECTURE.md` are checked after every turn. A failure prints the command that runs its seed alone,
//! `scripts/simulate --seeds 1 --from SEED`; more seeds look further than the build does.

mod alerts;
mod check;
mod defects;
mod disk;
mod faults;
mod log;
mod outcome;
mod outputs;
mod refusals;
mod scorer;
mod snapshots;
mod watch;
mod workload;
mod world;

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use defects::Defect;
use outcome::Outcome;
use world::{outputs_under_clocks, simulate};

const SEEDS: Range<u64> = 0..1_000;

/// The range asked for in the environment, else `usual`.
fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(asked) = std::env::var("UNDERCURRENT_SIMULATION_SEEDS") else { return usual };
    let (first, end) = asked.split_once("..").expect("seeds are written `first..end`");
    first.parse().expect("a seed is a number")..end.parse().expect("a seed is a number")
}

/// Runs one seed; a panic of the loop's own assertions is a violation too.
fn run(seed: u64, defect: Defect) -> Result<Outcome, String> {
    catch_unwind(AssertUnwindSafe(|| simulate(seed, defect))).unwrap_or_else(|panic| {
        undercurrent::stream::break_on_this_thread(None);
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(text.unwrap_or("a panic without words").to_owned())
    })
}

/// Runs `seeds` on all cores, in order. Ends at the first violation in time.
fn run_all(seeds: &Range<u64>) -> Result<Outcome, String> {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Ok(Outcome::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || total.lock().unwrap().is_err() {
                return;
            }
            let outcome = run(seed, Defect::None);
            let mut total = total.lock().unwrap();
            match (outcome, total.as_mut()) {
                (Ok(outcome), Ok(sum)) => sum.add(&outcome),
                (Err(violation), Ok(_)) => {
                    *total = Err(format!(
                        "seed {seed}: {violation}; replay it with `scripts/simulate --seeds 1 --from {seed}`"
                    ));
                }
                (_, Err(_)) => {}
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    total.into_inner().unwrap()
}

#[test]
fn every_run_ends_like_the_one_without_failures() {
    let seeds = seeds(SEEDS);
    let mut total = run_all(&seeds).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{} runs: {total:?}", seeds.end - seeds.start);
    if seeds == SEEDS {
        total.check_is_eventful(seeds.end - seeds.start);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 1_000..1_005 {
        assert_eq!(run(seed, Defect::None), run(seed, Defect::None), "seed {seed}");
    }
}

#[test]
fn a_clock_that_jumps_by_a_day_changes_nothing_by_event_time() {
    for seed in 2_000..2_020 {
        let [steady, jumping] = outputs_under_clocks(seed).unwrap();
        assert!(!steady.is_empty());
        assert!(steady == jumping, "seed {seed}: outputs depend on the wall clock");
    }
}

/// The guards of the loop can be broken in a debug build only.
#[cfg(debug_assertions)]
#[test]
fn every_mutant_is_caught_by_the_invariant_it_breaks() {
    const SEEDS_A_MUTANT: u64 = 400;
    let mut uncaught = Vec::new();
    for (defect, invariants) in defects::ALL {
        let mut others = Vec::new();
        let caught = (0..SEEDS_A_MUTANT).find_map(|seed| {
            let violation = run(seed, *defect).err()?;
            let invariant = invariants.iter().find(|invariant| violation.contains(**invariant));
            if invariant.is_none() {
                others.push(violation);
            }
            invariant.map(|invariant| (seed, *invariant))
        });
        match caught {
            Some((seed, invariant)) => println!("{defect:?}: {invariant} at seed {seed}"),
            None => uncaught.push(format!("{defect:?} is not caught by {invariants:?}, but {others:?}")),
        }
    }
    assert!(uncaught.is_empty(), "{}", uncaught.join("\n"));
}
