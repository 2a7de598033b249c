//! The real loop on the in-memory log, with crashes, lost answers, rebalances and bad input at every step, against a run
//! without any of it.
//!
//! Everything is drawn from one seed and everything runs on one thread, turn by turn, so a seed is a run. A failure prints
//! the command that runs its seed alone, `scripts/simulate --seeds 1 --from SEED`; more seeds look further than the build
//! does.

mod check;
mod faults;
mod log;
mod outputs;
mod scorer;
mod snapshots;
mod workload;
mod world;

use log::Defect;
use world::{Outcome, simulate};

const SEEDS: std::ops::Range<u64> = 0..300;

/// The range asked for in the environment, else `usual`; and whether it was asked for.
fn seeds(usual: std::ops::Range<u64>) -> (std::ops::Range<u64>, bool) {
    let Ok(asked) = std::env::var("UNDERCURRENT_SIMULATION_SEEDS") else { return (usual, false) };
    let (first, end) = asked.split_once("..").expect("seeds are written `first..end`");
    (first.parse().expect("a seed is a number")..end.parse().expect("a seed is a number"), true)
}

/// The command that runs `seed` alone.
fn replay(seed: u64) -> String {
    format!("scripts/simulate --seeds 1 --from {seed}")
}

#[test]
fn every_run_ends_like_the_one_without_failures() {
    let (seeds, was_asked) = seeds(SEEDS);
    let mut total = Outcome::default();
    for seed in seeds {
        match std::panic::catch_unwind(|| simulate(seed, Defect::None)) {
            Ok(Ok(outcome)) => total.add(&outcome),
            Ok(Err(violation)) => panic!("seed {seed}: {violation}; replay it with `{}`", replay(seed)),
            Err(panic) => {
                println!("seed {seed} panicked; replay it with `{}`", replay(seed));
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{total:?}");
    if was_asked {
        return;
    }
    // A simulation in which nothing happens proves nothing.
    assert!(total.crash_count > 100 && total.abort_count > 100 && total.restore_count > 100, "{total:?}");
    assert!(total.alert_count > 100 && total.due_score_count > 100 && total.dead_letter_count > 100, "{total:?}");
    assert!(total.snapshot_restore_count > 50 && total.rebalance_count > 50, "{total:?}");
}

#[test]
fn one_seed_is_one_run() {
    for seed in 1_000..1_005 {
        let first = simulate(seed, Defect::None).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        let second = simulate(seed, Defect::None).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert_eq!(first, second, "seed {seed}");
    }
}

/// The simulation finds `defect` in some of these seeds: it can fail.
#[track_caller]
fn check_is_found(defect: Defect, expected: &str) {
    let mut found = Vec::new();
    for seed in 0..40 {
        // The loop's own assertions may notice first; that counts.
        match std::panic::catch_unwind(|| simulate(seed, defect)) {
            Ok(Ok(_)) => {}
            Ok(Err(violation)) => found.push(violation),
            Err(panic) => found.push(panic.downcast_ref::<String>().cloned().unwrap_or_default()),
        }
    }
    assert!(found.iter().any(|violation| violation.contains(expected)), "{defect:?} gave {found:?}");
}

#[test]
fn a_log_that_reports_commits_it_did_not_make_is_found() {
    check_is_found(Defect::CommitsNothing, "ahead of the committed");
}

#[test]
fn positions_committed_apart_from_outputs_are_found() {
    check_is_found(Defect::PositionsApart, "positions");
}

#[test]
fn outputs_without_positions_are_found() {
    check_is_found(Defect::PositionsLost, "ahead of the committed");
}

#[test]
fn a_lost_record_is_found() {
    check_is_found(Defect::LosesRecord, "state");
}

#[test]
fn lost_alert_state_is_found() {
    check_is_found(Defect::ForgetsScores, "alert");
}
